"""What a graph and its plan show in a notebook's cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.graph.drawing import draw_svg
from dit_lens.graph.measured import needs_measured
from dit_lens.inline_html import card, facts
from dit_lens.model.quantities import readable_bytes

if TYPE_CHECKING:
    from dit_lens.graph.plan import Plan
    from dit_lens.graph.spec import GraphSpec


def graph_html(spec: GraphSpec) -> str:
    """Its drawing: trajectories, what is done to them, and what is carried from one into another."""
    counts = (
        f"{len(spec.trajectories)} trajectories, {len(spec.edits)} edits and patches, {len(spec.reads)} reads"
    )
    sampling = ", ".join(f"{key} {value}" for key, value in spec.sampling.items()) or "the model's own"
    return card(
        f"InterventionGraph {spec.hash}", facts({"holds": counts, "sampling": sampling}), draw_svg(spec)
    )


def plan_html(plan: Plan) -> str:
    """What the run will take."""
    kinds = ", ".join(f"{passes:,} {kind}" for kind, passes in plan.passes_by_kind.items() if passes)
    share = plan.block_passes / plan.passes_without_reuse if plan.passes_without_reuse else 1.0
    about = {
        "runs": plan.extent,
        "forwards": f"{plan.forwards:,}, of at most {plan.arms_per_forward} arms",
        "block passes": f"{plan.block_passes:,} ({kinds}), {share:.2f} of those without reuse",
        "memory": f"{readable_bytes(plan.held_bytes)} held for reuse, {readable_bytes(plan.read_bytes)} read",
    }
    if needed := needs_measured(plan.graph):
        about["material"] = "; ".join(
            f"{at}: {op} needs measured {kind}" for at, (op, kind) in needed.items()
        )
    return card(f"Plan of graph {plan.graph.hash}", facts(about))
