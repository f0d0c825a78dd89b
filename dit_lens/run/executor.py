"""One unit of a plan, carried out: all its rows advance together, one denoising step after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dit_lens.errors import RunFailure
from dit_lens.graph.plan import Forward, Plan, Unit, blocks_run
from dit_lens.model.memory import is_out_of_memory, memory_explained
from dit_lens.run.forward_pass import ForwardPass
from dit_lens.run.material import Materials
from dit_lens.run.unit_state import Event, UnitState

if TYPE_CHECKING:
    from dit_lens.model.given import GivenPath
    from dit_lens.model.lens import DiTLens


@dataclass
class Limits:
    """How many rows go through one forward; halved when memory runs out, for the rest of the run."""

    rows: int
    halvings: int = 0


class UnitRun(UnitState):
    """The state of a unit, and the loop that denoises its rows."""

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
        super().__init__(lens, plan, unit, materials, paths, keep)
        self.limits, self.on_forward = limits, on_forward
        self.forwards = 0

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
        self.forget_batch()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._halves(forward)

    def _halves(self, forward: Forward) -> None:
        middle = len(forward.rows) // 2
        self._forward(forward.part(0, middle))
        self._forward(forward.part(middle, len(forward.rows)))

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
