"""What a run does when memory runs out, an access is lost, numbers break or somebody interrupts."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.hook_points import HookPoint
from dit_lens.run.executor import UnitRun

pytestmark = pytest.mark.tiny

STEPS, GUIDANCE = 3, 4.5


def graph(**sampling):
    return dl.InterventionGraph(
        sampling={"steps": STEPS, "guidance_scale": GUIDANCE, "max_sequence_length": 0, **sampling}
    )


def run(lens, g, **more):
    return dl.run(lens, g, **{"progress": False, "images": False, **more})


def test_memory_that_runs_out_halves_the_arms_and_changes_nothing_else(tiny_sd3_lens, monkeypatch):
    lens, tried = tiny_sd3_lens, []
    g = graph()
    for channel in range(5):
        arm = g.trajectory(prompt="x", seed=0)
        g.edit(arm, at="blocks.1.resid_post.image", op="zero", channels=[channel], steps="1:")
        g.read(arm, at="velocity", reduce="norm")
    expected = run(lens, g, arms_per_forward=2)
    original = lens.traced.forward

    def narrow(inputs):
        rows = len(inputs["hidden_states"]) // 2
        tried.append(rows)
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return original(inputs)

    monkeypatch.setattr(lens.traced, "forward", narrow)
    done = run(lens, g, arms_per_forward=6)
    # Six rows, then three, then one at a time.
    assert (done.proof.arms_per_forward, done.proof.halvings) == (1, 2)
    assert Counter(tried)[6] == 1
    assert done.proof.reads == expected.proof.reads
    for each in expected.trajectories.values():
        torch.testing.assert_close(done[each.id].latents, each.latents, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(lens.traced, "forward", lambda inputs: narrow({"hidden_states": torch.zeros(6)}))
    with pytest.raises(RunFailure, match="Out of memory while running 1 rows at step 0"):
        run(lens, g)


@pytest.mark.parametrize(("lost", "kind"), [("blocks.2.attn_out.image", "edit"), ("blocks.0", "hold")])
def test_an_access_that_did_not_happen_makes_the_run_fail(tiny_sd3_lens, monkeypatch, lost, kind):
    g = graph()
    arm = g.trajectory(prompt="x", seed=0)
    g.edit(arm, at=["blocks.1.attn_out.image", "blocks.2.attn_out.image"], op="zero", steps=[1])
    original = tiny_sd3_lens.traced.traced_forward
    monkeypatch.setattr(
        tiny_sd3_lens.traced,
        "traced_forward",
        lambda inputs, points, touch, **more: original(
            inputs, [point for point in points if not str(point).startswith(lost)], touch, **more
        ),
    )
    with pytest.raises(RunFailure, match=rf"did not happen.* the {kind} of .* at step 1, .*are void"):
        run(tiny_sd3_lens, g)


def test_latents_that_are_not_finite_name_the_arm_and_the_step(tiny_sd3_lens):
    g = graph()
    g.trajectory(prompt="x", seed=0)
    arm = g.trajectory(prompt="x", seed=0, id="too much")
    g.edit(arm, at="blocks.3.resid_post.image", op=dl.Scale(1e38), steps=[1])
    g.edit(arm, at="velocity", op=dl.Scale(1e38), steps=[1])
    with pytest.raises(RunFailure, match="latents of too much are NaN or infinite after step 1"):
        run(tiny_sd3_lens, g)
    assert tiny_sd3_lens.traced.idle


def test_a_failure_or_ctrl_c_leaves_the_model_as_it_was(tiny_sd3_lens, monkeypatch):
    lens = tiny_sd3_lens
    g = graph()
    arm = g.trajectory(prompt="x", seed=0)
    g.edit(arm, at="blocks.1.resid_post.image", op="zero", steps=[1])
    expected = run(lens, g)
    hooks = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lens.pipeline.transformer.modules()
    )
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with monkeypatch.context() as patch:

            def fail(self, *args, error=error):
                raise error

            patch.setattr(UnitRun, "material", fail)
            with pytest.raises(error):
                run(lens, g)
        assert lens.traced.idle
    after = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lens.pipeline.transformer.modules()
    )
    assert after == hooks
    assert torch.equal(run(lens, g)[arm].latents, expected[arm].latents)


def test_measured_material_is_asked_for_and_checked_before_anything_runs(tiny_sd3_lens):
    g = graph()
    arm = g.trajectory(prompt="x", seed=0)
    g.edit(arm, at="blocks.1.resid_post.image", op=dl.Mean("dataset"), channels=[1, 2], steps=[1])
    ran = []
    handle = tiny_sd3_lens.pipeline.transformer.register_forward_pre_hook(lambda *a: ran.append(1))
    try:
        with pytest.raises(BadInput, match=r"edits\.0\.op: mean needs mean measured on a dataset"):
            run(tiny_sd3_lens, g)
        with pytest.raises(
            BadInput, match=r"edits\.0\.op: at step 1, blocks\.1.*mean: source has shape \[3\]"
        ):
            run(tiny_sd3_lens, g, material=lambda request: torch.zeros(3))
    finally:
        handle.remove()
    assert not ran
    asked = []

    def material(request):
        asked.append((request.kind, request.step, request.branch, request.point))
        return torch.full((32,), 7.0)

    g.read(arm, at="blocks.1.resid_post.image", channels=[2, 3], steps=[1], branch="cond")
    done = run(tiny_sd3_lens, g, material=material)
    point = HookPoint("resid_post", 1, "image")
    assert asked == [("mean", 1, "uncond", point), ("mean", 1, "cond", point)]
    (value,) = done.reads
    assert (value.value[:, 0] == 7).all() and not (value.value[:, 1] == 7).any()


def test_a_plan_says_what_a_run_refuses_without_measured_material(tiny_sd3_lens):
    g = graph()
    arm = g.trajectory(prompt="x", seed=0)
    g.edit(arm, at="blocks.1.resid_post.image", op=dl.Clamp(0.9), channels=[1, 2], steps=[1])
    g.edit(arm, at="blocks.2.resid_post.image", op=dl.Mean("dataset"), channels=[1], steps=[1])
    g.edit(arm, at="blocks.3.resid_post.image", op="mean", channels=[1], steps=[1])
    plan = g.plan(tiny_sd3_lens)
    assert plan.as_data()["needs_measured"] == {"edits.0.op": "quantiles", "edits.1.op": "mean"}
    assert "edits.0.op: clamp needs quantiles measured on a dataset. Pass material= to run" in str(plan)
    assert "dataset_means(stats)" in str(plan) and "edits.2" not in str(plan)
    assert "clamp needs measured quantiles" in plan._repr_html_()
    with pytest.raises(BadInput, match=r"edits\.0\.op: clamp needs quantiles .*MaterialRequest.*No YAML"):
        run(tiny_sd3_lens, g)


def test_a_plan_of_what_the_graph_holds_speaks_of_no_material(tiny_sd3_lens):
    g = graph()
    arm = g.trajectory(prompt="x", seed=0)
    g.edit(arm, at="blocks.1.resid_post.image", op="zero", channels=[1, 2], steps=[1])
    plan = g.plan(tiny_sd3_lens)
    assert plan.as_data()["needs_measured"] == {} and "material" not in str(plan)
    assert g.show(tiny_sd3_lens) == f"{g.show()}\n\n{plan}"
    g.edit(arm, at="blocks.99.resid_post.image", op="zero")
    assert g.show()
    with pytest.raises(BadInput, match="99"):
        g.show(tiny_sd3_lens)


def test_results_come_as_they_are_done_and_by_name(tiny_sd3_lens):
    g = graph()
    names = [g.trajectory(prompt=prompt, seed=0) for prompt in ("a", "b", "a")]
    g.edit(names[2], at="temb", op="zero", steps=[2])
    seen = []
    done = run(tiny_sd3_lens, g, on_trajectory=lambda each: seen.append(each.id), keep="final", images=True)
    assert sorted(seen) == sorted(done.trajectories) == sorted(map(str, names))
    assert list(done.baselines) == [("a", 0), ("b", 0)] and list(done.shams) == [("a", 0)]
    assert done[names[2]].latents.shape == (1, 4, 8, 8)
    assert done[names[2]].image.size == (16, 16) and done[names[0]].start is None
    assert "edited from step 2" in repr(done[names[2]]) and "3 trajectories" in repr(done)
    with pytest.raises(BadInput, match="no trajectory 'trajectory-9'"):
        done["trajectory-9"]
    with pytest.raises(BadInput, match="keep is 'some'"):
        run(tiny_sd3_lens, g, keep="some")


def test_the_room_and_the_function_share_a_name():
    import dit_lens.run.records
    from dit_lens.run.runner import run as function

    assert dl.run is dit_lens.run and callable(dl.run)
    assert dit_lens.run.records.__name__ == "dit_lens.run.records"
    assert function.__doc__ and dl.run.__doc__
