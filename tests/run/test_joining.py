"""Rows that come into a forward pass behind the blocks that they share with the unedited run."""

from itertools import product

import pytest
import torch

import dit_lens as dl
from dit_lens.run.material import generator
from dit_lens.run.runner import run
from tests.plan_oracle import plan_with_hooks

pytestmark = pytest.mark.tiny

STEPS = 2


def full_map(lens, *, component="resid_post", op="zero", prompts=("a",), stream="image", **fields):
    """One arm per block × step × prompt."""
    g = dl.InterventionGraph(sampling={"steps": STEPS, "guidance_scale": 4.5, "max_sequence_length": 0})
    for prompt, block, step in product(prompts, range(lens.num_blocks), range(STEPS)):
        at = f"blocks.{block}.{component}.{stream}"
        if at not in map(str, lens.hook_points):
            continue
        arm = g.trajectory(prompt=prompt, seed=0)
        g.edit(arm, at=at, op={"op": op, **fields}, channels=[1, 4], steps=[step])
    return g


def forwards_at(plan, step):
    return [(len(f.rows), f.entries) for unit in plan.units for f in unit.steps[step]]


def test_arms_that_start_at_one_step_share_one_forward_pass(tiny_sd3_lens):
    lens = tiny_sd3_lens
    plan = full_map(lens).plan(lens, arms_per_forward=64, sham=False)
    blocks = tuple(range(1, lens.num_blocks + 1))
    assert forwards_at(plan, 0) == [(1, (0,)), (len(blocks), blocks)]
    # The next step's arms start beside those that are on their way.
    assert forwards_at(plan, 1) == [(1, (0,)), (2 * len(blocks), (0,) * len(blocks) + blocks)]
    done = run(lens, plan)
    assert done.proof.forwards == plan.forwards == 2 * STEPS
    count = lens.num_blocks
    assert done.proof.block_passes == STEPS * count * (count - 1) // 2 + count * count + STEPS * count


@pytest.mark.parametrize(
    ("component", "stream", "op", "fields"),
    [
        ("resid_post", "image", "zero", {}),
        ("resid_post", "image", "zero", {"ln_preserving": True}),
        ("resid_post", "context", "scale", {"factor": 0.5, "ln_preserving": True}),
        ("resid_pre", "image", "noise", {"scale": 0.5, "seed": 3}),
        ("mlp_out", "image", "zero", {"part": "residual"}),
        ("adaln.gate_attn", "context", "zero", {}),
    ],
)
def test_a_pass_that_rows_join_equals_plain_hooks(tiny_pair, component, stream, op, fields):
    pipeline, lens = tiny_pair
    graph = full_map(lens, component=component, stream=stream, op=op, prompts=("a", "b"), **fields)
    plan = graph.plan(lens, arms_per_forward=5)
    assert any(len(set(f.entries)) > 1 for unit in plan.units for at in unit.steps for f in at)
    done = run(lens, plan, images=False)
    expected = plan_with_hooks(pipeline, plan, draw=generator)
    alone = run(lens, graph, arms_per_forward=1, images=False)
    assert alone.proof.exact
    for each in done.trajectories.values():
        # Hooks compute the rows that are left out as well, in batches of another size.
        ours = each.latents[each.start + 1 :]
        torch.testing.assert_close(ours, expected[each.id], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(each.latents, alone[each.id].latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["zero", "energy_matched", "patch", "patch_matched"])
def test_edits_of_several_blocks_join_with_what_they_displaced_before(tiny_lens, op):
    """What a matched control owes is counted row by row, whatever place the row has at a block."""
    lens = tiny_lens
    matched = {"treatment_channels": [0, 2]} if op.endswith("matched") else {}
    g = dl.InterventionGraph(sampling={"steps": STEPS, "guidance_scale": 4.5, "max_sequence_length": 0})
    donor = g.trajectory(prompt="a", seed=0)
    for prompt, first in product("ab", range(lens.num_blocks)):
        arm = g.trajectory(prompt=prompt, seed=0)
        where = {"at": f"blocks.{first}-{lens.num_blocks - 1}.resid_post.image", "channels": [1, 4]}
        if op.startswith("patch"):
            g.edit(arm, source=donor, op={"op": op, **matched}, **where)
        else:
            g.edit(arm, op={"op": op, **matched}, **where)
        if op not in ("patch", "patch_matched"):
            # A patch of nothing joins both prompts: their rows then share forward passes.
            g.patch(donor, into=arm, at="blocks.0.resid_post.context", channels=[0], strength=0, steps=[1])
    plan = g.plan(lens, arms_per_forward=64)
    assert len(plan.units) == 1
    assert any(
        len(set(f.entries)) > 1 and len({unit.rows[r].group for r in f.rows}) > 1
        for unit in plan.units
        for at in unit.steps
        for f in at
    )
    together, alone = run(lens, plan, images=False), run(lens, g, arms_per_forward=1, images=False)
    for each in alone.trajectories.values():
        torch.testing.assert_close(together[each.id].latents, each.latents, rtol=1e-4, atol=1e-4)


def test_memory_that_runs_out_where_rows_join_leaves_nothing_behind(tiny_sd3_lens, monkeypatch):
    lens = tiny_sd3_lens
    graph = full_map(lens)
    whole = run(lens, graph, arms_per_forward=64, images=False)
    place, failures = lens.adapter.entering, []

    def scarce(block, inputs, change):
        _, keywords = inputs
        if block == 2 and len(keywords["hidden_states"]) > 4:
            failures.append(block)
            raise torch.OutOfMemoryError("out of memory")
        return place(block, inputs, change)

    monkeypatch.setattr(lens.adapter, "entering", scarce)
    halved = run(lens, graph, arms_per_forward=64, images=False)
    assert failures and halved.proof.halvings and lens.traced.idle
    assert (halved.proof.edits, halved.proof.block_passes) == (whole.proof.edits, whole.proof.block_passes)
    for each in whole.trajectories.values():
        torch.testing.assert_close(halved[each.id].latents, each.latents, rtol=1e-4, atol=1e-4)


def test_rows_that_memory_does_not_bear_join_in_halves(tiny_sd3_lens, monkeypatch):
    lens = tiny_sd3_lens
    graph = full_map(lens)
    whole = run(lens, graph, arms_per_forward=64, images=False)
    plain, failures = lens.traced.forward, []

    def scarce(inputs):
        if len(inputs["hidden_states"]) > 6:
            failures.append(len(inputs["hidden_states"]))
            raise torch.OutOfMemoryError("out of memory")
        return plain(inputs)

    monkeypatch.setattr(lens.traced, "forward", scarce)
    halved = run(lens, graph, arms_per_forward=64, images=False)
    assert failures and halved.proof.halvings
    assert halved.proof.block_passes == whole.proof.block_passes
    for each in whole.trajectories.values():
        torch.testing.assert_close(halved[each.id].latents, each.latents, rtol=1e-4, atol=1e-4)


def test_pictures_that_memory_does_not_bear_are_decoded_in_halves(tiny_sd3_lens, monkeypatch):
    lens = tiny_sd3_lens
    graph = full_map(lens)
    whole = run(lens, graph, arms_per_forward=64)
    plain, sizes = lens.pipeline.vae.decode, []

    def scarce(z, *args, **kwargs):
        sizes.append(len(z))
        if len(z) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return plain(z, *args, **kwargs)

    monkeypatch.setattr(lens.pipeline.vae, "decode", scarce)
    halved = run(lens, graph, arms_per_forward=64)
    assert max(sizes) > 2
    for each in whole.trajectories.values():
        assert halved[each.id].image.size == each.image.size


@pytest.mark.parametrize("arms", [1, 64])
def test_final_latents_alone_are_those_of_whole_paths(tiny_sd3_lens, arms):
    graph = full_map(tiny_sd3_lens)
    options = {"arms_per_forward": arms, "images": False}
    whole = run(tiny_sd3_lens, graph, **options)
    final = run(tiny_sd3_lens, graph, keep="final", **options)
    for each in whole.trajectories.values():
        assert torch.equal(final[each.id].latents, each.latents[-1:])
        assert final[each.id].finished and each.finished
    assert final.proof.sham_difference == whole.proof.sham_difference
