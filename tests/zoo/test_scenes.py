"""The shapes world: caption ↔ scene ↔ image, exact both ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.zoo import scenes
from dit_lens.zoo.nearest import NearestRendering, scene_of
from dit_lens.zoo.scenes import ATTRIBUTES, MAX_JITTER, Scene
from dit_lens.zoo.world_data import to_uint8

pytestmark = pytest.mark.pure

any_scene = st.builds(
    Scene,
    *(st.sampled_from(values) for values in ATTRIBUTES.values()),
    jitter=st.tuples(*[st.integers(-MAX_JITTER, MAX_JITTER)] * 2),
)
A_SCENE = Scene("star", "red", "large", "on the left", "white", "striped")


def test_the_world_is_as_large_as_promised():
    sizes = {name: len(values) for name, values in ATTRIBUTES.items()}
    assert sizes == {"shape": 6, "colour": 8, "size": 3, "position": 5, "background": 4, "detail": 3}


def test_every_caption_is_distinct_and_parses_back():
    world = list(scenes.all_scenes())
    assert len({s.caption for s in world}) == len(world) == 8640
    assert all(scenes.parse_caption(s.caption) == s for s in world)


def test_no_caption_holds_a_foreign_word_and_what_is_foreign_is_named_once():
    partial = scenes.partial_caption(shape="star"), scenes.partial_caption(background="grey")
    assert scenes.foreign_words([*(s.caption for s in scenes.all_scenes()), *partial, ""]) == ()
    assert scenes.foreign_words(["A Red dog, barking", "dog-like; a star."]) == ("dog", "barking", "like")


@given(any_scene)
@settings(max_examples=40, deadline=None)
def test_a_rendered_image_reads_back_to_its_scene_even_as_uint8(scene):
    image = scenes.render(scene)
    assert scenes.read_image(image) == scene
    assert scenes.read_image(to_uint8(image).astype(np.float32) / 255) == scene


@given(any_scene, st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.3]))
@settings(max_examples=15, deadline=None)
def test_no_other_scene_on_its_background_is_nearer_to_a_noisy_image(scene, seed, noise):
    dice = np.random.default_rng(seed)
    image = scenes.render(scene)
    image = np.clip(image + noise * dice.normal(size=image.shape), 0, 1).astype(np.float32)

    def away(other):
        return float(((scenes.render(other) - image).astype(np.float64) ** 2).sum())

    found = scenes.read_image(image)
    others = [other.with_(background=found.background) for other in scenes.sample_scenes(60, seed % 2**31)]
    # Every single change of what was found, too: these are its nearest rivals.
    rivals = [found.with_(**{name: value}) for name, values in ATTRIBUTES.items() for value in values]
    least = away(found)
    assert all(away(o) >= least - 1e-3 for o in (*others, scene, *rivals) if o.background == found.background)
    assert scenes.read_image(image) == found


def test_pictures_and_arrays_are_the_same_scene():
    from PIL import Image

    image = scenes.render(A_SCENE)
    bytes_ = to_uint8(image)
    pictures = [image, image.astype(np.float64), bytes_, bytes_.astype(np.int64), Image.fromarray(bytes_)]
    assert [scene_of(picture) for picture in pictures] == [A_SCENE] * 5
    assert NearestRendering().read(pictures) == [A_SCENE.attributes] * 5
    with pytest.raises(BadInput, match="48, 48, 3"):
        scene_of(Image.new("RGB", (16, 16)))


@pytest.mark.parametrize("wrong", [255 * scenes.render(A_SCENE), np.full((48, 48, 3), 300), [np.nan], [-0.1]])
def test_what_are_no_pixels_is_refused_and_rounding_is_not(wrong):
    picture = wrong if isinstance(wrong, np.ndarray) else np.where(scenes.render(A_SCENE) > 2, 0, wrong)
    with pytest.raises(BadInput, match="floats from 0 to 1, or integers from 0 to 255"):
        NearestRendering().read([picture])
    assert scene_of(scenes.render(A_SCENE) * 1.0005) == A_SCENE


@given(any_scene)
@settings(max_examples=60, deadline=None)
def test_the_mask_is_where_the_subject_is(scene):
    image, mask = scenes.render(scene), scenes.subject_mask(scene)
    background = np.asarray(scenes.BACKGROUNDS[scene.background], dtype=np.float32)
    differs = np.abs(image - background).max(-1)
    assert mask.dtype == bool and mask.any() and not mask.all()
    # Nothing of the subject lies outside the image, and pure background lies outside the mask.
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert not border.any()
    assert np.allclose(differs[~mask & (differs < 1e-6)], 0)
    assert (differs[mask] > 0.02).mean() > 0.95


def test_details_change_only_the_subject():
    plain, striped = A_SCENE.with_(detail="plain"), A_SCENE
    changed = np.abs(scenes.render(plain) - scenes.render(striped)).max(-1) > 1e-6
    assert (
        changed.any()
        and not (changed & ~(scenes._placed(scenes._coverage("star", "large"), A_SCENE, 0.0) > 0)).any()
    )


def test_held_out_combinations_are_a_tenth_and_never_drawn_for_training():
    share = np.mean([s.held_out for s in scenes.all_scenes()])
    assert 0.08 < share < 0.12
    assert not any(s.held_out for s in scenes.sample_scenes(300, 0))
    assert all(s.held_out for s in scenes.sample_scenes(50, 0, held_out=True))
    assert {s.held_out for s in scenes.sample_scenes(300, 0, held_out=None)} == {True, False}


def test_jitter_does_not_decide_what_is_held_out():
    moved = Scene.of(A_SCENE.attributes, (1, -2))
    assert moved.held_out == A_SCENE.held_out and moved.caption == A_SCENE.caption


def test_sampling_is_seeded():
    assert scenes.sample_scenes(20, 3) == scenes.sample_scenes(20, 3) != scenes.sample_scenes(20, 4)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: Scene("sta", "red", "large", "on the left", "white", "plain"), "Did you mean 'star'"),
        (lambda: Scene.of(A_SCENE.attributes, (3, 0)), "at most ±2"),
        (lambda: scenes.parse_caption("a dog on the moon"), "The grammar is"),
        (lambda: scenes.partial_caption(mood="sad"), "there are shape"),
        (lambda: scenes.read_image(np.zeros((8, 8, 3))), r"\[48, 48, 3\]"),
    ],
)
def test_bad_input_says_what_exists(act, says):
    with pytest.raises(BadInput, match=says):
        act()


def test_partial_captions_name_what_they_are_given():
    assert scenes.partial_caption(shape="star", colour="red") == "a red star"
    assert scenes.partial_caption(position="at the top") == "a shape at the top"
    assert scenes.partial_caption(**A_SCENE.attributes) == A_SCENE.caption
