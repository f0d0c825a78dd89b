"""Change inside and outside of a mask, on pictures made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.methods.measures import Measures
from dit_lens.methods.regions import region_change

pytestmark = pytest.mark.pure

WITH_A_MASK = ("change_inside", "change_outside")

CORNER = np.zeros((4, 6), dtype=bool)
CORNER[:2, :3] = True


def flat(value: float) -> np.ndarray:
    return np.full((4, 6, 3), value)


def test_a_change_counts_on_the_side_where_it_is() -> None:
    edited = flat(0.25)
    edited[:2, :3] = 0.75
    edited[3, 5] = (0.25, 0.25, 0.55)
    found = region_change([edited, flat(0.25)], [flat(0.25)] * 2, CORNER)
    assert list(found) == list(WITH_A_MASK)
    assert found["change_inside"] == pytest.approx([0.5, 0])
    # One colour of one of 18 pixels.
    assert found["change_outside"] == pytest.approx([0.3 / np.sqrt(18 * 3), 0])


@given(st.integers(0, 2**32 - 1))
def test_both_sides_make_up_the_whole_and_the_complement_swaps_them(seed) -> None:
    dice = np.random.default_rng(seed)
    a, b = dice.uniform(size=(2, 1, 4, 6, 3))
    mask = dice.uniform(size=(4, 6)) < 0.5
    mask[0, :2] = True, False
    found, other = region_change(a, b, mask), region_change(a, b, ~mask)
    assert found["change_inside"] == other["change_outside"]
    share = mask.mean()
    whole = share * found["change_inside"] ** 2 + (1 - share) * found["change_outside"] ** 2
    assert whole == pytest.approx(((a - b) ** 2).mean())


def test_a_pixel_is_worked_out_by_hand() -> None:
    before = np.zeros((2, 2, 3))
    after = before.copy()
    after[0, 0] = 0.1, 0.2, 0.2  # squares 0.01 + 0.04 + 0.04, over three colours: 0.03
    after[0, 1] = 0.5, 0.5, 0.5  # 0.25
    after[1, 0] = 0.3, 0.0, 0.0  # 0.03
    row = np.array([[True, True], [False, False]])
    found = region_change([after], [before], row)
    assert found["change_inside"].item() == pytest.approx(((0.03 + 0.25) / 2) ** 0.5)
    assert found["change_outside"].item() == pytest.approx((0.03 / 2) ** 0.5)


@given(st.integers(0, 2**32 - 1))
def test_what_changed_inside_alone_is_nothing_outside_and_sides_can_be_swapped_in_time(seed) -> None:
    dice = np.random.default_rng(seed)
    a, b = dice.uniform(size=(2, 2, 4, 6, 3))
    mask = dice.uniform(size=(4, 6)) < 0.5
    mask[0, :2] = True, False
    edited = np.where(mask[..., None], a, b)
    found = region_change(edited, b, mask)
    assert (found["change_outside"] == 0).all() and (found["change_inside"] > 0).all()
    for name, values in region_change(b, edited, mask).items():
        assert values.tolist() == found[name].tolist()
    # Pictures are measured apart from each other.
    alone = region_change(edited[1:], b[1:], mask)
    assert alone["change_inside"].item() == pytest.approx(found["change_inside"][1], rel=1e-12)


@pytest.mark.parametrize(("full", "there"), [(True, "change_inside"), (False, "change_outside")])
def test_a_side_without_pixels_has_no_change(full, there) -> None:
    found = region_change([flat(0.5)], [flat(0.0)], np.full((4, 6), full))
    assert found.pop(there).item() == 0.5
    assert np.isnan(next(iter(found.values()))).all()


@pytest.mark.parametrize("mask", [CORNER[:, :3], CORNER.astype(float), CORNER[None]])
def test_a_mask_that_does_not_fit_is_refused(mask) -> None:
    with pytest.raises(BadInput, match=r"the pictures are 4 × 6 pixels; give a truth value for each"):
        region_change([flat(0.5)], [flat(0.0)], mask)


def test_measures_give_the_change_by_a_mask_and_nothing_without_one() -> None:
    before, after = (Image.fromarray((flat(v) * 255).astype(np.uint8)) for v in (0.0, 1.0))
    latents = np.zeros((1, 1, 1, 1))
    of_run = {"latents": latents, "clean": latents, "donor": None}
    pictures = {"images": [after], "clean_images": [before]}
    measures = Measures(("change_outside", "change_inside"))
    found = measures.final(WITH_A_MASK, ["a"], **of_run, **pictures, inside=CORNER)
    assert {name: value.tolist() for name, value in found.items()} == {name: [1.0] for name in WITH_A_MASK}
    unknown = measures.final(WITH_A_MASK, ["a"], **of_run, **pictures)
    assert set(unknown) == set(WITH_A_MASK) and all(np.isnan(v).all() for v in unknown.values())
