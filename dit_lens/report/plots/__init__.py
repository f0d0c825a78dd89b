"""Figures from tidy tables: one pure function each, a pandas table in, a plotly figure out.

None of them shows or writes anything; `figure.show()`, `figure.write_html` and `figure.write_image` are the
reader's choice. The look is `dit_lens.report.theme`. A table without the columns a figure needs, or without
rows for the stream, branch, statistic or metric asked for, raises `BadInput` naming what there is.
"""

from __future__ import annotations

from dit_lens.report.plots.arms import bias_or_carrier, disruption
from dit_lens.report.plots.carry import transport, transport_attributes
from dit_lens.report.plots.carry_parts import detail_guidance, transport_curves
from dit_lens.report.plots.depth_and_time import life, ratio_map
from dit_lens.report.plots.maps import effect_map
from dit_lens.report.plots.origins import adaln, births, variance
from dit_lens.report.plots.protocols import dose, semantics_or_detail, single_or_all
from dit_lens.report.plots.sets import agreement, stability
from dit_lens.report.plots.spatial import spatial_blocks, spatial_k, spatial_map
from dit_lens.report.plots.spectrum import spectrum
from dit_lens.report.plots.token_maps import token_maps

__all__ = [
    "spectrum",
    "ratio_map",
    "life",
    "stability",
    "agreement",
    "variance",
    "births",
    "adaln",
    "token_maps",
    "disruption",
    "bias_or_carrier",
    "semantics_or_detail",
    "single_or_all",
    "dose",
    "effect_map",
    "transport",
    "transport_attributes",
    "transport_curves",
    "detail_guidance",
    "spatial_blocks",
    "spatial_k",
    "spatial_map",
]
