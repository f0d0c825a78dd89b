"""One forward pass of the transformer: its rows' edits, reads and holds, each row on its own.

Nothing reaches the unit before the pass has succeeded, so that one that ran out of memory can be repeated in
halves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dit_lens.errors import RunFailure
from dit_lens.graph.checked import CheckedEdit, CheckedRead
from dit_lens.graph.energy import PatchMatched
from dit_lens.graph.plan import Forward, Work, blocks_until
from dit_lens.graph.site import Material
from dit_lens.model.adapters import StreamNorm, require_finite
from dit_lens.model.hook_points import STREAMS, HookPoint
from dit_lens.model.sampling import denoise
from dit_lens.model.traced import Place
from dit_lens.run.joining import Joining
from dit_lens.run.result import ReadValue
from dit_lens.run.rows import as_before, as_tokens, joined, normed_as_before, reduced
from dit_lens.run.unit_state import Event, UnitState

RESIDUAL = ("resid_pre", "resid_post")
"""Where what is added stays: later blocks read it and add to it."""

Who = tuple[int, int]
"""(place among the rows of a forward, number of the branch)."""


class ForwardPass:
    """One forward pass and what came of it; nothing reaches the unit before `commit`."""

    def __init__(self, state: UnitState, forward: Forward) -> None:
        self.of, self.forward = state, forward
        self.log: list[Event] = []
        self.held: dict[tuple[int, HookPoint, str], Tensor] = {}
        self.reads: list[tuple[int, ReadValue]] = []
        # By who is edited, (place among the rows, branch), and by stream; the last two by edit as well.
        self.removed: dict[tuple[Who, str], Tensor] = {}
        self.displaced: dict[tuple[Who, int, str], Tensor] = {}
        self.owed: dict[tuple[Who, int, str], Tensor] = {}
        self.after: Tensor | None = None
        unit = state.unit
        self.works: list[Work | None] = [unit.works.get((row, forward.step)) for row in forward.rows]

    def run(self) -> None:
        forward, lens = self.forward, self.of.lens
        batch = self.of.batch_of(forward.rows)

        def velocity(step: int, inputs: Mapping[str, Any]) -> Tensor | None:
            return self._velocity(inputs) if step == forward.step else None

        def keep(step: int, latents: Tensor) -> None:
            self.after = latents

        denoise(batch, velocity, start=forward.step, latents=batch.latents, on_step=keep)
        if self.after is not None and not bool(torch.isfinite(self.after).all()):
            bad = next(
                row
                for row, x in zip(forward.rows, self.after, strict=True)
                if not bool(torch.isfinite(x).all())
            )
            raise RunFailure(
                f"The latents of {self.of.unit.rows[bad].name} are NaN or infinite after step {forward.step} "
                f"({lens.dtype}). Weaken the edit, or use bfloat16 or float32."
            )

    def commit(self) -> None:
        of = self.of
        of.log.update(self.log)
        of.held |= self.held
        for trajectory, value in self.reads:
            of.reads.setdefault(trajectory, []).append(value)
        if self.after is not None:
            for row, latents in zip(self.forward.rows, self.after.split(1), strict=True):
                of.latents[row] = latents
                if row not in of.whole:
                    of.paths[row].clear()
                of.paths[row].append(latents.cpu())
                of.steps_done[row] = self.forward.step + 1

    def _velocity(self, inputs: Mapping[str, Any]) -> Tensor | None:
        forward, lens = self.forward, self.of.lens
        touched = [
            (point, entry)
            for work, entry in zip(self.works, forward.entries, strict=True)
            for point in (work.points if work else ())
        ]
        last = max((point for point, _ in touched), key=_key, default=None) if forward.stops else None
        joining = Joining(
            forward,
            lens.num_blocks if last is None else blocks_until(last, lens.num_blocks),
            len(self.of.branches),
            lens.adapter,
            held=self._held_behind,
            edited=self._edited_behind,
        )
        extra = [*joining.places(), *self._norms(last)]
        # What lies at the output of the last block that a row leaves out is served where the row joins.
        points = {p for p, entry in touched if (p.component, p.block) != ("resid_post", entry - 1)}
        if not points and not extra:
            return lens.traced.forward(inputs)
        return lens.traced.traced_forward(
            inputs,
            sorted(points, key=_key),
            self._touch,
            stop=forward.stops,
            extra=sorted(extra, key=lambda place: place.key),
            rows_at=lambda point: len(self.of.branches) * forward.present(point.block),
        )

    def _held_behind(self, members: Sequence[int], block: int) -> dict[str, Tensor]:
        """What the unedited run has behind a block, for some of the forward's rows in each branch."""
        of, step = self.of, self.forward.step
        groups = [of.unit.rows[self.forward.rows[k]].group for k in members]
        points = [HookPoint("resid_post", block, stream) for stream in STREAMS]
        return {
            str(point.stream): joined(
                [of.take(g, step, point, branch) for branch in of.branches for g in groups]
            )
            for point in points
            if point in of.plan.graph.shapes
        }

    def _edited_behind(self, members: Sequence[int], block: int) -> dict[str, Tensor]:
        """The same, with what these rows edit right there, before they run through the next block."""
        streams = self._held_behind(members, block)
        for stream, value in streams.items():
            point = HookPoint("resid_post", block, stream)
            if (new := self._touch(point, value, members)) is not None:
                streams[stream] = new
        return streams

    def _touch(self, point: HookPoint, tensor: Tensor, members: Sequence[int] | None = None) -> Tensor | None:
        """Edits, reads and holds at a hook point of the rows that are present; each row and branch alone."""
        step = self.forward.step
        members = range(self.forward.present(point.block)) if members is None else members
        edited: Tensor | None = None
        for j, k in enumerate(members):
            row, work = self.forward.rows[k], self.works[k]
            if work is None:
                continue
            for b, branch in enumerate(self.of.branches):
                i, spot = b * len(members) + j, (point, branch)
                value = tensor[i : i + 1]
                if edits := work.edits.get(spot):
                    value = self._edited(edits, row, (k, b), point, branch, value)
                    edited = tensor.clone() if edited is None else edited
                    edited[i : i + 1] = value
                for trajectory, read in work.reads.get(spot, ()):
                    self._read(trajectory, read, point, branch, value)
                    self.log.append((row, step, point, branch, "read", read.index))
                if spot in work.held:
                    # A view would keep all rows of the batch alive.
                    self.held[row, point, branch] = value.clone()
                    self.log.append((row, step, point, branch, "hold", 0))
        return edited

    def _edited(
        self,
        edits: Sequence[CheckedEdit],
        row: int,
        who: Who,
        point: HookPoint,
        branch: str,
        value: Tensor,
    ) -> Tensor:
        step = self.forward.step
        x = as_tokens(point, value)
        for edit in edits:
            site, op = edit.sites[point]
            material = self.of.material(edit, row, step, point, branch)
            if "displaced" in op.welcomes and point.component in RESIDUAL:
                new = self._displaced(edit, who, point, x, material)
            else:
                new = op.apply(x, site, material)
            # An edit that changes nothing must not cost the last bits that norms done by hand cost.
            if op.ln_preserving and new is not x and not torch.equal(new, x):
                assert point.stream is not None
                before = self.removed.get((who, point.stream))
                self.removed[who, point.stream] = x - new if before is None else before + (x - new)
            x = new
            self.log.append((row, step, point, branch, "edit", edit.index))
        return as_before(point, x, value)

    def _displaced(
        self, edit: CheckedEdit, who: Who, point: HookPoint, x: Tensor, material: Material
    ) -> Tensor:
        """The edit of a residual stream that takes back what it added to that stream at earlier blocks."""
        assert point.stream is not None
        site, op = edit.sites[point]
        key = (who, edit.index, point.stream)
        before = self.displaced.get(key)
        material = replace(material, displaced=before, owed=self.owed.get(key))
        new = op.apply(x, site, material)
        self.displaced[key] = new - x if before is None else before + (new - x)
        if isinstance(op, PatchMatched):
            self.owed[key] = op.owes(x, site, material)
        return new

    def _read(self, trajectory: int, read: CheckedRead, point: HookPoint, branch: str, value: Tensor) -> None:
        graph, step = self.of.plan.graph, self.forward.step
        name = graph.trajectories[trajectory].id
        require_finite(value, f"{name}, step {step}, branch {branch}, {point}")
        kept = reduced(read, point, value)
        self.reads.append(
            (
                trajectory,
                ReadValue(read.name, name, step, graph.sigmas[step], branch, point, kept.float().cpu()),
            )
        )

    # ------------------------------------------------------------------------------- LayerNorm kept
    def _norms(self, last: HookPoint | None) -> list[Place]:
        """The LayerNorms behind edits that ask for the statistics of the token as it was."""
        first: dict[str, Any] = {}
        for work in self.works:
            for (point, _), edits in work.edits.items() if work else ():
                if point.stream and any(edit.sites[point][1].ln_preserving for edit in edits):
                    first[point.stream] = min(first.get(point.stream, point.forward_key), point.forward_key)
        return [
            Place(norm.key, norm.module, "through", self._preserving(norm), norm.module)
            for norm in self.of.lens.adapter.norms()
            if norm.stream in first
            and norm.key > first[norm.stream]
            and (last is None or norm.key < _key(last))
        ]

    def _preserving(self, norm: StreamNorm) -> Callable[[Any], Any]:
        module = self.of.lens.pipeline.transformer.get_submodule(norm.module)

        def serve(value: Any) -> Tensor | None:
            x, normed = value
            new: Tensor | None = None
            for ((k, b), stream), removed in self.removed.items():
                if stream == norm.stream:
                    new = normed.clone() if new is None else new
                    i = b * self.forward.present(norm.block) + k
                    new[i : i + 1] = normed_as_before(module, x[i : i + 1], removed)
            return new

        return serve


def _key(point: HookPoint) -> tuple[int, int, int]:
    return point.forward_key
