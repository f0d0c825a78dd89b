"""Tokens × channels → clusters → the subject: planted subjects are found, senseless input is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.methods.spatial.clustering import METHODS, NORMALISATIONS, Clustering, segment, segmentation
from dit_lens.methods.spatial.foreground import RULES, at_border, foreground
from dit_lens.methods.spatial.masks import Mask
from dit_lens.methods.spatial.overlap import overlap

pytestmark = pytest.mark.pure

GRID = (12, 12)
SUBJECT = Mask.from_tokens([r * 12 + c for r in range(4, 8) for c in range(3, 9)], GRID)


def planted(signs=(1, -1, 1), *, noise: float = 0.15, seed: int = 0) -> np.ndarray:
    """[tokens, channels]: each channel steps up or down on the subject, at very different scales."""
    rng = np.random.default_rng(seed)
    inside = SUBJECT.values.ravel()[:, None]
    scales = 10.0 ** np.arange(len(signs))
    return (inside * np.array(signs) + noise * rng.normal(size=(144, len(signs)))) * scales + 5


@pytest.mark.parametrize("normalise", NORMALISATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_planted_subject_is_found(method: str, normalise: str) -> None:
    assert segment(planted(), GRID, method=method, normalise=normalise) == SUBJECT


def test_rules_differ_where_signs_do() -> None:
    dark, bright = planted((-1, -1, -1)), planted((1, 1, 1))
    for rule in RULES:
        assert segment(bright, GRID, rule=rule) == SUBJECT
    for rule in ("border", "smaller"):
        assert segment(dark, GRID, rule=rule) == SUBJECT
    # The paper's rule takes massive channels to be higher on the subject.
    assert segment(dark, GRID, rule="brighter") == SUBJECT.complement()


def test_a_large_subject_is_still_the_subject() -> None:
    large = Mask(~at_border(GRID).reshape(GRID))
    values = large.values.ravel()[:, None] * 1.0
    assert large.share > 0.5
    assert segment(values, GRID) == large
    assert segment(values, GRID, rule="smaller") == large.complement()


def test_equal_clusters_have_a_stated_order() -> None:
    labels = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 2, 0], [0, 0, 0, 0, 0]]).ravel()
    flat = np.zeros((15, 1))
    assert foreground(labels, flat, (3, 5)) == 1
    assert foreground(labels, flat, (3, 5), "smaller") == 2
    assert foreground(labels, flat, (3, 5), "brighter") == 0


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
    st.lists(st.floats(-50, 50), min_size=3, max_size=3),
)
def test_normalised_clusters_know_neither_scale_nor_offset(scale, offset) -> None:
    values = planted()
    moved = values * np.array(scale) + np.array(offset)
    for how in ("minmax", "zscore"):
        assert segment(moved, GRID, normalise=how) == segment(values, GRID, normalise=how)


def test_without_normalisation_the_largest_channel_decides() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([SUBJECT.values.ravel() * 1.0, 1000 * rng.normal(size=144)], axis=1)
    assert overlap(segment(values, GRID, normalise="none"), SUBJECT).iou < 0.5
    loud = values * np.array([1e6, 1])
    assert segment(loud, GRID, normalise="none") == SUBJECT


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_clusters(method: str) -> None:
    values = np.random.default_rng(1).normal(size=(144, 5))
    how = Clustering(method=method, clusters=4, seed=7)
    first, second = segmentation(values, GRID, how), segmentation(values, GRID, how)
    assert np.array_equal(first.labels, second.labels)
    sizes = np.bincount(first.labels.ravel())
    assert len(sizes) == 4
    assert (np.diff(sizes) <= 0).all(), "clusters are numbered by size"
    assert first.mask.values.sum() == sizes[first.subject]


def test_more_clusters_split_the_background() -> None:
    values = SUBJECT.values.ravel() * 2.0 + np.where(np.arange(144) < 48, 0, 1) * ~SUBJECT.values.ravel()
    assert segment(values[:, None], GRID, clusters=3) == SUBJECT


def test_tensors_of_any_precision() -> None:
    values = torch.tensor(planted(noise=0.0))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert segment(values.to(dtype), GRID) == SUBJECT


def test_constant_channels_are_left_out_and_said_so() -> None:
    values = np.column_stack([np.full(144, 300.0), planted(), np.full(144, 1e-3)])
    found = segmentation(values, GRID, Clustering())
    assert found.dropped == (0, 4)
    assert found.mask == SUBJECT
    assert "2 of 5 channels constant and left out" in found.mask.about
    assert segmentation(planted(), GRID).mask.about == "kmeans, 2 clusters, minmax, border rule"


def test_rounding_is_no_variance() -> None:
    values = np.full((144, 1), 1000, np.float32)
    values[3] = np.nextafter(np.float32(1000), np.float32(2000))
    with pytest.raises(BadInput, match="All 1 channels have the same value"):
        segment(values, GRID)


def test_tokens_that_cannot_be_told_apart() -> None:
    flat = np.ones((144, 3))
    with pytest.raises(BadInput, match="All 3 channels have the same value at every token"):
        segment(flat, GRID)
    two = SUBJECT.values.ravel()[:, None] * 1.0
    with pytest.raises(BadInput, match="only 2 tokens differ"):
        segment(two, GRID, clusters=3)
    for values, clusters, why in ((flat, 2, "no channel varies"), (two, 3, "only 2 different tokens")):
        found = segmentation(values, GRID, Clustering(clusters=clusters), nothing="empty")
        assert found.mask.is_empty
        assert (found.subject, why in found.mask.about) == (-1, True)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        (np.zeros((143, 2)), {}, "143 tokens do not fill a grid of 12 × 12"),
        (np.zeros(144), {}, r"\[tokens, channels\]"),
        (np.zeros((144, 0)), {}, "with a channel"),
        (np.where(np.arange(288).reshape(144, 2) == 5, np.nan, 1.0), {}, "1 of 288 values are not finite"),
        (planted(), {"clusters": 145}, "145 clusters were asked for, of 144 tokens"),
        (planted(), {"clusters": 1}, "clusters is 1"),
        (planted(), {"clusters": True}, "clusters is True"),
        (planted(), {"seed": -1}, "seed is -1"),
        (planted(), {"normalise": "min-max"}, "Did you mean 'minmax'"),
        (planted(), {"method": "k-means"}, "Did you mean 'kmeans'"),
        (planted(), {"rule": "boarder"}, "Did you mean 'border'"),
    ],
)
def test_bad_input(values: np.ndarray, options, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        segment(values, GRID, **options)
