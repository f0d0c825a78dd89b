"""Every figure of a run, or of a value that holds tables, with the choices that a figure makes by itself."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go

from dit_lens.report.plots.arms import bias_or_carrier, disruption, levels
from dit_lens.report.plots.carry import transport
from dit_lens.report.plots.carry_parts import detail_guidance, transport_curves
from dit_lens.report.plots.depth_and_time import life, ratio_map
from dit_lens.report.plots.maps import effect_map
from dit_lens.report.plots.origins import adaln, births, variance
from dit_lens.report.plots.protocols import dose, semantics_or_detail, single_or_all
from dit_lens.report.plots.sets import agreement, stability
from dit_lens.report.plots.sources import Source, holder_of
from dit_lens.report.plots.spatial import spatial_blocks, spatial_k
from dit_lens.report.plots.spectrum import spectrum
from dit_lens.report.plots.token_maps import token_maps

FIGURES: dict[str, Callable[..., go.Figure]] = {
    "spectrum": spectrum,
    "ratio_map": ratio_map,
    "life": life,
    "stability": stability,
    "agreement": agreement,
    "variance": variance,
    "births": births,
    "adaln": adaln,
    "token_maps": token_maps,
    "spatial_blocks": spatial_blocks,
    "spatial_k": spatial_k,
    "disruption": disruption,
    "bias_or_carrier": bias_or_carrier,
    "semantics_or_detail": semantics_or_detail,
    "single_or_all": single_or_all,
    "dose": dose,
    "step_map": effect_map,
    "final_map": effect_map,
    "patch_map": effect_map,
    "guidance": detail_guidance,
    "transport": transport,
    "transport_image": transport,
    "transport_curves": transport_curves,
    "levels": levels,
}
"""The figure of each table."""


def from_run(run: Source) -> dict[str, go.Figure]:
    """Return one figure for every table of a run folder that has one, by the table's name.

    Each shows what it takes by default: the image stream and the conditional branch, the most telling
    metric; the figure functions themselves draw the others. `run` is the folder's path, or any value that
    holds tables. Tables without rows are left out. Raises `BadInput` for what is no run folder.

    >>> figures = dl.plots.from_run("reports/massive_activations")
    >>> sorted(figures)[:4]
    ['adaln', 'agreement', 'bias_or_carrier', 'births']
    >>> dl.plots.save(figures["dose"], "figures/dose.html").name
    'dose.html'
    """
    holder = holder_of(run)
    there = set(holder.table_names)
    rows = {name: holder.table(name) for name in FIGURES if name in there}
    return {name: FIGURES[name](table) for name, table in rows.items() if len(table)}
