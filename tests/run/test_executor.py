"""A graph's run equals plain torch hooks on the plain pipeline, and nothing known is computed twice."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product

import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput, RunFailure
from dit_lens.graph.interventions import OPERATIONS
from dit_lens.graph.site import NO_MATERIAL, Material
from dit_lens.model.hook_points import HookPoint
from dit_lens.run.executor import UnitRun
from dit_lens.run.material import generator
from tests.oracles import edit_with_hooks, pipeline_call
from tests.plan_oracle import plan_with_hooks

pytestmark = pytest.mark.tiny

STEPS, GUIDANCE = 3, 4.5
FIELDS = {
    "scale": {"factor": 0.3},
    "clamp": {"quantile": 0.8},
    "add": {"value": 0.7},
    "noise": {"scale": 0.5, "seed": 3},
    "token_shuffle": {"seed": 1},
    "patch": {"strength": 0.6},
    "energy_matched": {"treatment_channels": [0, 1]},
    "patch_matched": {"treatment_channels": [0, 1], "strength": 0.6},
}


def graph(**sampling):
    return dl.InterventionGraph(
        sampling={"steps": STEPS, "guidance_scale": GUIDANCE, "max_sequence_length": 0, **sampling}
    )


def run(lens, g, **more):
    return dl.run(lens, g, **{"progress": False, "images": False, **more})


def measured(shapes):
    """Bounds that bite and means, for every channel of a point: given to `material=` and to the oracle."""

    def material(request):
        size = shapes[request.point][-1] if request.point.component != "velocity" else 4
        if request.kind == "mean":
            return torch.linspace(-1, 1, size)
        return torch.stack([torch.full((size,), -0.2), torch.full((size,), 0.3)])

    return material


def assert_equals_hooks(pipeline, lens, g):
    """With one arm per forward everything is bit for bit what the plain pipeline does under plain hooks."""
    checked = g.check(lens)
    bounds = measured(checked.shapes)

    def supply(edit, row, step, branch, point):
        kind = "quantiles" if "quantiles" in edit.sites[point][1].needs else "mean"
        value = bounds(type("Request", (), {"point": point, "kind": kind}))
        return Material(quantiles=value) if kind == "quantiles" else Material(source=value)

    done = run(lens, g, arms_per_forward=1, material=lambda request: bounds(request))
    paths, values = edit_with_hooks(
        pipeline, checked, material=lambda e, s, b, p: supply(e, None, s, b, p), draw=generator
    )
    for each in checked.trajectories:
        found = done[each.id]
        last = len(found.latents) - 1
        assert torch.equal(found.latents[1:], paths[each.id][:last]), each.id
        for value in found.reads:
            expected = values[each.id, value.step, value.branch, str(value.point)][0]
            assert torch.equal(value.value, expected), (each.id, value.point)
    assert done.proof.exact
    return done


def everything(lens, stream):
    """An arm for every op × part × branch that makes sense in a stream."""
    g = graph(steps=2)
    g.trajectory(prompt="blue", seed=5, id="donor")
    # Besides every op as it is: the other kind of mean, and every op with the LayerNorms' statistics kept.
    kinds = [(op, FIELDS.get(op, {})) for op in OPERATIONS] + [("mean", {"of": "dataset"})]
    cases = list(product(kinds, ("all", "mean", "residual"), ("both", "cond", "uncond")))
    cases += [((op, {**fields, "ln_preserving": True}), "all", "both") for op, fields in kinds]
    for (op, fields), part, branch in cases:
        kind = "".join(f" {name}" for name in ("of", "ln_preserving") if name in fields)
        arm = g.trajectory(prompt="a red circle", seed=1, id=f"{op} {part} {branch}{kind}")
        fields = {**fields, "part": part}
        block = len(g.spec.trajectories) % 3
        g.edit(
            arm,
            at=f"blocks.{block}.resid_post.{stream}",
            op={"op": op, **fields},
            channels=[2, 9, 4],
            tokens=[0, 3, 5],
            steps=[1],
            branch=branch,
            source="donor" if op in ("patch", "patch_matched", "resample") else None,
        )
    return g


@pytest.mark.parametrize("stream", ["image", "context"])
def test_every_edit_part_and_branch_equals_plain_hooks(tiny_pair, stream):
    pipeline, lens = tiny_pair
    g = everything(lens, stream)
    done = assert_equals_hooks(pipeline, lens, g)
    changed = {
        each.id
        for each in done.trajectories.values()
        if each.start is not None
        and not torch.equal(each.latents, done.baselines[each.prompt, each.seed].latents)
    }
    nothing = {"identity"}
    assert {name.split()[0] for name in changed} == set(OPERATIONS) - nothing


COMPONENTS = ("resid_pre", "attn_out", "mlp_out", "resid_post", "adaln.gate_mlp", "adaln.scale_attn")


def some_graph(lens, seed):
    """A random small graph: two prompts, several arms, edits, patches, reads, in random places."""
    dice = random.Random(seed)
    g = graph(guidance_scale=dice.choice([1.0, GUIDANCE]))
    guided = g.spec.sampling["guidance_scale"] > 1
    streams = [p for p in lens.hook_points if p.component in (*COMPONENTS, "attn2_out", "velocity", "temb")]
    # More weight on places in the blocks' streams than on their many signals.
    names = [
        g.trajectory(prompt=dice.choice(["a red circle", "blue"]), seed=dice.randrange(2)) for _ in range(4)
    ]
    for order in range(dice.randrange(3, 8)):
        into = dice.randrange(len(names))
        point = dice.choice(streams)
        tokens = (
            [0, 1, 6] if point.stream and "adaln" not in point.component and dice.random() < 0.5 else "all"
        )
        where = {
            "at": str(point),
            "channels": dice.choice(["all", [1], [3, 0]]),
            "tokens": tokens,
            "steps": dice.choice(["all", [0], [1], "1:", [2]]),
            "branch": dice.choice(["both", "cond"] + ["uncond"] * guided),
            "order": order,
        }
        if into and dice.random() < 0.5:
            g.patch(names[dice.randrange(into)], into=names[into], strength=dice.choice([1.0, 0.5]), **where)
        else:
            preserving = point.component in ("resid_pre", "resid_post") and dice.random() < 0.5
            ops = [dl.Zero(ln_preserving=preserving), dl.Scale(0.5), dl.Noise(0.3, seed=order), dl.Identity()]
            g.edit(names[into], op=dice.choice(ops), **where)
    for name in names:
        g.read(name, at=str(dice.choice(streams)), steps=dice.choice(["all", [1]]))
    return g


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_equal_plain_hooks(tiny_pair, seed):
    pipeline, lens = tiny_pair
    assert_equals_hooks(pipeline, lens, some_graph(lens, seed))


@pytest.mark.parametrize("seed", range(2))
def test_batched_arms_equal_the_same_plan_under_plain_hooks(tiny_pair, seed):
    pipeline, lens = tiny_pair
    plan = some_graph(lens, 100 + seed).plan(lens, arms_per_forward=3)
    done = run(lens, plan)
    expected = plan_with_hooks(pipeline, plan, draw=generator)
    for each in done.trajectories.values():
        if each.start is not None:
            assert torch.equal(each.latents[each.start + 1 :], expected[each.id]), each.id
    # A batch changes last bits; the sham says how many, and no arm strays further by batching alone.
    alone = run(lens, some_graph(lens, 100 + seed), arms_per_forward=1)
    assert alone.proof.exact
    for each in done.trajectories.values():
        torch.testing.assert_close(each.latents, alone[each.id].latents, rtol=1e-4, atol=1e-4)


def test_the_order_of_nodes_does_not_matter(tiny_sd35_lens):
    lens = tiny_sd35_lens
    data = some_graph(lens, 7).to_data()
    first, dice = None, random.Random(0)
    for _ in range(20):
        for nodes in ("trajectories", "edits", "reads"):
            dice.shuffle(data[nodes])
        done = run(lens, dl.InterventionGraph.from_data(data), arms_per_forward=1)
        first = first or done
        for each in first.trajectories.values():
            assert torch.equal(done[each.id].latents, each.latents)
        values = {(v.name, v.step, v.branch, v.point): v.value for v in done.reads}
        assert len(values) == len(first.reads) == len(done.reads)
        for v in first.reads:
            assert torch.equal(values[v.name, v.step, v.branch, v.point], v.value)


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
def test_an_empty_graph_and_a_sham_are_the_plain_pipeline(tiny_pair, guidance):
    pipeline, lens = tiny_pair
    g = graph(guidance_scale=guidance)
    plain = g.trajectory(prompt="a red circle", seed=3)
    expected = pipeline_call(pipeline, ["a red circle"], [3], steps=STEPS, guidance=guidance)
    made = lens.generate(
        "a red circle", 3, steps=STEPS, guidance_scale=guidance, max_sequence_length=0, progress=False
    )
    done = run(lens, g, images=True)
    assert torch.equal(done[plain].latents[-1:], expected)
    assert torch.equal(done[plain].latents, made.latents[0])
    assert done[plain].image.tobytes() == made.images[0].tobytes()
    arm = g.trajectory(prompt="a red circle", seed=3)
    g.edit(arm, at=["blocks.*", "velocity", "temb"], op=dl.Identity())
    done = run(lens, g, arms_per_forward=1)
    assert torch.equal(done[arm].latents, made.latents[0])
    assert torch.equal(done.shams["a red circle", 3].latents, made.latents[0])
    assert done.proof.exact


def test_a_batch_of_arms_without_edits_is_a_batch_of_the_plain_pipeline(tiny_sd3_pipeline, tiny_sd3_lens):
    g = graph()
    arms = [g.trajectory(prompt="a red circle", seed=3) for _ in range(3)]
    for arm in arms:
        g.edit(arm, at="temb", op=dl.Identity())
    done = run(tiny_sd3_lens, g, arms_per_forward=3, sham=False)
    text = {
        name: torch.cat([each] * 3)
        for name, each in zip(
            (
                "prompt_embeds",
                "negative_prompt_embeds",
                "pooled_prompt_embeds",
                "negative_pooled_prompt_embeds",
            ),
            tiny_sd3_pipeline.encode_prompt("a red circle", None, None, max_sequence_length=0),
            strict=True,
        )
    }
    # The same three rows through the plain pipeline; encoded once, as all arms share their embeddings.
    batch = tiny_sd3_pipeline(
        **text,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(3) for _ in range(3)],
        output_type="latent",
    ).images
    for arm, latents in zip(arms, batch, strict=True):
        assert torch.equal(done[arm].latents[-1], latents)
    with_sham = run(tiny_sd3_lens, g, arms_per_forward=4)
    measured = with_sham.proof.sham_difference["a red circle", 3]
    assert measured == float(
        (with_sham.shams["a red circle", 3].latents - with_sham.baselines["a red circle", 3].latents)
        .abs()
        .max()
    )
    assert measured < 1e-4


def test_latents_before_the_first_edited_step_are_untouched(tiny_sd3_lens):
    g = graph()
    arm = g.trajectory(prompt="x", seed=0)
    g.edit(arm, at="blocks.1.resid_post.image", op="zero", steps=[2])
    done = run(tiny_sd3_lens, g, arms_per_forward=1)
    clean = done.baselines["x", 0].latents
    assert done[arm].start == 2
    assert torch.equal(done[arm].latents[:3], clean[:3])
    assert not torch.equal(done[arm].latents[3], clean[3])


def test_blocks_run_as_often_as_the_plan_says(tiny_sd3_lens):
    lens, ran = tiny_sd3_lens, []
    g = graph()
    for block, step in product(range(4), range(STEPS)):
        arm = g.trajectory(prompt="x", seed=0)
        g.edit(arm, at=f"blocks.{block}.resid_post.image", op="zero", channels=[1], steps=[step])
    blocks = lens.pipeline.transformer.transformer_blocks
    handles = [b.norm1.register_forward_hook(lambda m, a, out: ran.append(len(a[0]) // 2)) for b in blocks]
    try:
        done = run(lens, g, arms_per_forward=4, sham=False)
    finally:
        for handle in handles:
            handle.remove()
    length, steps = 4, STEPS
    floor = steps * length * (length - 1) // 2 + length**2 * steps * (steps - 1) // 2 + steps * length
    assert sum(ran) == floor == done.proof.block_passes


def test_edits_of_one_address_apply_as_declared(tiny_sd3_lens):
    def final(*ops, orders=(0, 0)):
        g = graph()
        arm = g.trajectory(prompt="x", seed=0)
        for op, order in zip(ops, orders, strict=True):
            g.edit(arm, at="blocks.1.resid_post.image", op=op, channels=[1], order=order)
        g.read(arm, at="blocks.1.resid_post.image", channels=[1], steps=[0])
        return run(tiny_sd3_lens, g).read("read-1")[0].value

    assert torch.equal(final(dl.Zero(), dl.Add(2.0)), torch.full((16, 1), 2.0))
    assert torch.equal(final(dl.Add(2.0), dl.Zero()), torch.zeros(16, 1))
    assert torch.equal(final(dl.Add(2.0), dl.Zero(), orders=(1, 0)), torch.full((16, 1), 2.0))


def test_a_full_patch_of_everything_is_the_donor(tiny_lens):
    g = graph()
    donor = g.trajectory(prompt="blue", seed=4)
    edited = g.trajectory(prompt="blue", seed=4)
    g.edit(edited, at="blocks.0.resid_post.image", op="zero", channels=[1, 2], steps=[1])
    for name, source in (("from clean", donor), ("from edited", edited)):
        into = g.trajectory(prompt="a red circle", seed=7, id=name)
        g.patch(source, into=into, at=["velocity"], steps=[1])
        g.read(into, at="velocity", name=name)
    g.read(edited, at="velocity", name="donor")
    done = run(tiny_lens, g, arms_per_forward=1)
    for branch in range(2):
        assert torch.equal(done.read("from edited")[2 + branch].value, done.read("donor")[2 + branch].value)
        assert not torch.equal(
            done.read("from clean")[2 + branch].value, done.read("donor")[2 + branch].value
        )
        # Step 0 is nobody's: the read comes from the unedited run.
        assert not torch.equal(done.read("from edited")[branch].value, done.read("donor")[branch].value)


def test_preserved_norms_leave_the_other_channels_as_they_were(tiny_sd3_lens):
    """Right behind an edit whose channel nothing but the norm reads, the rest is normalised as before."""
    lens = tiny_sd3_lens
    norm = lens.pipeline.transformer.transformer_blocks[2].norm1.norm
    seen = {}
    for preserving in (False, True):
        g = graph(guidance_scale=1.0)
        arm = g.trajectory(prompt="x", seed=0)
        op = dl.Zero(ln_preserving=preserving)
        g.edit(arm, at="blocks.1.resid_post.image", op=op, channels=[5], steps=[0])
        g.read(arm, at="blocks.2.attn_out.image", steps=[0])
        inputs = []
        handle = lens.pipeline.transformer.transformer_blocks[2].attn.register_forward_pre_hook(
            lambda m, a, k, to=inputs: to.append(k["hidden_states"].clone()), with_kwargs=True
        )
        try:
            run(lens, g, sham=False)
        finally:
            handle.remove()
        clean, edited = inputs[0], inputs[1]
        others = [c for c in range(32) if c != 5]
        seen[preserving] = float((edited - clean)[..., others].abs().max())
    assert norm.eps == 1e-6
    assert seen[True] < 1e-5 < 1e-3 < seen[False]


@pytest.mark.parametrize("reduce", ["none", "mean", "abs_mean", "mean_abs", "max_abs", "norm"])
def test_reads_reduce_what_they_say(tiny_sd3_lens, reduce):
    g = graph()
    arm = g.trajectory(prompt="x", seed=0)
    at = ["blocks.1.resid_post.image", "temb"]
    g.read(arm, at=at, channels=[4, 2], name="whole", steps=[1], branch="cond")
    g.read(arm, at=at, channels=[4, 2], name="reduced", reduce=reduce, steps=[1], branch="cond")
    done = run(tiny_sd3_lens, g)
    for whole, value in zip(done.read("whole"), done.read("reduced"), strict=True):
        x = whole.value if whole.value.ndim == 2 else whole.value[None]
        expected = {
            "none": whole.value,
            "mean": x.mean(0),
            "abs_mean": x.mean(0).abs(),
            "mean_abs": x.abs().mean(0),
            "max_abs": x.abs().amax(0),
            "norm": x.norm(),
        }[reduce]
        torch.testing.assert_close(value.value, expected)
    # Only reads: the run stops at its last one.
    assert done.proof.forwards == 2 and not done[arm].finished
    with pytest.raises(BadInput, match="no read 'redu'"):
        done.read("redu")


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


@pytest.mark.parametrize("at", ["blocks.*.resid_post.image", "blocks.1.resid_post.image"])
def test_energy_matched_displaces_as_much_as_zeroing_would_at_every_block(tiny_sd3_lens, monkeypatch, at):
    seen = []
    plain = dl.EnergyMatched.apply

    def watched(op, x, site, material=NO_MATERIAL):
        new = plain(op, x, site, material)
        before = 0 if material.displaced is None else material.displaced
        control = (new - x + before)[..., list(site.channels)].norm(dim=-1)
        seen.append((control, x[..., list(op.treatment_channels)].norm(dim=-1)))
        return new

    monkeypatch.setattr(dl.EnergyMatched, "apply", watched)
    sampling = {"steps": 2, "guidance_scale": 2.0, "max_sequence_length": 0}
    g = dl.InterventionGraph(sampling=sampling)
    arm = g.trajectory(prompt="a star", seed=0)
    g.edit(arm, at=at, channels=[7, 9], op=dl.EnergyMatched((3, 5), seed=1))
    dl.run(tiny_sd3_lens, g, images=False, sham=False, progress=False)
    runs = [control for control, _ in seen if control.any()]
    assert len(runs) == (4 if "*" in at else 1) * 2 * 2
    for control, treatment in seen:
        torch.testing.assert_close(control, treatment, rtol=1e-3, atol=1e-4)
