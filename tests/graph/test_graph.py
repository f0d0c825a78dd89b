"""A graph is one value, however it was written; what it cannot mean is refused with the path of the fault."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph
from dit_lens.graph.interventions import OPERATIONS
from dit_lens.graph.trajectory_ref import TrajectoryRef
from dit_lens.methods.spatial import Mask

pytestmark = pytest.mark.pure


def example() -> InterventionGraph:
    g = InterventionGraph(sampling={"steps": 4, "guidance_scale": None})
    source = g.trajectory(prompt="a red circle", seed=0)
    target = g.trajectory(prompt="a blue square", seed=1, id="target", until="end")
    g.edit(
        target,
        at=["blocks.2.resid_post.image", "temb"],
        channels=[3, 1],
        op=dl.Zero(part="mean"),
        steps="2:",
        branch="cond",
        order=-1,
    )
    g.patch(source, into=target, at="blocks.4-7.resid_post.image", strength=0.5, steps={"sigma": [0.2, 0.8]})
    g.edit(target, at="blocks.*.mlp_out.context", op={"op": "noise", "scale": 0.5}, tokens=[0, 2])
    g.read(target, at="velocity", reduce="norm", steps=[0, -1])
    return g


def test_builder_yaml_json_and_data_make_the_same_value():
    g = example()
    for same in (
        InterventionGraph.from_yaml(g.to_yaml()),
        InterventionGraph.from_yaml(g.to_json()),
        InterventionGraph.from_data(g.to_data()),
        InterventionGraph.from_spec(g.spec),
    ):
        assert same == g
        assert same.spec == g.spec
        assert same.hash == g.hash
        assert same.to_yaml() == g.to_yaml()


def test_a_graph_is_read_from_a_file(tmp_path):
    path = tmp_path / "graph.yaml"
    path.write_text(example().to_yaml(), encoding="utf-8")
    assert InterventionGraph.from_yaml(path) == InterventionGraph.from_yaml(str(path)) == example()


def test_shorthands_are_the_long_form():
    text = """
    trajectories: [{id: a, prompt: x, seed: 0}]
    edits: [{into: a, at: temb, op: zero}]
    """
    long = """
    trajectories: [{id: a, prompt: x, seed: 0, until: auto}]
    edits: [{into: a, at: [temb], op: {op: zero, part: all, ln_preserving: false}, steps: all, order: 0}]
    reads: []
    """
    assert InterventionGraph.from_yaml(text).hash == InterventionGraph.from_yaml(long).hash


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_hash_knows_no_order_of_keys(random):
    def shuffled(value):
        if isinstance(value, dict):
            keys = list(value)
            random.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(each) for each in value] if isinstance(value, list) else value

    data = example().to_data()
    assert InterventionGraph.from_data(shuffled(data)).hash == example().hash


def test_what_differs_hashes_differently():
    data = example().to_data()
    changed = json.loads(json.dumps(data))
    changed["edits"][0]["order"] = 0
    more = example()
    more.trajectory(prompt="", seed=0)
    assert len({example().hash, InterventionGraph.from_data(changed).hash, more.hash}) == 3


def test_the_value_is_frozen_and_equal_sets_are_held_once():
    g = example()
    before = g.spec
    with pytest.raises(ValueError, match="frozen"):
        before.edits = ()
    for _ in range(3):
        g.edit("target", at="blocks.0.resid_post.image", channels={0: (5, 2)}, op="zero")
    mask = np.zeros((2, 3), dtype=bool)
    mask[1, 2] = True
    g.edit("target", at="blocks.0.resid_post.image", tokens=mask, op="zero")
    assert before.channel_sets == {} and before != g.spec
    assert list(g.spec.channel_sets) == ["channels-1"]
    assert g.spec.masks["mask-1"].grid == (2, 3)
    assert g.spec.masks["mask-1"].tokens == (5,)
    assert InterventionGraph.from_yaml(g.to_yaml()) == g


def test_a_mask_keeps_its_image_size_and_one_without_any_is_the_graph_it_was():
    def masked(mask):
        g = InterventionGraph(sampling={"steps": 4})
        arm = g.trajectory(prompt="a red circle", seed=0)
        g.edit(arm, at="blocks.0.resid_post.image", tokens=mask, op="zero")
        return g

    plain = masked(np.eye(2, dtype=bool))
    assert plain.hash == "eacf56971e7ab141", "hashes of graphs that were written before stay"
    assert "image_size" not in plain.to_yaml() and masked(Mask(np.eye(2, dtype=bool))) == plain
    sized = masked(Mask(np.eye(2, dtype=bool), image_size=(16, 32)))
    assert sized.spec.masks["mask-1"].image_size == (16, 32) and sized.hash != plain.hash
    assert InterventionGraph.from_yaml(sized.to_yaml()) == sized


def test_a_graph_can_be_built_on_after_reading():
    g = InterventionGraph.from_yaml(example().to_yaml())
    with pytest.raises(BadInput, match="'target' stands twice"):
        g.trajectory(prompt="x", seed=0, id="target")
    g.edit("target", at="temb", op="zero")
    assert len(g.spec.edits) == 4


def test_names_that_nobody_chose_are_free_ones():
    g = InterventionGraph()
    g.trajectory(prompt="x", seed=0, id="trajectory-2")
    assert [str(g.trajectory(prompt="x", seed=0)) for _ in range(2)] == ["trajectory-1", "trajectory-3"]
    assert g.read("trajectory-1", at="temb", name="read-2") == "read-2"
    assert [g.read("trajectory-1", at="temb") for _ in range(2)] == ["read-1", "read-3"]
    assert InterventionGraph.from_yaml(g.to_yaml()).read("trajectory-1", at="temb") == "read-4"


def test_the_drawing_shows_every_node_and_edge():
    drawing = example().show()
    for part in (
        "'a red circle', seed 0",
        "zero part=mean   blocks.2.resid_post.image, temb; channels 3, 1; steps 2:; branch cond",
        "patch strength=0.5 ◄── trajectory-1   blocks.4-7.resid_post.image; steps {'sigma': [0.2, 0.8]}",
        "noise scale=0.5",
        "read read-1: norm of velocity; steps [0, -1]",
    ):
        assert part in drawing
    assert "steps 4" in drawing.splitlines()[0]


FAULTS = {
    "trajectories: [{id: a, prompt: x}]": ["trajectories.0.seed is missing", "nothing can be repeated"],
    "trajectories: [{id: a, prompt: x, seed: -1}]": ["trajectories.0.seed: -1"],
    "trajectories: [{id: a, prompt: x, seed: 0, sed: 1}]": ["trajectories.0.sed", "Did you mean 'seed'?"],
    "trajectories: [{id: a, prompt: x, seed: 0}, {id: a, prompt: y, seed: 0}]": ["'a' stands twice"],
    "edits: [{into: a, at: temb, op: zeroo}]": ["edits.0.op", "no edit 'zeroo'", "Did you mean 'zero'?"],
    "edits: [{into: a, at: temb, op: {op: scale}}]": ["edits.0.op", "scale needs factor"],
    "edits: [{into: a, at: temb, op: zero, step: 1}]": ["edits.0.step", "Did you mean 'steps'?"],
    "edits: [{into: a, op: zero}]": ["edits.0.at is missing"],
    "edits: [{into: a, at: [], op: zero}]": ["edits.0.at"],
    "edits: [{into: a, at: temb, op: zero, branch: con}]": ["edits.0.branch"],
    "reads: [{name: r, of: a, at: temb, reduce: median}]": ["reads.0.reduce"],
    "edit: []": ["edit: there is no such key", "Did you mean 'edits'?"],
    "schema_version: 2": ["schema version 2", "reads 1"],
    "[1, 2]": ["a graph is a mapping"],
    "{": ["no YAML"],
    "channel_sets:\n  m: {blocks: {0: [1]}}\n  m: {blocks: {0: [2]}}": [
        "graph:3: channel_sets.m: the key stands twice, first in line 2"
    ],
    "channel_sets: {m: {blocks: {1: [3], '1': [4]}}}": [
        "graph:1: channel_sets.m.blocks.1: the key stands twice"
    ],
    "edits: !!python/object/apply:os.system [ls]": [
        "graph:1: only plain data is read",
        "tags that make Python",
    ],
    "trajectories: [{id: a, prompt: x, seed: 0, guidance_scale: 8}]": [
        "trajectories.0.guidance_scale",
        "same size and guidance",
        "under the graph's sampling",
    ],
    "trajectories: [{id: a, prompt: x, seed: 0}, {id: b, prompt: y, seed: 0, height: 64}]": [
        "trajectories.1.height",
        "carried between them",
    ],
    "trajectories: {id: a}": ["trajectories: {'id': 'a'} does not fit: it should be a list."],
    "edits: [zero]": ["edits.0: 'zero' does not fit: it should be a mapping."],
    "reads: [{name: r, of: a, at: temb}, {name: r, of: a, at: velocity}]": ["reads: 'r' stands twice"],
    "edits: [{into: a, at: temb, op: {op: patch, strenght: 1}}]": ["Did you mean 'strength'?"],
    "channel_sets: {m: {blocks: {one: [2]}}}": ["channel_sets.m.blocks.one: 'one' does not fit"],
    "masks: {m: {tokens: [1], grid: [2]}}": ["masks.m.grid.1 is missing"],
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_named_by_its_path(text):
    with pytest.raises(BadInput) as refused:
        InterventionGraph.from_yaml(text + "\n")
    for part in FAULTS[text]:
        assert part in str(refused.value)
    assert "?." not in str(refused.value) and "pydantic" not in str(refused.value)


def test_the_builder_refuses_at_once():
    g = example()
    with pytest.raises(BadInput, match=r"edits\.3\.into: there is no trajectory 'targe'.*'target'"):
        g.edit("targe", at="temb", op="zero")
    with pytest.raises(BadInput, match=r"edits\.3: branch"):
        g.edit("target", at="temb", op="zero", branch="left")
    with pytest.raises(BadInput, match=r"reads\.1\.of: there is no trajectory"):
        g.read("nobody", at="temb")
    with pytest.raises(BadInput, match="seed"):
        g.trajectory(prompt="x", seed=True)
    with pytest.raises(BadInput, match="reads: 'read-1' stands twice"):
        g.read("target", at="temb", name="read-1")
    assert len(g.spec.reads) == 1
    assert len(g.spec.edits) == 3 and len(g.spec.trajectories) == 2


@pytest.mark.parametrize(
    "use",
    [
        lambda g, handle: g.edit(handle, at="temb", op="zero"),
        lambda g, handle: g.edit("target", at="temb", op="patch", source=handle),
        lambda g, handle: g.patch(handle, into="target", at="temb"),
        lambda g, handle: g.patch("target", into=handle, at="temb"),
        lambda g, handle: g.guide(handle, at="temb", weight=0.5),
        lambda g, handle: g.read(handle, at="temb"),
        lambda g, handle: g.trajectory(prompt="x", seed=0, follows=handle),
    ],
    ids=["edit", "edit's source", "patch from", "patch into", "guide", "read", "follows"],
)
def test_a_handle_of_another_graph_names_nothing_here(use):
    # Ids that are made up are the same in every graph, so that a stale handle would name another trajectory.
    stale, g = example().trajectory(prompt="of another graph", seed=7), example()
    own = g.trajectory(prompt="of this graph", seed=8)
    assert own == stale and str(own) == str(stale) == "trajectory-2"
    before = g.hash
    with pytest.raises(BadInput, match=r"handle of trajectory 'trajectory-2' was made by another graph"):
        use(g, stale)
    assert g.hash == before
    for same in (own, str(stale), TrajectoryRef("trajectory-2"), copy.deepcopy(own)):
        use(copy.deepcopy(g), same)
    # A copy is the same graph still; one that was read anew has made no handle.
    with pytest.raises(BadInput, match="another graph"):
        use(InterventionGraph.from_spec(g.spec), own)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_mutation_of_a_graph_gives_anything_but_a_graph_or_bad_input(data):
    value = example().to_data()
    for _ in range(data.draw(st.integers(1, 3))):
        place, key = value, None
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
                break
            place = place[key]
        if key is None or not place:
            continue
        junk = st.sampled_from([None, -1, 3.5, "", "x", [], {}, [[1]], True, {"op": "zero"}, "a" * 200])
        if data.draw(st.booleans()):
            place[key] = data.draw(junk)
        elif isinstance(place, dict):
            place[data.draw(st.sampled_from(["kee", "", "op", "steps"]))] = place.pop(key)
    try:
        made = InterventionGraph.from_yaml(yaml.safe_dump(value) + "\n")
    except BadInput as refused:
        assert str(refused)
    else:
        assert InterventionGraph.from_yaml(made.to_yaml()) == made


def test_every_operation_travels_through_yaml():
    more = {
        "scale": {"factor": 2},
        "clamp": {"quantile": 0.9},
        "add": {"value": [1, 2]},
        "noise": {"scale": 1},
        "energy_matched": {"treatment_channels": {"0": [1], "1": [2]}},
        "patch_matched": {"treatment_channels": {"0": [1], "1": [2]}, "strength": 0.5},
    }
    g = InterventionGraph()
    arm = g.trajectory(prompt="x", seed=0)
    for op in OPERATIONS:
        g.edit(arm, at="blocks.0.resid_post.image", op={"op": op, **more.get(op, {})}, channels=[0, 3])
    assert InterventionGraph.from_yaml(g.to_yaml()) == g
