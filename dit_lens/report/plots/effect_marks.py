"""Marks that every effect figure shares: one look for each family of arms and for each outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.errors import BadInput
from dit_lens.methods.control_labels import control_colour
from dit_lens.report.effect_words import family_name, metrics_in_order
from dit_lens.report.text import number, plot_text
from dit_lens.report.theme import CATEGORICAL, MARKERS, NEUTRAL, category, faint

# A family keeps its colour and marker in every figure of a report: massive this one, controls those that they
# name themselves. Others take what is left, in order.
_MASSIVE = 1

# What is compared with massive beside as many channels: dashed, with markers of their own.
_OTHER_WAYS = {
    "all": (5, "hexagon"),
    "all_but_massive": (0, "pentagon"),
    "latent_blend": (2, "cross"),
    "pixel_blend": (3, "bowtie"),
    "prompt_blend": (4, "triangle-down"),
}

_OUTCOME_SYMBOL = {"supported": "circle", "undecided": "circle-open", "not supported": "x"}
_HALF_CAP = 4  # pixels of the caps of an interval


def style_of(family: str) -> dict[str, Any]:
    """Return the colour, marker and dash of a family of arms."""
    if family == "clean":
        return {"color": NEUTRAL, "symbol": "line-ns-open", "dash": "dot"}
    index = _MASSIVE if family == "massive" else control_colour(family)
    if index is not None:
        return {"color": CATEGORICAL[index], "symbol": MARKERS[index], "dash": "solid"}
    if family in _OTHER_WAYS:
        index, symbol = _OTHER_WAYS[family]
        return {"color": CATEGORICAL[index], "symbol": symbol, "dash": "dash"}
    # A stable choice among the later styles, so that one unknown family looks the same in every figure.
    return category(len(CATEGORICAL) + sum(map(ord, family)) % len(CATEGORICAL))


def outcome_marker(outcome: str, colour: str) -> dict[str, Any]:
    """Return the marker of a judged difference: full if supported, hollow if undecided, else a cross."""
    symbol = _OUTCOME_SYMBOL[outcome]
    return {"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}}


def one_metric(rows: pd.DataFrame, metric: str | None) -> str:
    """Return the metric to draw: the one asked for, or the most telling there is."""
    there = metrics_in_order(rows["metric"])
    if metric is None:
        return there[0]
    if metric not in there:
        raise BadInput(f"No row has metric = {metric!r}; there are: {', '.join(there)}.")
    return metric


def bars(middle: Any, low: Any, high: Any, colour: str) -> dict[str, Any]:
    """Return plotly's error bars of intervals around their estimates (NaN: none is drawn)."""
    middle, low, high = (np.asarray(one, dtype=float) for one in (middle, low, high))
    return {
        "type": "data",
        "symmetric": False,
        "array": high - middle,
        "arrayminus": middle - low,
        "color": colour,
        "thickness": 1.6,
        "width": _HALF_CAP,
    }


def band(
    figure: go.Figure, x: Any, low: Any, high: Any, colour: str, axes: Mapping[str, str], group: str
) -> None:
    """Draw an interval as a band behind a line; positions without an interval are left out."""
    x, low, high = (np.asarray(one, dtype=float) for one in (x, low, high))
    there = np.isfinite(low) & np.isfinite(high)
    if not there.any():
        return
    figure.add_trace(
        go.Scatter(
            x=np.concatenate([x[there], x[there][::-1]]),
            y=np.concatenate([high[there], low[there][::-1]]),
            mode="lines",
            fill="toself",
            fillcolor=faint(colour, 0.16),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=group,
            **axes,
        )
    )


def line_with_band(
    figure: go.Figure,
    axes: Mapping[str, str],
    rows: pd.DataFrame,
    along: str,
    family: str,
    *,
    where: str,
    also: Sequence[str] = (),
    hover: str = "",
    legend: bool = True,
) -> None:
    """Draw a family's mean along a column as a line with marks, and its 95 % interval as a band behind it.

    `where` names a place in the hover (`block %{x}`); the columns `also` go into the figure's rows, and
    `hover` may show them: the first is `customdata[3]`.
    """
    style, name = style_of(family), plot_text(family_name(family))
    x = rows[along].to_numpy(dtype=float)
    low, high = number_or_nan(rows["ci_low"]), number_or_nan(rows["ci_high"])
    band(figure, x, low, high, style["color"], axes, family)
    columns = ["ci_low", "ci_high", "n", *also]
    figure.add_trace(
        go.Scatter(
            x=x,
            y=number_or_nan(rows["mean"]),
            mode="lines+markers",
            line={"color": style["color"], "dash": style["dash"], "width": 2},
            marker={"symbol": style["symbol"], "size": 8, "color": style["color"]},
            name=name,
            legendgroup=family,
            showlegend=legend,
            customdata=np.column_stack([number_or_nan(rows[column]) for column in columns]),
            meta={"columns": columns},
            hovertemplate=f"{name}, {where}: %{{y:.3g}}<br>95 % CI %{{customdata[0]:.3g}} to "
            f"%{{customdata[1]:.3g}}, n = %{{customdata[2]}}{hover}<extra></extra>",
            **axes,
        )
    )


def zero_line(axes: Mapping[str, str], *, vertical: bool = False, at: float = 0.0) -> dict[str, Any]:
    """Return the line that an interval must leave on one side, as a layout shape of one panel."""
    xaxis, yaxis = axes["xaxis"], axes["yaxis"]
    look = {"type": "line", "line": {"width": 1.5, "color": NEUTRAL}, "layer": "below"}
    if vertical:
        return {**look, "x0": at, "x1": at, "xref": xaxis, "y0": 0, "y1": 1, "yref": f"{yaxis} domain"}
    return {**look, "y0": at, "y1": at, "yref": yaxis, "x0": 0, "x1": 1, "xref": f"{xaxis} domain"}


def number_or_nan(values: Any) -> np.ndarray:
    """Return a nullable column as float64."""
    return pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan)


def control_label(kind: str, draws: int) -> str:
    """Return a control and how often it was drawn: `random (5 draws)`."""
    return family_name(kind) + (f" ({draws} draws)" if draws > 1 else "")


def number_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Return plotly's tick attributes for an axis of a few numbers, with room at both ends."""
    shown = values[:: max(1, -(-len(values) // 9))]
    room = 0.06 * max(values[-1] - values[0], 0.5)
    return {
        "tickmode": "array",
        "tickvals": list(shown),
        "ticktext": [number(value) for value in shown],
        "range": [values[0] - room, values[-1] + room],
    }


def level_curve(
    figure: go.Figure,
    axes: dict[str, str],
    rows: pd.DataFrame,
    along: str,
    family: str,
    legend: bool,
    aside: float = 0.0,
) -> None:
    """Draw a family's level along a column, with its interval as a band.

    A single level is a mark, drawn `aside` of its place so that marks of several families can be told apart.
    """
    if len(rows) > 1:
        line_with_band(figure, axes, rows, along, family, where=f"{along} %{{x}}", legend=legend)
        return
    style, name = style_of(family), plot_text(family_name(family))
    y, low, high = (number_or_nan(rows[column]) for column in ("mean", "ci_low", "ci_high"))
    figure.add_trace(
        go.Scatter(
            x=rows[along].to_numpy(dtype=float) + aside,
            y=y,
            error_y=bars(y, low, high, style["color"]),
            mode="markers",
            marker={"symbol": style["symbol"], "size": 8, "color": style["color"]},
            name=name,
            legendgroup=family,
            showlegend=legend,
            customdata=np.column_stack([number_or_nan(rows[column]) for column in (along, "n")]),
            meta={"columns": [along, "n"]},
            text=[level_words(f"{name}, {along} {number(row[along])}", row) for _, row in rows.iterrows()],
            hovertemplate="%{text}<extra></extra>",
            **axes,
        )
    )


def level_words(what: str, row: Any) -> str:
    """Return one mark's level, interval and n, for the hover; and why an interval is none of the usual."""
    note = plot_text(str(row.get("ci_note") or ""))
    return (
        f"{what}: {number(row['mean'])}<br>95 % CI {number(row['ci_low'])} to {number(row['ci_high'])}, "
        f"n = {int(row['n'])}{f'<br>{note}' if note else ''}"
    )
