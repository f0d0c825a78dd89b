"""A plan: which rows go through which forward, from which block on, and what that costs. Pure values.

All trajectories advance together, step by step. Within a step the unedited trajectory of each prompt and seed
goes first, alone; what others need of that step (the output of a block, a donor's activation) is held until
the step is over. An edited trajectory starts at its first edited step, from the unedited latents, and joins
that first forward behind the last block that it has in common with the unedited one: the rows of a forward
grow in number from block to block. A shadow, which takes
the latents of another trajectory or given ones, runs at the steps at which it is drawn on or read, up to what
is wanted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dit_lens.display import Summarised
from dit_lens.graph.checked import CheckedEdit, CheckedGraph, CheckedRead
from dit_lens.graph.measured import HOW, needs_measured
from dit_lens.model.hook_points import HookPoint
from dit_lens.model.quantities import readable_bytes
from dit_lens.summary import Facts, Summary

Spot = tuple[HookPoint, str]
"""A hook point and a guidance branch."""


@dataclass(frozen=True)
class Row:
    """What is denoised on its own: the unedited trajectory of a group, an edited one, or the sham.

    Runs from `start` to `last` inclusive. `stops` ends the last forward after its last touch. A shadow
    `follows` a trajectory or goes along a given `path`: it has those latents, runs at the steps at which
    something of it is wanted, and each of its forwards stops.
    """

    kind: str
    name: str
    group: int
    trajectory: int | None
    level: int
    start: int
    last: int
    finishes: bool
    stops: bool
    follows: int | None = None
    path: str | None = None

    @property
    def borrows(self) -> bool:
        """Whether it has latents of another or given ones, and makes none itself."""
        return self.follows is not None or self.path is not None

    def runs_at(self, step: int, work: Work | None) -> bool:
        """Whether it goes through a forward at a step at which that much is to be done with it."""
        return self.start <= step <= self.last and (not self.borrows or work is not None)


@dataclass
class Work:
    """What happens to one row at one step. Edits of a spot are in the order in which they apply."""

    edits: dict[Spot, list[CheckedEdit]] = field(default_factory=dict)
    reads: dict[Spot, list[tuple[int, CheckedRead]]] = field(default_factory=dict)
    held: set[Spot] = field(default_factory=set)

    @property
    def points(self) -> set[HookPoint]:
        """Hook points that are touched."""
        return {point for point, _ in (*self.edits, *self.reads, *self.held)}


@dataclass(frozen=True)
class Forward:
    """One forward pass of the transformer: rows at a step, perhaps stopped early.

    `entries` are the blocks that each row leaves out before it joins, in ascending order.
    """

    step: int
    rows: tuple[int, ...]
    entries: tuple[int, ...]
    stops: bool

    @property
    def entry(self) -> int:
        """The first block that runs."""
        return self.entries[0]

    def present(self, block: int | None) -> int:
        """How many rows, the first of them, are in the pass at a block; all outside the blocks (None)."""
        return len(self.rows) if block is None else bisect_right(self.entries, block)

    def part(self, low: int, high: int) -> Forward:
        """The same with some of its rows."""
        return replace(self, rows=self.rows[low:high], entries=self.entries[low:high])


@dataclass(frozen=True)
class Unit:
    """Trajectories that must run together because patches join them.

    `groups` are (prompt, seed); row g is the unedited one of group g. `own` maps an edited trajectory to its
    row, `group_of` every trajectory to its group.
    """

    groups: tuple[tuple[str, int], ...]
    group_of: Mapping[int, int]
    own: Mapping[int, int]
    rows: tuple[Row, ...]
    works: Mapping[tuple[int, int], Work]
    steps: tuple[tuple[Forward, ...], ...]

    def row_at(self, trajectory: int, step: int) -> int:
        """The row that stands for a trajectory at a step: its own, or the unedited one before its start."""
        own = self.own.get(trajectory)
        if own is not None and step >= self.rows[own].start:
            return own
        return self.group_of[trajectory]


@dataclass(frozen=True)
class Plan(Summarised):
    """What a run will do on a model. `str()` of it is for a reader, and says which edits a run will refuse
    unless it is given what they need measured.

    A block pass is one block for one row (both guidance branches). `held_bytes` is the most that is held for
    reuse at any time, `read_bytes` what all reads keep.
    """

    graph: CheckedGraph
    arms_per_forward: int
    units: tuple[Unit, ...]
    forwards: int
    block_passes: int
    passes_by_kind: Mapping[str, int]
    passes_without_reuse: int
    held_bytes: int
    read_bytes: int

    def as_data(self) -> dict[str, Any]:
        """The cost as plain data."""
        return {
            "hash": self.graph.hash,
            "trajectories": len(self.graph.trajectories),
            "forwards": self.forwards,
            "block_passes": self.block_passes,
            "block_passes_by_kind": dict(self.passes_by_kind),
            "block_passes_without_reuse": self.passes_without_reuse,
            "arms_per_forward": self.arms_per_forward,
            "own_runs": [{"prompt": p, "seed": s, "steps": n} for p, s, n in self.graph.own_runs],
            "held_bytes": self.held_bytes,
            "read_bytes": self.read_bytes,
            "needs_measured": {place: kind for place, (_, kind) in needs_measured(self.graph).items()},
        }

    @property
    def own_steps(self) -> int:
        """Denoising steps, of one row each, that go before: of trajectories with steps of their own."""
        return sum(steps for _, _, steps in self.graph.own_runs)

    @property
    def extent(self) -> str:
        """Trajectories, prompts × seeds and steps in words."""
        several, groups = len(self.graph.trajectories), sum(len(unit.groups) for unit in self.units)
        steps = self.graph.sampling.steps
        return (
            f"{several} {'trajectory' if several == 1 else 'trajectories'} of {groups} "
            f"{'prompt × seed' if groups == 1 else 'prompts × seeds'}, {steps} step{'s' * (steps != 1)}"
        )

    def __repr__(self) -> str:
        return str(self)

    def summary(self) -> Summary:
        """What the run will take."""
        kinds = ", ".join(f"{passes:,} {kind}" for kind, passes in self.passes_by_kind.items() if passes)
        share = self.block_passes / self.passes_without_reuse if self.passes_without_reuse else 1.0
        held, kept = readable_bytes(self.held_bytes), readable_bytes(self.read_bytes)
        about = {
            "runs": self.extent,
            "forwards": f"{self.forwards:,}, of at most {self.arms_per_forward} arms",
            "block passes": f"{self.block_passes:,} ({kinds}), {share:.2f} of those without reuse",
            "memory": f"{held} held for reuse, {kept} read",
        }
        if needed := needs_measured(self.graph):
            about["material"] = "; ".join(
                f"{at}: {op} needs measured {kind}" for at, (op, kind) in needed.items()
            )
        return Summary(f"Plan of graph {self.graph.hash}", (Facts(about),))

    def __str__(self) -> str:
        kinds = ", ".join(f"{passes} {kind}" for kind, passes in self.passes_by_kind.items() if passes)
        share = self.block_passes / self.passes_without_reuse if self.passes_without_reuse else 1.0
        held, kept = readable_bytes(self.held_bytes), readable_bytes(self.read_bytes)
        own = len(self.graph.own_runs)
        before = f"  before        {own} with steps of its own, {self.own_steps} forwards"
        material = [
            f"  material      {place}: {op} needs {kind} measured on a dataset. {HOW[kind]}."
            for place, (op, kind) in needs_measured(self.graph).items()
        ]
        return "\n".join(
            [
                f"graph {self.graph.hash}: {self.extent}",
                f"  forwards      {self.forwards}, of at most {self.arms_per_forward} arms",
                f"  block passes  {self.block_passes} ({kinds}), {share:.2f} of those without reuse",
                *([before] if self.own_steps else []),
                f"  memory        {held} held for reuse, {kept} read",
                *material,
            ]
        )


def blocks_run(graph: CheckedGraph, unit: Unit, forward: Forward) -> tuple[int, ...]:
    """Blocks that each row of a forward runs through."""
    end = graph.num_blocks
    if forward.stops:
        points = (p for row in forward.rows for p in unit.works[row, forward.step].points)
        end = blocks_until(max(points, key=lambda point: point.forward_key), end)
    return tuple(max(0, end - entry) for entry in forward.entries)


def blocks_until(point: HookPoint, num_blocks: int) -> int:
    """Blocks that a pass runs through before it is past a hook point."""
    if point.block is None:
        return 0 if point.component == "temb" else num_blocks
    return point.block + (0 if point.component == "resid_pre" else 1)


def _size(graph: CheckedGraph, point: HookPoint) -> int:
    size = graph.element_size
    for length in graph.shapes[point]:
        size *= length
    return size


def held_bytes(graph: CheckedGraph, unit: Unit, at_step: tuple[Forward, ...]) -> int:
    """Bytes that are held for reuse during one step."""
    return sum(
        _size(graph, point)
        for forward in at_step
        for row in forward.rows
        if (work := unit.works.get((row, forward.step)))
        for point, _ in work.held
    )


def read_bytes(graph: CheckedGraph, units: tuple[Unit, ...]) -> int:
    """Bytes that all reads keep."""
    total = 0
    for unit in units:
        for work in unit.works.values():
            for (point, _), reads in work.reads.items():
                for _, read in reads:
                    total += 4 * kept_values(graph.shapes[point], point, read)
    return total


def kept_values(shape: tuple[int, ...], point: HookPoint, read: CheckedRead) -> int:
    """Numbers that a read keeps of one row at one spot."""
    if read.reduce == "norm":
        return 1
    if point.component == "velocity":
        shape = (shape[1] * shape[2], shape[0])
    site = read.sites[point]
    channels = shape[-1] if site.channels is None else len(site.channels)
    if read.reduce != "none" or len(shape) == 1:
        return channels
    return channels * (shape[0] if site.tokens is None else len(site.tokens))
