"""A graph that does not fit its model is refused before anything runs, with the path of the fault."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import dit_lens as dl
from dit_lens.errors import BadInput, dotted
from dit_lens.graph.interventions import OPERATIONS
from dit_lens.methods.spatial import Mask

pytestmark = pytest.mark.tiny

IMAGE = "blocks.1.resid_post.image"


def graph(**sampling):
    return dl.InterventionGraph(sampling={"steps": 4, "guidance_scale": 4.5, **sampling})


def two():
    g = graph()
    return g, g.trajectory(prompt="a", seed=0, id="one"), g.trajectory(prompt="b", seed=0, id="two")


def edited(**edit):
    def build(lens):
        g, one, _ = two()
        g.edit(one, **{"at": IMAGE, "op": "zero", **edit})
        return g

    return build


def patched(*patches, **more):
    def build(lens):
        g = graph()
        for name in ("one", "two", "three"):
            g.trajectory(prompt=name, seed=0, id=name)
        for source, into in patches:
            g.patch(source, into=into, at=IMAGE, **more)
        return g

    return build


def a_set(**changed):
    class Set:
        blocks, model, stream = {0: (1,), 1: (2,)}, "other", "image"

    for name, value in changed.items():
        setattr(Set, name, value)
    return Set()


def no_trajectory(lens):
    return graph()


def unread(lens):
    g = graph()
    g.trajectory(prompt="x", seed=0, until="last_read")
    return g


def reading_no_token(lens):
    g = graph()
    g.read(g.trajectory(prompt="x", seed=0), at="blocks.1.resid_post.image", tokens=[])
    return g


def misnamed(lens):
    g = graph(step=4)
    g.trajectory(prompt="x", seed=0)
    return g


def endless(lens):
    g = graph(steps=10**9)
    g.trajectory(prompt="x", seed=0)
    return g


def bad_size(lens):
    g = graph(height=17)
    g.trajectory(prompt="x", seed=0)
    return g


def unguided(lens):
    g = graph(guidance_scale=1.0)
    g.read(g.trajectory(prompt="x", seed=0), at="temb", branch="uncond")
    return g


FAULTS = [
    (no_trajectory, ["trajectories: the graph has none", "g.trajectory"]),
    (unread, ["trajectories.0.until", "nothing reads it"]),
    (bad_size, ["sampling: ", "multiples of"]),
    (unguided, ["reads.0.branch", "guidance 1", "there is cond"]),
    (edited(at="blocks.12.resid_post.image"), ["edits.0.at", "blocks.12", "there are 4, 0 to 3"]),
    (edited(at="blocks.3.resid_post.context"), ["edits.0.at", "context stream ends with the last block"]),
    (edited(at="blocks.*.resid_pots.image"), ["edits.0.at", "resid_post"]),
    (edited(channels=[32]), ["edits.0", "Channel 32", "0 to 31"]),
    (edited(channels=[1, 1]), ["edits.0", "names 1 twice"]),
    (edited(channels="massive"), ["edits.0.channels", "no channel set 'massive'", "none"]),
    (edited(channels=a_set()), ["edits.0.channels", "made for 'other'"]),
    (
        edited(channels=a_set(model=None), at="blocks.1.resid_post.context"),
        ["made for the image stream", "context stream"],
    ),
    (
        edited(channels=a_set(model=None), at="blocks.2.resid_post.image"),
        ["nothing for block 2", "0, 1", "at blocks.0,1.resid_post.image, or in an arm blocks=[0, 1]"],
    ),
    (edited(channels=a_set(model=None), at="temb"), ["holds channels per block"]),
    (edited(channels={1: ()}), ["edits.0.channels: no channel is addressed"]),
    (edited(tokens=[16]), ["edits.0", "Token 16", "0 to 15"]),
    (edited(tokens=[]), ["edits.0.tokens: no token is addressed", "write all"]),
    (edited(tokens=np.array([], dtype=int)), ["edits.0.tokens: no token is addressed. Name at least one"]),
    (reading_no_token, ["reads.0.tokens: no token is read"]),
    (edited(tokens={"box": [0, 0, 5, 1]}), ["edits.0.tokens: box [0, 0, 5, 1]", "4 × 4 tokens"]),
    (edited(tokens={"box": [0, 0, 1, 1]}, at="blocks.1.resid_post.context"), ["has none"]),
    (edited(tokens=np.ones((3, 4), dtype=bool)), ["made for 3 × 4 tokens", "has 4 × 4"]),
    (
        edited(tokens=Mask(np.eye(4, dtype=bool), image_size=(64, 64))),
        ["edits.0.tokens: the mask 'mask-1' was made for images of 64 × 64 pixels", "nothing is resized"],
    ),
    (edited(tokens="subject"), ["no mask 'subject'"]),
    (edited(tokens=[0], at="temb"), ["edits.0", "without tokens"]),
    (edited(steps=4), ["edits.0.steps: There is no step 4: there are 4, 0 to 3"]),
    (edited(steps={"sigma": [2, 3]}), ["edits.0.steps: No step starts at a sigma"]),
    (edited(steps={"sigm": [0, 1]}), ["edits.0.steps", "{sigma: [low, high]}", "Did you mean 'sigma'?"]),
    (edited(steps=[]), ["edits.0.steps: An empty list selects no step"]),
    (edited(channels=[]), ["edits.0.channels: no channel is addressed anywhere", "Choose channels"]),
    (edited(at="temb", tokens=[]), ["edits.0: Tokens []", "Leave tokens out here"]),
    (edited(at="velocity", channels=[4]), ["edits.0: Channel 4", "there are 4, 0 to 3"]),
    (edited(at="blocks.3.mlp_out.context"), ["blocks 0–2 have it"]),
    (misnamed, ["sampling: ", "no 'step'", "Did you mean 'steps'?"]),
    (endless, ["sampling: ", "steps", "10,000"]),
    (edited(op=dl.Patch()), ["edits.0.source is missing", "one, two"]),
    (edited(source="two"), ["edits.0.source: zero draws on no other trajectory"]),
    (edited(op=dl.Resample(), source="one"), ["edits.0.source: trajectory 'one' is patched into itself"]),
    (edited(op=dl.Zero(ln_preserving=True), at="blocks.1.mlp_out.image"), ["edits.0.op: ln_preserving"]),
    (edited(op=dl.TokenShuffle(), at="temb"), ["edits.0: token_shuffle"]),
    (edited(op=dl.Add((1.0, 2.0)), channels=[3]), ["edits.0: add: 2 values were given and 1 channels"]),
    (patched(("one", "two"), ("two", "one")), ["edits.", "cycle", "one", "two"]),
    (patched(("one", "two"), ("two", "three"), ("three", "one")), ["cycle", "one", "two", "three"]),
    (patched(("one", "three"), ("two", "three")), ["edits.1: 'one' (edits.0) and 'two' are both patched"]),
]


@pytest.mark.parametrize(("build", "says"), FAULTS, ids=[says[-1] for _, says in FAULTS])
def test_what_does_not_fit_is_refused_by_its_path(tiny_sd3_lens, build, says):
    ran = []
    handle = tiny_sd3_lens.pipeline.transformer.register_forward_pre_hook(lambda *a: ran.append(1))
    try:
        with pytest.raises(BadInput) as refused:
            dl.run(tiny_sd3_lens, build(tiny_sd3_lens), progress=False)
    finally:
        handle.remove()
    for part in says:
        assert part in str(refused.value)
    error = refused.value
    assert str(error).startswith(dotted(error.path))
    members = ("edits.", "reads.", "trajectories.", "trajectories:")
    assert bool(error.path) or not str(error).startswith(members)
    assert not ran


def test_an_order_or_other_entries_make_two_patches_clear(tiny_sd3_lens):
    g = patched(("one", "three"))(tiny_sd3_lens)
    g.patch("two", into="three", at=IMAGE, order=1)
    g.check(tiny_sd3_lens)
    g = patched(("one", "three"), channels=[0, 1])(tiny_sd3_lens)
    g.patch("two", into="three", at=IMAGE, channels=[2])
    g.check(tiny_sd3_lens)


def test_names_become_numbers(tiny_sd3_lens):
    g, one, two_ = two()
    g.edit(
        one,
        at="blocks.*.resid_post.image",
        channels={0: (5,), 1: (7, 3), 2: (), 3: (1,)},
        op="zero",
        tokens={"box": [1, 2, 3, 4]},
        steps={"fraction": [0, 0.5]},
        branch="cond",
    )
    g.read(two_, at=["velocity", "blocks.0-1.attn_out.*"], steps=-1)
    checked = g.check(tiny_sd3_lens)
    (edit,) = checked.edits
    found = {str(point): site.channels for point, (site, _) in edit.sites.items()}
    # Block 2 has no channels in the set, so nothing is edited there.
    assert found == {
        "blocks.0.resid_post.image": (5,),
        "blocks.1.resid_post.image": (7, 3),
        "blocks.3.resid_post.image": (1,),
    }
    assert {site.tokens for site, _ in edit.sites.values()} == {(6, 7, 10, 11)}
    assert (edit.steps, edit.branches, edit.into, edit.source) == ((0, 1), ("cond",), 0, None)
    (read,) = checked.reads
    assert read.steps == (3,) and read.branches == ("uncond", "cond")
    assert [str(point) for point in read.sites] == [
        "blocks.0.attn_out.image",
        "blocks.0.attn_out.context",
        "blocks.1.attn_out.image",
        "blocks.1.attn_out.context",
        "velocity",
    ]
    assert checked.sigmas[0] == 1.0 and checked.sigmas[-1] == 0.0


def test_sigma_ranges_survive_another_step_count(tiny_sd3_lens):
    for steps in (4, 8):
        g = graph(steps=steps)
        g.edit(g.trajectory(prompt="x", seed=0), at=IMAGE, op="zero", steps={"sigma": [0.6, 1.0]})
        checked = g.check(tiny_sd3_lens)
        inside = [s for s in range(steps) if checked.sigmas[s] >= 0.6]
        assert list(checked.edits[0].steps) == inside and len(inside) < steps


def test_an_edit_that_holds_channels_per_block_is_resolved_per_block(tiny_sd3_lens):
    g, one, _ = two()
    op = dl.EnergyMatched(treatment_channels={0: (1,), 1: (2, 3)})
    g.edit(one, at="blocks.0-1.resid_post.image", channels=[10, 11, 12], op=op)
    sites = g.check(tiny_sd3_lens).edits[0].sites
    assert [here.treatment_channels for _, here in sites.values()] == [(1,), (2, 3)]
    g.edit(one, at="blocks.2.resid_post.image", channels=[10, 11, 12], op=op)
    with pytest.raises(BadInput, match=r"edits\.1: energy_matched: the treatment has no channels at block 2"):
        g.check(tiny_sd3_lens)
    assert "energy_matched" in OPERATIONS


BY_HAND = """
sampling: {steps: 4, guidance_scale: 4.5, max_sequence_length: 0}
channel_sets: {found: {blocks: {0: [1], 1: [2, 3]}, stream: image}}
masks: {left: {tokens: [0, 4], grid: [4, 4]}}
trajectories:
- {id: source, prompt: a red circle, seed: 0}
- {id: target, prompt: a blue square, seed: 0, until: end}
- {id: shadow, prompt: a blue square, seed: 0, follows: target}
edits:
- {into: target, at: blocks.0-1.resid_post.image, op: zero, channels: found, tokens: left, steps: "1:"}
- {into: target, at: velocity, op: {op: patch, strength: -0.5}, source: shadow, order: 2}
- {into: shadow, at: [temb], op: {op: noise, scale: 0.5}, steps: {sigma: [0.2, 1]}, branch: cond}
- {into: target, at: blocks.2.mlp_out.context, op: resample, source: source, tokens: [0, 2]}
reads:
- {name: size, of: target, at: velocity, reduce: norm, steps: [0, -1]}
"""
VALUES = [
    None, -1, 0, 3, 99, 1.5, float("nan"), True, "", "all", "source", "target", "shadow", "nobody", "temb",
    "blocks.9.resid_post.image", "blocks.*", [], [0], [0, 0], [99], ["temb"], {}, {"op": "clamp"},
    {"box": [0, 0, 9, 9]}, {"fraction": [0.9, 0.1]}, {"sigma": ["low", 1]}, 10**30, "é", "uncond",
    "last_read",
]  # fmt: skip


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_mutation_gives_anything_but_a_plan_or_bad_input_and_nothing_runs(tiny_sd3_lens, data):
    value = yaml.safe_load(BY_HAND)
    for _ in range(data.draw(st.integers(1, 2))):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 3)) == 0:
                how = data.draw(st.sampled_from(["replace", "drop", "twice", "rename"]))
                if how == "replace":
                    # A copy: a second mutation must not change what later examples draw from.
                    place[key] = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
                elif how == "drop":
                    del place[key]
                elif isinstance(place, list):
                    place.append(place[key])
                else:
                    place[f"{key}s"] = place.pop(key)
                break
            place = place[key]
    ran = []
    handle = tiny_sd3_lens.pipeline.transformer.register_forward_pre_hook(lambda *a: ran.append(1))
    try:
        dl.InterventionGraph.from_data(value).plan(tiny_sd3_lens)
    except BadInput as error:
        assert len(str(error)) > 20 and "pydantic" not in str(error)
    finally:
        handle.remove()
    assert not ran


def test_what_the_mutations_start_from_is_sound(tiny_sd3_lens):
    plan = dl.InterventionGraph.from_yaml(BY_HAND).plan(tiny_sd3_lens)
    assert plan.block_passes > 0
