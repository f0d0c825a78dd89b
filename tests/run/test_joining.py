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
