"""Jaccard overlaps against brute force, and the chance level against random draws."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.methods.stability import (
    Overlap,
    chance_jaccard,
    jaccard,
    overlap_along,
    paired_overlap,
    pairwise_overlap,
    pooled,
)

pytestmark = pytest.mark.pure


def random_sets(count: int, k: int, channels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(channels)[:k] for _ in range(count)])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(1, 5), st.integers(0, 2**31))
def test_pairwise_overlap_is_the_mean_over_pairs(count: int, k: int, seed: int) -> None:
    sets = random_sets(count, k, 9, seed)
    pairs = [jaccard(a.tolist(), b.tolist()) for a, b in combinations(sets, 2)]
    found = pairwise_overlap(sets, 9)
    assert found.n == len(pairs)
    assert found.jaccard == pytest.approx(np.mean(pairs))


def test_pairs_share_one_coordinate_and_differ_in_the_other() -> None:
    # Seed decides the set: overlap 1 between prompts of one seed, 0 between seeds of one prompt.
    sets = np.array([[0, 1], [2, 3], [0, 1], [2, 3], [1, 0], [3, 2]])
    prompts, seeds = [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]
    assert overlap_along(sets, 4, groups=seeds, compared=prompts) == Overlap(1.0, 6)
    assert overlap_along(sets, 4, groups=prompts, compared=seeds) == Overlap(0.0, 3)


def test_rows_are_compared_one_by_one() -> None:
    first, second = random_sets(6, 3, 5, 0), random_sets(6, 3, 5, 1)
    expected = np.mean([jaccard(a.tolist(), b.tolist()) for a, b in zip(first, second, strict=True)])
    assert paired_overlap(first, second).jaccard == pytest.approx(expected)


def test_nothing_to_compare_is_not_a_number() -> None:
    assert np.isnan(jaccard([], []))
    for empty in (
        pairwise_overlap(np.array([[0, 1]]), 2),
        paired_overlap(np.zeros((0, 2), int), np.zeros((0, 2), int)),
        pooled([]),
    ):
        assert empty.n == 0
        assert np.isnan(empty.jaccard)


def test_parts_weigh_by_their_pairs() -> None:
    assert pooled([Overlap(1.0, 1), Overlap(0.0, 3), Overlap(float("nan"), 0)]) == Overlap(0.25, 4)


@pytest.mark.parametrize(("channels", "k", "other"), [(10, 3, 3), (10, 2, 7), (128, 4, 4)])
def test_chance_is_what_random_sets_give(channels: int, k: int, other: int) -> None:
    first = random_sets(20_000, k, channels, 1)
    second = random_sets(20_000, other, channels, 2)
    overlap = (first[:, :, None] == second[:, None]).sum(axis=(1, 2))
    drawn = (overlap / (k + other - overlap)).mean()
    assert chance_jaccard(channels, k, other) == pytest.approx(drawn, rel=0.05)


def test_chance_at_its_ends() -> None:
    assert chance_jaccard(5, 5) == pytest.approx(1.0)
    assert chance_jaccard(10**6, 1) == pytest.approx(1e-6)
