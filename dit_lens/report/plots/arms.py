"""What an edit does to the image, arm by arm: massive channels against their controls, and what is left of
them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.methods.metrics import quantity
from dit_lens.report.effect_words import OUTCOMES, families_in_order, family_name, p_words
from dit_lens.report.plots.effect_marks import (
    bars,
    control_label,
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
from dit_lens.report.theme import NEUTRAL

DISRUPTION = (
    "metric", "control", "draws", "treatment_mean", "control_mean", "clean_mean", "estimate", "ci_low",
    "ci_high", "n", "p", "p_adjusted", "rank_p", "direction", "outcome",
)  # fmt: skip
BIAS_OR_CARRIER = ("metric", "arm", "label", "mean", "ci_low", "ci_high", "n", "clean_mean")
LEVELS = ("metric", "place", "arm", "label", "family", "mean", "ci_low", "ci_high", "n", "clean_mean")
ROW = 36  # pixels of one arm


def disruption(data: Source, *, metric: str | None = None) -> go.Figure:
    """Draw massive − control with its interval for every control, and beside it the level of every arm.

    `data`: the `disruption` table; `metric` defaults to the most telling one there is. The grey line is no
    difference; a full marker is a supported difference, a hollow one undecided, a cross not supported.
    Raises `BadInput` for missing columns or an unknown metric.

    >>> dl.plots.disruption("reports/massive_activations").layout.title.text
    'Semantic attributes as asked: the interval of massive − control excludes 0 for ... controls'
    """
    table = table_of(data, "disruption")
    rows = rows_of(table, DISRUPTION)
    metric = one_metric(rows, metric)
    rows = rows_of(rows, DISRUPTION, metric=metric)
    by_control = rows.drop_duplicates("control").set_index("control")
    by_control = by_control.loc[families_in_order(by_control.index)]
    words = quantity(metric)
    clean = number_or_nan(by_control["clean_mean"])
    clean = clean[np.isfinite(clean)]
    lines = len(by_control) + 1 + bool(len(clean))
    claimed = "left" if by_control["direction"].iloc[0] == "less" else "right"
    outcomes = [name for name in OUTCOMES if name in set(by_control["outcome"])]
    labels = ["massive channels"] + [
        control_label(plot_text(str(kind)), int(draws))
        for kind, draws in zip(by_control.index, by_control["draws"], strict=True)
    ]
    panels = Panels(
        titles=(
            f"massive − control<br><span style='font-size:10px'>{claimed} of 0: massive disrupts more</span>",
            "level of every arm",
        ),
        wide=2,
        narrow=1,
        height=ROW * lines,
        x={"zeroline": False},
        y={
            "range": [lines - 0.45, -0.55],
            "showgrid": False,
            "tickmode": "array",
            "tickvals": list(range(lines)),
            "ticktext": [
                *(label.replace(" (", "<br>(") for label in labels),
                *(["clean"] * bool(len(clean))),
            ],
        },
        x_title=words.axis,
        gap=0.05,
        row_gap=92,
        legend=len(outcomes),
        top=78,
        bottom=60,
    )
    beyond = sum(
        not low <= 0 <= high for low, high in zip(by_control["ci_low"], by_control["ci_high"], strict=True)
    )
    figure = panels.figure(
        f"{_upper(words.title)}: the interval of massive − control excludes 0 for {beyond} of "
        f"{count(len(by_control), 'control')}"
    )
    _differences(figure, panels, by_control, outcomes)
    _levels(figure, panels, by_control, labels, clean)
    figure.update_layout(shapes=[zero_line(panels.axes(0), vertical=True)])
    # Both panels have the same lines, so side by side one set of names is enough.
    arrangements = figure.layout.meta["arrangements"]
    arrangements["narrow"]["xaxis.title.text"] = "difference"
    arrangements["wide"]["xaxis.title.text"] = f"difference in {words.axis}"
    figure.layout.xaxis.title.text = f"difference in {words.axis}"
    figure.update_annotations(align="left")
    arrangements["wide"]["yaxis2.showticklabels"] = False
    arrangements["narrow"]["yaxis2.showticklabels"] = True
    figure.layout.yaxis2.showticklabels = False
    return figure


def _differences(figure: go.Figure, panels: Panels, by_control: pd.DataFrame, outcomes: list[str]) -> None:
    colour = style_of("massive")["color"]
    position = pd.Series(np.arange(1, len(by_control) + 1), index=by_control.index)
    for outcome in outcomes:
        of_outcome = by_control[by_control["outcome"] == outcome]
        estimate = number_or_nan(of_outcome["estimate"])
        figure.add_trace(
            go.Scatter(
                x=estimate,
                y=position.loc[of_outcome.index].to_numpy(),
                error_x=bars(
                    estimate,
                    number_or_nan(of_outcome["ci_low"]),
                    number_or_nan(of_outcome["ci_high"]),
                    colour,
                ),
                mode="markers",
                marker=outcome_marker(outcome, colour),
                name=outcome,
                text=[_numbers(str(kind), row) for kind, row in of_outcome.iterrows()],
                hovertemplate="%{text}<extra></extra>",
                **panels.axes(0),
            )
        )


def _numbers(kind: str, row: Any) -> str:
    """Return every number of one comparison, for the hover."""
    rank = (
        ""
        if pd.isna(row["rank_p"])
        else f"<br>rank among {int(row['draws'])} draws: {p_words(row['rank_p'])}"
    )
    return (
        f"massive − {plot_text(family_name(kind))}: {number(row['estimate'])}<br>95 % CI "
        f"{number(row['ci_low'])} to {number(row['ci_high'])}, n = {count(int(row['n']), 'prompt')}<br>"
        f"{p_words(row['p'])}, corrected {p_words(row['p_adjusted'])}{rank}<br>{row['outcome']}"
    )


def _levels(
    figure: go.Figure, panels: Panels, by_control: pd.DataFrame, labels: list[str], clean: np.ndarray
) -> None:
    levels = [("massive", float(by_control["treatment_mean"].iloc[0]))]
    levels += [(str(kind), float(level)) for kind, level in by_control["control_mean"].items()]
    for line, ((family, level), label) in enumerate(zip(levels, labels, strict=True)):
        style = style_of(family)
        figure.add_trace(
            go.Scatter(
                x=[level],
                y=[line],
                mode="markers",
                marker={"symbol": style["symbol"], "size": 11, "color": style["color"]},
                hovertemplate=f"{label}: %{{x:.4g}}<extra></extra>",
                showlegend=False,
                **panels.axes(1),
            )
        )
    if len(clean):
        figure.add_trace(
            go.Scatter(
                x=[float(clean[0])],
                y=[len(levels)],
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 16, "color": NEUTRAL, "line": {"width": 3}},
                hovertemplate="clean: %{x:.4g}<extra></extra>",
                showlegend=False,
                **panels.axes(1),
            )
        )


def bias_or_carrier(data: Source, *, metric: str | None = None) -> go.Figure:
    """Draw the metric when all, only the mean, or only the layout of the massive channels is left.

    `data`: the `bias_or_carrier` table, one mark and 95 % interval per arm; the dotted line is the clean
    image. `metric` defaults to the most telling one there is. Raises `BadInput` for missing columns or an
    unknown metric.

    >>> dl.plots.bias_or_carrier("reports/massive_activations").layout.title.text
    'Semantic attributes as asked: from ... (zeroed: nothing is left) to ...'
    """
    table = table_of(data, "bias_or_carrier")
    rows = rows_of(table, BIAS_OR_CARRIER)
    metric = one_metric(rows, metric)
    rows = rows_of(rows, BIAS_OR_CARRIER, metric=metric)
    order = ["zero", "mean_only", "residual_only", "shuffled", "ln_preserving"]
    place = rows["arm"].map(lambda arm: order.index(arm) if arm in order else len(order))
    rows = rows.assign(place=place).sort_values(["place", "arm"], kind="stable").reset_index(drop=True)
    return _levels_with_intervals(rows.assign(family="massive"))


def levels(data: Source, *, metric: str | None = None) -> go.Figure:
    """Draw a metric for every arm of a study, with its interval: what each edit does by itself.

    `data`: a `StudyResult`, or its `levels` table, one mark and 95 % interval per arm in the study's order;
    the dotted line is the clean image. `metric` defaults to the most telling one there is. Whether an arm
    differs from a control is a paired question, which `disruption` draws. Raises `BadInput` for missing
    columns or an unknown metric.

    >>> arms = [dl.ablation_arm("massive", "massive", massive, dl.Zero())]
    >>> arms += [dl.control_arm(control) for control in dl.controls(massive, stats, "random")]
    >>> measures = dl.default_measures(lens, ["ssim"])
    >>> found = dl.run_study(lens, arms, prompts, [0], measures=measures, sampling={"steps": 4})
    >>> dl.plots.levels(found).layout.title.text
    'SSIM with the clean image: from ... (massive) to ... (random...)'
    """
    rows = rows_of(table_of(data, "levels"), LEVELS)
    rows = rows_of(rows, LEVELS, metric=one_metric(rows, metric)).sort_values("place", kind="stable")
    return _levels_with_intervals(rows.reset_index(drop=True))


def _levels_with_intervals(rows: pd.DataFrame) -> go.Figure:
    words = quantity(str(rows["metric"].iloc[0]))
    clean = number_or_nan(rows["clean_mean"])
    clean = clean[np.isfinite(clean)]
    panels = Panels(
        titles=("",),
        wide=1,
        narrow=1,
        height=ROW * len(rows) + 10,
        y={
            "range": [len(rows) - 0.45, -0.55],
            "showgrid": False,
            "tickmode": "array",
            "tickvals": list(range(len(rows))),
            "ticktext": [plot_text(str(label), width=26) for label in rows["label"]],
        },
        x_title=words.axis,
        legend=1 if len(clean) else 0,
        top=44,
    )
    mean = number_or_nan(rows["mean"])
    low, high = int(np.nanargmin(mean)), int(np.nanargmax(mean))
    figure = panels.figure(
        f"{_upper(words.title)}: from {number(mean[low])} ({plot_text(str(rows['label'][low]))}) to "
        f"{number(mean[high])} ({plot_text(str(rows['label'][high]))})"
    )
    for family in families_in_order(rows["family"]):
        style, own = style_of(family), rows[rows["family"] == family]
        level = number_or_nan(own["mean"])
        ends = number_or_nan(own["ci_low"]), number_or_nan(own["ci_high"])
        figure.add_trace(
            go.Scatter(
                x=level,
                y=own.index.to_numpy(),
                error_x=bars(level, *ends, style["color"]),
                mode="markers",
                marker={"symbol": style["symbol"], "size": 10, "color": style["color"]},
                name=plot_text(family_name(family)),
                customdata=np.column_stack([*ends, number_or_nan(own["n"])]),
                meta={"columns": ["ci_low", "ci_high", "n"]},
                text=[
                    f"{plot_text(str(row.label))}: {number(row.mean)}<br>95 % CI {number(row.ci_low)} to "
                    f"{number(row.ci_high)}, n = {count(int(row.n), 'prompt')}"
                    for row in own[["label", "mean", "ci_low", "ci_high", "n"]].itertuples()
                ],
                hovertemplate="%{text}<extra></extra>",
                showlegend=False,
                **panels.axes(0),
            )
        )
    if len(clean):
        figure.add_trace(
            go.Scatter(
                x=[float(clean[0])] * 2,
                y=[-0.55, len(rows) - 0.45],
                mode="lines",
                line={"color": NEUTRAL, "dash": "dot", "width": 2},
                name="clean image",
                hovertemplate="clean image: %{x:.4g}<extra></extra>",
                **panels.axes(0),
            )
        )
    return figure


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
