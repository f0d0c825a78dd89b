"""Variance shares: planted causes come out, and degenerate layouts have a defined answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.methods.channel_labels import SOURCES
from dit_lens.methods.variance import StepMoments, variance_shares

pytestmark = pytest.mark.pure


def shares(x: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of full activations [step, prompt, seed, token, channel], through the moments a pass keeps."""
    mean = x.mean(axis=3)
    moments = StepMoments(
        mean=mean.mean(axis=(1, 2)),
        between=mean.var(axis=(1, 2)),
        within=x.var(axis=3).mean(axis=(1, 2)),
        max_abs=np.abs(x).max(axis=(1, 2, 3)),
    )
    prompt, seed = mean.mean(axis=(0, 2)).var(axis=0), mean.mean(axis=(0, 1)).var(axis=0)
    return dict(variance_shares(moments, prompt, seed))


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 5), st.integers(0, 2**31))
def test_shares_are_a_partition(shape: tuple[int, ...], seed: int) -> None:
    found = shares(np.random.default_rng(seed).normal(size=shape))
    assert tuple(found) == SOURCES
    stacked = np.stack(list(found.values()))
    if max(shape[:4]) > 1:
        np.testing.assert_allclose(stacked.sum(axis=0), 1, rtol=1e-12)
        assert (stacked >= 0).all()
    else:
        assert np.isnan(stacked).all()


@pytest.mark.parametrize("axis", range(4))
def test_a_planted_cause_gets_the_whole_share(axis: int) -> None:
    shape = [3, 4, 5, 6, 1]
    only = [1] * 5
    only[axis] = shape[axis]
    x = np.broadcast_to(np.random.default_rng(axis).normal(size=only), shape)
    source = ("step", "prompt", "seed", "token")[axis]
    for name, value in shares(x).items():
        assert value[0] == pytest.approx(1.0 if name == source else 0.0, abs=1e-9), name


def test_what_only_a_combination_explains_is_interaction() -> None:
    sign = np.array([1.0, -1.0])
    x = np.broadcast_to((sign[:, None] * sign)[:, :, None, None, None], (2, 2, 3, 4, 1))
    assert shares(x)["interaction"][0] == pytest.approx(1.0)


@pytest.mark.parametrize(("axis", "source"), [(0, "step"), (1, "prompt"), (2, "seed"), (3, "token")])
def test_one_value_of_a_coordinate_explains_nothing(axis: int, source: str) -> None:
    shape = [3, 3, 3, 3, 2]
    shape[axis] = 1
    found = shares(np.random.default_rng(0).normal(size=shape))
    np.testing.assert_allclose(found[source], 0, atol=1e-15)
    np.testing.assert_allclose(sum(found.values()), 1)


def test_a_constant_channel_has_no_shares_also_when_rounding_moves_it() -> None:
    x = np.full((2, 2, 2, 50, 3), 150.0)
    x[..., 1] *= 1 + np.random.default_rng(0).normal(size=x.shape[:-1]) * 2.0**-24
    x[..., 2] *= 1 + np.random.default_rng(0).normal(size=x.shape[:-1]) * 2.0**-18
    found = np.stack(list(shares(x).values()))
    assert np.isnan(found[:, :2]).all()
    assert found[:, 2].sum() == pytest.approx(1)


def test_a_dead_channel_has_no_shares() -> None:
    assert np.isnan(np.stack(list(shares(np.zeros((2, 2, 2, 3, 1))).values()))).all()
