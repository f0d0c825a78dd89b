"""A unit of a plan while it runs: latents of every row, what is held of the current step, what was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from dit_lens.errors import RunFailure
from dit_lens.graph.checked import CheckedEdit
from dit_lens.graph.measured import measured
from dit_lens.graph.plan import Plan, Unit
from dit_lens.graph.site import Material
from dit_lens.model.hook_points import HookPoint
from dit_lens.model.sampling import SampleBatch
from dit_lens.run.material import Materials, generator
from dit_lens.run.result import ReadValue
from dit_lens.run.rows import as_tokens, joined, stacked

if TYPE_CHECKING:
    from dit_lens.model.given import GivenPath
    from dit_lens.model.lens import DiTLens

Event = tuple[int, int, HookPoint, str, str, int]
"""(row, step, hook point, branch, "edit" | "read" | "hold", which edit or read): one planned access."""


class UnitState:
    """What forwards of a unit draw on, and what they leave behind; `log` counts every access."""

    def __init__(
        self,
        lens: DiTLens,
        plan: Plan,
        unit: Unit,
        materials: Materials,
        paths: Mapping[str, GivenPath],
        keep: str,
    ) -> None:
        self.lens, self.plan, self.unit, self.materials = lens, plan, unit, materials
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
        self._stacked: tuple[tuple[int, ...], SampleBatch | None] = ((), None)

    def forget_batch(self) -> None:
        """Let go of the embeddings that were last put together, when memory runs out."""
        self._stacked = (), None

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
