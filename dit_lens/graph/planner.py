"""From a checked graph to its plan: order, sharing, batching. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from dit_lens.errors import BadInput
from dit_lens.graph.checked import CheckedEdit, CheckedGraph
from dit_lens.graph.interventions import Identity
from dit_lens.graph.plan import (
    Forward,
    Plan,
    Row,
    Unit,
    Work,
    blocks_run,
    blocks_until,
    held_bytes,
    read_bytes,
)
from dit_lens.graph.site import Site
from dit_lens.model.hook_points import STREAMS, HookPoint


def make_plan(graph: CheckedGraph, *, arms_per_forward: int | None = None, sham: bool = True) -> Plan:
    """Plan a checked graph.

    Args:
        graph: what `InterventionGraph.check` returns.
        arms_per_forward: most rows of one forward pass; None takes
            what suits the device and the image size (`DiTLens.default_batch_size`).
        sham: whether each prompt and seed with edits gets an arm that is edited by nothing at all their
            places, to measure what the machinery itself (batching above all) changes.

    Raises:
        BadInput: `arms_per_forward` is no positive number, or a trajectory ends before its first edit.
    """
    if arms_per_forward is not None and (
        not isinstance(arms_per_forward, int) or isinstance(arms_per_forward, bool) or arms_per_forward < 1
    ):
        raise BadInput(f"arms_per_forward is {arms_per_forward!r}; it must be a whole number, at least 1.")
    most = arms_per_forward or graph.default_rows
    units = tuple(_Planner(graph, members, most, sham).unit() for members in _joined(graph))
    kinds = {"clean": 0, "arm": 0, "sham": 0}
    forwards = held = without = 0
    for unit in units:
        for at_step in unit.steps:
            forwards += len(at_step)
            held = max(held, held_bytes(graph, unit, at_step))
            for forward in at_step:
                for row, blocks in zip(forward.rows, blocks_run(graph, unit, forward), strict=True):
                    kinds[unit.rows[row].kind] += blocks
        for i, each in enumerate(unit.rows):
            steps = [s for s in range(each.last + 1) if not each.borrows or (i, s) in unit.works]
            without += len(steps) * graph.num_blocks
    return Plan(
        graph=graph,
        arms_per_forward=most,
        units=units,
        forwards=forwards,
        block_passes=sum(kinds.values()),
        passes_by_kind=kinds,
        passes_without_reuse=without,
        held_bytes=held,
        read_bytes=read_bytes(graph, units),
    )


def _joined(graph: CheckedGraph) -> list[list[int]]:
    """Trajectories that patches or a common prompt and seed join, in the order of the graph."""
    leader = list(range(len(graph.trajectories)))

    def find(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    first: dict[tuple[str, int], int] = {}
    pairs = [(e.into, e.source) for e in graph.edits if e.source is not None]
    pairs += [(i, first.setdefault((t.prompt, t.seed), i)) for i, t in enumerate(graph.trajectories)]
    pairs += [(i, t.follows) for i, t in enumerate(graph.trajectories) if t.follows is not None]
    for one, two in pairs:
        a, b = sorted((find(one), find(two)))
        leader[b] = a
    units: dict[int, list[int]] = {}
    for i in range(len(graph.trajectories)):
        units.setdefault(find(i), []).append(i)
    return list(units.values())


class _Planner:
    """One unit's plan, from the trajectories in it."""

    def __init__(self, graph: CheckedGraph, members: list[int], most: int, sham: bool) -> None:
        self.graph, self.members, self.most, self.sham = graph, members, most, sham
        inside = set(members)
        self.edits = sorted((e for e in graph.edits if e.into in inside), key=lambda e: (e.order, e.index))
        self.reads = [r for r in graph.reads if r.of in inside]
        self.groups = tuple(
            dict.fromkeys((graph.trajectories[i].prompt, graph.trajectories[i].seed) for i in members)
        )
        self.works: dict[tuple[int, int], Work] = {}
        followed = {i: graph.trajectories[i].follows for i in members}
        self.follows = {i: root for i, root in followed.items() if root is not None}
        given = {i for i in members if graph.trajectories[i].path is not None}
        self.shadows = self.follows.keys() | given

    def unit(self) -> Unit:
        graph = self.graph
        levels = self._levels()
        last, wanted = self._last_steps(levels)
        start = dict.fromkeys(self.members, graph.sampling.steps)
        for edit in self.edits:
            start[edit.into] = min(start[edit.into], edit.steps[0])
        for i in self.shadows:
            start[i] = min(wanted[i], default=graph.sampling.steps)
        for i in self.members:
            if last[i] < start[i] < graph.sampling.steps:
                raise BadInput.at(
                    ("trajectories", i),
                    f"{graph.trajectories[i].id!r} ends with its last read at step "
                    f"{last[i]}, before its first edit at step {start[i]}. Read later, edit earlier, "
                    "or use until: end.",
                )
        group_of = {
            i: self.groups.index((graph.trajectories[i].prompt, graph.trajectories[i].seed))
            for i in self.members
        }
        # Unedited rows come first: row g is group g's.
        self.arm_row: dict[int, int] = {}
        arms: list[Row] = []
        for i in self.members:
            if start[i] < graph.sampling.steps:
                self.arm_row[i] = len(self.groups) + len(arms)
                finishes = graph.trajectories[i].finishes
                name, path = graph.trajectories[i].id, graph.trajectories[i].path
                # What follows it past its own end needs its latents after the last touch.
                ends = not finishes and not any(
                    root == i and last[i] + 1 in wanted[shadow] for shadow, root in self.follows.items()
                )
                arms.append(
                    Row(
                        "arm", name, group_of[i], i, levels[i], start[i], last[i], finishes, ends,
                        self.follows.get(i), path,
                    )
                )  # fmt: skip
        self.start, self.group_of, self.wanted = start, group_of, wanted
        self._fill(last)
        shams = self._shams(arms) if self.sham else []
        self._hold_entries([*arms, *shams])
        clean = [self._clean(g, arms) for g in range(len(self.groups))]
        rows = (*clean, *arms, *shams)
        return Unit(self.groups, group_of, self.arm_row, rows, self.works, tuple(self._forwards(rows)))

    def _last_steps(self, levels: Mapping[int, int]) -> tuple[dict[int, int], dict[int, set[int]]]:
        """Last step of each trajectory, and the steps at which something of each shadow is wanted.

        The last step is a trajectory's end, its last read, the last that another draws on, or the one before
        the last at which another takes its latents.
        """
        graph = self.graph
        last = {i: graph.sampling.steps - 1 if graph.trajectories[i].finishes else -1 for i in self.members}
        wanted: dict[int, set[int]] = {i: set() for i in self.members}
        for read in self.reads:
            last[read.of] = max(last[read.of], read.steps[-1])
            wanted[read.of] |= set(read.steps)
        patches = sorted((e for e in self.edits if e.source is not None), key=lambda e: -levels[e.into])
        before: dict[int, int] = {}
        # A shadow makes the trajectory that it follows run on, which may draw on the shadow in turn.
        while before != last:
            before = dict(last)
            for edit in patches:
                assert edit.source is not None
                drawn = {s for s in edit.steps if s <= last[edit.into]}
                if edit.into in self.shadows:
                    drawn &= wanted[edit.into]
                wanted[edit.source] |= drawn
                last[edit.source] = max(last[edit.source], *drawn, -1)
            for shadow, root in self.follows.items():
                last[root] = max(last[root], max(wanted[shadow], default=0) - 1)
        return last, wanted

    def _levels(self) -> dict[int, int]:
        """How many trajectories must have gone before within a step; 0 draws on unedited ones at most."""
        edited = {edit.into for edit in self.edits} | self.shadows
        sources: dict[int, set[int]] = {i: set() for i in self.members}
        for edit in self.edits:
            if edit.source is not None and edit.source in edited:
                sources[edit.into].add(edit.source)
        levels: dict[int, int] = {}
        while len(levels) < len(self.members):
            # The check has refused cycles, so each round settles at least one.
            for i in self.members:
                if i not in levels and sources[i] <= levels.keys():
                    levels[i] = 1 + max((levels[s] for s in sources[i]), default=-1)
        return levels

    def _work(self, row: int, step: int) -> Work:
        return self.works.setdefault((row, step), Work())

    def _row(self, trajectory: int, step: int) -> int:
        own = trajectory in self.arm_row and step >= self.start[trajectory]
        return self.arm_row[trajectory] if own else self.group_of[trajectory]

    def _fill(self, last: Mapping[int, int]) -> None:
        for edit in self.edits:
            shadow = edit.into in self.shadows
            for step in (s for s in edit.steps if s <= last[edit.into]):
                if shadow and step not in self.wanted[edit.into]:
                    continue
                work = self._work(self.arm_row[edit.into], step)
                for point in edit.sites:
                    for branch in edit.branches:
                        work.edits.setdefault((point, branch), []).append(edit)
                        if edit.source is not None:
                            self._work(self._row(edit.source, step), step).held.add((point, branch))
        for read in self.reads:
            for step in read.steps:
                work = self._work(self._row(read.of, step), step)
                for point in read.sites:
                    for branch in read.branches:
                        work.reads.setdefault((point, branch), []).append((read.of, read))

    def _shams(self, arms: list[Row]) -> list[Row]:
        """One row per group that is edited wherever its arms are, by the identity."""
        shams: list[Row] = []
        for g in range(len(self.groups)):
            here = [
                (len(self.groups) + i, row)
                for i, row in enumerate(arms)
                if row.group == g and not row.borrows
            ]
            if not here:
                continue
            number = len(self.groups) + len(arms) + len(shams)
            for index, row in here:
                for step in range(row.start, row.last + 1):
                    work = self.works.get((index, step))
                    for spot in work.edits if work else ():
                        nothing = CheckedEdit(
                            -1, -1, None, (step,), (spot[1],), {spot[0]: (Site(), Identity())}, 0
                        )
                        self._work(number, step).edits[spot] = [nothing]
            finishes = any(row.finishes for _, row in here)
            start, last = min(row.start for _, row in here), max(row.last for _, row in here)
            shams.append(Row("sham", f"sham of group {g}", g, None, 0, start, last, finishes, False))
        return shams

    def _entry(self, row: int, step: int) -> int:
        """Blocks of the row's first forward that it has in common with the unedited one."""
        work = self.works.get((row, step))
        if work is None:
            return 0
        first = min(work.points, key=lambda point: point.forward_key)
        if first.block is None:
            return 0 if first.component == "temb" else self.graph.num_blocks
        return first.block + (1 if first.component == "resid_post" else 0)

    def _unedited_until(self, row: Row) -> int:
        """The last step at whose beginning a row has the unedited latents of its group."""
        if row.path is not None:
            return -1
        if row.follows is None:
            return row.start
        # Followed with another prompt, or from another seed, it has nothing in common with its own group.
        return self.start[row.follows] if self.group_of[row.follows] == row.group else -1

    def _hold_entries(self, own: list[Row]) -> None:
        for i, row in enumerate(own, start=len(self.groups)):
            for step in range(row.start, min(row.last, self._unedited_until(row)) + 1):
                if row.runs_at(step, self.works.get((i, step))) and (entry := self._entry(i, step)):
                    for stream in STREAMS:
                        point = HookPoint("resid_post", entry - 1, stream)
                        if point in self.graph.shapes:
                            self._work(row.group, step).held |= {(point, b) for b in self.graph.branches}

    def _clean(self, g: int, arms: list[Row]) -> Row:
        here = [i for i in self.members if self.group_of[i] == g]
        finishes = any(self.graph.trajectories[i].finishes for i in here)
        touched = max((step for row, step in self.works if row == g), default=-1)
        joined = max((row.start for row in arms if row.group == g and not row.borrows), default=0)
        for shadow, root in self.follows.items():
            if self.group_of[root] == g:
                joined = max(joined, *(s for s in self.wanted[shadow] if s <= self.start[root]), 0)
        last = self.graph.sampling.steps - 1 if finishes else max(touched, joined - 1)
        # Where an arm starts right behind, the latents after the last touch are still needed.
        stops = not finishes and joined <= touched
        return Row("clean", f"unedited of group {g}", g, None, 0, 0, last, finishes, stops)

    def _forwards(self, rows: tuple[Row, ...]) -> Iterator[tuple[Forward, ...]]:
        for step in range(self.graph.sampling.steps):
            forwards = [
                Forward(step, (i,), (0,), row.stops and step == row.last)
                for i, row in enumerate(rows)
                if row.kind == "clean" and step <= row.last
            ]
            # Rows go together if they wait for the same others and end alike.
            together: dict[tuple[int, bool, int], list[tuple[int, int]]] = {}
            for i, row in enumerate(rows):
                if row.kind != "clean" and row.runs_at(step, self.works.get((i, step))):
                    entry = self._entry(i, step) if step <= self._unedited_until(row) else 0
                    stops = row.borrows or (row.stops and step == row.last)
                    key = (row.level, stops, self._end(i, step) if stops else self.graph.num_blocks)
                    together.setdefault(key, []).append((entry, i))
            for (_, stops, _), members in sorted(together.items()):
                members.sort()
                count = -(-len(members) // self.most)
                # Equal shares: nine rows of at most eight go as five and four, not as eight and one.
                ends = [len(members) * k // count for k in range(count + 1)]
                for low, high in pairwise(ends):
                    entries, chosen = zip(*members[low:high], strict=True)
                    forwards.append(Forward(step, chosen, entries, stops))
            yield tuple(forwards)

    def _end(self, row: int, step: int) -> int:
        """Blocks up to the last touch of a row."""
        last = max(self.works[row, step].points, key=lambda point: point.forward_key)
        return blocks_until(last, self.graph.num_blocks)
