"""Where the subject truly is: scenes, files, functions, other models; and what each refuses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.methods.spatial.masks import Mask
from dit_lens.methods.spatial.overlap import overlap
from dit_lens.methods.spatial.subject import Subject
from dit_lens.methods.spatial.truth import FileTruth, FunctionTruth, SceneTruth, Truth, as_truth
from dit_lens.zoo.scenes import Scene, render, sample_scenes, subject_mask
from tests.random_segmenter import save_segmenter

pytestmark = pytest.mark.pure

GRID, SIZE = (12, 12), (48, 48)
STAR = Scene("star", "red", "large", "on the left", "white", "striped", (2, -1))


def subject(scene: Scene = STAR, seed: int = 0) -> Subject:
    picture = Image.fromarray((render(scene) * 255).round().astype(np.uint8))
    return Subject(scene.caption, seed, picture, GRID, SIZE)


def exact(scene: Scene) -> Mask:
    return Mask.from_pixels(subject_mask(scene), GRID)


# ---------------------------------------------------------------- the embedded world
def test_the_picture_knows_where_its_subject_is() -> None:
    for scene in sample_scenes(12, seed=5, held_out=None):
        assert SceneTruth().find(subject(scene)) == exact(scene)


def test_the_caption_knows_the_nominal_place_only() -> None:
    nominal = Scene.of(STAR.attributes)
    assert SceneTruth("caption").find(subject()) == exact(nominal) != exact(STAR)
    assert 0 < overlap(exact(nominal), exact(STAR)).iou < 1
    assert not SceneTruth("caption").needs_picture
    assert SceneTruth("picture").needs_picture


def test_scenes_are_of_one_size_and_one_grammar() -> None:
    outside = Subject("a photo of a cat", 0, None, GRID, SIZE)
    SceneTruth("picture").require([outside])
    with pytest.raises(BadInput, match="not a caption of the shapes world"):
        SceneTruth("caption").require([outside])
    for of in ("picture", "caption"):
        with pytest.raises(BadInput, match="48 × 48 pixels; these have 96 × 48"):
            SceneTruth(of).require([Subject(STAR.caption, 0, None, (24, 12), (96, 48))])
    with pytest.raises(BadInput, match="not of 'scene'"):
        SceneTruth("scene")


# ---------------------------------------------------------------- files
def test_masks_by_prompt_and_by_seed(tmp_path) -> None:
    for_all, for_one = exact(STAR), exact(Scene.of(STAR.attributes))
    png = for_one.save(tmp_path / "one.png")
    truth = FileTruth({STAR.caption: for_all, (STAR.caption, 3): png})
    assert truth.find(subject(seed=0)) == for_all
    assert truth.find(subject(seed=3)) == for_one
    with pytest.raises(BadInput, match="no mask for prompt 'another', seed 0; there are 2"):
        truth.require([Subject("another", 0, None, GRID, SIZE)])


def test_a_folder_of_masks(tmp_path) -> None:
    exact(STAR).save(tmp_path / "star.png")
    exact(STAR).dilate().save(tmp_path / "wide.json")
    entries = [f"prompt: {STAR.caption}, file: star.png", f"prompt: {STAR.caption}, seed: 7, file: wide.json"]
    (tmp_path / "masks.yaml").write_text("".join(f"- {{{entry}}}\n" for entry in entries))
    truth = as_truth(tmp_path)
    assert truth.find(subject(seed=1)) == exact(STAR)
    assert truth.find(subject(seed=7)) == exact(STAR).dilate()


@pytest.mark.parametrize(
    "text", ["", "[]", "just text", "- {prompt: a}", "- {prompt: a, file: b, mask: c}", "[: ["]
)
def test_a_folder_that_lists_no_masks(tmp_path, text: str) -> None:
    with pytest.raises(BadInput, match=r"Cannot read .*masks\.yaml"):
        FileTruth.in_folder(tmp_path)
    (tmp_path / "masks.yaml").write_text(text)
    with pytest.raises(BadInput, match="It lists entries such as"):
        FileTruth.in_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {prompt: a, file: b.png, file: c.png}", r"masks\.yaml:1: 0\.file: the key stands twice"),
        ("- {prompt: a, file: b.png}\n- {prompt: a, file: c.png}", r"'c\.png'} stands twice"),
    ],
)
def test_of_two_masks_for_one_sample_none_is_taken(tmp_path, text: str, said: str) -> None:
    (tmp_path / "masks.yaml").write_text(text)
    with pytest.raises(BadInput, match=said):
        FileTruth.in_folder(tmp_path)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (Mask(np.zeros(GRID, bool)), "is empty"),
        (Mask(np.ones(GRID, bool)), "covers the whole picture"),
        (Mask(np.eye(6, dtype=bool)), "has 6 × 6 tokens"),
        (Mask(np.eye(12, dtype=bool), (96, 96)), "has 96 × 96 pixels; the picture has 48 × 48"),
    ],
)
def test_masks_that_do_not_fit_are_known_before_a_run(mask: Mask, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        FileTruth({STAR.caption: mask}).require([subject()])


# ---------------------------------------------------------------- functions and names
def test_a_function_may_answer_with_pixels_a_mask_or_nothing() -> None:
    for answer in (subject_mask(STAR), exact(STAR)):
        truth = as_truth(lambda sample, answer=answer: answer)
        assert isinstance(truth, FunctionTruth)
        assert truth.find(subject()) == exact(STAR)
    assert as_truth(lambda sample: None).find(subject()) is None
    with pytest.raises(BadInput, match="covers the whole picture"):
        as_truth(lambda sample: np.ones(SIZE, bool)).find(subject())


def test_what_users_write() -> None:
    assert as_truth("picture") == SceneTruth()
    assert as_truth({STAR.caption: exact(STAR)}).find(subject()) == exact(STAR)
    known = SceneTruth("caption")
    assert as_truth(known) is known
    assert isinstance(known, Truth)
    for wrong in ("masks/nowhere", 3, None):
        with pytest.raises(BadInput, match="truth is"):
            as_truth(wrong)


# ---------------------------------------------------------------- another model
@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> str:
    """As a local folder."""
    return save_segmenter(tmp_path_factory.mktemp("segmenter"), {0: "background", 1: "thing"})


def test_a_segmentation_model_is_a_truth(segmenter: str) -> None:
    things, others = (
        as_truth(f"transformers:{segmenter}#thing"),
        as_truth(f"transformers:{segmenter}#background"),
    )
    all_but_background = as_truth(f"transformers:{segmenter}")
    for truth in (things, others, all_but_background):
        truth.require([subject()])
    found = things.find(subject())
    assert found is not None
    assert found.image_size == SIZE
    assert all_but_background.find(subject()) == found
    # Every pixel has one of two labels, so their masks meet at most in tokens that both half fill.
    rest = others.find(subject())
    assert rest is not None
    assert found.union(rest).is_full


def test_a_picture_without_a_subject_has_no_truth(segmenter: str) -> None:
    grey = Image.new("RGB", (48, 48), (128, 128, 128))
    sample = Subject("a", 0, grey, (1, 1), SIZE)
    # One token holds or does not hold the thing: either way nothing can be compared.
    assert as_truth(f"transformers:{segmenter}#thing").find(sample) is None


def test_models_that_cannot_tell(segmenter: str, tmp_path) -> None:
    with pytest.raises(BadInput, match=r"no label 'thign'\. Did you mean 'thing'"):
        as_truth(f"transformers:{segmenter}#thign").require([subject()])
    with pytest.raises(BadInput, match="no such folder here"):
        as_truth("transformers:/nowhere/at/all").require([subject()])
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(BadInput, match=r"does not open as an image-segmentation model|needs a library"):
        as_truth(f"transformers:{tmp_path}").require([subject()])
