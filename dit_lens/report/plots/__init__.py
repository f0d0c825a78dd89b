"""Figures of what was measured: `dl.plots.*`. Each is a pure function that returns a plotly figure.

The first argument says where the rows come from (`dit_lens.report.plots.sources`): a pandas table, the path
of a run folder, or a value that holds the table.

```
dl.plots.spectrum(stats)                      ChannelStatistics
dl.plots.effect_map(dl.effect_map(…))         EffectMap
dl.plots.levels(dl.run_study(…))              StudyResult; also disruption, dose, … where its arms answer it
dl.plots.disruption("reports/my_run")         a run folder; from_run draws all of its figures
dl.plots.images(lens.generate(…))             pictures: trajectories, results of a graph, masks, run folders
```

No figure shows or writes itself: a notebook draws the last value of a cell, `figure.show()` opens one, and
`save(figure, path)` writes HTML, JSON, CSV, PNG, SVG or PDF. `rows(figure)` gives the rows that a figure
shows, `tables(source)` all tables behind it. The look is `dit_lens.report.theme`. What a figure needs and
does not find raises `BadInput` naming what there is.
"""

from __future__ import annotations

from dit_lens.report.plots.arms import bias_or_carrier, disruption, levels
from dit_lens.report.plots.carry import transport, transport_attributes
from dit_lens.report.plots.carry_parts import detail_guidance, transport_curves
from dit_lens.report.plots.depth_and_time import life, ratio_map
from dit_lens.report.plots.files import save
from dit_lens.report.plots.images import images
from dit_lens.report.plots.maps import effect_map
from dit_lens.report.plots.origins import adaln, births, variance
from dit_lens.report.plots.protocols import dose, semantics_or_detail, single_or_all
from dit_lens.report.plots.rows import rows
from dit_lens.report.plots.runs import from_run
from dit_lens.report.plots.sets import agreement, stability
from dit_lens.report.plots.sources import tables
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
    "levels",
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
    "images",
    "from_run",
    "tables",
    "rows",
    "save",
]
