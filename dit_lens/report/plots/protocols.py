"""One block or all of them, few channels or many: effects along the size of the edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.methods.metrics import quantity
from dit_lens.report.effect_words import OUTCOMES, families_in_order, family_name, metrics_in_order, p_words
from dit_lens.report.plots.effect_marks import (
    bars,
    line_with_band,
    number_or_nan,
    one_metric,
    outcome_marker,
    style_of,
    zero_line,
)
from dit_lens.report.plots.frame import rows_of
from dit_lens.report.plots.panels import Panels
from dit_lens.report.plots.sources import Source, table_of
from dit_lens.report.text import count, number, plot_text

SEMANTICS_OR_DETAIL = ("protocol", "family", "block", "metric", "change", "ci_low", "ci_high", "n")
SINGLE_OR_ALL = (
    "metric", "family", "block", "mean", "ci_low", "ci_high", "difference", "difference_low",
    "difference_high", "p_adjusted", "outcome", "n",
)  # fmt: skip
DOSE = ("metric", "family", "k", "mean", "ci_low", "ci_high", "n")
_ALL_AT = -2.0  # where, left of block 0, the edit of all blocks stands
_MOST_TICKS = 14


def semantics_or_detail(data: Source, *, metrics: Sequence[str] | None = None) -> go.Figure:
    """Draw what editing all blocks, and each block alone, changes in every metric, massive beside control.

    `data`: the `semantics_or_detail` table; one panel for each of `metrics`, all of them by default. On the
    left of a panel all blocks are edited, then one at a time; marks have 95 % intervals, the grey line is
    the clean image. Raises `BadInput` for missing columns or unknown metrics.

    >>> dl.plots.semantics_or_detail("reports/massive_activations").layout.title.text
    'Editing massive channels in all blocks: semantic attributes as asked ...'
    """
    table = table_of(data, "semantics_or_detail")
    rows = rows_of(table, SEMANTICS_OR_DETAIL)
    names = metrics_in_order(rows["metric"])
    if metrics is not None:
        names = [one_metric(rows, metric) for metric in metrics]
    rows = rows_of(rows[rows["metric"].isin(names)], SEMANTICS_OR_DETAIL)
    families = families_in_order(rows["family"])
    everywhere = rows["protocol"] == "all_blocks"
    place = np.where(everywhere, _ALL_AT, number_or_nan(rows["block"]))
    rows = rows.assign(place=place).dropna(subset=["place"]).sort_values(["place"], kind="stable")
    ticks = _block_ticks(rows["place"])
    panels = Panels(
        titles=tuple(quantity(name).title for name in names),
        wide=2 if len(names) > 1 else 1,
        narrow=1,
        height=190,
        x={**ticks, "showgrid": False},
        y={"zeroline": False},
        x_title="edited block",
        gap=0.09,
        row_gap=66,
        legend=len(families),
    )
    figure = panels.figure(_title(rows, names))
    shapes = []
    for index, name in enumerate(names):
        of_metric = rows[rows["metric"] == name]
        for rank, family in enumerate(families):
            of_family = of_metric[of_metric["family"] == family]
            shift = 0.22 * (rank - (len(families) - 1) / 2)
            _both_protocols(figure, panels.axes(index), of_family, family, shift, index == 0)
        level = quantity(name).unchanged
        if level is not None:
            shapes.append(zero_line(panels.axes(index), at=level))
    figure.update_layout(shapes=shapes)
    return figure


def _block_ticks(places: pd.Series) -> dict[str, Any]:
    blocks = sorted({int(place) for place in places if place >= 0})
    shown = blocks[:: max(1, -(-len(blocks) // _MOST_TICKS))]
    there = [_ALL_AT] if (places == _ALL_AT).any() else []
    return {
        "tickmode": "array",
        "tickvals": [*there, *shown],
        "ticktext": [*(["all"] * len(there)), *map(str, shown)],
        "range": [min([*there, 0, *blocks]) - 0.7, max([0, *blocks]) + 0.7],
    }


def _both_protocols(
    figure: go.Figure, axes: dict[str, str], rows: pd.DataFrame, family: str, shift: float, legend: bool
) -> None:
    style = style_of(family)
    name = plot_text(family_name(family))
    for position, part in enumerate((rows[rows["place"] >= 0], rows[rows["place"] == _ALL_AT])):
        if part.empty:
            continue
        change = number_or_nan(part["change"])
        figure.add_trace(
            go.Scatter(
                x=part["place"].to_numpy() + shift,
                y=change,
                error_y=bars(
                    change, number_or_nan(part["ci_low"]), number_or_nan(part["ci_high"]), style["color"]
                ),
                mode="markers" if position else "lines+markers",
                line={"color": style["color"], "width": 1, "dash": "dot"},
                marker={"symbol": style["symbol"], "size": 8 + 3 * position, "color": style["color"]},
                name=name,
                legendgroup=family,
                showlegend=legend and (position == 0 or not (rows["place"] >= 0).any()),
                text=[
                    f"{name}, {'all blocks' if position else f'block {int(row.place)}'}: {number(row.change)}"
                    f"<br>95 % CI {number(row.ci_low)} to {number(row.ci_high)}, "
                    f"n = {count(int(row.n), 'prompt')}"
                    for row in part[["place", "change", "ci_low", "ci_high", "n"]].itertuples()
                ],
                hovertemplate="%{text}<extra></extra>",
                **axes,
            )
        )


def _title(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """Return what massive channels change when all blocks are edited, in the first two metrics."""
    massive = rows[(rows["family"] == "massive") & (rows["place"] == _ALL_AT)].drop_duplicates("metric")
    change = massive.set_index("metric")["change"]
    said = [f"{quantity(name).title} {number(change[name])}" for name in names if name in change.index][:2]
    return (
        f"Editing massive channels in all blocks: {', '.join(said)}"
        if said
        else f"What editing one block, or all, changes in {count(len(names), 'metric')}"
    )


def single_or_all(data: Source, *, metric: str | None = None) -> go.Figure:
    """Draw the metric when one block is edited, block by block, and massive − control beside it.

    `data`: the `single_or_all` table. Bands are 95 % intervals, horizontal lines the edit of all blocks at
    once; `metric` defaults to the most telling one there is. Raises `BadInput` for missing columns or an
    unknown metric.

    >>> dl.plots.single_or_all("reports/massive_activations").layout.title.text
    'Semantic attributes as asked, massive − control: one block differs by up to ...'
    """
    table = table_of(data, "single_or_all")
    rows = rows_of(table, SINGLE_OR_ALL)
    metric = one_metric(rows, metric)
    rows = rows_of(rows, SINGLE_OR_ALL, metric=metric)
    rows = rows.assign(place=number_or_nan(rows["block"])).sort_values("place", kind="stable")
    families = families_in_order(rows["family"])
    single, whole = rows[rows["place"].notna()], rows[rows["place"].isna()]
    outcomes = [
        name for name in OUTCOMES if name in set(single.loc[single["family"] == "massive", "outcome"])
    ]
    words = quantity(metric)
    blocks = single["place"].nunique()
    panels = Panels(
        titles=("level, one block edited", "massive − control"),
        wide=2,
        narrow=1,
        height=260,
        x={"dtick": max(1, blocks // _MOST_TICKS), "showgrid": False},
        x_title="edited block",
        gap=0.09,
        row_gap=84,
        legend=len(families) + len(outcomes) + 1,
    )
    figure = panels.figure(_strongest(single, whole, words.title))
    for index, family in enumerate(families):
        _levels_by_block(figure, panels, single, whole, family, index + 1 == len(families))
    shapes = [zero_line(panels.axes(1))]
    _differences_by_block(figure, panels, single, whole, outcomes)
    figure.update_layout(shapes=shapes, yaxis={"title": {"text": words.axis}})
    for patch in figure.layout.meta["arrangements"].values():
        patch["yaxis.title.text"] = words.axis
    return figure


def _strongest(single: pd.DataFrame, whole: pd.DataFrame, title: str) -> str:
    massive = single[single["family"] == "massive"].dropna(subset=["difference"])
    at_once = whole[whole["family"] == "massive"].dropna(subset=["difference"])
    parts = []
    if len(massive):
        peak = massive.loc[massive["difference"].abs().idxmax()]
        parts.append(f"one block differs by up to {number(peak['difference'])} (block {int(peak['place'])})")
    if len(at_once):
        parts.append(f"all blocks at once by {number(at_once['difference'].iloc[0])}")
    head = f"{title[:1].upper()}{title[1:]}, massive − control"
    return f"{head}: {', '.join(parts)}" if parts else f"{head}: nothing to compare"


def _levels_by_block(
    figure: go.Figure, panels: Panels, single: pd.DataFrame, whole: pd.DataFrame, family: str, last: bool
) -> None:
    style, name = style_of(family), plot_text(family_name(family))
    own = single[single["family"] == family].drop_duplicates("place")
    x = own["place"].to_numpy()
    line_with_band(figure, panels.axes(0), own, "place", family, where="block %{x}")
    level = number_or_nan(whole.loc[whole["family"] == family, "mean"])
    if len(level) and len(x):
        figure.add_trace(
            go.Scatter(
                x=[x.min() - 0.5, x.max() + 0.5],
                y=[level[0]] * 2,
                mode="lines",
                line={"color": style["color"], "dash": "dash", "width": 1.5},
                name="all blocks at once (dashed)",
                legendgroup="whole",
                showlegend=last,
                hovertemplate=f"{name}, all blocks at once: %{{y:.4g}}<extra></extra>",
                **panels.axes(0),
            )
        )


def _differences_by_block(
    figure: go.Figure, panels: Panels, single: pd.DataFrame, whole: pd.DataFrame, outcomes: Sequence[str]
) -> None:
    massive = single[single["family"] == "massive"]
    colour = style_of("massive")["color"]
    for outcome in outcomes:
        own = massive[massive["outcome"] == outcome]
        value = number_or_nan(own["difference"])
        figure.add_trace(
            go.Scatter(
                x=own["place"].to_numpy(),
                y=value,
                error_y=bars(
                    value, number_or_nan(own["difference_low"]), number_or_nan(own["difference_high"]), colour
                ),
                mode="markers",
                marker=outcome_marker(outcome, colour),
                name=outcome,
                text=[
                    f"block {int(row.place)}: massive − control {number(row.difference)}<br>95 % CI "
                    f"{number(row.difference_low)} to {number(row.difference_high)}<br>corrected "
                    f"{p_words(row.p_adjusted)}, n = {count(int(row.n), 'prompt')}<br>{outcome}"
                    for row in own.itertuples()
                ],
                hovertemplate="%{text}<extra></extra>",
                **panels.axes(1),
            )
        )
    at_once = number_or_nan(whole.loc[whole["family"] == "massive", "difference"])
    if len(at_once) and len(massive):
        figure.add_trace(
            go.Scatter(
                x=[massive["place"].min() - 0.5, massive["place"].max() + 0.5],
                y=[at_once[0]] * 2,
                mode="lines",
                line={"color": colour, "dash": "dash", "width": 1.5},
                showlegend=False,
                hovertemplate="all blocks at once: %{y:.4g}<extra></extra>",
                **panels.axes(1),
            )
        )


def dose(data: Source, *, metric: str | None = None) -> go.Figure:
    """Draw the metric against how many channels are edited (k, logarithmic), massive and controls.

    `data`: the `dose` table; bands are 95 % intervals. `metric` defaults to the most telling one there is.
    Raises `BadInput` for missing columns or an unknown metric.

    >>> dl.plots.dose("reports/massive_activations").layout.title.text
    'Semantic attributes as asked: massive channels from ... (k = 1) to ... (k = 16)'
    """
    table = table_of(data, "dose")
    rows = rows_of(table, DOSE)
    metric = one_metric(rows, metric)
    rows = rows_of(rows, DOSE, metric=metric).sort_values("k", kind="stable")
    families = families_in_order(rows["family"])
    doses = sorted({int(k) for k in rows["k"]})
    words = quantity(metric)
    panels = Panels(
        titles=("",),
        wide=1,
        narrow=1,
        height=300,
        x={
            "type": "log",
            "tickmode": "array",
            "tickvals": doses,
            "ticktext": list(map(str, doses)),
            "range": [np.log10(doses[0] / 1.15), np.log10(doses[-1] * 1.15)],
        },
        x_title="edited channels in each block (k)",
        y_title=words.axis,
        legend=len(families),
        top=44,
    )
    massive = rows[rows["family"] == "massive"].drop_duplicates("k")
    said = (
        f"massive channels from {number(massive['mean'].iloc[0])} (k = {int(massive['k'].iloc[0])}) to "
        f"{number(massive['mean'].iloc[-1])} (k = {int(massive['k'].iloc[-1])})"
        if len(massive)
        else "no massive channels"
    )
    figure = panels.figure(f"{words.title[:1].upper()}{words.title[1:]}: {said}")
    for family in families:
        own = rows[rows["family"] == family].drop_duplicates("k")
        line_with_band(figure, panels.axes(0), own, "k", family, where="k = %{x}")
    return figure
