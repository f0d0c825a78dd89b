"""What edits draw on besides the activation and other trajectories: measured bounds and means, draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dit_lens.errors import BadInput
from dit_lens.graph.check import CheckedEdit, CheckedGraph
from dit_lens.graph.interventions import Intervention
from dit_lens.graph.plan import Plan
from dit_lens.graph.site import Material
from dit_lens.model.hook_points import HookPoint


@dataclass(frozen=True)
class MaterialRequest:
    """What an edit needs measured: `kind` is "mean" ([channels] or [tokens, channels], over a dataset) or
    "quantiles" ([2, channels]), at a step, branch and hook point."""

    kind: str
    op: Intervention
    step: int
    sigma: float
    branch: str
    point: HookPoint


MaterialSource = Callable[[MaterialRequest], Tensor]


class Materials:
    """Measured material by where it is needed; asked for and checked before the first forward pass."""

    def __init__(self, plan: Plan, source: MaterialSource | None) -> None:
        self._found: dict[tuple[int, int, str, HookPoint], Material] = {}
        graph = plan.graph
        for unit in plan.units:
            for (_, step), work in unit.works.items():
                for (point, branch), edits in work.edits.items():
                    for edit in edits:
                        self._ask(graph, edit, step, branch, point, source)

    def _ask(
        self,
        graph: CheckedGraph,
        edit: CheckedEdit,
        step: int,
        branch: str,
        point: HookPoint,
        source: MaterialSource | None,
    ) -> None:
        site, op = edit.sites[point]
        kind = measured(edit, op)
        key = (edit.index, step, branch, point)
        if kind is None or key in self._found:
            return
        if source is None:
            raise BadInput(
                f"edits.{edit.index}.op: {op.op} needs {kind} measured on a dataset, and none was given. "
                "Pass `material=` to run: a function from a MaterialRequest to a tensor."
            )
        value = source(MaterialRequest(kind, op, step, graph.sigmas[step], branch, point))
        material = Material(source=value) if kind == "mean" else Material(quantiles=value)
        shape = graph.shapes[point]
        if point.component == "velocity":
            shape = (shape[1] * shape[2], shape[0])
        try:
            op.apply(torch.zeros(1, *shape), site, material)
        except BadInput as error:
            raise BadInput(f"edits.{edit.index}.op: at step {step}, {point}: {error}") from None
        self._found[key] = material

    def at(self, edit: CheckedEdit, step: int, branch: str, point: HookPoint) -> Material | None:
        """What was measured for an edit there, or None."""
        return self._found.get((edit.index, step, branch, point))


def measured(edit: CheckedEdit, op: Intervention) -> str | None:
    """The kind of measured material that an edit needs, if any."""
    if "quantiles" in op.needs:
        return "quantiles"
    return "mean" if "source" in op.needs and edit.source is None else None


def generator(prompt: str, seed: int, step: int, point: HookPoint) -> torch.Generator:
    """A CPU generator of its own for each sample, step and place; both guidance branches share it.

    It knows nothing of arms or batches: the same edit draws the same numbers in any run.
    """
    digest = hashlib.sha256(f"{seed}|{step}|{point}|{prompt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
