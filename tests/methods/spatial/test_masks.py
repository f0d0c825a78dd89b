"""Mask values: made, combined, drawn, saved, and given to edits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph
from dit_lens.methods.spatial.masks import Mask, require_partial

pytestmark = pytest.mark.pure

GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6))
PAIRS = GRIDS.flatmap(lambda grid: st.tuples(arrays(bool, grid), arrays(bool, grid)))


def corner(image_size=None) -> Mask:
    """Two tokens at the top left of a 3 × 4 grid."""
    return Mask.from_tokens([0, 1], (3, 4), image_size=image_size)


# ---------------------------------------------------------------- values
def test_a_mask_is_a_frozen_value() -> None:
    values = np.zeros((2, 2), dtype=bool)
    mask = Mask(values)
    values[:] = True
    assert mask.is_empty
    with pytest.raises(ValueError, match="read-only"):
        mask.values[0, 0] = True
    assert mask == Mask(np.zeros((2, 2), dtype=bool), about="elsewhere")
    assert hash(mask) == hash(Mask(np.zeros((2, 2), dtype=bool)))
    assert mask != Mask(np.zeros((2, 2), dtype=bool), image_size=(4, 4))
    assert mask != Mask(np.zeros((1, 4), dtype=bool))


def test_what_it_says_of_itself() -> None:
    mask = corner()
    assert (mask.grid, mask.tokens, mask.share) == ((3, 4), (0, 1), 2 / 12)
    assert repr(mask).splitlines() == ["Mask(2 of 12 tokens, 3 × 4)", "##..", "....", "...."]
    assert np.array_equal(np.asarray(mask), mask.values)
    assert mask.complement().complement() == mask


@pytest.mark.parametrize(
    "values", [np.zeros(4, bool), np.zeros((2, 2)), np.zeros((0, 3), bool), np.ones((2, 2), int)]
)
def test_other_arrays_are_no_masks(values: np.ndarray) -> None:
    with pytest.raises(BadInput, match="boolean array"):
        Mask(values)


@pytest.mark.parametrize("token", [-1, 12])
def test_tokens_outside_the_grid_are_refused(token: int) -> None:
    with pytest.raises(BadInput, match=f"no token {token} in a grid of 3 × 4: 0–11"):
        Mask.from_tokens([0, token], (3, 4))


@given(PAIRS)
def test_combining_is_set_algebra(pair) -> None:
    a, b = (Mask(values) for values in pair)
    assert a.union(b).tokens == tuple(sorted(set(a.tokens) | set(b.tokens)))
    assert a.intersection(b).tokens == tuple(sorted(set(a.tokens) & set(b.tokens)))
    assert a.difference(b).tokens == tuple(sorted(set(a.tokens) - set(b.tokens)))
    assert a.union(b).complement() == a.complement().intersection(b.complement())
    assert a.union() == a


def test_masks_of_different_images_do_not_combine() -> None:
    with pytest.raises(BadInput, match="3 × 4 and 2 × 2 tokens"):
        corner().union(Mask(np.ones((2, 2), bool)))
    with pytest.raises(BadInput, match="6 × 8 and 12 × 16 pixels"):
        corner((6, 8)).intersection(corner((12, 16)))
    assert corner((6, 8)).union(corner()).image_size == (6, 8)


def test_dilation_grows_in_four_directions() -> None:
    dot = Mask.from_tokens([12], (5, 5))
    assert dot.dilate().tokens == (7, 11, 12, 13, 17)
    assert dot.dilate(2) == dot.dilate().dilate()
    assert dot.dilate(0) == dot
    assert Mask(np.zeros((3, 3), bool)).dilate(2).is_empty
    for wrong in (-1, 0.5, True):
        with pytest.raises(BadInput, match="grow"):
            dot.dilate(wrong)


def test_empty_and_full_masks_are_no_truth() -> None:
    assert require_partial(corner(), "It") == corner()
    with pytest.raises(BadInput, match=r"It is empty \(2 × 2 tokens\)"):
        require_partial(Mask(np.zeros((2, 2), bool)), "It")
    with pytest.raises(BadInput, match="It covers the whole picture"):
        require_partial(Mask(np.ones((2, 2), bool)), "It")


# ---------------------------------------------------------------- pixels
@given(GRIDS.flatmap(lambda grid: arrays(bool, grid)), st.integers(1, 4), st.integers(1, 4))
def test_pixels_and_back(values: np.ndarray, tall: int, wide: int) -> None:
    mask = Mask(values)
    pixels = mask.to_pixels(values.shape[0] * tall, values.shape[1] * wide)
    assert Mask.from_pixels(pixels, mask.grid).tokens == mask.tokens
    assert pixels.mean() == pytest.approx(mask.share)


def test_a_token_needs_its_share_of_pixels() -> None:
    pixels = np.zeros((2, 4), dtype=bool)
    pixels[0, 0] = pixels[:, 2] = True
    assert Mask.from_pixels(pixels, (1, 2)).tokens == (1,)
    assert Mask.from_pixels(pixels, (1, 2), threshold=0.25).tokens == (0, 1)
    assert Mask.from_pixels(pixels, (1, 2), threshold=0.75).is_empty
    for wrong in (0, 1.5):
        with pytest.raises(BadInput, match="threshold"):
            Mask.from_pixels(pixels, (1, 2), threshold=wrong)


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[0, 127], [128, 255]], np.uint8),
        np.array([[0, 0], [1, 1]], np.uint8),
        np.array([[0.0, 0.49], [0.5, 1.0]]),
        np.array([[False, False], [True, True]]),
    ],
    ids=["0–255", "0–1", "floats", "bools"],
)
def test_numbers_count_from_half_of_their_range(pixels: np.ndarray) -> None:
    assert Mask.from_pixels(pixels, (2, 2)).tokens == (2, 3)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.full((2, 2), 300), "300"),
        (np.full((2, 2), -1.0), "-1"),
        (np.full((2, 2), np.nan), "nan"),
        (np.zeros((2, 2, 3), np.uint8), "height, width"),
        (np.zeros((3, 2), bool), "3 × 2 pixels do not divide into 2 × 2 tokens"),
        (np.array([["a", "b"], ["c", "d"]], dtype=object), "object values"),
    ],
)
def test_pixels_that_are_no_mask(pixels: np.ndarray, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Mask.from_pixels(pixels, (2, 2))


def test_nothing_is_resized() -> None:
    with pytest.raises(BadInput, match="made for images of 6 × 8 pixels, not 12 × 16"):
        corner((6, 8)).to_pixels(12, 16)
    with pytest.raises(BadInput, match="names no image size"):
        corner().to_pixels()
    with pytest.raises(BadInput, match="names no image size"):
        corner((6, 8)).to_pixels(6)
    with pytest.raises(BadInput, match="do not divide"):
        corner((7, 8))


def test_the_overlay_changes_the_mask_and_nothing_else() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    inside = corner().to_pixels(12, 16)
    drawn = np.asarray(corner((12, 16)).overlay(Image.fromarray(picture), colour=(0, 255, 0)))
    assert np.array_equal(drawn[~inside], picture[~inside])
    assert (drawn[inside] != picture[inside]).any(axis=1).all()
    # The outline is where the mask ends within the picture, not at the picture's edge.
    assert (drawn[3, :8] == (0, 255, 0)).all()
    assert not (drawn[0, :7] == (0, 255, 0)).all()


def test_overlays_that_do_not_fit() -> None:
    with pytest.raises(BadInput, match="do not divide"):
        corner().overlay(np.zeros((10, 16, 3)))
    with pytest.raises(BadInput, match="opacity is 2"):
        corner().overlay(np.zeros((12, 16, 3)), opacity=2)


# ---------------------------------------------------------------- files
@pytest.mark.parametrize("image_size", [None, (6, 8)])
def test_json_keeps_everything(tmp_path, image_size) -> None:
    mask = Mask(corner().values, image_size, "by hand")
    read = Mask.load(mask.save(tmp_path / "deep" / "mask.json"))
    assert read == mask
    assert read.about == "by hand"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["mask.json"]


def test_png_keeps_the_pixels(tmp_path) -> None:
    path = corner((6, 8)).save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(Image.open(path)) > 0, corner().to_pixels(6, 8))
    assert Mask.load(path, (3, 4)) == corner((6, 8))
    with pytest.raises(BadInput, match="names no image size"):
        corner().save(tmp_path / "mask.png")
    with pytest.raises(BadInput, match="give the token grid"):
        Mask.load(path)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colours_and_alpha_are_refused(tmp_path, mode: str) -> None:
    Image.new(mode, (8, 6)).save(tmp_path / "mask.png")
    with pytest.raises(BadInput, match=f"mode {mode}; a mask is black and white"):
        Mask.load(tmp_path / "mask.png", (3, 4))


def test_files_that_cannot_be_read(tmp_path) -> None:
    for name in ("mask.json", "mask.png"):
        with pytest.raises(BadInput, match="Cannot read the mask"):
            Mask.load(tmp_path / name, (3, 4))
        (tmp_path / name).write_bytes(b"\x00 nonsense")
        with pytest.raises(BadInput):
            Mask.load(tmp_path / name, (3, 4))
    with pytest.raises(BadInput, match=r"neither \.json nor \.png"):
        Mask.load(tmp_path / "mask.npy")


@pytest.mark.parametrize(
    "change",
    [
        {"mask": []},
        {"mask": ["#.", "#"]},
        {"mask": ["#x"]},
        {"mask": 3},
        {"schema_version": 2},
        {"image_size": [5, 5]},
    ],
)
def test_json_that_is_no_mask(tmp_path, change) -> None:
    path = corner((6, 8)).save(tmp_path / "mask.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadInput):
        Mask.load(path)


def test_a_mask_of_another_grid_is_not_taken_for_this_one(tmp_path) -> None:
    path = corner().save(tmp_path / "mask.json")
    with pytest.raises(BadInput, match="holds 3 × 4 tokens; 6 × 8 were asked for"):
        Mask.load(path, (6, 8))


# ---------------------------------------------------------------- edits
def test_a_mask_is_the_tokens_of_an_edit() -> None:
    def graph(tokens) -> InterventionGraph:
        made = InterventionGraph()
        target = made.trajectory(prompt="a red circle", seed=0)
        made.edit(target, at="blocks.0.resid_post.image", op="zero", tokens=tokens)
        return made

    mask = corner()
    (held,) = graph(mask).spec.masks.values()
    assert (held.tokens, held.grid) == ((0, 1), (3, 4))
    assert graph(mask) == graph(mask.values) == graph(mask.tolist())
