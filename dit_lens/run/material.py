"""What edits draw on besides the activation and other trajectories: measured bounds and means, draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dit_lens.errors import BadInput
from dit_lens.graph.checked import CheckedEdit, CheckedGraph
from dit_lens.graph.interventions import Intervention
from dit_lens.graph.measured import HOW, measured
from dit_lens.graph.plan import Plan
from dit_lens.graph.site import Material
from dit_lens.model.hook_points import HookPoint


@dataclass(frozen=True)
class MaterialRequest:
    """What an edit needs measured: `kind` is "mean" ([channels] or [tokens, channels], over a dataset) or
    "quantiles" ([2, channels]), at a step, branch and hook point.

    A function from it to a tensor is the `material=` of `dit_lens.run`. For `Clamp`, its own bounds of
    unedited activations, here of two prompts:

    >>> import torch
    >>> unedited = dl.InterventionGraph(sampling={"steps": 4})
    >>> for prompt in prompts[:2]:
    ...     run_of_it = unedited.trajectory(prompt=prompt, seed=0)
    ...     name = unedited.read(run_of_it, at="blocks.7.resid_post.image")
    >>> seen = dl.run(lens, unedited, images=False, sham=False).reads
    >>> def material(request):
    ...     place = (request.step, request.branch, request.point)
    ...     values = [each.value for each in seen if (each.step, each.branch, each.point) == place]
    ...     return request.op.bounds(torch.stack(values))
    >>> graph = dl.InterventionGraph(sampling={"steps": 4})
    >>> arm = graph.trajectory(prompt="a large red circle", seed=0)
    >>> graph.edit(arm, at="blocks.7.resid_post.image", channels=massive, op=dl.Clamp(0.99))
    >>> dl.run(lens, graph, material=material)[arm].image.size
    (48, 48)
    """

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
            raise BadInput.at(
                ("edits", edit.index, "op"),
                f"{op.op} needs {kind} measured on a dataset, and none was given. {HOW[kind]}.",
            )
        value = source(MaterialRequest(kind, op, step, graph.sigmas[step], branch, point))
        material = Material(source=value) if kind == "mean" else Material(quantiles=value)
        shape = graph.shapes[point]
        if point.component == "velocity":
            shape = (shape[1] * shape[2], shape[0])
        try:
            op.apply(torch.zeros(1, *shape), site, material)
        except BadInput as error:
            raise BadInput.at(("edits", edit.index, "op"), f"at step {step}, {point}: {error}") from None
        self._found[key] = material

    def at(self, edit: CheckedEdit, step: int, branch: str, point: HookPoint) -> Material | None:
        """What was measured for an edit there, or None."""
        return self._found.get((edit.index, step, branch, point))


def generator(prompt: str, seed: int, step: int, point: HookPoint) -> torch.Generator:
    """A CPU generator of its own for each sample, step and place; both guidance branches share it.

    It knows nothing of arms or batches: the same edit draws the same numbers in any run.
    """
    digest = hashlib.sha256(f"{seed}|{step}|{point}|{prompt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
