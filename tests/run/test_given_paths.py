"""A donor along given latents: drawn on and read at every noise level of a picture, never denoised."""

from __future__ import annotations

import random

import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph
from dit_lens.model.given import GivenPath
from tests.lockstep import Loop, lockstep
from tests.oracles import hooked

pytestmark = pytest.mark.tiny

STEPS, GUIDANCE, PROMPT, OTHER = 4, 4.5, "a red circle", "blue"
AT = "blocks.1.resid_post.image"
ALL = "blocks.*.resid_post.image"


def graph(**sampling):
    return InterventionGraph(
        sampling={"steps": STEPS, "guidance_scale": GUIDANCE, "max_sequence_length": 0, **sampling}
    )


def run(lens, g, **more):
    return dl.run(lens, g, **{"progress": False, "images": False, "arms_per_forward": 1, **more})


def picture(lens, seed=0, steps=STEPS, size=8):
    """Latents of a run's every noise level that no sampler made."""
    generator = torch.Generator().manual_seed(1000 + seed)
    sampling = lens.sampling(steps=steps, guidance_scale=1.0, max_sequence_length=0)
    sigmas = lens.prepare_rows(["x"], [0], sampling).sigmas
    clean, noise = torch.randn(2, 1, 4, size, size, generator=generator)
    levels = torch.from_numpy(sigmas).view(-1, 1, 1, 1)
    return GivenPath((1 - levels) * clean + levels * noise, tuple(sigmas.tolist()), PROMPT)


def test_a_patch_from_a_picture_in_a_loop_by_hand(tiny_pair):
    pipeline, lens = tiny_pair
    channels, steps, path = [3, 9], (1, 2), picture(lens)
    g = graph()
    source = g.trajectory(prompt=OTHER, seed=0, path="photo")
    target = g.trajectory(prompt=PROMPT, seed=2)
    g.patch(source, into=target, at=AT, channels=channels, steps=list(steps), strength=0.5)
    g.read(source, at=AT, steps=[2], name="harvest")
    done = run(lens, g, paths={"photo": path})
    loop, harvested = Loop(pipeline, STEPS, GUIDANCE), {}
    x = loop.noise(2)
    for step in range(STEPS):
        if step in steps:

            def keep(value, step=step):
                harvested[step] = value.clone()

            with hooked(pipeline.transformer, {AT: keep}):
                loop.velocity(OTHER, path.latents[step : step + 1], step)

            def mix(value, step=step):
                value = value.clone()
                own, donor = value[..., channels], harvested[step][..., channels]
                value[..., channels] = own + 0.5 * (donor - own)
                return value

            with hooked(pipeline.transformer, {AT: mix}):
                velocity = loop.velocity(PROMPT, x, step)
        else:
            velocity = loop.velocity(PROMPT, x, step)
        x = loop.step(velocity, x, step)
        assert torch.equal(done[target].latents[step + 1], x[0])
    uncond, cond = (value.value for value in done.read("harvest"))
    assert torch.equal(torch.stack([uncond, cond]), harvested[2])
    assert not torch.equal(done[target].latents, done.baselines[PROMPT, 2].latents)
    # The donor has the picture's latents, no end of its own and no image, and no unedited twin ran.
    donor = done[source]
    assert torch.equal(donor.latents, path.latents) and (donor.finished, donor.image) == (False, None)
    assert donor.start == 1 and list(done.baselines) == [(PROMPT, 2)]
    assert done.paths == {"photo": path.digest} and done.proof.exact


def tangle(seed):
    """Pictures, shadows of them with edits, trajectories of the same prompts and seeds, patches, reads."""
    dice = random.Random(seed)
    g = graph(guidance_scale=dice.choice([1.0, GUIDANCE]))
    given = [
        g.trajectory(prompt=dice.choice([PROMPT, OTHER]), seed=dice.randrange(2), path=name)
        for name in ("one", "two", "one")
    ]
    shadow = g.trajectory(prompt=PROMPT, seed=dice.randrange(2), follows=given[0])
    op = dice.choice([dl.Zero(), dl.Noise(0.3, seed=1), dl.Zero(part="mean")])
    g.edit(shadow, at=dice.choice([AT, "temb"]) if op.op != "zero" or op.part == "all" else AT, op=op)
    own = [g.trajectory(prompt=dice.choice([PROMPT, OTHER]), seed=dice.randrange(2)) for _ in range(2)]
    between = g.trajectory(prompt=OTHER, seed=1, follows=own[0])
    everyone = [*given, shadow, between, *own]
    for order, source in enumerate([*given, shadow, between]):
        into = dice.choice([own[1], own[1], own[0]] if source != between else [own[1]])
        g.patch(
            source,
            into=into,
            at=dice.choice(["velocity", AT, "blocks.2.attn_out.image"]),
            strength=dice.choice([1.0, 0.5]),
            steps=dice.choice(["all", [2], [0, 3]]),
            order=order,
        )
    g.read(between, at="velocity", steps=[1])
    for each in everyone:
        g.read(each, at=dice.choice(["velocity", "blocks.3.mlp_out.image"]), steps=dice.choice(["all", [2]]))
    return g


@pytest.mark.parametrize("seed", range(5))
def test_tangles_of_pictures_equal_a_loop_by_hand(tiny_pair, seed):
    pipeline, lens = tiny_pair
    g = tangle(seed)
    given = {"one": picture(lens, 1), "two": picture(lens, 2)}
    checked = g.check(lens, paths=given)
    paths, values = lockstep(pipeline, checked, {name: path.latents for name, path in given.items()})
    done = run(lens, g, paths=given)
    for i, each in enumerate(checked.trajectories):
        found = done[each.id]
        if each.path is not None:
            assert torch.equal(found.latents, given[each.path].latents)
        else:
            root = each.id if each.follows is None else checked.trajectories[each.follows].id
            assert torch.equal(found.latents, paths[root][: len(found.latents)]), each.id
        for value in found.reads:
            expected = values[i, value.step, value.branch, str(value.point)][0]
            assert torch.equal(value.value, expected), (each.id, value.point, value.step)
    # Batched, the same up to last bits.
    many = run(lens, g, paths=given, arms_per_forward=4)
    for each in done.trajectories.values():
        torch.testing.assert_close(many[each.id].latents, each.latents, rtol=1e-3, atol=1e-3)


def test_it_runs_where_it_is_drawn_on_and_no_further(tiny_sd3_lens):
    g = graph()
    source = g.trajectory(prompt=PROMPT, seed=2, path="photo")
    target = g.trajectory(prompt=PROMPT, seed=2)
    g.patch(source, into=target, at=AT, steps=[1, 3])
    plan = g.plan(tiny_sd3_lens, sham=False)
    (unit,) = plan.units
    forwards = [
        (f.step, [unit.rows[r].name for r in f.rows], f.entry, f.stops) for at in unit.steps for f in at
    ]
    clean, donor, image = "unedited of group 0", "trajectory-1", "trajectory-2"
    assert forwards == [
        (0, [clean], 0, False),
        (1, [clean], 0, False),
        # The same prompt and seed, but other latents: nothing is shared with the unedited one.
        (1, [donor], 0, True),
        (1, [image], 2, False),
        (2, [clean], 0, False),
        (2, [image], 0, False),
        (3, [clean], 0, False),
        (3, [donor], 0, True),
        (3, [image], 0, False),
    ]
    assert plan.passes_by_kind == {"clean": 16, "arm": 2 * 2 + 2 + 4 + 4, "sham": 0}
    assert plan.passes_without_reuse == 16 + 16 + 2 * 4
    done = run(tiny_sd3_lens, plan, paths={"photo": picture(tiny_sd3_lens)})
    assert done.proof.block_passes == plan.block_passes


def test_a_graph_of_nothing_but_a_picture_harvests_it(tiny_sd3_lens):
    g = graph(guidance_scale=1.0)
    source = g.trajectory(prompt=PROMPT, seed=0, path="photo")
    g.read(source, at=ALL, reduce="abs_mean", steps=[3])
    path = picture(tiny_sd3_lens)
    done = run(tiny_sd3_lens, g, paths={"photo": path}, keep="final", images=True)
    assert len(done.reads) == 4 and not done.baselines and not done.shams
    assert done.proof.forwards == 1 and done.proof.block_passes == 4
    assert torch.equal(done[source].latents, path.latents[-1:]) and done[source].image is None


def test_a_sampled_trajectory_given_back_is_that_trajectory(tiny_lens):
    """Carried from its own latents, a run changes nothing; from step to step, source and target agree."""
    sampling = {"steps": STEPS, "guidance_scale": GUIDANCE, "max_sequence_length": 0}
    made = tiny_lens.generate(PROMPT, 2, progress=False, **sampling)
    path = GivenPath(made.latents[0], tuple(made.sigmas.tolist()), PROMPT, 2, "sampled")
    g = graph()
    source = g.trajectory(prompt=PROMPT, seed=2, path="own")
    target = g.trajectory(prompt=PROMPT, seed=2)
    g.patch(source, into=target, at=[ALL, "velocity"])
    done = run(tiny_lens, g, paths={"own": path})
    assert torch.equal(done[target].latents, made.latents[0])
    assert torch.equal(done[source].latents, done[target].latents)


def patched(**more):
    g = graph()
    source = g.trajectory(prompt=PROMPT, seed=0, id="photo of", **{"path": "photo", **more})
    target = g.trajectory(prompt=PROMPT, seed=0, id="target")
    g.patch(source, into=target, at=AT)
    return g


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda lens: None, ["trajectories.0.path: 'photo of' goes along 'photo'", "given: none", "paths={"]),
        (lambda lens: {"phto": picture(lens)}, ["paths: 'phto' was given", "Did you mean 'photo'?"]),
        (
            lambda lens: {"photo": picture(lens), "more": picture(lens)},
            ["paths: 'more' was given, and no trajectory goes along it; the graph names photo"],
        ),
        (
            lambda lens: {"photo": picture(lens).latents},
            ["paths: 'photo' is a Tensor; it must be a GivenPath"],
        ),
        (lambda lens: {"photo": picture(lens, steps=3)}, ["paths: 'photo': ", "sigmas differ"]),
        (lambda lens: {"photo": picture(lens, size=4)}, ["paths: 'photo': ", "must have one resolution"]),
    ],
)
def test_paths_that_do_not_fit_are_refused_before_anything_runs(tiny_sd3_lens, given, says):
    lens, g, ran = tiny_sd3_lens, patched(), []
    handle = lens.pipeline.transformer.register_forward_pre_hook(lambda *a: ran.append(1))
    paths = given(lens)
    try:
        calls = [lambda: run(lens, g, paths=paths)]
        if paths is not None:
            # Without paths, a plan says what the graph costs, whatever the pictures.
            calls += [lambda: g.check(lens, paths=paths), lambda: g.plan(lens, paths=paths)]
        for call in calls:
            with pytest.raises(BadInput) as refused:
                call()
            assert all(part in str(refused.value) for part in says)
    finally:
        handle.remove()
    assert not ran and g.plan(lens).block_passes > 0


def edited(g):
    g.edit("photo of", at=AT, op="zero")
    return g


def unused():
    g = graph()
    g.trajectory(prompt=PROMPT, seed=0, path="photo", id="photo of")
    g.trajectory(prompt=PROMPT, seed=0)
    return g


def followed(path):
    g = graph()
    root = g.trajectory(prompt=PROMPT, seed=0)
    shadow = g.trajectory(prompt=PROMPT, seed=0, follows=root, path=path)
    g.read(shadow, at=AT)
    return g


@pytest.mark.parametrize(
    ("g", "says"),
    [
        (lambda: edited(patched()), ["edits.1.into: 'photo of' goes along the latents", "that follows it"]),
        (unused, ["trajectories.0.path: 'photo of' takes the latents of 'photo', and nothing draws on it"]),
        (lambda: followed("photo"), ["trajectories.1.path: ", "Leave out follows or path"]),
        (lambda: patched(until="end"), ["trajectories.0.until: 'photo of' takes the latents of 'photo'"]),
        (lambda: patched(path=""), ["trajectories.0", "path", "at least 1 character"]),
        (lambda: patched(path=3), ["trajectories.0", "path", "valid string"]),
    ],
)
def test_graphs_of_paths_that_cannot_be_are_refused(tiny_sd3_lens, g, says):
    with pytest.raises(BadInput) as refused:
        g().check(tiny_sd3_lens)
    assert all(part in str(refused.value) for part in says), str(refused.value)


def test_a_path_is_drawn_written_and_hashed():
    g = patched()
    same = InterventionGraph.from_yaml(g.to_yaml())
    assert same == g and same.hash == g.hash and same.spec.trajectories[0].path == "photo"
    assert "  path: photo\n" in g.to_yaml() and "path" not in followed(None).to_yaml()
    assert patched(path="other").hash != g.hash
    assert "◇ photo of   'a red circle', seed 0, at the latents given as 'photo'\n" in g.show()
