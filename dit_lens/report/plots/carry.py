"""What carrying activations from one run into another does: along strength, and attribute by attribute."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.errors import BadInput
from dit_lens.report.carry_findings import attribute_sentence, strength_sentence
from dit_lens.report.carry_words import (
    ATTRIBUTES,
    LEVEL,
    MOVED,
    OTHER_WAYS,
    carry_metrics,
    carry_words,
    in_order,
    pair_groups,
    unit_word,
    unmoved,
    upper_first,
    way_column,
    way_words,
    ways,
    whole_strength,
)
from dit_lens.report.effect_words import families_in_order, family_name
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
from dit_lens.report.theme import NEUTRAL, faint

TRANSPORT = ("pair_group", "family", "strength", *LEVEL)
CARRIED = ("transport", "transport_image")
_SLOT = 9  # pixels between the marks of two families in one line of the dot plot


# --------------------------------------------------------------------------------------------- along strength
def transport(
    data: Source, *, metric: str | None = None, pair_group: str | None = None, name: str | None = None
) -> go.Figure:
    """Draw a metric over strength: massive beside as many other channels, and beside other ways to mix.

    `data`: the `transport` or `transport_image` table, one row of panels per direction or origin. Bands
    are 95 % intervals; a family of one strength is a mark with its interval. `metric` defaults to the most
    telling one there is, `pair_group` to pairs that differ in several attributes; of a run with both tables,
    `name` says which. Raises `BadInput` for missing columns, and for a metric or group that is not there.

    >>> dl.plots.transport("reports/massive_activations").layout.title.text
    "Final latent's way to the source's at strength 1, ..."
    """
    table = table_of(data, *(CARRIED if name is None else (name,)))
    rows = rows_of(table, (*TRANSPORT, way_column(table)))
    metric = chosen_metric(rows, metric)
    rows = rows_of(rows, TRANSPORT, metric=metric)
    group = pair_groups(rows)[0] if pair_group is None else pair_group
    rows = rows_of(rows, TRANSPORT, pair_group=group).sort_values("strength", kind="stable")
    families = families_in_order(rows["family"])
    sides = [
        (title, members)
        for title, members in (
            ("as many channels", [name for name in families if name not in OTHER_WAYS]),
            ("other ways to mix", [name for name in families if name in (*OTHER_WAYS, "massive")]),
        )
        if set(members) - {"massive"} or not set(families) - {"massive"}
    ]
    if not set(families) - {"massive"}:
        sides = sides[:1]
    words, strengths = carry_words(metric), sorted({float(value) for value in rows["strength"]})
    cells = [(way, title, members) for way in ways(rows) for title, members in sides]
    panels = Panels(
        titles=tuple(f"{plot_text(way_words(way))}: {title}" for way, title, _ in cells),
        wide=len(sides),
        narrow=1,
        height=230,
        x={**number_ticks(strengths), "showgrid": False},
        y={"matches": "y"},
        x_title="strength (1 = the source's own values)",
        y_title=words.unit or words.title,
        gap=0.09,
        row_gap=70,
        legend=len(families),
    )
    figure = panels.figure(upper_first(f"{words.title}{strength_sentence(rows)}"))
    shown: set[str] = set()
    for index, (way, _, members) in enumerate(cells):
        of_way = rows[rows[way_column(rows)].astype(str) == way]
        for rank, family in enumerate(members):
            own = of_way[of_way["family"] == family].drop_duplicates("strength")
            if len(own):
                new = family not in shown
                aside = 0.018 * (rank - (len(members) - 1) / 2) * max(strengths[-1] - strengths[0], 0.5)
                level_curve(figure, panels.axes(index), own, "strength", family, new, aside)
                shown.add(family)
    if (level := unmoved(metric)) is not None:
        marks = [zero_line(panels.axes(index), at=level) for index in range(len(cells))]
        figure.update_layout(shapes=marks)
    return figure


# ------------------------------------------------------------------------------------ attribute by attribute
def attribute_rows(table: pd.DataFrame, *, way: str | None = None) -> pd.DataFrame:
    """Return the rows of single attributes at full strength in one direction, with a column `attribute`.

    Raises `BadInput` where no attribute was read, or for a direction that is not there.
    """
    column = way_column(table)
    rows = rows_of(table, (*TRANSPORT, column))
    rows = rows[rows["metric"].astype(str).str.startswith(MOVED)].dropna(subset=["mean"])
    if rows.empty:
        raise BadInput("No attribute was read off these pictures: the table has no metric that begins moved.")
    rows = rows_of(rows, TRANSPORT, **{column: ways(rows)[0] if way is None else way})
    rows = rows[rows["strength"] == whole_strength(rows)]
    return rows.assign(attribute=rows["metric"].astype(str).str.removeprefix(MOVED)).reset_index(drop=True)


def transport_attributes(data: Source, *, way: str | None = None, name: str | None = None) -> go.Figure:
    """Draw, attribute by attribute, in which share of pairs it becomes the source's, at full strength.

    `data`: the `transport` or `transport_image` table. One panel for pairs that differ in the attribute
    alone, one for pairs that differ in several; one mark and 95 % interval per family. `way` is a direction
    or an origin, by default the first; of a run with both tables, `name` says which. Raises `BadInput` for
    missing columns, a direction that is not there, and where no attribute was read.

    >>> dl.plots.transport_attributes("reports/massive_activations").layout.title.text
    'At strength 1, massive channels move ... most (..., n = ... pairs), ... least (...)'
    """
    table = table_of(data, *(CARRIED if name is None else (name,)))
    rows = attribute_rows(table, way=way)
    strength = whole_strength(rows)
    families = families_in_order(rows["family"])
    attributes, unit = in_order(rows["attribute"], ATTRIBUTES), unit_word(rows)
    parts = [
        (title, part)
        for title, part in (
            (f"{unit}s that differ in it alone", rows[rows["pair_group"] == rows["attribute"]]),
            (f"{unit}s that differ in several", rows[rows["pair_group"] == "all"]),
        )
        if len(part)
    ] or [(f"{unit}s of all groups", rows)]
    line = _SLOT * len(families) + 16
    panels = Panels(
        titles=tuple(title for title, _ in parts),
        wide=2,
        narrow=1,
        height=line * len(attributes),
        x={"range": [-0.04, 1.04], "tickformat": ".0%", "dtick": 0.25},
        y={
            "range": [len(attributes) - 0.5, -0.5],
            "tickmode": "array",
            "tickvals": list(range(len(attributes))),
            "ticktext": [plot_text(name.replace("_", " ")) for name in attributes],
            "showgrid": False,
        },
        x_title="share that reads as the source's",
        gap=0.12,
        row_gap=70,
        legend=len(families),
    )
    figure = panels.figure(upper_first(attribute_sentence(rows, strength)))
    shapes = []
    for index, (_, part) in enumerate(parts):
        for rank, family in enumerate(families):
            own = part[part["family"] == family].drop_duplicates("attribute")
            place = np.array([attributes.index(name) for name in own["attribute"]], dtype=float)
            shift = (rank - (len(families) - 1) / 2) * _SLOT / line
            _dots(figure, panels.axes(index), own, place + shift, family, index == 0)
        axes = panels.axes(index)
        shapes += [
            {
                "type": "line", "x0": 0, "x1": 1, "xref": f"{axes['xaxis']} domain", "y0": edge + 0.5,
                "y1": edge + 0.5, "yref": axes["yaxis"], "line": {"width": 1, "color": faint(NEUTRAL, 0.35)},
            }
            for edge in range(len(attributes) - 1)
        ]  # fmt: skip
    figure.update_layout(shapes=shapes)
    return figure


def _dots(
    figure: go.Figure, axes: dict[str, str], rows: pd.DataFrame, place: np.ndarray, family: str, legend: bool
) -> None:
    style, name = style_of(family), plot_text(family_name(family))
    mean = number_or_nan(rows["mean"])
    figure.add_trace(
        go.Scatter(
            # A family that is not in this panel keeps its entry in the legend.
            x=mean if len(rows) else [None],
            y=place if len(rows) else [None],
            error_x=bars(mean, number_or_nan(rows["ci_low"]), number_or_nan(rows["ci_high"]), style["color"])
            | {"width": 2, "thickness": 1.2},
            mode="markers",
            marker={
                "symbol": style["symbol"],
                "size": 10 if family == "massive" else 7,
                "color": style["color"],
            },
            name=name,
            legendgroup=family,
            showlegend=legend,
            text=[level_words(f"{plot_text(row['attribute'])}, {name}", row) for _, row in rows.iterrows()],
            hovertemplate="%{text}<extra></extra>",
            **axes,
        )
    )


def chosen_metric(rows: pd.DataFrame, metric: str | None) -> str:
    """Return the metric to draw: the one asked for, or the most telling there is."""
    there = carry_metrics(rows) or sorted({str(name) for name in rows["metric"]})
    return there[0] if metric is None else one_metric(rows, metric)
