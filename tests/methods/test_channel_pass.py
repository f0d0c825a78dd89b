"""The pass of discovery against numpy on every activation at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import RunFailure
from dit_lens.methods.channel_labels import SOURCES, STATISTICS
from dit_lens.methods.channel_pass import points_to_read
from dit_lens.model.hook_points import HookPoint
from tests.methods.synthetic import At, ImaginaryRun

pytestmark = pytest.mark.pure

RUN = ImaginaryRun()


def dataset(run: ImaginaryRun, batch: int) -> xr.Dataset:
    reducer = run.reducer()
    run.feed(reducer, batch)
    return reducer.dataset()


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return dataset(RUN, batch=4)


def test_it_reads_what_it_needs_and_nothing_else() -> None:
    read = {str(point) for point in points_to_read(RUN.points())}
    assert {"blocks.0.resid_pre.image", "blocks.2.resid_post.image", "blocks.0.attn2_out.image"} <= read
    assert not {"temb", "velocity", "blocks.1.resid_pre.image"} & read


def test_labels(data: xr.Dataset) -> None:
    assert dict(data.sizes) == {
        "step": 3, "branch": 2, "block": 3, "stream": 2, "channel": 24, "signal": 9, "writer": 4, "source": 5,
        "sample": 6, "rank": 16,
    }  # fmt: skip
    assert data["branch"].values.tolist() == ["cond", "uncond"]
    assert data["writer"].values.tolist() == ["embed", "attn", "attn2", "mlp"]
    assert data["sigma"].values.tolist() == [1.0, 0.6, 0.2]
    assert list(zip(data["sample_prompt"].values, data["sample_seed"].values, strict=True)) == RUN.samples


@pytest.mark.parametrize("stream", ["image", "context"])
@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_statistics_equal_numpy_on_all_activations(data: xr.Dataset, stream: str, branch: str) -> None:
    for step in range(RUN.steps):
        for block in range(RUN.blocks - (stream == "context")):
            x = RUN.values(step, branch, HookPoint("resid_post", block, stream))
            expected = {
                "abs_mean": np.abs(x.mean(axis=1)).mean(axis=0),
                "mean_abs": np.abs(x).mean(axis=(0, 1)),
                "max_abs": np.abs(x).max(axis=(0, 1)),
                "p999": np.quantile(np.abs(x), 0.999, axis=1).mean(axis=0),
                "mean": x.mean(axis=(0, 1)),
                "variance": x.var(axis=(0, 1)),
            }
            cell = data.sel(step=step, branch=branch, block=block, stream=stream)
            assert set(expected) == set(STATISTICS)
            for name, values in expected.items():
                np.testing.assert_allclose(cell[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
                np.testing.assert_allclose(cell[f"{name}_median"], np.median(values), rtol=1e-5, atol=1e-6)


def test_writes_are_gate_times_output(data: xr.Dataset) -> None:
    for block, stream, site in [(0, "image", "attn2"), (1, "image", "attn"), (1, "context", "mlp")]:
        out = RUN.values(1, "cond", HookPoint(f"{site}_out", block, stream))
        gate = RUN.values(1, "cond", HookPoint(f"adaln.gate_{site}", block, stream))
        written = gate[:, None, :] * out
        cell = data.sel(step=1, branch="cond", block=block, stream=stream, writer=site)
        np.testing.assert_allclose(cell["write_mean"], written.mean(axis=(0, 1)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cell["write_mean_abs"], np.abs(written).mean(axis=(0, 1)), rtol=1e-5)


def test_the_embedding_is_a_writer_at_block_0_only(data: xr.Dataset) -> None:
    entering = RUN.values(2, "uncond", HookPoint("resid_pre", 0, "image"))
    embed = data["write_mean_abs"].sel(step=2, branch="uncond", stream="image", writer="embed")
    np.testing.assert_allclose(embed.sel(block=0), np.abs(entering).mean(axis=(0, 1)), rtol=1e-5)
    assert embed.sel(block=[1, 2]).isnull().all()


def test_adaln_signals_are_averaged_over_samples(data: xr.Dataset) -> None:
    for signal, block, stream in [("gate_mlp", 2, "image"), ("scale_attn", 2, "context")]:
        expected = RUN.values(0, "cond", HookPoint(f"adaln.{signal}", block, stream)).mean(axis=0)
        found = data["adaln"].sel(step=0, branch="cond", block=block, stream=stream, signal=signal)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_does_not_exist_is_not_a_number(data: xr.Dataset) -> None:
    after_last = data.sel(block=2, stream="context")
    for name in (*STATISTICS, "variance_share", "write_mean"):
        assert after_last[name].isnull().all(), name
    assert (after_last["top_channels"] == -1).all()
    assert data["write_mean"].sel(block=1, writer="attn2").isnull().all()


def test_variance_shares_equal_a_full_analysis_of_variance(data: xr.Dataset) -> None:
    point = HookPoint("resid_post", 1, "image")
    x = np.stack([RUN.values(step, "cond", point) for step in range(RUN.steps)])
    x = x.reshape(RUN.steps, RUN.prompts, RUN.seeds, RUN.image_tokens, RUN.channels)
    token_mean = x.mean(axis=3)
    grand = token_mean.mean(axis=(0, 1, 2))
    main = [((token_mean.mean(axis=axes) - grand) ** 2).mean(axis=0) for axes in [(1, 2), (0, 2), (0, 1)]]
    rest = token_mean.var(axis=(0, 1, 2)) - sum(main)
    parts = np.stack([*main, rest, x.var(axis=3).mean(axis=(0, 1, 2))])
    np.testing.assert_allclose(parts.sum(axis=0), x.var(axis=(0, 1, 2, 3)), rtol=1e-9)
    found = data["variance_share"].sel(branch="cond", block=1, stream="image")
    assert found["source"].values.tolist() == list(SOURCES)
    np.testing.assert_allclose(found, parts / parts.sum(axis=0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.sum("source"), 1, rtol=1e-6)


def test_each_samples_strongest_channels_are_logged(data: xr.Dataset) -> None:
    point = HookPoint("resid_post", 0, "context")
    x = np.stack([RUN.values(step, "uncond", point) for step in range(RUN.steps)])
    strength = np.abs(x.mean(axis=2)).mean(axis=0)
    expected = np.argsort(-strength, axis=1)[:, :16]
    found = data["top_channels"].sel(branch="uncond", block=0, stream="context")
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int16


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 7), st.integers(0, 6))
def test_any_batching_and_any_merge_give_the_same_dataset(batch: int, cut: int) -> None:
    whole = dataset(RUN, batch=6)
    first, second = RUN.reducer(), RUN.reducer()
    RUN.feed(first, batch, RUN.samples[:cut])
    RUN.feed(second, batch, RUN.samples[cut:])
    first.merge(second)
    xr.testing.assert_allclose(first.dataset(), whole, rtol=1e-6, atol=1e-6)


def test_state_does_not_grow_with_prompts_or_tokens() -> None:
    def size(**changes: int) -> int:
        run = ImaginaryRun(**changes)
        reducer = run.reducer(depth=1)
        run.feed(reducer, batch=4)
        return reducer.nbytes

    small = size(prompts=2, image_tokens=4)
    assert size(prompts=2, image_tokens=400) == small
    log = 5 * 2 * 2 * 2  # five places (3 image, 2 context), two branches, two seeds, one int16 a sample
    assert size(prompts=20, image_tokens=4) == small + 18 * log


@pytest.mark.parametrize("component", ["resid_post", "attn_out", "adaln.scale_mlp", "resid_pre"])
def test_nan_names_step_branch_place_and_sample(component: str) -> None:
    reducer = RUN.reducer()
    reducer.begin([(2, 0), (2, 1)])
    point = HookPoint(component, 0, "image")
    if component == "attn_out":
        gate = HookPoint("adaln.gate_attn", 0, "image")
        reducer.visit(At(1, 0.6, "uncond", gate), torch.ones(2, RUN.channels))
    x = torch.ones(2, RUN.channels) if component.startswith("adaln") else torch.ones(2, 5, RUN.channels)
    x[1, ..., 7] = float("nan")
    with pytest.raises(RunFailure) as caught:
        reducer.visit(At(1, 0.6, "uncond", point), x)
    message = str(caught.value)
    for part in ("step 1", "branch uncond", str(point), "channel 7", "prompt number 2", "seed number 1"):
        assert part in message


def test_a_write_without_its_gate_is_refused() -> None:
    reducer = RUN.reducer()
    reducer.begin([(0, 0)])
    with pytest.raises(RunFailure, match="before its gate"):
        reducer.visit(At(0, 1.0, "cond", HookPoint("mlp_out", 0, "image")), torch.ones(1, 2, RUN.channels))


def test_cells_with_different_sample_counts_are_refused() -> None:
    reducer = RUN.reducer()
    RUN.feed(reducer, 6)
    extra = HookPoint("adaln.shift_attn", 1, "image")
    reducer.signals[(0, "cond", extra)].add(np.ones((1, RUN.channels)))
    with pytest.raises(RunFailure, match=r"different numbers of samples \(\[6, 7\]\)"):
        reducer.dataset()


def test_an_open_batch_is_refused() -> None:
    reducer = RUN.reducer()
    reducer.begin([(0, 0)])
    with pytest.raises(RunFailure, match="in flight"):
        reducer.begin([(0, 1)])
    with pytest.raises(RunFailure, match="read to its end"):
        reducer.dataset()
