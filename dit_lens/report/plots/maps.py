"""The effect of an edit in every block × step cell: massive channels, a control, and their difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.errors import BadInput
from dit_lens.methods.metrics import quantity
from dit_lens.report.effect_words import families_in_order, family_name
from dit_lens.report.plots.effect_marks import number_or_nan, one_metric
from dit_lens.report.plots.frame import BLOCK_AXIS, STEP_AXIS, rows_of
from dit_lens.report.plots.panels import Panels
from dit_lens.report.plots.sources import Source, table_of
from dit_lens.report.text import count, number, plot_text
from dit_lens.report.theme import DIVERGING, INK, SEQUENTIAL

EFFECT_MAP = (
    "metric", "family", "direction", "block", "step", "sigma", "mean", "difference", "p", "p_adjusted", "n",
)  # fmt: skip
MAPS = ("step_map", "final_map", "patch_map")
ALPHA = 0.05
_BAR = 58  # pixels from the lower end of a map to its colour bar
_BAR_BETWEEN = 28  # the same where no axis title stands between
_MOST_TICKS = 10

Grid = np.ndarray


def effect_map(
    data: Source,
    *,
    metric: str | None = None,
    control: str | None = None,
    direction: str | None = None,
    name: str | None = None,
) -> go.Figure:
    """Draw what an edit of one block at one step does: massive channels, a control, and their difference.

    `data`: a `step_map`, `final_map` or `patch_map` table, or an `EffectMap`. Cells whose difference is
    significant after Benjamini–Hochberg (p at most 0.05) are outlined, with its sign inside; maps explore,
    they do not test a claim. Of `metric`, `control` and `direction`, one left at None takes the first there
    is; of a run with several maps, `name` says which. Raises `BadInput` for missing columns or coordinates.

    >>> dl.plots.effect_map("reports/massive_activations").layout.title.text
    'Velocity distance: massive exceed control in ... of ..., fall short in ... (corrected p ≤ 0.05)'
    """
    table = table_of(data, *(MAPS if name is None else (name,)))
    rows = rows_of(table, EFFECT_MAP)
    metric = one_metric(rows, metric)
    rows = rows_of(rows, EFFECT_MAP, metric=metric)
    direction = sorted(rows["direction"].unique())[0] if direction is None else direction
    rows = rows_of(rows, EFFECT_MAP, direction=direction)
    control = _one_control(rows, control)
    blocks = sorted({int(block) for block in rows["block"]})
    steps = sorted({int(step) for step in rows["step"]})
    sigma = rows.groupby("step")["sigma"].first().reindex(steps).to_numpy(dtype=float)
    massive = _Cells(_against(rows, control), blocks, steps)
    other = _Cells(rows[rows["family"] == control], blocks, steps) if control else None
    words = quantity(metric)
    titles = ["massive channels"]
    if other is not None:
        titles += [plot_text(family_name(str(control))), "massive − control"]
    panels = Panels(
        titles=tuple(titles),
        wide=3,
        narrow=1,
        height=int(np.clip(24 * len(blocks), 150, 480)),
        x={"tickvals": _some(steps, _MOST_TICKS), "showgrid": False, "constrain": "domain"},
        y={"tickvals": _some(blocks, 12), "showgrid": False},
        x_title=STEP_AXIS if len(titles) == 1 else "denoising step",
        y_title=BLOCK_AXIS,
        gap=0.06,
        row_gap=104,
        bottom=118,
    )
    figure = panels.figure(_title(massive, words.title, direction, other is not None))
    means = [massive.mean, *([other.mean] if other is not None else [])]
    place = {"x": steps, "y": blocks, "sigma": sigma}
    for index, (cells, name) in enumerate(zip(means, titles, strict=False)):
        numbers = "mean %{z:.4g}"
        figure.add_trace(_heat(panels, index, cells, place, name, numbers, {}, "coloraxis"))
    if other is not None:
        numbers = (
            "%{z:.4g}<br>p = %{customdata[1]:.2g}, corrected %{customdata[2]:.2g}, n = %{customdata[3]:.0f}"
        )
        more = {"p": massive.p, "p_adjusted": massive.p_adjusted, "n": massive.n}
        heat = _heat(panels, 2, massive.difference, place, "massive − control", numbers, more, "coloraxis2")
        # The sign stands in words as well: a reading must not rest on colour alone.
        signs = np.where(massive.significant, np.where(massive.difference > 0, "+", "−"), "")
        heat.update(text=signs.tolist(), texttemplate="%{text}", textfont={"size": 11})
        figure.add_trace(heat)
        figure.add_trace(_outline(panels, massive.significant, blocks, steps))
    _colours(figure, panels, means, massive.difference if other is not None else None)
    return figure


class _Cells:
    """One family's numbers as block × step grids, NaN where there are none."""

    def __init__(self, rows: pd.DataFrame, blocks: list[int], steps: list[int]) -> None:
        once = rows.drop_duplicates(["block", "step"])
        index = pd.MultiIndex.from_product([blocks, steps], names=["block", "step"])
        cells = once.assign(block=once["block"].astype(int), step=once["step"].astype(int))
        cells = cells.set_index(["block", "step"]).reindex(index)

        def grid(name: str) -> Grid:
            return number_or_nan(cells[name]).reshape(len(blocks), len(steps)).astype("float32")

        self.mean, self.difference, self.n = grid("mean"), grid("difference"), grid("n")
        self.p, self.p_adjusted = grid("p"), grid("p_adjusted")

    @property
    def significant(self) -> Grid:
        """Cells whose corrected p-value is at most `ALPHA`."""
        return np.nan_to_num(self.p_adjusted, nan=1.0) <= ALPHA


def _one_control(rows: pd.DataFrame, control: str | None) -> str | None:
    there = [kind for kind in families_in_order(rows["family"]) if kind != "massive"]
    if control is None:
        return there[0] if there else None
    if control not in there:
        raise BadInput(f"No row has family = {control!r}; there are: {', '.join(there) or 'no controls'}.")
    return control


def _against(rows: pd.DataFrame, control: str | None) -> pd.DataFrame:
    """Return the treatment's rows; where they are repeated for every control, those of this one."""
    rows = rows[rows["family"] == "massive"]
    if control is None or "control" not in rows.columns:
        return rows
    return rows[rows["control"] == control]


def _title(massive: _Cells, metric: str, direction: str, compared: bool) -> str:
    head = f"{metric[:1].upper()}{metric[1:]}" + (f", {plot_text(direction)}" if direction else "")
    if not compared:
        low, high = np.nanmin(massive.mean), np.nanmax(massive.mean)
        return f"{head}: from {number(float(low))} to {number(float(high))} over block × step"
    total = int(np.isfinite(massive.difference).sum())
    more = int((massive.significant & (massive.difference > 0)).sum())
    less = int((massive.significant & (massive.difference < 0)).sum())
    return (
        f"{head}: massive exceed control in {more} of {count(total, 'cell')}, fall short in {less} "
        f"(corrected p ≤ {ALPHA:g})"
    )


def _heat(
    panels: Panels,
    index: int,
    cells: Grid,
    place: dict[str, Any],
    name: str,
    numbers: str,
    more: dict[str, Grid],
    axis: str,
) -> go.Heatmap:
    sigma = np.broadcast_to(place["sigma"].astype("float32"), cells.shape)
    noise = " (σ %{customdata[0]:.3f})" if np.isfinite(sigma).all() else ""
    return go.Heatmap(
        x=place["x"],
        y=place["y"],
        z=cells,
        customdata=np.stack([sigma, *more.values()], axis=-1),
        meta={"columns": ["sigma", *more], "z": "difference" if more else "mean"},
        hovertemplate=f"{name}<br>block %{{y}}, step %{{x}}{noise}<br>{numbers}<extra></extra>",
        coloraxis=axis,
        xgap=1,
        ygap=1,
        **panels.axes(index),
    )


def _outline(panels: Panels, chosen: Grid, blocks: list[int], steps: list[int]) -> go.Scatter:
    """Draw the border of the chosen cells as one trace; edges between two chosen cells are left out."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    rows, columns = chosen.shape

    def is_chosen(row: int, column: int) -> bool:
        return 0 <= row < rows and 0 <= column < columns and bool(chosen[row, column])

    # Half the distance to a neighbour: maps may hold every second block or step only.
    down, across = _halves(blocks), _halves(steps)
    for row, column in np.argwhere(chosen).tolist():
        left, right = steps[column] - across, steps[column] + across
        low, high = blocks[row] - down, blocks[row] + down
        for neighbour, edge in (
            ((row - 1, column), (left, right, low, low)),
            ((row + 1, column), (left, right, high, high)),
            ((row, column - 1), (left, left, low, high)),
            ((row, column + 1), (right, right, low, high)),
        ):
            if not is_chosen(*neighbour):
                xs += [edge[0], edge[1], None]
                ys += [edge[2], edge[3], None]
    return go.Scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"color": INK["light"], "width": 2},
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
        name="significant",
        **panels.axes(2),
    )


def _halves(places: list[int]) -> float:
    return (places[1] - places[0]) / 2 if len(places) > 1 else 0.5


def _colours(figure: go.Figure, panels: Panels, means: list[Grid], difference: Grid | None) -> None:
    """Give both levels one scale and the difference one that is centred on 0, with bars under the maps."""
    low = min(float(np.nanmin(grid)) for grid in means)
    high = max(float(np.nanmax(grid)) for grid in means)
    bar: dict[str, Any] = {
        "orientation": "h",
        "thickness": 10,
        "outlinewidth": 0,
        "lenmode": "fraction",
        "xanchor": "left",
        "yanchor": "top",
        "ticklabeloverflow": "allow",
        "nticks": 5,
        "xpad": 0,
    }
    figure.layout.coloraxis = {
        "colorscale": SEQUENTIAL,
        "cmin": low,
        "cmax": high if high > low else low + 1e-9,
        "colorbar": bar,
    }
    if difference is not None:
        extreme = float(np.nanmax(np.abs(difference), initial=0.0)) or 1e-9
        figure.layout.coloraxis2 = {
            "colorscale": DIVERGING,
            "cmin": -extreme,
            "cmax": extreme,
            "colorbar": bar,
        }
    for shape, patch in figure.layout.meta["arrangements"].items():
        panes = 1 if shape == "narrow" else len(panels.titles)
        # A bar stands below the last map of its scale: the control's, and the difference's.
        for axis, last, span in (("coloraxis", len(means) - 1, len(means)), ("coloraxis2", 2, 1)):
            if axis == "coloraxis2" and difference is None:
                continue
            ends = patch[f"xaxis{'' if last == 0 else last + 1}.domain"]
            start = ends[0] if panes == 1 else patch["xaxis.domain"][0] if span > 1 else ends[0]
            inner = patch["height"] - panels.top - patch["margin.b"]
            lowest = last + panes >= len(panels.titles)
            lower = patch[f"yaxis{'' if last == 0 else last + 1}.domain"][0]
            patch[f"{axis}.colorbar.x"] = round(start, 5)
            patch[f"{axis}.colorbar.len"] = round(ends[1] - start, 5)
            patch[f"{axis}.colorbar.y"] = round(lower - (_BAR if lowest else _BAR_BETWEEN) / inner, 5)
    wide = figure.layout.meta["arrangements"]["wide"]
    for key, value in wide.items():
        if ".colorbar." in key:
            axis, _, attribute = key.split(".")
            figure.layout[axis].colorbar[attribute] = value


def _some(values: list[int], most: int) -> list[int]:
    """Return every so many of the values, from the first on, and no more than `most`."""
    return values[:: max(1, -(-len(values) // most))]
