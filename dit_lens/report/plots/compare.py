"""Two runs in one figure: their effects on shared claims, and their channel sets block by block."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.report.effect_words import OUTCOMES, p_words
from dit_lens.report.plots.effect_marks import bars, number_or_nan, outcome_marker, zero_line
from dit_lens.report.plots.frame import BLOCK_AXIS, rows_of
from dit_lens.report.plots.panels import Panels
from dit_lens.report.text import count, listing, number, plot_text
from dit_lens.report.theme import CATEGORICAL, MARKERS

EFFECTS = ("run", "claim", "control", "estimate", "ci_low", "ci_high", "n", "p_adjusted", "outcome", "unit")
CHANNELS = ("block", "jaccard", "shared", "only_a", "only_b")
ROW = 46  # pixels of one claim
_APART = 0.17  # of a row, between its two marks
_BROAD, _THIN = 56, 26  # characters of a claim on one line, in the wide and the narrow arrangement


def compare_effects(table: pd.DataFrame) -> go.Figure:
    """Draw the effects of two runs on the same claims, one below the other, each with its 95 % interval.

    `table`: rows of both runs, two for each claim and control, with the columns `EFFECTS`; `run` is how a run
    is called, `unit` what the estimates are in. The grey line is no difference; a full marker is a supported
    claim, a hollow one undecided, a cross not supported. Raises `BadInput` for missing columns or no rows.
    """
    rows = rows_of(table, EFFECTS)
    runs = list(dict.fromkeys(rows["run"]))
    places = list(dict.fromkeys(zip(rows["claim"], rows["control"], strict=True)))
    labels, thin = (
        [
            f"{plot_text(claim, width=width)}<br><i>against {plot_text(control, width=width)}</i>"
            for claim, control in places
        ]
        for width in (_BROAD, _THIN)
    )
    outcomes = [outcome for outcome in OUTCOMES if outcome in set(rows["outcome"])]
    y = {
        "range": [len(places) - 0.4, -0.6],
        "showgrid": False,
        "tickmode": "array",
        "tickvals": list(range(len(places))),
    }
    panels = Panels(
        titles=("",),
        wide=1,
        narrow=1,
        height=_height(labels),
        y={**y, "ticktext": labels},
        x={"nticks": 6},
        x_title=f"treatment − control ({plot_text(str(rows['unit'].iloc[0]))})",
        legend=len(runs) + len(outcomes),
        top=44,
        bottom=58,
    )
    figure = panels.figure(_title(rows, runs, len(places)))
    for index, run in enumerate(runs):
        own = rows[rows["run"] == run].set_index(["claim", "control"]).reindex(places)
        colour, shift = CATEGORICAL[index], _APART * (2 * index - 1)
        middle, low, high = (number_or_nan(own[name]) for name in ("estimate", "ci_low", "ci_high"))
        words = [
            _words(str(run), claim, control, row)
            for (claim, control), (_, row) in zip(places, own.iterrows(), strict=True)
        ]
        marks = [outcome_marker(str(outcome), colour) for outcome in own["outcome"]]
        figure.add_trace(
            go.Scatter(
                x=middle,
                y=np.arange(len(places)) + shift,
                mode="markers",
                marker={
                    "symbol": [
                        mark["symbol"].replace("circle", MARKERS[index]) if mark["symbol"] != "x" else "x"
                        for mark in marks
                    ],
                    "size": 10,
                    "color": colour,
                    "line": {"width": 2, "color": colour},
                },
                error_x=bars(middle, low, high, colour),
                name=plot_text(str(run), limit=40),
                legendgroup=str(index),
                showlegend=False,
                text=words,
                hovertemplate="%{text}<extra></extra>",
                **panels.axes(0),
            )
        )
        figure.add_trace(_entry(plot_text(str(run), limit=40), MARKERS[index], colour))
    grey = "#8a8f98"
    for outcome in outcomes:
        mark = outcome_marker(outcome, grey)
        figure.add_trace(_entry(outcome, mark["symbol"], grey))
    figure.update_layout(shapes=[zero_line(panels.axes(0), vertical=True)])
    wide, narrow = (figure.layout.meta["arrangements"][shape] for shape in ("wide", "narrow"))
    wide |= {"yaxis.ticktext": labels, "yaxis.tickfont.size": 11}
    narrow |= {"yaxis.ticktext": thin, "yaxis.tickfont.size": 9}
    narrow["height"] += _height(thin) - _height(labels)
    return figure


def _height(labels: list[str]) -> int:
    """Return how many pixels rows with these labels need: all are as tall as the tallest."""
    lines = max(1 + label.count("<br>") for label in labels)
    return len(labels) * max(ROW, 14 * lines + 10) + 12


def _entry(name: str, symbol: str, colour: str) -> go.Scatter:
    """Return a legend entry that draws nothing."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        name=name,
        marker={"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
        hoverinfo="skip",
    )


def _words(run: str, claim: str, control: str, row: pd.Series) -> str:
    head = f"{plot_text(run, limit=40)}: {plot_text(claim, width=60)}<br>against {plot_text(control)}: "
    if pd.isna(row["estimate"]):
        return head + "not estimated"
    interval = (
        f"95 % CI {number(row['ci_low'])} to {number(row['ci_high'])}"
        if pd.notna(row["ci_low"])
        else "no interval"
    )
    p = None if pd.isna(row["p_adjusted"]) else float(row["p_adjusted"])
    return (
        f"{head}{number(row['estimate'])}<br>{interval}, n = {int(row['n'])}, corrected {p_words(p)}<br>"
        f"{row['outcome']}"
    )


def _title(rows: pd.DataFrame, runs: list[str], places: int) -> str:
    """Return in how many comparisons both runs point the same way."""
    unit = plot_text(str(rows["unit"].iloc[0]))
    if len(runs) != 2:
        return f"Effects on {count(places, 'claim')}, in {unit}"
    sides = [rows[rows["run"] == run].set_index(["claim", "control"])["estimate"] for run in runs]
    both = pd.concat(sides, axis=1, join="inner").apply(pd.to_numeric, errors="coerce").dropna()
    same = int((np.sign(both.iloc[:, 0]) == np.sign(both.iloc[:, 1])).sum())
    return f"Both runs point the same way in {same} of {count(len(both), 'comparison')} ({unit})"


def compare_channels(table: pd.DataFrame) -> go.Figure:
    """Draw the Jaccard overlap of two channel sets for every block.

    `table`: columns `CHANNELS`, where `shared`, `only_a` and `only_b` are lists of channel numbers. Raises
    `BadInput` for missing columns or no rows.
    """
    rows = rows_of(table, CHANNELS).sort_values("block")
    overlap = rows["jaccard"].to_numpy(dtype=float)
    panels = Panels(
        titles=("",),
        wide=1,
        narrow=1,
        height=200,
        x={"dtick": max(1, len(rows) // 20), "showgrid": False},
        y={"range": [0, 1.05], "dtick": 0.25},
        x_title=BLOCK_AXIS,
        y_title="Jaccard overlap (1 = same set)",
        top=44,
    )
    same = int((overlap == 1).sum())
    figure = panels.figure(
        f"The sets are equal in {same} of {count(len(rows), 'block')}; mean overlap {number(overlap.mean())}"
    )
    words = [
        f"block {row.block}: {number(row.jaccard)}<br>shared: {_channels(row.shared)}<br>"
        f"A only: {_channels(row.only_a)}<br>B only: {_channels(row.only_b)}"
        for row in rows.itertuples(index=False)
    ]
    figure.add_trace(
        go.Bar(
            x=rows["block"].to_numpy(dtype=int),
            y=overlap,
            marker={"color": CATEGORICAL[0]},
            text=words,
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
            **panels.axes(0),
        )
    )
    return figure


def _channels(chosen: list[int]) -> str:
    return listing(list(chosen)) if len(chosen) else "none"
