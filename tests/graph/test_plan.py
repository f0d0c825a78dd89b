"""The plan computes nothing twice, keeps order, and its price is exact. Graphs are made by hand."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.graph.checked import CheckedEdit, CheckedGraph, CheckedRead, CheckedTrajectory
from dit_lens.graph.interventions import Patch, Zero
from dit_lens.graph.planner import make_plan
from dit_lens.graph.site import Site
from dit_lens.model.hook_points import HookPoint
from dit_lens.model.sampling import Sampling

pytestmark = pytest.mark.pure


def made(
    edits=(), reads=(), trajectories=1, blocks=4, steps=5, finishes=True, prompts=None, follows=None
) -> CheckedGraph:
    names, follows = prompts or ["p"] * trajectories, follows or {}
    shapes = {HookPoint("temb"): (8,), HookPoint("velocity"): (4, 2, 2)}
    for block, stream in product(range(blocks), ("image", "context")):
        for component in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
            if stream == "image" or block < blocks - 1:
                shapes[HookPoint(component, block, stream)] = (6 if stream == "image" else 3, 8)
    return CheckedGraph(
        hash="0",
        sampling=Sampling(steps, 4.5, 16, 16, 0),
        sigmas=tuple(1 - s / steps for s in range(steps + 1)),
        branches=("uncond", "cond"),
        num_blocks=blocks,
        trajectories=tuple(
            CheckedTrajectory(f"t{i}", p, 0, finishes and i not in follows, follows.get(i))
            for i, p in enumerate(names)
        ),
        edits=tuple(edits),
        reads=tuple(reads),
        shapes=shapes,
        element_size=4,
        default_rows=64,
    )


def edit(index, into, at, steps, source=None, op=None, order=0):
    op = op or (Zero() if source is None else Patch())
    sites = {HookPoint.parse(at): (Site(), op)}
    return CheckedEdit(index, into, source, tuple(steps), ("uncond", "cond"), sites, order)


def read(index, of, at, steps):
    return CheckedRead(index, f"r{index}", of, tuple(steps), ("cond",), {HookPoint.parse(at): Site()}, "none")


def test_a_plan_counts_in_the_right_number():
    alone = make_plan(made([edit(0, 0, "blocks.2.resid_post.image", [0])], steps=1))
    assert alone.extent == "1 trajectory of 1 prompt × seed, 1 step"
    several = make_plan(made([edit(0, 0, "temb", [0])], trajectories=3, prompts=["a", "a", "b"]))
    assert several.extent == "3 trajectories of 2 prompts × seeds, 5 steps"
    assert several.extent in str(several) and several.extent in several._repr_html_()


def passes(plan, unit=0):
    """(step, row names, first block, stopped) of every forward."""
    rows = plan.units[unit].rows
    return [
        (f.step, [rows[r].name for r in f.rows], f.entry, f.stops)
        for at_step in plan.units[unit].steps
        for f in at_step
    ]


@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 64))
@example(8, 20, 1)
@example(8, 20, 16)
@settings(max_examples=40, deadline=None)
def test_a_full_map_reaches_the_floor(blocks, steps, arms):
    cells = list(product(range(blocks), range(steps)))
    edits = [edit(i, i, f"blocks.{b}.resid_post.image", [s]) for i, (b, s) in enumerate(cells)]
    graph = made(edits, trajectories=len(cells), blocks=blocks, steps=steps)
    plan = make_plan(graph, arms_per_forward=arms, sham=False)
    floor = steps * blocks * (blocks - 1) // 2 + blocks**2 * steps * (steps - 1) // 2 + steps * blocks
    assert plan.block_passes == floor
    # Without reuse each cell runs from the start, and so does the unedited trajectory.
    assert plan.passes_without_reuse == blocks**2 * steps**2 + steps * blocks
    if (blocks, steps) == (8, 20):
        assert round(plan.block_passes / plan.passes_without_reuse, 2) == 0.50
    for forward in (f for at_step in plan.units[0].steps for f in at_step):
        assert len(forward.rows) <= arms


def test_an_edited_trajectory_starts_where_it_begins_to_differ():
    plan = make_plan(made([edit(0, 0, "blocks.2.resid_post.image", [3])]), sham=False)
    clean = [(s, ["unedited of group 0"], 0, False) for s in range(5)]
    assert passes(plan) == [*clean[:4], (3, ["t0"], 3, False), clean[4], (4, ["t0"], 0, False)]
    assert plan.passes_by_kind == {"clean": 20, "arm": 1 + 4, "sham": 0}
    # Both streams behind block 2, both branches, float32.
    assert plan.held_bytes == 2 * (6 + 3) * 8 * 4


@pytest.mark.parametrize(
    ("at", "entry"),
    [
        ("temb", 0),
        ("blocks.0.resid_pre.image", 0),
        ("blocks.0.resid_post.image", 1),
        ("blocks.2.resid_pre.context", 2),
        ("blocks.2.attn_out.image", 2),
        ("blocks.2.mlp_out.context", 2),
        ("blocks.2.resid_post.context", 3),
        ("blocks.3.resid_post.image", 4),
        ("velocity", 4),
    ],
)
def test_blocks_before_the_first_touch_are_skipped(at, entry):
    plan = make_plan(made([edit(0, 0, at, [2])]), sham=False)
    assert passes(plan)[3] == (2, ["t0"], entry, False)


def test_a_read_before_the_edit_in_the_same_step_is_not_skipped_over():
    plan = make_plan(
        made(
            [edit(0, 0, "blocks.3.resid_post.image", [2])], [read(0, 0, "blocks.1.attn_out.image", [0, 2, 4])]
        ),
        sham=False,
    )
    assert passes(plan)[3] == (2, ["t0"], 1, False)
    # Before its first edit a trajectory is the unedited one, which serves its read.
    works = plan.units[0].works
    point = HookPoint.parse("blocks.1.attn_out.image")
    assert [(0, s) for s in range(5) if works.get((0, s)) and works[0, s].reads] == [(0, 0)]
    assert all(works[1, step].reads[point, "cond"][0][0] == 0 for step in (2, 4))


def test_a_run_that_only_reads_stops_after_its_last_read():
    graph = made(reads=[read(0, 0, "blocks.1.attn_out.image", [0, 2])], finishes=False)
    plan = make_plan(graph)
    assert [f[0] for f in passes(plan)] == [0, 1, 2]
    assert [f[3] for f in passes(plan)] == [False, False, True]
    assert plan.block_passes == 4 + 4 + 2


def test_a_readout_at_its_own_step_costs_one_forward():
    edits = [edit(b, b, f"blocks.{b}.resid_post.image", [2]) for b in range(4)]
    reads = [read(b, b, "velocity", [2]) for b in range(4)]
    plan = make_plan(made(edits, reads, trajectories=4, finishes=False), sham=False)
    assert plan.passes_by_kind == {"clean": 3 * 4, "arm": 3 + 2 + 1 + 0, "sham": 0}


def test_donors_run_before_those_that_draw_on_them_and_as_long_as_they_do():
    edits = [
        edit(0, 0, "blocks.2.resid_post.image", [2, 4], source=1),
        edit(1, 1, "blocks.0.resid_post.image", [1]),
        edit(2, 1, "blocks.1.resid_post.image", [3], source=2),
    ]
    graph = made(edits, trajectories=3, prompts=["a", "b", "c"])
    (unit,) = make_plan(graph, sham=False).units
    assert unit.groups == (("a", 0), ("b", 0), ("c", 0))
    for at_step in unit.steps:
        order = [unit.rows[r].name for f in at_step for r in f.rows]
        if "t0" in order and "t1" in order:
            assert order.index("t1") < order.index("t0")
    point = HookPoint.parse("blocks.2.resid_post.image")
    donor = unit.own[1]
    assert {(row, step) for (row, step), w in unit.works.items() if (point, "cond") in w.held} == {
        (donor, 2),
        (donor, 4),
        # Entering behind block 2, the arm takes that block's unedited output too.
        (0, 2),
    }
    assert unit.row_at(2, 3) == 2 and unit.row_at(1, 0) == 1 and unit.row_at(1, 1) == donor


def test_prompts_without_a_patch_between_them_run_apart():
    graph = made([edit(0, 0, "temb", [0])], trajectories=3, prompts=["a", "b", "a"])
    units = make_plan(graph).units
    assert [unit.groups for unit in units] == [(("a", 0),), (("b", 0),)]
    assert set(units[0].group_of) == {0, 2}


def test_the_sham_is_edited_wherever_an_arm_is():
    edits = [
        edit(0, 0, "blocks.2.resid_post.image", [2]),
        edit(1, 1, "blocks.1.resid_post.image", [3, 4]),
    ]
    plan = make_plan(made(edits, trajectories=2))
    (unit,) = plan.units
    (sham,) = [i for i, row in enumerate(unit.rows) if row.kind == "sham"]
    assert unit.rows[sham].start == 2
    assert {
        (step, str(point)) for (row, step), w in unit.works.items() if row == sham for point, _ in w.edits
    } == {
        (2, "blocks.2.resid_post.image"),
        (3, "blocks.1.resid_post.image"),
        (4, "blocks.1.resid_post.image"),
    }
    assert plan.passes_by_kind["sham"] == 1 + 4 + 4
    assert make_plan(made(edits, trajectories=2), sham=False).passes_by_kind["sham"] == 0


def test_rows_are_shared_out_evenly():
    edits = [edit(i, i, "temb", [0]) for i in range(9)]
    plan = make_plan(made(edits, trajectories=9, steps=1), arms_per_forward=8, sham=False)
    assert [len(names) for _, names, _, _ in passes(plan)[1:]] == [4, 5]


@pytest.mark.parametrize("arms", [0, -1, True, 1.5, "4"])
def test_the_number_of_arms_is_checked(arms):
    with pytest.raises(BadInput, match="arms_per_forward"):
        make_plan(made(), arms_per_forward=arms)


def test_a_trajectory_that_ends_before_its_first_edit_is_refused():
    graph = made([edit(0, 0, "temb", [3])], [read(0, 0, "temb", [1])], finishes=False)
    with pytest.raises(BadInput, match=r"trajectories\.0: 't0' ends with its last read at step 1"):
        make_plan(graph)


def test_the_plan_states_its_price():
    plan = make_plan(made([edit(0, 0, "blocks.2.resid_post.image", [3])], [read(0, 0, "velocity", [4])]))
    assert plan.as_data()["block_passes"] == plan.block_passes
    assert plan.read_bytes == 4 * 4 * 4
    text = str(plan)
    for part in (
        "30 (20 clean, 5 arm, 5 sham)",
        "forwards      7",
        "of those without reuse",
        "held for reuse",
    ):
        assert part in text


ADDRESSES = [
    "temb",
    "velocity",
    *(f"blocks.{b}.{c}.image" for b in range(3) for c in ("attn_out", "resid_post")),
]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_graph_every_access_is_planned_once_in_a_forward_that_reaches_it(data):
    count = data.draw(st.integers(1, 5))
    # A shadow follows a later trajectory, so that it may be patched into that one.
    kinds = [data.draw(st.booleans()) for _ in range(count - 1)] + [False]
    roots = [i for i in range(count) if not kinds[i]]
    follows = {i: data.draw(st.sampled_from(roots)) for i in range(count) if kinds[i]}
    edits = []
    for i in range(data.draw(st.integers(0, 6))):
        into = data.draw(st.integers(0, count - 1))
        source = data.draw(st.none() | st.integers(0, into - 1)) if into else None
        steps = sorted(data.draw(st.sets(st.integers(0, 4), min_size=1)))
        edits.append(edit(i, into, data.draw(st.sampled_from(ADDRESSES)), steps, source))
    reads = [
        read(i, data.draw(st.integers(0, count - 1)), data.draw(st.sampled_from(ADDRESSES)), [s])
        for i, s in enumerate(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    ]
    prompts = [data.draw(st.sampled_from("ab")) for _ in range(count)]
    graph = made(edits, reads, trajectories=count, prompts=prompts, blocks=3, follows=follows)
    plan = make_plan(graph, arms_per_forward=data.draw(st.integers(1, 4)))
    planned, read_at = [], []
    for unit in plan.units:
        reached = {(row, f.step): f for at_step in unit.steps for f in at_step for row in f.rows}
        seen = [(row, f.step) for at_step in unit.steps for f in at_step for row in f.rows]
        assert len(seen) == len(set(seen))
        for (row, step), work in unit.works.items():
            forward = reached[row, step]
            for point in work.points:
                # What lies in a skipped block would never be reached; its output can be served.
                at_entry = point.block == forward.entry - 1 and point.component == "resid_post"
                assert at_entry or point.block is None or point.block >= forward.entry
            if unit.rows[row].kind == "arm":
                planned += [(e.index, step) for each in work.edits.values() for e in each]
            read_at += [(r.index, step) for each in work.reads.values() for _, r in each]
            for e in (e for each in work.edits.values() for e in each if e.source is not None):
                for point in e.sites:
                    source = unit.row_at(e.source, step)
                    assert (point, "cond") in unit.works[source, step].held
                    order = [r for f in unit.steps[step] for r in f.rows]
                    assert order.index(source) < order.index(row)
        for i, row in enumerate(unit.rows):
            if row.follows is not None:
                assert all(f.stops for (r, _), f in reached.items() if r == i)
                # Its latents are there: whoever has them has gone through every step before.
                for step in (s for r, s in reached if r == i):
                    root = [unit.row_at(row.follows, s) for s in range(step)]
                    assert all((r, s) in reached and not reached[r, s].stops for s, r in enumerate(root))
    # A shadow is edited where something of it is wanted, and nowhere else.
    wanted = {i: {s for r in reads if r.of == i for s in r.steps} for i in follows}
    for e in sorted(edits, key=lambda e: -e.into):
        if e.source in follows:
            wanted[e.source] |= {s for s in e.steps if e.into not in follows or s in wanted[e.into]}
    expected = [(e.index, s) for e in edits for s in e.steps if e.into not in follows or s in wanted[e.into]]
    assert sorted(planned) == sorted(2 * expected)
    assert sorted(read_at) == sorted((r.index, s) for r in reads for s in r.steps)
