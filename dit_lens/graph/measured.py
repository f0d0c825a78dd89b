"""What edits need measured on a dataset: bounds of `Clamp`, means of `Mean("dataset")`. No graph has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dit_lens.graph.checked import CheckedEdit, CheckedGraph
    from dit_lens.graph.interventions import Intervention

HOW = {
    "quantiles": "Pass material= to run, in Python, a function that gives them; the docstring of "
    "dit_lens.run.material.MaterialRequest shows one. No YAML file holds them",
    "mean": "Pass material= to run, in Python, a function that gives them, such as "
    "dit_lens.methods.dataset_means.dataset_means(stats). No YAML file holds them",
}
"""Where each kind of material comes from."""


def measured(edit: CheckedEdit, op: Intervention) -> str | None:
    """The kind of measured material that an edit needs, if any."""
    if "quantiles" in op.needs:
        return "quantiles"
    return "mean" if "source" in op.needs and edit.source is None else None


def needs_measured(graph: CheckedGraph) -> dict[str, tuple[str, str]]:
    """Place of an edit in the graph → (its op, the kind), for every edit that needs measured material."""
    found = {}
    for edit in graph.edits:
        # An op needs the same material at all of its places.
        op = next(op for _, op in edit.sites.values())
        if (kind := measured(edit, op)) is not None:
            found[f"edits.{edit.index}.op"] = (op.op, kind)
    return found
