"""Running: reads while a batch is denoised, and whole intervention graphs; with proof of what was done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dit_lens.errors import BadInput, RunFailure
from dit_lens.graph.given_paths import fitting_paths
from dit_lens.graph.graph import InterventionGraph
from dit_lens.graph.plan import Plan
from dit_lens.graph.planner import make_plan
from dit_lens.model.adapters import require_finite
from dit_lens.model.hook_points import HookPoint, in_forward_order, select_steps
from dit_lens.model.lens import DiTLens
from dit_lens.model.progress import ProgressBar
from dit_lens.model.sampling import denoise
from dit_lens.run.executor import Limits, UnitRun
from dit_lens.run.material import Materials, MaterialSource
from dit_lens.run.own_runs import own_paths
from dit_lens.run.result import Proof, Result, TrajectoryResult
from dit_lens.words import known_words

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.model.given import GivenPath
    from dit_lens.model.sampling import SampleBatch

KEPT = ("all", "final")
"""Latents that a result can keep: those of every step, or the last ones."""


@dataclass(frozen=True)
class Visit:
    """Coordinates of one read: which step (at which noise level), which guidance branch, where."""

    step: int
    sigma: float
    branch: str
    point: HookPoint

    def __str__(self) -> str:
        return f"step {self.step} (sigma {self.sigma:.3g}), branch {self.branch}, {self.point}"


@dataclass(frozen=True)
class Observation:
    """What a run of reads did; `latents` [rows, C, h, w] is None if it stopped after its last read."""

    steps: tuple[int, ...]
    branches: tuple[str, ...]
    points: tuple[HookPoint, ...]
    visits: int
    forwards: int
    seconds: float
    latents: Tensor | None


@known_words
def observe(
    lens: DiTLens,
    batch: SampleBatch,
    points: Sequence[HookPoint],
    visit: Callable[[Visit, Tensor], None],
    *,
    steps: Sequence[int] | None = None,
    stop_early: bool = True,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Observation:
    """Denoise the batch and show `visit` every hook point, at each chosen step, for each guidance branch.

    `visit` gets its coordinates and the live tensor of that branch's rows: [rows, tokens, channels] for
    streams, [rows, channels] for AdaLN signals and `temb`, [rows, C, h, w] for `velocity`, in the model's
    dtype on its device. Clone or reduce what you keep. Calls come in forward order, once per (step, branch,
    point). With `stop_early` nothing is computed after the last read. `on_step` gets (step, latents after
    it).

    Raises:
        BadInput: no such point or step; before any forward pass.
        RunFailure: an activation is NaN or infinite, or a planned read did not happen exactly once at its
            step.

    >>> seen = []
    >>> batch, points = lens.prepare("a red circle"), lens.hook_points.select("blocks.*.resid_post.image")
    >>> done = observe(lens, batch, points, lambda at, x: seen.append((at.point.block, at.branch)), steps=[0])
    >>> seen[:3]
    [(0, 'uncond'), (0, 'cond'), (1, 'uncond')]
    """
    if not points:
        raise BadInput("No hook point to observe was given; see lens.hook_points for what there is.")
    ordered = in_forward_order(points)
    for point in ordered:
        lens.adapter.access(point)
    lens.adapter.ready()
    chosen = select_steps(
        "all" if steps is None else list(steps), batch.sampling.steps, batch.sigmas.tolist()
    )
    last = chosen[-1]
    happened: list[Visit] = []
    forwards = 0

    def touch_at(step: int) -> Callable[[HookPoint, Tensor], None]:
        def touch(point: HookPoint, tensor: Tensor) -> None:
            for branch in batch.branches:
                at = Visit(step, float(batch.sigmas[step]), branch, point)
                rows = tensor[batch.branch_rows(branch)]
                require_finite(rows, str(at))
                happened.append(at)
                visit(at, rows)

        return touch

    def forward(step: int, inputs: Mapping[str, Any]) -> Tensor | None:
        nonlocal forwards
        forwards += 1
        if step not in chosen:
            return lens.traced.forward(inputs)
        return lens.traced.traced_forward(inputs, ordered, touch_at(step), stop=stop_early and step == last)

    started = time.perf_counter()
    with lens.lock, torch.no_grad():
        latents = denoise(batch, forward, on_step=on_step)
        lens.pipeline.maybe_free_model_hooks()
    _prove(happened, [(s, b, p) for s in chosen for p in ordered for b in batch.branches])
    return Observation(
        steps=chosen,
        branches=batch.branches,
        points=ordered,
        visits=len(happened),
        forwards=forwards,
        seconds=time.perf_counter() - started,
        latents=latents,
    )


def _prove(happened: Sequence[Visit], planned: Sequence[tuple[int, str, HookPoint]]) -> None:
    """Raise RunFailure unless what happened is what was planned, once each and in that order."""
    seen = [(at.step, at.branch, at.point) for at in happened]
    if seen == list(planned):
        return
    once = set(seen)
    missing = [each for each in planned if each not in once]
    detail = (
        f"{len(missing)} did not happen, first {_where(missing[0])}"
        if missing
        else "some happened twice or late"
    )
    raise RunFailure(
        f"Of {len(planned)} planned reads {len(seen)} happened: {detail}. The run's numbers are void."
    )


def _where(each: tuple[int, str, HookPoint]) -> str:
    step, branch, point = each
    return f"step {step}, branch {branch}, {point}"


@known_words
def run(
    lens: DiTLens,
    graph: InterventionGraph | Plan,
    *,
    arms_per_forward: int | None = None,
    sham: bool = True,
    images: bool = True,
    keep: str = "all",
    material: MaterialSource | None = None,
    paths: Mapping[str, GivenPath] | None = None,
    on_trajectory: Callable[[TrajectoryResult], None] | None = None,
    on_forward: Callable[[int], None] | None = None,
    progress: bool = True,
) -> Result:
    """Run an intervention graph: every trajectory, edited as declared, and what was read of it.

    All trajectories of one prompt and seed share their noise, embeddings and schedule, and the unedited one
    always runs. What is known is not computed again: an edited trajectory starts from the unedited latents
    of its first edited step, behind the last block that it shares with the unedited one. With
    `arms_per_forward=1` the result equals edits of the plain pipeline bit for bit (float32, CPU); larger
    batches change the last bits, by as much as `result.proof.sham_difference` says.

    Args:
        lens: the model.
        graph: what to do; or its plan, which holds `arms_per_forward` and `sham` already.
        arms_per_forward: most edited rows of one forward pass; None chooses by the image size. Halved when
            memory runs out.
        sham: whether an arm that is edited by nothing runs beside the others.
        images: whether finished trajectories are decoded, each on its own.
        keep: "all" latents, or the "final" ones.
        material: gives what `Mean("dataset")` and `Clamp` need, measured; see `MaterialRequest`.
        paths: given latents by the names that the graph's trajectories call them; no more and no fewer. Those
            of trajectories with steps of their own are made here.
        on_trajectory: gets each trajectory as soon as it is done.
        on_forward: gets the number of block passes of each forward as soon as it is done; together they are
            those of the plan. For a progress bar over several runs.
        progress: whether a progress bar is drawn.

    Raises:
        BadInput: no lens or graph, or a graph that does not fit the model; before any forward pass.
        RunFailure: an activation is NaN or infinite, memory does not suffice for one row, or a planned
            access did not happen exactly once.

    >>> g = dl.InterventionGraph(sampling={"steps": 4})
    >>> arm = g.trajectory(prompt="a large red circle", seed=0)
    >>> g.edit(arm, at="blocks.*.resid_post.image", channels=massive, op="zero")
    >>> result = dl.run(lens, g)
    >>> result[arm].latents.shape, result[arm].image.size
    (torch.Size([5, 8, 24, 24]), (48, 48))
    """
    if not isinstance(lens, DiTLens) or not isinstance(graph, (InterventionGraph, Plan)):
        raise BadInput(
            "run takes a lens, as `load` makes it, and an intervention graph; got "
            f"{type(lens).__name__}, {type(graph).__name__}."
        )
    if keep not in KEPT:
        raise BadInput(f"keep is {keep!r}; there are: {', '.join(KEPT)}.")
    if isinstance(graph, Plan):
        plan = graph
    else:
        plan = make_plan(graph.check(lens), arms_per_forward=arms_per_forward, sham=sham)
    given = {**fitting_paths(plan.graph, paths), **own_paths(lens, plan.graph, progress)}
    materials = Materials(plan, material)
    limits = Limits(plan.arms_per_forward)
    edits = reads = forwards = 0
    kinds: dict[str, dict[Any, TrajectoryResult]] = {"clean": {}, "arm": {}, "sham": {}}
    difference: dict[tuple[str, int], float] = {}
    started = time.perf_counter()
    # In block passes, not forwards: forwards differ in length, and halving makes more of them.
    with ProgressBar(plan.block_passes, "running", enabled=progress) as bar:

        def advance(block_passes: int) -> None:
            bar.advance(block_passes)
            if on_forward is not None:
                on_forward(block_passes)

        for unit in plan.units:
            with lens.lock, torch.no_grad():
                done = UnitRun(lens, plan, unit, materials, limits, advance, given, keep)
                try:
                    done.run()
                finally:
                    lens.pipeline.maybe_free_model_hooks()
            edits += sum(count for event, count in done.log.items() if event[4] == "edit" and event[5] >= 0)
            reads += sum(count for event, count in done.log.items() if event[4] == "read")
            forwards += done.forwards
            pictures = _pictures(lens, done) if images else {}
            for i, row in enumerate(unit.rows):
                group = unit.groups[row.group]
                # Where a group has nothing but shadows of another, its unedited trajectory is not wanted.
                if row.kind == "sham" or (row.kind == "clean" and row.last >= 0):
                    kinds[row.kind][group] = _finished(done, i, None, pictures, keep)
                if row.kind == "sham":
                    difference[group] = _largest_difference(done, i)
            for t in unit.group_of:
                result = _finished(done, unit.own.get(t, unit.group_of[t]), t, pictures, keep)
                if (latents := _borrowed(done, t)) is not None:
                    latents = latents if keep == "all" else latents[-1:]
                    result = replace(result, latents=latents, finished=False, image=None)
                kinds["arm"][result.id] = result
                if on_trajectory is not None:
                    on_trajectory(result)
    spec_order = {each.id: kinds["arm"][each.id] for each in plan.graph.trajectories}
    return Result(
        graph=plan.graph.hash,
        model=lens.name,
        sampling=plan.graph.sampling,
        sigmas=np.asarray(plan.graph.sigmas, dtype=np.float32),
        trajectories=spec_order,
        baselines=kinds["clean"],
        shams=kinds["sham"],
        proof=Proof(
            edits=edits,
            reads=reads,
            forwards=forwards,
            block_passes=plan.block_passes,
            arms_per_forward=limits.rows,
            halvings=limits.halvings,
            seconds=time.perf_counter() - started,
            sham_difference=difference,
        ),
        paths={name: path.digest for name, path in given.items()},
        mark=plan.graph.mark,
    )


def _path(done: UnitRun, index: int) -> list[Tensor]:
    """Latents of a row before its first step and after each one; before its start, the unedited ones.

    Of a row whose path is not kept, the last ones alone are right.
    """
    row, path = done.unit.rows[index], done.paths[index]
    return path if row.kind == "clean" else [*done.paths[row.group][: row.start + 1], *path]


def _borrowed(done: UnitRun, trajectory: int) -> Tensor | None:
    """Latents that a trajectory takes from another or that were given; None where it has its own."""
    each = done.plan.graph.trajectories[trajectory]
    if each.path is not None:
        return done.given[each.path].cpu()
    if each.follows is None:
        return None
    return torch.cat(_path(done, done.unit.own.get(each.follows, done.unit.group_of[each.follows])))


def _pictures(lens: DiTLens, done: UnitRun) -> dict[int, Image]:
    """Row → image, for every row that is denoised to the end; shams excepted."""
    rows = enumerate(done.unit.rows)
    finished = [i for i, row in rows if row.kind != "sham" and not row.borrows and _reached_the_end(done, i)]
    # Unedited ones alone, as they were denoised: the rows beside them would change their last bits.
    arms = [i for i in finished if done.unit.rows[i].kind == "arm"]
    found: dict[int, Image] = {}
    for members, together in (([i for i in finished if i not in arms], 1), (arms, done.limits.rows)):
        if members:
            latents = torch.cat([_path(done, i)[-1] for i in members])
            found |= zip(members, lens.decode(latents, at_a_time=together), strict=True)
    return found


def _reached_the_end(done: UnitRun, index: int) -> bool:
    return done.steps_done.get(index) == done.plan.graph.sampling.steps


def _finished(
    done: UnitRun, index: int, trajectory: int | None, pictures: Mapping[int, Image], keep: str
) -> TrajectoryResult:
    """One row as a result; `trajectory` is its place in the graph, None for unedited rows and shams."""
    unit, row = done.unit, done.unit.rows[index]
    prompt, seed = unit.groups[row.group]
    path = _path(done, index)
    return TrajectoryResult(
        id=row.name if trajectory is None else done.plan.graph.trajectories[trajectory].id,
        prompt=prompt,
        seed=seed,
        start=None if row.kind == "clean" else row.start,
        latents=torch.cat(path if keep == "all" else path[-1:]),
        sigmas=np.asarray(done.plan.graph.sigmas, dtype=np.float32),
        finished=_reached_the_end(done, index),
        image=pictures.get(index),
        reads=() if trajectory is None else tuple(done.reads.get(trajectory, ())),
    )


def _largest_difference(done: UnitRun, sham: int) -> float:
    """Largest absolute difference of a sham from its unedited trajectory, over all steps both have."""
    row = done.unit.rows[sham]
    unedited = done.paths[row.group][row.start + 1 :]
    pairs = zip(done.paths[sham], unedited, strict=False)
    return max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
