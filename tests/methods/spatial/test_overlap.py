"""IoU, precision and recall against a truth, and what chance would give."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.methods.spatial.masks import Mask
from dit_lens.methods.spatial.overlap import chance_iou, overlap

pytestmark = pytest.mark.pure


def of(*tokens: int) -> Mask:
    return Mask.from_tokens(tokens, (3, 3))


def test_counts_by_hand() -> None:
    found = overlap(of(0, 1, 2), of(2, 3))
    assert (found.iou, found.precision, found.recall, found.everything) == (1 / 4, 1 / 3, 1 / 2, 2 / 9)


def test_the_ends_of_the_scale() -> None:
    truth = of(4, 5)
    assert overlap(truth, truth).iou == 1
    assert overlap(truth.complement(), truth).iou == 0
    everything = overlap(Mask(np.ones((3, 3), bool)), truth)
    assert everything.iou == everything.everything == everything.chance == pytest.approx(2 / 9)
    nothing = overlap(Mask(np.zeros((3, 3), bool)), truth)
    assert (nothing.iou, nothing.recall, nothing.chance) == (0, 0, 0)
    assert math.isnan(nothing.precision)


def test_chance_is_the_mean_over_all_shuffles() -> None:
    total, found, there = 7, 3, 2
    truth = set(range(there))
    every = [
        len(truth & set(tokens)) / len(truth | set(tokens))
        for tokens in itertools.combinations(range(total), found)
    ]
    assert chance_iou(found, there, total) == pytest.approx(np.mean(every))


@given(st.integers(1, 40), st.data())
def test_chance_is_symmetric_and_below_the_best_possible(total: int, data) -> None:
    a, b = (data.draw(st.integers(1, total)) for _ in range(2))
    chance = chance_iou(a, b, total)
    assert chance == pytest.approx(chance_iou(b, a, total))
    assert 0 <= chance <= min(a, b) / max(a, b) + 1e-12


def test_a_truth_without_a_subject_is_refused() -> None:
    for values in (np.zeros((3, 3), bool), np.ones((3, 3), bool)):
        with pytest.raises(BadInput, match="The truth"):
            overlap(of(1), Mask(values))
    with pytest.raises(BadInput, match="cannot be compared"):
        overlap(of(1), Mask.from_tokens([1], (2, 3)))
    for counts in ((10, 2, 9), (1, 0, 9), (-1, 2, 9)):
        with pytest.raises(BadInput, match="no two masks"):
            chance_iou(*counts)
