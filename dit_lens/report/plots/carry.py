"""What carrying activations from one run into another does: along strength, attribute by attribute, along
the size of what is carried; and what leading a run away from its edited self does, along the weight."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.errors import BadInput
from dit_lens.report.effect_words import MetricWords, families_in_order, family_name, metric_words
from dit_lens.report.plots.effect_marks import band, bars, number_or_nan, one_metric, style_of, zero_line
from dit_lens.report.plots.frame import rows_of
from dit_lens.report.plots.panels import Panels
from dit_lens.report.text import count, listing, number, percent, plot_text
from dit_lens.report.theme import NEUTRAL, faint

_LEVEL = ("metric", "mean", "ci_low", "ci_high", "n")
TRANSPORT = ("pair_group", "family", "strength", *_LEVEL)
TRANSPORT_CURVES = ("axis", "value", "family", *_LEVEL)
GUIDANCE = ("weight", "cfg", "family", *_LEVEL)
MOVED = "moved."  # before an attribute: the share of its pairs in which it reads as the source's

OTHER_WAYS = ("all", "all_but_massive", "latent_blend", "pixel_blend", "prompt_blend")
"""Families that do not carry as many channels as massive: more of them, or something else altogether."""

_ATTRIBUTES = ("shape", "colour", "size", "position", "background", "detail")
_WAYS = ("forward", "backward", "noised", "inverted")
_AXES = {
    "blocks": "carried in these blocks",
    "steps": "carried at these steps",
    "k": "channels of each block (k)",
    "part": "part that is carried",
}
_HERE = {
    "toward_latent": MetricWords("final latent's way to the source's", "share of the way"),
    "ssim": MetricWords("SSIM with the unedited target"),
}
_UNMOVED = {"toward_latent": 0.0, "margin": 0.0, "ssim": 1.0}  # of the target itself
_FIRST = ("toward_latent", "margin", "moved", "kept", "ssim")
_SLOT = 9  # pixels between the marks of two families in one line of the dot plot


# --------------------------------------------------------------------------------------- what is in a table
def carry_words(metric: str) -> MetricWords:
    """Return what a metric is called where activations are carried from a source into a target.

    >>> carry_words("ssim").title, carry_words("moved.shape").axis
    ('SSIM with the unedited target', "shape that reads as the source's (share)")
    """
    return _HERE.get(metric) or metric_words(metric)


def carry_metrics(table: pd.DataFrame, first: str | None = None) -> list[str]:
    """Return the metrics of a transport table in the order of a report, without those of one attribute."""
    names = {str(name) for name in table["metric"] if not str(name).startswith(MOVED)}
    order = [first, *_FIRST]
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def pair_groups(table: pd.DataFrame) -> list[str]:
    """Return the groups of pairs: those that differ in several attributes, then attribute by attribute."""
    return _in_order(table["pair_group"], ("all", *_ATTRIBUTES))


def ways(table: pd.DataFrame) -> list[str]:
    """Return the directions of a text transport, or the origins of an image transport, in order."""
    return _in_order(table[way_column(table)], _WAYS)


def whole_strength(rows: pd.DataFrame) -> float:
    """Return the strength to compare at: 1, where the source's activations replace the target's."""
    there = rows["strength"].dropna().astype(float)
    return 1.0 if (there == 1).any() else float(there.max())


def _in_order(values: Any, known: Sequence[str]) -> list[str]:
    names = {str(value) for value in values}
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def way_column(table: pd.DataFrame) -> str:
    """Return the column that says from where to where: `direction`, or `origin` of a source picture."""
    return "origin" if "origin" in table.columns else "direction"


def way_words(way: str) -> str:
    """Return a direction or an origin as words."""
    return {
        "forward": "first prompt into second",
        "backward": "second prompt into first",
        "noised": "source picture noised",
        "inverted": "source picture inverted",
    }.get(way, way)


def _chosen(rows: pd.DataFrame, metric: str | None) -> str:
    there = carry_metrics(rows) or sorted({str(name) for name in rows["metric"]})
    return there[0] if metric is None else one_metric(rows, metric)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


# --------------------------------------------------------------------------------------------- along strength
def transport(table: pd.DataFrame, *, metric: str | None = None, pair_group: str | None = None) -> go.Figure:
    """Draw a metric over strength: massive beside as many other channels, and beside other ways to mix.

    `table`: the `transport` or `transport_image` table, one row of panels per direction or origin. Bands
    are 95 % intervals; a family of one strength is a mark with its interval. `metric` defaults to the most
    telling one there is, `pair_group` to pairs that differ in several attributes. Raises `BadInput` for
    missing columns, and for a metric or group that is not there.
    """
    rows = rows_of(table, (*TRANSPORT, way_column(table)))
    metric = _chosen(rows, metric)
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
        x={**_ticks(strengths), "showgrid": False},
        y={"matches": "y"},
        x_title="strength (1 = the source's own values)",
        y_title=words.unit or words.title,
        gap=0.09,
        row_gap=70,
        legend=len(families),
    )
    figure = panels.figure(_upper(f"{words.title}{_over_strength(rows)}"))
    shown: set[str] = set()
    for index, (way, _, members) in enumerate(cells):
        of_way = rows[rows[way_column(rows)].astype(str) == way]
        for family in members:
            own = of_way[of_way["family"] == family].drop_duplicates("strength")
            if len(own):
                _curve(figure, panels.axes(index), own, "strength", family, family not in shown)
                shown.add(family)
    if metric in _UNMOVED:
        marks = [zero_line(panels.axes(index), at=_UNMOVED[metric]) for index in range(len(cells))]
        figure.update_layout(shapes=marks)
    return figure


def _ticks(values: Sequence[float]) -> dict[str, Any]:
    shown = values[:: max(1, -(-len(values) // 9))]
    room = 0.06 * max(values[-1] - values[0], 0.5)
    return {
        "tickmode": "array",
        "tickvals": list(shown),
        "ticktext": [number(value) for value in shown],
        "range": [values[0] - room, values[-1] + room],
    }


def _over_strength(rows: pd.DataFrame) -> str:
    """Return the levels at full strength in the first direction, as the end of a title."""
    at = whole_strength(rows)
    there = rows[(rows["strength"] == at) & (rows[way_column(rows)].astype(str) == ways(rows)[0])]
    level = there.drop_duplicates("family").set_index("family")["mean"].astype(float).dropna()
    controls = [family for family in level.index if family != "massive" and family not in OTHER_WAYS]
    said = [f"massive channels {number(level['massive'])}"] if "massive" in level.index else []
    if controls:
        low, high = level[controls].min(), level[controls].max()
        spread = number(low) if len(controls) == 1 else f"{number(low)} to {number(high)}"
        said.append(f"as many other channels {spread}")
    return f" at strength {number(at)}: {', '.join(said)}" if said else " over strength"


def _curve(
    figure: go.Figure, axes: dict[str, str], rows: pd.DataFrame, along: str, family: str, legend: bool
) -> None:
    style, name = style_of(family), plot_text(family_name(family))
    x = rows[along].to_numpy(dtype=float)
    y, low, high = (number_or_nan(rows[column]) for column in ("mean", "ci_low", "ci_high"))
    alone = len(rows) == 1
    if not alone:
        band(figure, x, low, high, style["color"], axes, family)
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            error_y=bars(y, low, high, style["color"]) if alone else None,
            mode="markers" if alone else "lines+markers",
            line={"color": style["color"], "dash": style["dash"], "width": 2},
            marker={"symbol": style["symbol"], "size": 8, "color": style["color"]},
            name=name,
            legendgroup=family,
            showlegend=legend,
            text=[_numbers(f"{name}, {along} {number(row[along])}", row) for _, row in rows.iterrows()],
            hovertemplate="%{text}<extra></extra>",
            **axes,
        )
    )


def _numbers(what: str, row: Any) -> str:
    """Return one mark's level, interval and n, for the hover."""
    return (
        f"{what}: {number(row['mean'])}<br>95 % CI {number(row['ci_low'])} to {number(row['ci_high'])}, "
        f"n = {int(row['n'])}"
    )


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


def transport_attributes(table: pd.DataFrame, *, way: str | None = None) -> go.Figure:
    """Draw, attribute by attribute, in which share of pairs it becomes the source's, at full strength.

    `table`: the `transport` or `transport_image` table. One panel for pairs that differ in the attribute
    alone, one for pairs that differ in several; one mark and 95 % interval per family. `way` is a direction
    or an origin, by default the first. Raises `BadInput` for missing columns, a direction that is not there,
    and where no attribute was read.
    """
    rows = attribute_rows(table, way=way)
    strength = whole_strength(rows)
    families = families_in_order(rows["family"])
    attributes = _in_order(rows["attribute"], _ATTRIBUTES)
    parts = [
        (title, part)
        for title, part in (
            ("pairs that differ in it alone", rows[rows["pair_group"] == rows["attribute"]]),
            ("pairs that differ in several", rows[rows["pair_group"] == "all"]),
        )
        if len(part)
    ] or [("pairs of all groups", rows)]
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
    figure = panels.figure(_upper(attribute_sentence(rows, strength)))
    shapes = []
    for index, (_, part) in enumerate(parts):
        for rank, family in enumerate(families):
            own = part[part["family"] == family].drop_duplicates("attribute")
            place = own["attribute"].map(attributes.index).to_numpy(dtype=float)
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


def attribute_sentence(rows: pd.DataFrame, strength: float) -> str:
    """Return which attribute massive channels move most and which least."""
    massive = rows[rows["family"] == "massive"]
    alone = massive[massive["pair_group"] == massive["attribute"]]
    # Attributes are compared on pairs of one sort; those that differ in several read them all at once.
    every = alone["attribute"].nunique() == massive["attribute"].nunique()
    level = (alone if every else massive[massive["pair_group"] == "all"]).set_index("attribute")["mean"]
    level = level.astype(float).groupby(level=0).mean()
    if level.empty:
        return f"what moves at strength {number(strength)}"
    most, least = str(level.idxmax()), str(level.idxmin())
    said = f"{plot_text(most)} most (in {percent(level[most])} of pairs)"
    if most != least:
        said += f", {plot_text(least)} least ({percent(level[least])})"
    return f"at strength {number(strength)}, massive channels move {said}"


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
            text=[_numbers(f"{plot_text(row['attribute'])}, {name}", row) for _, row in rows.iterrows()],
            hovertemplate="%{text}<extra></extra>",
            **axes,
        )
    )


# ------------------------------------------------------------------------------------ along what is carried
def transport_curves(table: pd.DataFrame, *, metric: str | None = None) -> go.Figure:
    """Draw a metric over which blocks, which steps, how many channels and which part of them are carried.

    `table`: the `transport_curves` table, one panel per axis; marks have 95 % intervals. `metric` defaults to
    the most telling one there is. Raises `BadInput` for missing columns or an unknown metric.
    """
    rows = rows_of(table, TRANSPORT_CURVES)
    metric = _chosen(rows, metric)
    rows = rows_of(rows, TRANSPORT_CURVES, metric=metric)
    families, axes = families_in_order(rows["family"]), _in_order(rows["axis"], tuple(_AXES))
    words = carry_words(metric)
    panels = Panels(
        titles=tuple(_AXES.get(axis, plot_text(axis)) for axis in axes),
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
    figure = panels.figure(_upper(f"{words.title}: {curve_sentence(rows)}"))
    shown: set[str] = set()
    for index, axis in enumerate(axes):
        own = rows[rows["axis"].astype(str) == axis]
        values = sorted({str(value) for value in own["value"]}, key=_natural)
        for rank, family in enumerate(families):
            of_family = own[own["family"] == family].assign(
                place=own["value"].astype(str).map(values.index)
                + 0.5 * (rank - (len(families) - 1) / 2) / max(2, len(families))
            )
            of_family = of_family.drop_duplicates("value").sort_values("place", kind="stable")
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
    if metric in _UNMOVED:
        marks = [zero_line(panels.axes(index), at=_UNMOVED[metric]) for index in range(len(axes))]
        figure.update_layout(shapes=marks)
    return figure


def _natural(value: str) -> tuple[Any, ...]:
    """Return a key that sorts numbers and ranges as numbers, and everything at once last.

    >>> sorted(["all", "4-7", "16", "mean", "0-3"], key=_natural)
    ['0-3', '4-7', '16', 'mean', 'all']
    """
    numbers = tuple(float(part) for part in re.findall(r"\d+(?:\.\d+)?", value))
    return value == "all", not numbers, numbers, value


def curve_sentence(rows: pd.DataFrame) -> str:
    """Return which single choice of each axis carries most of the metric, for massive channels."""
    massive = rows[(rows["family"] == "massive") & (rows["value"].astype(str) != "all")].dropna(
        subset=["mean"]
    )
    said = []
    for axis in _in_order(massive["axis"], tuple(_AXES)):
        own = massive[massive["axis"].astype(str) == axis].reset_index(drop=True)
        peak = own.loc[own["mean"].astype(float).idxmax()]
        what = {"k": "k =", "part": "the part"}.get(axis, axis)
        said.append(f"{what} {plot_text(str(peak['value']), limit=24)} ({number(peak['mean'])})")
    return f"highest for {listing(said)}" if said else "massive channels were not carried in parts"


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
                _numbers(f"{name}, {plot_text(axis)} {plot_text(str(row['value']))}", row)
                for _, row in rows.iterrows()
            ],
            hovertemplate="%{text}<extra></extra>",
            **axes,
        )
    )


# ------------------------------------------------------------------------------------------------ guidance
def detail_guidance(table: pd.DataFrame, *, metric: str | None = None) -> go.Figure:
    """Draw a metric over the weight of Detail Guidance, on top of classifier-free guidance and without it.

    `table`: the `guidance` table (arXiv 2510.11538); bands are 95 % intervals. `metric` defaults to the most
    telling one there is. Raises `BadInput` for missing columns or an unknown metric.
    """
    rows = rows_of(table, GUIDANCE)
    metric = one_metric(rows, metric)
    rows = rows_of(rows, GUIDANCE, metric=metric).sort_values("weight", kind="stable")
    rows = rows.assign(cfg=[str(value).lower() == "true" for value in rows["cfg"]])
    families, weights = families_in_order(rows["family"]), sorted({float(value) for value in rows["weight"]})
    words = metric_words(metric)
    cells = sorted(set(rows["cfg"]), reverse=True)
    panels = Panels(
        titles=tuple(
            "with classifier-free guidance" if cfg else "without classifier-free guidance" for cfg in cells
        ),
        wide=len(cells),
        narrow=1,
        height=250,
        x={**_ticks(weights), "showgrid": False},
        y={"matches": "y"},
        x_title="weight w (0 = no Detail Guidance)",
        y_title=words.unit or words.title,
        gap=0.09,
        row_gap=84,
        legend=len(families),
    )
    figure = panels.figure(f"{_upper(words.title)}: {guidance_sentence(rows)}")
    shown: set[str] = set()
    for index, cfg in enumerate(cells):
        for family in families:
            own = rows[(rows["cfg"] == cfg) & (rows["family"] == family)].drop_duplicates("weight")
            if len(own):
                _curve(figure, panels.axes(index), own, "weight", family, family not in shown)
                shown.add(family)
    return figure


def guidance_sentence(rows: pd.DataFrame) -> str:
    """Return what the largest weight makes of the smallest one's level, with CFG and without."""
    said = []
    massive = rows[rows["family"] == "massive"].sort_values("weight", kind="stable")
    for cfg in (True, False):
        own = massive[[(str(value).lower() == "true") == cfg for value in massive["cfg"]]]
        if len(own):
            said.append(
                f"from {number(own['mean'].iloc[0])} (w = {number(own['weight'].iloc[0])}) to "
                f"{number(own['mean'].iloc[-1])} (w = {number(own['weight'].iloc[-1])}) "
                f"{'with' if cfg else 'without'} CFG"
            )
    return f"massive channels, {listing(said)}" if said else f"{count(len(rows), 'level')} over the weight"
