"""Grids of small panels that can be drawn wide or narrow.

Plotly fixes a grid when a figure is made. A report is read on a screen and on a phone, so each grid carries
both arrangements in `layout.meta["arrangements"]`: two patches for `Plotly.relayout`, of which the page
applies the one that fits. Anyone else sees the wide one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from dit_lens.report.theme import NEUTRAL, template

TITLE_ROOM = 24  # pixels above each panel for its own title


@dataclass(frozen=True)
class Panels:
    """How many panels stand side by side, and how tall each is (pixels).

    `legend` is the number of entries in a legend below the panels (0: none); room is kept for the rows that
    it needs in each arrangement. `x_title` stands under the lowest panel of each column, `y_title` beside
    the first of each row.
    """

    titles: tuple[str, ...]
    wide: int
    narrow: int
    height: int = 170
    x: Mapping[str, Any] = field(default_factory=dict)
    y: Mapping[str, Any] = field(default_factory=dict)
    x_title: str = ""
    y_title: str = ""
    gap: float = 0.06
    row_gap: int = 64
    top: int = 56
    bottom: int = 52
    legend: int = 0

    def axes(self, index: int) -> dict[str, str]:
        """Return the axis names that a trace in panel `index` uses."""
        return {"xaxis": f"x{_suffix(index)}", "yaxis": f"y{_suffix(index)}"}

    def figure(self, title: str) -> go.Figure:
        """Return an empty figure with the panels in their wide arrangement."""
        wide, narrow = self._arrangement(self.wide, 6), self._arrangement(self.narrow, 2)
        layout: dict[str, Any] = {
            "template": template(),
            "title": {"text": title},
            "margin": {"t": self.top},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "yref": "container",
                "y": 0.005,
                "yanchor": "bottom",
                "traceorder": "normal",
            },
            "showlegend": self.legend > 0,
            "annotations": [
                {
                    "text": text,
                    "xref": "paper",
                    "yref": "paper",
                    "xanchor": "left",
                    "yanchor": "bottom",
                    "showarrow": False,
                    "yshift": 3,
                }
                for text in self.titles
            ],
        }
        for index in range(len(self.titles)):
            for letter, other, axis in (("x", "y", self.x), ("y", "x", self.y)):
                # The first axis is what the others match; matching itself is an error in plotly.
                own = {key: deepcopy(value) for key, value in axis.items() if key != "matches" or index}
                layout[f"{letter}axis{_suffix(index)}"] = {**own, "anchor": f"{other}{_suffix(index)}"}
        for path, value in wide.items():
            _put(layout, path, value)
        layout["meta"] = {"arrangements": {"wide": wide, "narrow": narrow}}
        # As a whole: plotly takes longer to check a layout that is set bit by bit.
        return go.Figure(layout=layout)

    def _arrangement(self, columns: int, legend_columns: int) -> dict[str, Any]:
        total = len(self.titles)
        columns = max(1, min(columns, total))
        rows = -(-total // columns)
        inner = rows * self.height + (rows - 1) * self.row_gap
        gap = self.gap * min(1.0, 4 / columns) if columns > 1 else 0.0
        width = (1 - gap * (columns - 1)) / columns
        bottom_margin = self.bottom + (10 + 20 * -(-self.legend // legend_columns) if self.legend else 0)
        patch: dict[str, Any] = {"height": inner + self.top + bottom_margin, "margin.b": bottom_margin}
        for index in range(total):
            row, column = divmod(index, columns)
            left = column * (width + gap)
            top = 1 - row * (self.height + self.row_gap) / inner
            bottom = max(0.0, top - self.height / inner)
            suffix = _suffix(index)
            lowest = index + columns >= total
            patch[f"xaxis{suffix}.domain"] = [round(left, 5), round(min(1.0, left + width), 5)]
            patch[f"yaxis{suffix}.domain"] = [round(bottom, 5), round(top, 5)]
            patch[f"xaxis{suffix}.title.text"] = self.x_title if lowest else ""
            patch[f"yaxis{suffix}.title.text"] = self.y_title if column == 0 else ""
            patch[f"annotations[{index}].x"] = round(left, 5)
            patch[f"annotations[{index}].y"] = round(top, 5)
        return patch


def _suffix(index: int) -> str:
    return "" if index == 0 else str(index + 1)


def _put(layout: dict[str, Any], path: str, value: object) -> None:
    """Apply an entry of a relayout patch: `xaxis2.title.text`, `annotations[3].x`."""
    *inner, last = path.replace("[", ".").replace("]", "").split(".")
    place: Any = layout
    for key in inner:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    place[last] = value


def chance_line(
    figure: go.Figure,
    axes: Mapping[str, str],
    xs: Sequence[Any],
    ys: Sequence[float],
    name: str,
    *,
    showlegend: bool = False,
) -> None:
    """Draw a reference level: grey and dotted, named in the legend once."""
    figure.add_trace(
        go.Scatter(
            x=list(xs),
            y=list(ys),
            mode="lines",
            line={"color": NEUTRAL, "dash": "dot", "width": 1.5},
            name=name,
            showlegend=showlegend,
            hovertemplate=f"{name}: %{{y:.3g}}<extra></extra>",
            **axes,
        )
    )
