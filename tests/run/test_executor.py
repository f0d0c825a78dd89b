"""A graph's run equals plain torch hooks on the plain pipeline, and nothing known is computed twice."""

from __future__ import annotations

import copy
import random
from itertools import product

import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.graph.interventions import OPERATIONS
from dit_lens.graph.site import Material
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
    # Hooks run the blocks that a row leaves out as well: where rows join, theirs are other batches.
    mixed = any(len(set(f.entries)) > 1 for unit in plan.units for at in unit.steps for f in at)
    for each in done.trajectories.values():
        if each.start is not None:
            ours, theirs = each.latents[each.start + 1 :], expected[each.id]
            if mixed:
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(ours, theirs), each.id
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


def test_a_result_takes_handles_of_the_graph_that_was_run_and_of_no_other(tiny_sd3_lens):
    g, other = graph(), graph()
    own = g.trajectory(prompt="x", seed=0, until="last_read")
    stale = other.trajectory(prompt="y", seed=7)
    g.read(own, at="temb", steps=[0])
    plan = g.plan(tiny_sd3_lens)
    done = run(tiny_sd3_lens, plan)
    with pytest.raises(BadInput, match=r"'trajectory-1' was made by another graph than the one that was run"):
        done[stale]
    # A graph that is built on keeps its handles, and so do copies.
    g.trajectory(prompt="z", seed=0)
    again = copy.deepcopy(done)
    assert done[own] is done[str(stale)] is done["trajectory-1"]
    assert again[copy.deepcopy(own)].prompt == "x"
    with pytest.raises(BadInput, match="another graph"):
        again[stale]
