"""A shadow says what an edited model would predict at another trajectory's latents; guidance uses it."""

from __future__ import annotations

import random

import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.model.hook_points import HookPoint
from tests.lockstep import Loop, lockstep
from tests.oracles import hooked

pytestmark = pytest.mark.tiny

STEPS, GUIDANCE, PROMPT = 4, 4.5, "a red circle"
AT = "blocks.1.resid_post.image"


def graph(**sampling):
    return dl.InterventionGraph(
        sampling={"steps": STEPS, "guidance_scale": GUIDANCE, "max_sequence_length": 0, **sampling}
    )


def run(lens, g, **more):
    return dl.run(lens, g, **{"progress": False, "images": False, "arms_per_forward": 1, **more})


@pytest.mark.parametrize("branch", ["both", "cond"])
def test_guidance_is_the_formula_of_the_paper(tiny_pair, branch):
    """v + w (v − v_disrupted), 2510.11538, in a loop written out by hand."""
    pipeline, lens = tiny_pair
    weight, channels, guided_steps = 0.8, [3, 9], (1, 2)
    g = graph()
    image = g.trajectory(prompt=PROMPT, seed=2)
    g.guide(image, at=AT, channels=channels, weight=weight, steps=list(guided_steps), branch=branch)
    done = run(lens, g)

    def zero(x):
        x = x.clone()
        x[..., channels] = 0
        return x

    loop = Loop(pipeline, STEPS, GUIDANCE)
    x = loop.noise(2)
    for step in range(STEPS):
        v = loop.velocity(PROMPT, x, step)
        if step in guided_steps:
            with hooked(pipeline.transformer, {AT: zero}):
                disrupted = loop.velocity(PROMPT, x, step)
            led = v + -weight * (disrupted - v)
            torch.testing.assert_close(led, v + weight * (v - disrupted), rtol=1e-4, atol=1e-5)
            v = led if branch == "both" else torch.cat([v[:1], led[1:]])
        x = loop.step(v, x, step)
        assert torch.equal(done[image].latents[step + 1], x[0])
    assert done.proof.exact
    assert not torch.equal(done[image].latents, done.baselines[PROMPT, 2].latents)


def test_weight_zero_is_the_plain_trajectory_bit_for_bit(tiny_lens):
    g = graph()
    image = g.trajectory(prompt=PROMPT, seed=2)
    shadow = g.guide(image, at="blocks.*", channels=[3], weight=0)
    done = run(tiny_lens, g, images=True)
    assert torch.equal(done[image].latents, done.baselines[PROMPT, 2].latents)
    assert done[image].image.tobytes() == done.baselines[PROMPT, 2].image.tobytes()
    assert done[shadow].image is None and not done[shadow].finished
    assert torch.equal(done[shadow].latents, done[image].latents)


def assert_equals_oracle(pipeline, lens, g):
    checked = g.check(lens)
    paths, values = lockstep(pipeline, checked)
    done = run(lens, g)
    for i, each in enumerate(checked.trajectories):
        found = done[each.id]
        root = each.id if each.follows is None else checked.trajectories[each.follows].id
        assert torch.equal(found.latents, paths[root][: len(found.latents)]), each.id
        for value in found.reads:
            expected = values[i, value.step, value.branch, str(value.point)][0]
            assert torch.equal(value.value, expected), (each.id, value.point, value.step)
    return done


def tangle(seed):
    """Trajectories, shadows of them with other prompts, seeds and edits, patches both ways, reads."""
    dice = random.Random(seed)
    g = graph(guidance_scale=dice.choice([1.0, GUIDANCE]))
    roots = [g.trajectory(prompt=dice.choice([PROMPT, "blue"]), seed=dice.randrange(2)) for _ in range(2)]
    shadows = []
    for k in range(3):
        shadows.append(
            g.trajectory(
                prompt=dice.choice([PROMPT, "blue"]),
                seed=dice.randrange(2),
                follows=dice.choice([*roots, *shadows[:1]]),
            )
        )
        ops = [dl.Zero(), dl.Scale(0.5), dl.Noise(0.3, seed=k), dl.Zero(ln_preserving=True)]
        at = f"blocks.{dice.randrange(4)}.resid_post.image"
        g.edit(shadows[-1], at=at, op=dice.choice(ops[:3]), channels=[1, 5], steps=dice.choice(["all", "1:"]))
    everyone = [*shadows, *roots]
    for order in range(4):
        source, into = sorted(dice.sample(range(len(everyone)), 2))
        g.patch(
            everyone[source],
            into=everyone[into],
            at=dice.choice(["velocity", AT, "blocks.2.attn_out.image"]),
            strength=dice.choice([1.0, -0.5]),
            steps=dice.choice(["all", [2], [0, 3]]),
            order=order,
        )
    for each in everyone:
        g.read(each, at=dice.choice(["velocity", "blocks.3.mlp_out.image"]), steps=dice.choice(["all", [2]]))
    return g


@pytest.mark.parametrize("seed", range(5))
def test_tangles_of_shadows_equal_a_loop_by_hand(tiny_pair, seed):
    assert_equals_oracle(*tiny_pair, tangle(seed))


def test_a_shadow_makes_the_one_it_follows_run_as_far_as_needed_and_no_further(
    tiny_sd3_pipeline, tiny_sd3_lens
):
    g = graph()
    short = g.trajectory(prompt=PROMPT, seed=0, until="last_read")
    g.edit(short, at=AT, op="zero", channels=[2], steps=[0])
    shadow = g.trajectory(prompt="blue", seed=0, follows=short)
    g.read(short, at="velocity", steps=[0])
    g.read(shadow, at=AT, steps=[2], name="later")
    done = assert_equals_oracle(tiny_sd3_pipeline, tiny_sd3_lens, g)
    # Two steps of the followed one and two blocks of its shadow. The unedited one gives the blocks before
    # the edit, and the sham goes where the followed one goes.
    assert done[short].latents.shape[0] == 3 and not done[short].finished
    assert done[shadow].start == 2
    assert done.proof.block_passes == (2 + 4) + 2 + 2 + (2 + 4)
    assert list(done.baselines) == [(PROMPT, 0)]
    assert len(done.read("later")) == 2


def test_a_shadow_shares_what_is_known_until_the_paths_part(tiny_sd3_lens):
    g = graph()
    image = g.trajectory(prompt=PROMPT, seed=0)
    g.guide(image, at="blocks.2.resid_post.image", channels=[1], weight=1.0, steps="1:")
    plan = g.plan(tiny_sd3_lens, sham=False)
    (unit,) = plan.units
    forwards = [
        (f.step, [unit.rows[r].name for r in f.rows], f.entry, f.stops) for at in unit.steps for f in at
    ]
    shadow, clean = "trajectory-2", "unedited of group 0"
    assert forwards == [
        (0, [clean], 0, False),
        # At step 1 both are still at the unedited latents: one block of the shadow, none of the image.
        (1, [clean], 0, False),
        (1, [shadow], 3, True),
        (1, ["trajectory-1"], 4, False),
        (2, [clean], 0, False),
        (2, [shadow], 0, True),
        (2, ["trajectory-1"], 0, False),
        (3, [clean], 0, False),
        (3, [shadow], 0, True),
        (3, ["trajectory-1"], 0, False),
    ]
    assert plan.passes_by_kind == {"clean": 16, "arm": 1 + 0 + 4 * 4, "sham": 0}
    assert plan.passes_without_reuse == 16 + 16 + 12


def test_an_energy_match_of_a_shadow_counts_from_its_own_activation(tiny_sd3_lens):
    g = graph()
    image = g.trajectory(prompt=PROMPT, seed=0)
    op = dl.EnergyMatched(treatment_channels=(0, 1))
    shadow = g.guide(image, at=AT, channels=[4, 5], op=op, weight=1.0)
    plain = g.trajectory(prompt=PROMPT, seed=0, follows=image)
    for each in (shadow, plain):
        g.read(each, at=AT, name=f"of {each}", steps=[3], branch="cond")
    done = run(tiny_sd3_lens, g)
    (edited,), (own,) = (done.read(f"of {each}") for each in (shadow, plain))
    change = (edited.value - own.value).norm(dim=1)
    torch.testing.assert_close(change, own.value[:, [0, 1]].norm(dim=1), rtol=1e-3, atol=1e-5)
    # By step 3 the guided trajectory has left the unedited one, whose activation would be another.
    assert not torch.equal(done[image].latents[3], done.baselines[PROMPT, 0].latents[3])


def test_shadows_of_many_arms_share_their_forwards(tiny_sd3_lens):
    g = graph()
    for channel in range(4):
        image = g.trajectory(prompt=PROMPT, seed=0)
        g.guide(image, at=AT, channels=[channel], weight=1.0)
    many, one = run(tiny_sd3_lens, g, arms_per_forward=4, sham=False), run(tiny_sd3_lens, g, sham=False)
    # Per step the unedited one, the shadows, the images; one by one, 1 + 4 + 4.
    assert (many.proof.forwards, one.proof.forwards) == (STEPS * 3, STEPS * 9)
    for each in one.trajectories.values():
        torch.testing.assert_close(many[each.id].latents, each.latents, rtol=1e-3, atol=1e-3)


def circle(g):
    data = g.to_data()
    for i, follows in enumerate(("b", "a")):
        data["trajectories"][i]["follows"] = follows
    return dl.InterventionGraph.from_data(data)


def built(kind):
    g = graph()
    a = g.trajectory(prompt=PROMPT, seed=0, id="a")
    b = g.trajectory(prompt=PROMPT, seed=0, id="b", follows=None if kind == "circle" else a, until=(
        "end" if kind == "end" else "auto"
    ))  # fmt: skip
    if kind != "unread":
        g.patch(b, into=a, at="velocity")
    if kind == "both ways":
        g.patch(a, into=b, at=AT)
    data = g.to_data()
    if kind == "circle":
        return circle(g)
    if kind == "itself":
        data["trajectories"][1]["follows"] = "b"
    if kind == "unknown":
        data["trajectories"][1]["follows"] = "aa"
    return dl.InterventionGraph.from_data(data)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("circle", [r"trajectories.0.follows: a → b → a lead round in a circle"]),
        ("itself", [r"trajectories.1.follows: b → b lead round"]),
        ("unknown", [r"trajectories.1.follows: there is no trajectory 'aa'", "Did you mean 'a'?"]),
        ("end", [r"trajectories.1.until: 'b' takes the latents of 'a'", "Leave out until"]),
        ("unread", [r"trajectories.1.follows: 'b' takes the latents of 'a', and nothing draws on it"]),
        ("both ways", ["the patches form a cycle"]),
    ],
)
def test_shadows_that_cannot_be_are_refused(tiny_sd3_lens, kind, says):
    with pytest.raises(BadInput) as refused:
        built(kind).check(tiny_sd3_lens)
    for part in says:
        assert part in str(refused.value)


def test_following_is_drawn_written_and_checked_at_once():
    g = graph()
    image = g.trajectory(prompt=PROMPT, seed=0, id="image")
    shadow = g.guide(image, at=AT, channels=[1], weight=0.5, id="shadow", steps="1:", branch="cond")
    assert str(shadow) == "shadow" and HookPoint.parse(AT).block == 1
    same = dl.InterventionGraph.from_yaml(g.to_yaml())
    assert same == g and same.spec.trajectories[1].follows == "image"
    assert same.hash != dl.InterventionGraph.from_data({**g.to_data(), "edits": []}).hash
    drawing = g.show()
    for part in (
        "● image   'a red circle', seed 0\n",
        "○ shadow   'a red circle', seed 0, at the latents of image",
        "patch strength=-0.5 ◄── shadow   velocity; steps 1:; branch cond",
    ):
        assert part in drawing
    before = g.spec
    for faults in (
        {"weight": "much"},
        {"weight": True},
        {"weight": float("inf")},
        {"weight": 1, "op": "zeroo"},
    ):
        with pytest.raises(BadInput):
            g.guide(image, **{"at": AT, **faults})
        # Nothing of a refused guidance stays behind.
        assert g.spec == before
    with pytest.raises(BadInput, match="no trajectory 'imag'"):
        g.guide("imag", at=AT, weight=1)
    with pytest.raises(BadInput, match=r"trajectories\.2\.follows: there is no trajectory"):
        g.trajectory(prompt="x", seed=0, follows="nobody")
    assert g.spec == before
