"""Discovery on a random SD3: against plain torch hooks, with a planted channel, in constant memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import dit_lens
from dit_lens.errors import BadInput, RunFailure
from dit_lens.methods.channel_sets import ChannelSet
from dit_lens.methods.channel_tables import births, tables
from dit_lens.methods.channels import ChannelStatistics, discover
from dit_lens.methods.token_maps import COLUMNS, token_maps
from dit_lens.model.hook_points import HookPoint
from dit_lens.run.runner import observe
from tests.oracles import read_with_hooks

pytestmark = pytest.mark.tiny

PROMPTS = ["a large red star on white", "a small blue circle on black"]
SEEDS = [0, 3]
SAMPLING = {"steps": 3, "guidance_scale": 4.5, "max_sequence_length": 0}


def measure(lens: Any, **changes: Any) -> ChannelStatistics:
    arguments = {"prompts": PROMPTS, "seeds": SEEDS, "sampling": SAMPLING, "progress": False, **changes}
    return discover(lens, **arguments)


@pytest.fixture(scope="module")
def measured(tiny_pair: tuple[Any, Any]) -> tuple[ChannelStatistics, dict[Any, torch.Tensor]]:
    """(statistics, every activation by plain hooks on the untouched pipeline), same rows in one batch."""
    pipeline, lens = tiny_pair
    rows = [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]
    activations, _ = read_with_hooks(
        pipeline, [p for p, _ in rows], [s for _, s in rows], steps=3, guidance=4.5
    )
    return measure(lens), activations


def test_statistics_are_those_of_the_plain_pipeline(measured: tuple[ChannelStatistics, Any]) -> None:
    stats, activations = measured
    compared = 0
    for step in range(3):
        for branch in ("cond", "uncond"):
            for stream in ("image", "context"):
                for block in stats.blocks(stream):
                    x = activations[step, branch, f"blocks.{block}.resid_post.{stream}"].double().numpy()
                    cell = stats.data.sel(step=step, branch=branch, stream=stream, block=block)
                    expected = {
                        "abs_mean": np.abs(x.mean(axis=1)).mean(axis=0),
                        "mean_abs": np.abs(x).mean(axis=(0, 1)),
                        "max_abs": np.abs(x).max(axis=(0, 1)),
                        "p999": np.quantile(np.abs(x), 0.999, axis=1).mean(axis=0),
                        "variance": x.var(axis=(0, 1)),
                    }
                    for name, values in expected.items():
                        np.testing.assert_allclose(cell[name], values, rtol=1e-4, atol=1e-6)
                        compared += 1
    assert compared == 3 * 2 * (4 + 3) * 5


def test_gates_and_writes_are_those_of_the_plain_pipeline(measured: tuple[ChannelStatistics, Any]) -> None:
    stats, activations = measured
    writers = {str(name) for name in stats.data["writer"].values} - {"embed"}
    compared = 0
    for block in range(4):
        for writer in writers:
            out = activations.get((1, "cond", f"blocks.{block}.{writer}_out.image"))
            if out is None:
                continue
            gate = activations[1, "cond", f"blocks.{block}.adaln.gate_{writer}.image"]
            written = (gate[:, None] * out).double()
            cell = stats.data.sel(step=1, branch="cond", stream="image", block=block)
            np.testing.assert_allclose(
                cell["write_mean_abs"].sel(writer=writer), written.abs().mean((0, 1)), rtol=1e-4, atol=1e-7
            )
            np.testing.assert_allclose(
                cell["adaln"].sel(signal=f"gate_{writer}"), gate.mean(0), rtol=1e-4, atol=1e-6
            )
            compared += 1
    assert compared == (10 if "attn2" in writers else 8)


@pytest.mark.parametrize("stream", ["image", "context"])
def test_what_is_written_adds_up_to_the_stream(measured: tuple[ChannelStatistics, Any], stream: str) -> None:
    # The residual after a block is what entered plus all that was written: no writer is missing or doubled.
    stats = measured[0]
    blocks = list(stats.blocks(stream))
    data = stats.data.sel(stream=stream, block=blocks).astype(np.float64)
    total = data["write_mean"].sum("writer").cumsum("block")
    np.testing.assert_allclose(total.transpose(*data["mean"].dims), data["mean"], rtol=1e-3, atol=1e-5)


def test_the_batch_size_changes_no_more_than_the_last_bits(tiny_sd3_lens: Any) -> None:
    four, one, three = (measure(tiny_sd3_lens, batch_size=size).data for size in (4, 1, 3))
    for other in (one, three):
        xr.testing.assert_allclose(other, four, rtol=1e-3, atol=1e-4)
        assert (other["top_channels"][..., :2] == four["top_channels"][..., :2]).mean() > 0.9


def test_the_same_request_gives_the_same_bytes(tiny_sd3_lens: Any, tmp_path: Any) -> None:
    first, second = (measure(tiny_sd3_lens).select(top_k=4).save(tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    value = json.loads(first.read_text())
    assert list(value["blocks"]) == ["0", "1", "2", "3"]
    assert value["provenance"]["fingerprint"] == tiny_sd3_lens.fingerprint
    assert value["provenance"]["sampling"]["steps"] == 3
    assert ChannelSet.load(first).to_json() == first.read_text()


def test_the_cost_is_the_forwards_that_ran(make_pipeline: Any) -> None:
    pipeline = make_pipeline("sd3")
    calls = []
    pipeline.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    stats = measure(dit_lens.load(pipeline), batch_size=3)
    assert stats.cost == {"forwards": len(calls), "samples": 4, "steps": 3}
    assert len(calls) == 2 * 3
    assert stats.seconds > 0


def test_unguided_runs_have_one_branch(tiny_sd3_lens: Any) -> None:
    stats = measure(tiny_sd3_lens, sampling={**SAMPLING, "guidance_scale": 1.0}, seeds=[0])
    assert stats.branches == ("cond",)
    found = tables(stats)
    assert set(found["spectrum"]["branch"]) == {"cond"}
    assert stats.data["sigma"].values[0] == 1.0


@pytest.mark.parametrize("kind", ["sd3", "sd3.5"])
def test_a_planted_channel_comes_out_first_in_every_block(make_pipeline: Any, kind: str) -> None:
    pipeline = make_pipeline(kind)
    planted = torch.zeros(pipeline.transformer.inner_dim)
    planted[11] = 40.0
    pipeline.transformer.pos_embed.register_forward_hook(lambda module, inputs, out: out + planted)
    stats = measure(dit_lens.load(pipeline))
    for statistic in ("abs_mean", "mean_abs", "max_abs", "p999"):
        chosen = stats.select(top_k=1, statistic=statistic, branch="both")
        assert chosen.blocks == dict.fromkeys(range(4), (11,)), statistic
    assert stats.agreement(1) == 1.0
    assert stats.select(ratio=10).channels == (11,)
    # And it is said where it was born: before the first block.
    table = births(stats, "image", [11])
    assert table.loc[table["value"].idxmax(), "writer"] == "embed"
    found = tables(stats)["stability"]
    assert (found[(found["stream"] == "image") & (found["k"] == 4)]["jaccard"] > 1 / 7 - 1e-9).all()


def test_nan_is_a_failure_that_says_where(make_pipeline: Any) -> None:
    lens = dit_lens.load(make_pipeline("sd3"))
    with torch.no_grad():
        lens.pipeline.transformer.transformer_blocks[2].ff.net[2].bias[5] = float("nan")
    with pytest.raises(RunFailure) as caught:
        measure(lens)
    for part in ("step 0", "branch uncond", "blocks.2.mlp_out.image"):
        assert part in str(caught.value)


def test_unknown_sampling_fields_are_refused(tiny_sd3_lens: Any) -> None:
    with pytest.raises(BadInput, match="'step'"):
        measure(tiny_sd3_lens, sampling={"step": 3})


# ----------------------------------------------------------------------------------------- token maps
def test_token_maps_are_the_activations_of_the_plain_pipeline(
    tiny_sd3_pipeline: Any, tiny_sd3_lens: Any
) -> None:
    activations, _ = read_with_hooks(
        tiny_sd3_pipeline, [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2, SEEDS * 2, steps=3, guidance=4.5
    )
    wanted = {1: (5, 2), 3: (7,)}
    table = token_maps(tiny_sd3_lens, wanted, PROMPTS, SEEDS, sampling=SAMPLING, steps=[1, -1], branch="both")
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 4 * 2 * 2 * 3 * 16
    for (prompt, seed, branch, block, step, channel), rows in table.groupby(
        ["prompt_index", "seed", "branch", "block", "step", "channel"]
    ):
        x = activations[step, branch, f"blocks.{block}.resid_post.image"]
        expected = x[2 * prompt + SEEDS.index(seed), :, channel].numpy()
        np.testing.assert_array_equal(rows["value"].to_numpy(np.float32), expected)
        assert set(rows["prompt"]) == {PROMPTS[prompt]}
    assert set(table["step"]) == {1, 2}


def test_rows_and_columns_of_an_image_that_is_not_square(tiny_sd3_lens: Any) -> None:
    sampling = tiny_sd3_lens.sampling(**SAMPLING, height=16, width=32)
    rows, columns = tiny_sd3_lens.token_grid(16, 32)
    assert rows < columns
    table = token_maps(tiny_sd3_lens, {0: (4,)}, PROMPTS[:1], [0], sampling=sampling, steps=0)
    kept = []
    batch = tiny_sd3_lens.prepare(PROMPTS[:1], [0], sampling)
    observe(
        tiny_sd3_lens,
        batch,
        [HookPoint("resid_post", 0, "image")],
        lambda at, x: kept.append(x[0, :, 4].clone()) if at.branch == "cond" else None,
        steps=[0],
    )
    grid = table.pivot(index="row", columns="col", values="value").to_numpy(np.float32)
    np.testing.assert_array_equal(grid, kept[0].reshape(rows, columns).numpy())


def test_token_maps_do_not_depend_on_the_batch(tiny_sd3_lens: Any) -> None:
    one, all_at_once = (
        token_maps(tiny_sd3_lens, {2: (3,)}, PROMPTS, SEEDS, sampling=SAMPLING, batch_size=size)
        for size in (1, 8)
    )
    assert one.drop(columns="value").equals(all_at_once.drop(columns="value"))
    np.testing.assert_allclose(one["value"], all_at_once["value"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"channels": {}}, "is empty"),
        ({"channels": {0: ()}}, "is empty"),
        ({"channels": {4: (1,)}}, "blocks 0–3 and channels 0–31"),
        ({"channels": {0: (32,)}}, "blocks 0–3 and channels 0–31"),
        ({"steps": 3}, "there are 3"),
        ({"branch": "left"}, "there are: uncond, cond, or 'both'"),
        ({"prompts": []}, "at least one caption"),
        ({"prompts": "a star"}, "at least one caption"),
    ],
)
def test_token_maps_refuse_before_running(tiny_sd3_lens: Any, arguments: dict[str, Any], says: str) -> None:
    whole = {"channels": {0: (1,)}, "prompts": PROMPTS, "sampling": SAMPLING, **arguments}
    with pytest.raises(BadInput) as caught:
        token_maps(tiny_sd3_lens, whole.pop("channels"), whole.pop("prompts"), **whole)
    assert says in str(caught.value)


def test_token_maps_of_words_are_refused(tiny_sd3_lens: Any) -> None:
    words = ChannelSet(model="m", statistic="abs_mean", stream="context", selection={}, blocks={0: (1,)})
    with pytest.raises(BadInput, match="whose tokens are words"):
        token_maps(tiny_sd3_lens, words, PROMPTS)


# --------------------------------------------------------------------------------------------- memory
MEMORY = """
import gc, json, resource, sys, tracemalloc
import torch
import dit_lens
from dit_lens.methods.channels import discover
from dit_lens.zoo.random_pipelines import random_pipeline

torch.set_num_threads(1)
lens = dit_lens.load(random_pipeline("sd3"))

def run(prompts, **size):
    gc.collect()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    captions = [f"a large red star number {i}" for i in range(prompts)]
    discover(lens, captions, [0], progress=False,
             sampling={"steps": 2, "guidance_scale": 4.5, "max_sequence_length": 0, **size})
    # numpy reports to tracemalloc; torch's share shows in the resident set.
    return [tracemalloc.get_traced_memory()[1] - before,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]

gc.set_threshold(200, 2, 2)  # traces leave cycles behind; how many wait to be collected is not the question
tracemalloc.start()
run(8)
print(json.dumps({"few": run(8), "many": run(64), "tokens": run(8, height=32, width=32)}))
"""


def test_memory_does_not_grow_with_prompts_or_tokens() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    peaks = json.loads(done.stdout.strip().splitlines()[-1])
    (few, few_resident), (many, many_resident), (_, tokens_resident) = (
        peaks[name] for name in ("few", "many", "tokens")
    )
    # What may grow is the log of strongest channels (7 places × 2 branches × 16 indices × 2 bytes a prompt,
    # and again in the dataset) and the captions. One statistic kept for each prompt would be 7 KB a prompt.
    assert many <= few * 1.05 + 56 * 4096
    assert many_resident <= few_resident * 1.05
    assert tokens_resident <= many_resident * 1.05
