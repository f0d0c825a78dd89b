"""How much is carried, and how hard a run is led away from its edited self: levels along one number."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from dit_lens.methods.metrics import quantity
from dit_lens.report.carry_findings import curve_sentence, guidance_sentence
from dit_lens.report.carry_words import AXES, LEVEL, carry_words, in_order, natural, unmoved, upper_first
from dit_lens.report.effect_words import families_in_order, family_name
from dit_lens.report.plots.carry import chosen_metric
from dit_lens.report.plots.effect_marks import (
    bars,
    level_curve,
    level_words,
    number_or_nan,
    number_ticks,
    one_metric,
    style_of,
    zero_line,
)
from dit_lens.report.plots.frame import rows_of
from dit_lens.report.plots.panels import Panels
from dit_lens.report.plots.sources import Source, table_of
from dit_lens.report.text import plot_text

TRANSPORT_CURVES = ("axis", "value", "family", *LEVEL)
GUIDANCE = ("weight", "cfg", "family", *LEVEL)


# ------------------------------------------------------------------------------------ along what is carried
def transport_curves(data: Source, *, metric: str | None = None) -> go.Figure:
    """Draw a metric over which blocks, which steps, how many channels and which part of them are carried.

    `data`: the `transport_curves` table, one panel per axis; marks have 95 % intervals. `metric` defaults to
    the most telling one there is. Raises `BadInput` for missing columns or an unknown metric.

    >>> dl.plots.transport_curves("reports/massive_activations").layout.title.text
    "Final latent's way to the source's: highest for blocks ..."
    """
    table = table_of(data, "transport_curves")
    rows = rows_of(table, TRANSPORT_CURVES)
    metric = chosen_metric(rows, metric)
    rows = rows_of(rows, TRANSPORT_CURVES, metric=metric)
    families, axes = families_in_order(rows["family"]), in_order(rows["axis"], tuple(AXES))
    words = carry_words(metric)
    panels = Panels(
        titles=tuple(AXES.get(axis, plot_text(axis)) for axis in axes),
        wide=2,
        narrow=1,
        height=210,
        x={"showgrid": False, "zeroline": False, "tickmode": "array"},
        y={"matches": "y"},
        y_title=words.unit or words.title,
        gap=0.09,
        row_gap=64,
        legend=len(families),
    )
    figure = panels.figure(upper_first(f"{words.title}: {curve_sentence(rows)}"))
    shown: set[str] = set()
    for index, axis in enumerate(axes):
        own = rows[rows["axis"].astype(str) == axis]
        values = sorted({str(value) for value in own["value"]}, key=natural)
        for rank, family in enumerate(families):
            of_family = own[own["family"] == family].drop_duplicates("value")
            shift = 0.5 * (rank - (len(families) - 1) / 2) / max(2, len(families))
            of_family = of_family.assign(
                place=[values.index(str(value)) + shift for value in of_family["value"]]
            )
            of_family = of_family.sort_values("place", kind="stable")
            if len(of_family):
                where = panels.axes(index)
                _marks_along(figure, where, of_family, family, axis, axis != "part", family not in shown)
                shown.add(family)
        suffix = panels.axes(index)["xaxis"].removeprefix("x")
        figure.layout[f"xaxis{suffix}"].update(
            tickvals=list(range(len(values))),
            ticktext=[plot_text(value, limit=24) for value in values],
            range=[-0.6, len(values) - 0.4],
        )
    if (level := unmoved(metric)) is not None:
        marks = [zero_line(panels.axes(index), at=level) for index in range(len(axes))]
        figure.update_layout(shapes=marks)
    return figure


def _marks_along(
    figure: go.Figure,
    axes: dict[str, str],
    rows: pd.DataFrame,
    family: str,
    axis: str,
    joined: bool,
    legend: bool,
) -> None:
    style, name = style_of(family), plot_text(family_name(family))
    mean = number_or_nan(rows["mean"])
    figure.add_trace(
        go.Scatter(
            x=rows["place"].to_numpy(dtype=float),
            y=mean,
            error_y=bars(mean, number_or_nan(rows["ci_low"]), number_or_nan(rows["ci_high"]), style["color"]),
            mode="lines+markers" if joined and len(rows) > 1 else "markers",
            line={"color": style["color"], "width": 1, "dash": "dot"},
            marker={"symbol": style["symbol"], "size": 9, "color": style["color"]},
            name=name,
            legendgroup=family,
            showlegend=legend,
            text=[
                level_words(f"{name}, {plot_text(axis)} {plot_text(str(row['value']))}", row)
                for _, row in rows.iterrows()
            ],
            hovertemplate="%{text}<extra></extra>",
            **axes,
        )
    )


# ------------------------------------------------------------------------------------------------ guidance
def detail_guidance(data: Source, *, metric: str | None = None) -> go.Figure:
    """Draw a metric over the weight of Detail Guidance, on top of classifier-free guidance and without it.

    `data`: the `guidance` table (arXiv 2510.11538); bands are 95 % intervals. `metric` defaults to the most
    telling one there is. Raises `BadInput` for missing columns or an unknown metric.

    >>> dl.plots.detail_guidance("reports/massive_activations").layout.title.text
    'Prompt alignment: massive channels, from ... (w = 0) to ... (w = 1) with CFG and ...'
    """
    table = table_of(data, "guidance")
    rows = rows_of(table, GUIDANCE)
    metric = one_metric(rows, metric)
    rows = rows_of(rows, GUIDANCE, metric=metric).sort_values("weight", kind="stable")
    rows = rows.assign(cfg=[str(value).lower() == "true" for value in rows["cfg"]])
    families, weights = families_in_order(rows["family"]), sorted({float(value) for value in rows["weight"]})
    words = quantity(metric)
    cells = sorted(set(rows["cfg"]), reverse=True)
    panels = Panels(
        titles=tuple(
            "with classifier-free guidance" if cfg else "without classifier-free guidance" for cfg in cells
        ),
        wide=len(cells),
        narrow=1,
        height=250,
        x={**number_ticks(weights), "showgrid": False},
        y={"matches": "y"},
        x_title="weight w (0 = no Detail Guidance)",
        y_title=words.unit or words.title,
        gap=0.09,
        row_gap=84,
        legend=len(families),
    )
    figure = panels.figure(f"{upper_first(words.title)}: {guidance_sentence(rows)}")
    shown: set[str] = set()
    for index, cfg in enumerate(cells):
        for family in families:
            own = rows[(rows["cfg"] == cfg) & (rows["family"] == family)].drop_duplicates("weight")
            if len(own):
                level_curve(figure, panels.axes(index), own, "weight", family, family not in shown)
                shown.add(family)
    return figure
