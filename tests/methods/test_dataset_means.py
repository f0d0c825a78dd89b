"""Means that discovery measured, given to edits; and statistics that only have a shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.methods.dataset_means import dataset_means
from dit_lens.methods.placeholder_statistics import placeholder_statistics

pytestmark = pytest.mark.tiny

SAMPLING = {"steps": 3, "guidance_scale": 2.0, "max_sequence_length": 0}
PROMPTS = ["a red circle", "a blue square"]


@pytest.fixture(scope="module")
def stats(tiny_sd3_lens: dl.DiTLens) -> dl.ChannelStatistics:
    return dl.discover(tiny_sd3_lens, PROMPTS, seeds=[0, 1], sampling=SAMPLING, progress=False)


def graph(at: str = "blocks.1.resid_post.image", op: object = None, **where: object) -> dl.InterventionGraph:
    g = dl.InterventionGraph(sampling={**SAMPLING, **where})
    arm = g.trajectory(prompt=PROMPTS[0], seed=0, id="arm")
    g.edit(arm, at=at, channels=[2, 5], op=op or dl.Mean(of="dataset"), steps=[1])
    if op is None:
        g.read(arm, at=at, steps=[1])
    return g


def test_an_edit_puts_the_measured_mean_there(tiny_sd3_lens: dl.DiTLens, stats: dl.ChannelStatistics) -> None:
    result = dl.run(tiny_sd3_lens, graph(), material=dataset_means(stats), progress=False)
    for read in result.reads:
        expected = stats.data["mean"].sel(step=1, branch=read.branch, block=1, stream="image").values
        for channel in (2, 5):
            assert torch.equal(
                read.value[:, channel], torch.full_like(read.value[:, channel], float(expected[channel]))
            )


def test_the_mean_is_that_of_all_samples(tiny_sd3_lens: dl.DiTLens, stats: dl.ChannelStatistics) -> None:
    seen = []
    for prompt in PROMPTS:
        for seed in (0, 1):
            g = dl.InterventionGraph(sampling=SAMPLING)
            g.read(g.trajectory(prompt=prompt, seed=seed), at="blocks.1.resid_post.image", steps=[1])
            reads = dl.run(tiny_sd3_lens, g, images=False, progress=False).reads
            seen += [read.value.double().mean(dim=0) for read in reads if read.branch == "cond"]
    measured = stats.data["mean"].sel(step=1, branch="cond", block=1, stream="image").values
    np.testing.assert_allclose(torch.stack(seen).mean(dim=0).numpy(), measured, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"op": dl.Clamp(0.9)}, "discovery keeps means"),
        ({"at": "blocks.1.attn_out.image"}, "means of resid_post"),
        ({"steps": 4}, "Discover with the sampling of the run"),
    ],
)
def test_what_discovery_did_not_measure_is_refused_before_any_forward(
    tiny_sd3_lens: dl.DiTLens,
    stats: dl.ChannelStatistics,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict,
    expected: str,
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the transformer ran")

    monkeypatch.setattr(tiny_sd3_lens.pipeline.transformer, "forward", forbidden)
    with pytest.raises(BadInput, match=expected):
        dl.run(tiny_sd3_lens, graph(**changes), material=dataset_means(stats), progress=False)


def test_placeholders_choose_and_control_like_real_statistics(
    tiny_lens: dl.DiTLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = tiny_lens.sampling(**SAMPLING)
    real = dl.discover(tiny_lens, PROMPTS[:1], sampling=sampling, progress=False)
    blank = placeholder_statistics(tiny_lens, sampling, real.data["sigma"].values)
    for stream in ("image", "context"):
        assert blank.blocks(stream) == real.blocks(stream)
        chosen = [stats.select(top_k=2, stream=stream) for stats in (blank, real)]
        assert {b: len(c) for b, c in chosen[0].blocks.items()} == {
            b: len(c) for b, c in chosen[1].blocks.items()
        }
    for kind in ("low", "random", "random_rank_window", "energy_matched"):
        massive = blank.select(top_k=2)
        (control,) = dl.controls(massive, blank, kind)
        assert control.channels is not None
        assert not set(control.channels.channels) & set(massive.channels)
