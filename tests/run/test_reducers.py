"""Streaming statistics against numpy on the whole array, in any split into batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import RunFailure
from dit_lens.run.reducers import (
    Moments,
    RunningMean,
    SampleEffects,
    first_non_finite,
    strongest,
    token_quantile,
    token_statistics,
)

pytestmark = pytest.mark.pure

NAMES = ("abs_mean", "mean_abs", "max_abs", "p999", "mean", "variance", "between", "within")


def activations(samples: int, tokens: int, channels: int, seed: int, dtype: type = np.float64) -> np.ndarray:
    """Channels of different means, scales and signs, samples of different loudness."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, tokens, channels)) * rng.lognormal(sigma=1.5, size=channels)
    x += rng.normal(size=channels) * 10 + rng.normal(size=(samples, 1, channels))
    return x.astype(dtype)


def oracle(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same statistics from the whole array [samples, tokens, channels]."""
    means = x.mean(axis=1)
    return {
        "abs_mean": np.abs(means).mean(axis=0),
        "mean_abs": np.abs(x).mean(axis=(0, 1)),
        "max_abs": np.abs(x).max(axis=(0, 1)),
        "p999": np.quantile(np.abs(x), 0.999, axis=1).mean(axis=0),
        "mean": x.mean(axis=(0, 1)),
        "variance": x.var(axis=(0, 1)),
        "between": means.var(axis=0),
        "within": x.var(axis=1).mean(axis=0),
    }


def reduce(x: np.ndarray, cuts: list[int]) -> Moments:
    state = Moments(x.shape[-1])
    for part in np.split(x, sorted(cuts)):
        state.add(token_statistics(torch.from_numpy(part)))
    return state


def splits(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    samples = draw(st.integers(1, 9))
    x = activations(samples, draw(st.integers(1, 40)), draw(st.integers(1, 6)), draw(st.integers(0, 2**31)))
    return x, draw(st.lists(st.integers(0, samples), max_size=5))


@settings(max_examples=60, deadline=None)
@given(st.composite(splits)())
def test_any_split_into_batches_equals_numpy_on_everything(case: tuple[np.ndarray, list[int]]) -> None:
    x, cuts = case
    found, expected = reduce(x, cuts).finish(), oracle(x)
    for name in NAMES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(st.composite(splits)(), st.integers(0, 9))
def test_merging_two_states_is_reducing_their_samples_together(
    case: tuple[np.ndarray, list[int]], cut: int
) -> None:
    x, cuts = case
    first, second = np.split(x, [min(cut, len(x))])
    state = reduce(first, [c for c in cuts if c <= len(first)])
    state.merge(reduce(second, []))
    assert state.count == len(x)
    found, expected = state.finish(), reduce(x, []).finish()
    for name in NAMES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_float32_splits_agree_as_closely_as_promised() -> None:
    x = activations(16, 144, 32, seed=0, dtype=np.float32)
    whole, one_by_one = reduce(x, []).finish(), reduce(x, list(range(1, 16))).finish()
    exact = oracle(x.astype(np.float64))
    for name in NAMES:
        np.testing.assert_allclose(whole[name], one_by_one[name], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(whole[name], exact[name], rtol=2e-5, err_msg=name)


def test_a_huge_offset_does_not_swallow_the_variance() -> None:
    x = activations(8, 64, 4, seed=1, dtype=np.float32) + np.float32(30_000)
    exact = oracle(x.astype(np.float64))
    found = reduce(x, [3]).finish()
    np.testing.assert_allclose(found["variance"], exact["variance"], rtol=1e-3)


@pytest.mark.parametrize("tokens", [1, 2, 3, 144, 1001, 1500])
@pytest.mark.parametrize("q", [0.0, 0.5, 0.999, 1.0])
def test_the_token_quantile_is_numpys(tokens: int, q: float) -> None:
    x = activations(2, tokens, 3, seed=tokens)
    quantile, maximum = token_quantile(torch.from_numpy(np.abs(x)), q)
    np.testing.assert_allclose(quantile.numpy(), np.quantile(np.abs(x), q, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(maximum.numpy(), np.abs(x).max(axis=1))


def test_p999_is_the_mean_of_sample_quantiles_and_not_the_pooled_one() -> None:
    rng = np.random.default_rng(0)
    alike = rng.normal(size=(8, 4000, 1))
    loud = alike * np.array([10, 1, 1, 1, 1, 1, 1, 1])[:, None, None]
    near = reduce(alike, []).finish()["p999"][0] / np.quantile(np.abs(alike), 0.999)
    below = reduce(loud, []).finish()["p999"][0] / np.quantile(np.abs(loud), 0.999)
    assert near == pytest.approx(1, abs=0.1)
    assert below < 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_it_is_summed(dtype: torch.dtype) -> None:
    # 4,096 values of 40 sum to 163,840: more than float16 holds, and bfloat16 would stop counting at 10,240.
    found = token_statistics(torch.full((1, 4096, 1), 40.0, dtype=dtype))
    assert found.mean[0, 0] == found.mean_abs[0, 0] == found.p999[0, 0] == 40.0
    assert found.variance[0, 0] == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_is_found_with_its_row_and_channel(bad: float) -> None:
    x = torch.ones(3, 5, 4)
    assert first_non_finite(token_statistics(x)) is None
    x[1, 2, 3] = bad
    assert first_non_finite(token_statistics(x)) == (1, 3)


def test_nothing_seen_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(RunFailure, match="no sample reached"):
        Moments(3).finish()
    with pytest.raises(RunFailure, match="no sample reached"):
        RunningMean((3,)).finish()


def test_running_mean_in_any_split_and_merged() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 2, 5))
    whole, parts, other = RunningMean((2, 5)), RunningMean((2, 5)), RunningMean((2, 5))
    whole.add(rows)
    parts.add(rows[:2])
    parts.add(rows[2:3])
    other.add(rows[3:])
    parts.merge(other)
    np.testing.assert_allclose(parts.finish(), rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.finish(), parts.finish(), rtol=1e-12)


def effects_of(token_means: np.ndarray, batch: int, depth: int = 2) -> SampleEffects:
    """Feed token means [prompts, seeds, steps, channels] as a run would, in batches of rows."""
    prompts, seeds, steps, channels = token_means.shape
    state = SampleEffects(channels, seeds, depth)
    samples = [(p, s) for p in range(prompts) for s in range(seeds)]
    for start in range(0, len(samples), batch):
        rows = samples[start : start + batch]
        for step in range(steps):
            state.add(np.stack([token_means[p, s, step] for p, s in rows]))
        state.close(rows)
    return state


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(2, 5)),
    st.integers(1, 7),
    st.integers(0, 2**31),
)
def test_prompt_and_seed_variances_in_any_batching(
    shape: tuple[int, int, int, int], batch: int, seed: int
) -> None:
    means = np.random.default_rng(seed).normal(size=shape)
    state = effects_of(means, batch)
    prompt_variance, seed_variance = state.finish()
    np.testing.assert_allclose(prompt_variance, means.mean(axis=(1, 2)).var(axis=0), atol=1e-12)
    np.testing.assert_allclose(seed_variance, means.mean(axis=(0, 2)).var(axis=0), atol=1e-12)
    logged = {sample: top for samples, tops in state.log for sample, top in zip(samples, tops, strict=True)}
    assert len(logged) == shape[0] * shape[1]
    for (p, s), top in logged.items():
        np.testing.assert_array_equal(top, strongest(np.abs(means[p, s]).mean(axis=0), 2))


def test_effects_of_two_halves_of_one_prompt_merge() -> None:
    means = np.random.default_rng(5).normal(size=(1, 4, 2, 3))
    halves = []
    for seeds in ([0, 1], [2, 3]):
        state = SampleEffects(3, seeds=4, depth=1)
        for step in range(2):
            state.add(means[0, seeds, step])
        state.close([(0, s) for s in seeds])
        halves.append(state)
    halves[0].merge(halves[1])
    expected = effects_of(means, 4).finish()
    for found, wanted in zip(halves[0].finish(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert [sample for samples, _ in halves[0].log for sample in samples] == [(0, s) for s in range(4)]


def test_an_incomplete_layout_is_refused() -> None:
    state = SampleEffects(3, seeds=2, depth=1)
    state.add(np.ones((1, 3)))
    state.close([(0, 0)])
    with pytest.raises(RunFailure, match="every prompt with every seed"):
        state.finish()
    with pytest.raises(RunFailure, match="batch of 2 samples ended, but 0 rows"):
        state.close([(0, 0), (0, 1)])


def test_state_does_not_grow_with_prompts_save_two_bytes_per_logged_channel() -> None:
    few, many = (effects_of(np.ones((prompts, 2, 1, 64)), 4, depth=8) for prompts in (4, 40))
    assert many.nbytes - few.nbytes == (40 - 4) * 2 * 8 * 2


def test_equal_values_rank_by_lower_index_and_wide_models_fit() -> None:
    assert strongest(np.zeros(5), 3).tolist() == [0, 1, 2]
    wide = np.zeros(40_000)
    wide[39_999] = 1
    assert strongest(wide, 1).tolist() == [39_999]
