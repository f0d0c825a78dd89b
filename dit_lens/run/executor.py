"""One unit of a plan, carried out: all its rows advance together, one denoising step after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dit_lens.errors import RunFailure
from dit_lens.graph.checked import CheckedEdit
from dit_lens.graph.measured import measured
from dit_lens.graph.plan import Forward, Plan, Unit, blocks_run
from dit_lens.graph.site import Material
from dit_lens.model.hook_points import HookPoint
from dit_lens.model.memory import is_out_of_memory, memory_explained
from dit_lens.model.sampling import SampleBatch
from dit_lens.run.forward_pass import Event, ForwardPass
from dit_lens.run.material import Materials, generator
from dit_lens.run.result import ReadValue
from dit_lens.run.rows import as_tokens, joined, stacked

if TYPE_CHECKING:
    from dit_lens.model.given import GivenPath
    from dit_lens.model.lens import DiTLens


@dataclass
class Limits:
    """How many rows go through one forward; halved when memory runs out, for the rest of the run."""

    rows: int
    halvings: int = 0


class UnitRun:
    """The state of a unit while it runs: latents of every row, what is held of the current step, the log."""

    def __init__(
        self,
        lens: DiTLens,
        plan: Plan,
        unit: Unit,
        materials: Materials,
        limits: Limits,
        on_forward: Callable[[int], None],
        paths: Mapping[str, GivenPath],
        keep: str,
    ) -> None:
        self.lens, self.plan, self.unit = lens, plan, unit
        self.materials, self.limits, self.on_forward = materials, limits, on_forward
        self.batches = [lens.prepare_rows([p], [s], plan.graph.sampling) for p, s in unit.groups]
        self.branches = plan.graph.branches
        self.given = {name: path.latents.to(self.batches[0].latents) for name, path in paths.items()}
        # Latents [1, C, h, w] on the device, and a row's latents since its start on the CPU: all of them, or
        # the newest alone where nobody asks for more; then how many steps lie behind a row.
        self.latents: dict[int, Tensor] = {g: batch.latents for g, batch in enumerate(self.batches)}
        self.paths: dict[int, list[Tensor]] = {g: [x.cpu()] for g, x in self.latents.items()}
        self.steps_done: dict[int, int] = {}
        followed = {unit.own.get(row.follows) for row in unit.rows if row.follows is not None}
        self.whole = {
            i for i, row in enumerate(unit.rows) if keep == "all" or row.kind != "arm" or i in followed
        }
        self.held: dict[tuple[int, HookPoint, str], Tensor] = {}
        self.reads: dict[int, list[ReadValue]] = {}
        self.log: Counter[Event] = Counter()
        self.forwards = 0
        self._stacked: tuple[tuple[int, ...], SampleBatch | None] = ((), None)

    def run(self) -> None:
        """Denoise all rows.

        Raises:
            RunFailure: latents that are not finite, no memory for one row, or an access that did not happen
            exactly once.
        """
        for step, forwards in enumerate(self.unit.steps):
            before = {g: self.latents[g] for g in range(len(self.unit.groups))}
            for i, row in enumerate(self.unit.rows):
                if row.kind != "clean" and row.start == step <= row.last:
                    self.latents[i], self.paths[i] = before[row.group], []
            # Only now: the one that is followed may begin at this very step.
            for i, row in enumerate(self.unit.rows):
                if not row.runs_at(step, self.unit.works.get((i, step))):
                    continue
                if row.path is not None:
                    self.latents[i] = self.given[row.path][step : step + 1]
                elif row.follows is not None:
                    self.latents[i] = self.latents[self.unit.row_at(row.follows, step)]
            for forward in forwards:
                self._forward(forward)
            self.held.clear()
        self._prove()

    # ---------------------------------------------------------------------------------- one forward
    def _forward(self, forward: Forward) -> None:
        rows = forward.rows
        if len(rows) > self.limits.rows:
            self._halves(forward)
            return
        attempt = ForwardPass(self, forward)
        try:
            attempt.run()
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(rows) == 1:
                with memory_explained(f"running {len(rows)} rows at step {forward.step}"):
                    raise
            self.limits.rows = len(rows) // 2
            self.limits.halvings += 1
        else:
            attempt.commit()
            self.forwards += 1
            self.on_forward(sum(blocks_run(self.plan.graph, self.unit, forward)))
            return
        # Outside the handler: the error's frames hold the tensors that did not fit.
        del attempt
        self._stacked = (), None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._halves(forward)

    def _halves(self, forward: Forward) -> None:
        middle = len(forward.rows) // 2
        self._forward(forward.part(0, middle))
        self._forward(forward.part(middle, len(forward.rows)))

    def batch_of(self, rows: Sequence[int]) -> SampleBatch:
        """Embeddings and schedule of rows, with their latents."""
        groups = tuple(self.unit.rows[row].group for row in rows)
        known, batch = self._stacked
        if batch is None or known != groups:
            # One at a time: embeddings of rows put together are as large as their prompts are many.
            batch = stacked([self.batches[g] for g in groups])
            self._stacked = groups, batch
        return replace(batch, latents=joined([self.latents[row] for row in rows]))

    def material(self, edit: CheckedEdit, row: int, step: int, point: HookPoint, branch: str) -> Material:
        """What an edit of a row draws on."""
        op = edit.sites[point][1]
        if measured(edit, op) is not None:
            found = self.materials.at(edit, step, branch, point)
            assert found is not None, "all material was asked for before the first forward"
            return found
        group = self.unit.rows[row].group
        prompt, seed = self.unit.groups[group]
        return Material(
            source=None
            if edit.source is None
            else as_tokens(point, self.take(self.unit.row_at(edit.source, step), step, point, branch)),
            generator=generator(prompt, seed, step, point) if "generator" in op.needs else None,
        )

    def take(self, row: int, step: int, point: HookPoint, branch: str) -> Tensor:
        """What was held of a row at the current step."""
        try:
            return self.held[row, point, branch]
        except KeyError:
            raise RunFailure(
                f"A planned access did not happen: the hold of {self.unit.rows[row].name} at step {step}, "
                f"branch {branch}, {point}. The numbers are void."
            ) from None

    # ---------------------------------------------------------------------------------------- proof
    def _prove(self) -> None:
        planned: Counter[Event] = Counter()
        for (row, step), work in self.unit.works.items():
            for (point, branch), edits in work.edits.items():
                planned.update((row, step, point, branch, "edit", e.index) for e in edits)
            for (point, branch), reads in work.reads.items():
                planned.update((row, step, point, branch, "read", r.index) for _, r in reads)
            planned.update((row, step, point, branch, "hold", 0) for point, branch in work.held)
        if planned == self.log:
            return
        missing, surplus = planned - self.log, self.log - planned
        what = "did not happen" if missing else "happened more than once"
        row, step, point, branch, kind, _ = next(iter(missing or surplus))
        raise RunFailure(
            f"Of {planned.total()} planned accesses {len(missing or surplus)} {what}, first the {kind} of "
            f"{self.unit.rows[row].name} at step {step}, branch {branch}, {point}. The numbers are void."
        )
