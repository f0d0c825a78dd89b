"""The time a plan will take comes from the machine, and counts what the plan leaves out."""

from __future__ import annotations

import pytest

import dit_lens as dl
from dit_lens.run import estimate

pytestmark = pytest.mark.tiny


def plan_of(lens, steps, arms):
    g = dl.InterventionGraph(sampling={"steps": steps, "max_sequence_length": 0})
    g.trajectory(prompt="x", seed=0)
    for i in range(arms):
        arm = g.trajectory(prompt="x", seed=0)
        g.edit(arm, at="blocks.1.resid_post.image", channels=[i], op="zero", steps=[steps - 1])
    return g.plan(lens, arms_per_forward=3, sham=False)


def test_one_measured_step_prices_a_plan(tiny_sd3_lens, monkeypatch):
    asked = []

    def measured(lens, prompt, seed, sampling, rows):
        asked.append(rows)
        return {1: 1.0, 3: 2.0}[rows]

    monkeypatch.setattr(estimate, "step_seconds", measured)
    # Two unedited steps; then three arms in one forward, from block 2 of 4 on.
    assert estimate.seconds(tiny_sd3_lens, plan_of(tiny_sd3_lens, 2, 3)) == 1 + 1 + 2.0 * 0.5
    assert asked == [1, 3]
    # Four arms share out as two and two: between the sizes that were measured.
    monkeypatch.setattr(estimate, "step_seconds", lambda *given: {1: 1.0, 2: 1.5}[given[-1]])
    assert estimate.seconds(tiny_sd3_lens, plan_of(tiny_sd3_lens, 2, 4)) == 1 + 1 + 2 * 1.5 * 0.5


def test_measuring_runs_one_step_of_each_size_and_no_more(tiny_sd3_lens):
    ran = []
    plan = plan_of(tiny_sd3_lens, 3, 2)
    handle = tiny_sd3_lens.pipeline.transformer.register_forward_hook(
        lambda m, a, out: ran.append(len(out[0]))
    )
    try:
        assert estimate.seconds(tiny_sd3_lens, plan) > 0
    finally:
        handle.remove()
    # Both branches of one row and of two, each twice.
    assert ran == [2, 2, 4, 4]
