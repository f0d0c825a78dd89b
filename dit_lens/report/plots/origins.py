"""What drives a massive channel, which layer writes it, and what AdaLN does to it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from dit_lens.report.plots.frame import BLOCK_AXIS, leading_channels, rows_of, where
from dit_lens.report.plots.panels import Panels, chance_line
from dit_lens.report.plots.sources import Source, table_of
from dit_lens.report.text import number, percent, place_of_write, signal_name, writer_name
from dit_lens.report.theme import NEUTRAL, category

SOURCES = ("step", "prompt", "seed", "interaction", "token")
LAYERS = ("attn", "attn2", "mlp")
WRITERS = (*LAYERS, "embed")
VARIANCE = ("stream", "branch", "block", "channel", "source", "share")
BIRTHS = ("stream", "branch", "block", "channel", "writer", "value", "rank", "share")
ADALN = ("stream", "branch", "block", "channel", "signal", "value", "percentile")


def variance(
    data: Source,
    *,
    stream: str = "image",
    branch: str = "cond",
    blocks: Sequence[int] | None = None,
) -> go.Figure:
    """Draw, for each massive channel of each block, which coordinate its variance comes from (shares of one).

    `data`: the `variance` table, of which one `stream` and `branch` is drawn; `blocks` keeps only some.
    Raises `BadInput` for missing columns or coordinates.

    >>> dl.plots.variance(stats, blocks=[3, 4]).layout.title.text
    'The token is the largest source of variance: ...'
    """
    table = table_of(data, "variance")
    rows = rows_of(table, VARIANCE, stream=stream, branch=branch)
    if blocks is not None:
        rows = rows_of(rows[rows["block"].isin(list(blocks))], VARIANCE)
    wide = rows.pivot_table(index=["block", "channel"], columns="source", values="share", sort=True)
    names = [name for name in SOURCES if name in wide.columns]
    labels = [f"block {block} · ch {channel}" for block, channel in wide.index]
    mean = wide[names].mean()
    panels = Panels(
        titles=("",),
        wide=1,
        narrow=1,
        height=20 * len(labels) + 10,
        x={"range": [0, 1.001], "tickformat": ".0%", "side": "bottom"},
        y={
            "autorange": "reversed",
            "showgrid": False,
            "tickmode": "array",
            "tickvals": labels,
            "ticktext": labels,
        },
        x_title="share of the channel's variance",
        legend=len(names),
        top=48,
    )
    figure = panels.figure(
        f"The {mean.idxmax()} is the largest source of variance: {percent(mean.max())} on average "
        f"({where(stream, branch)})"
    )
    for index, name in enumerate(names):
        figure.add_trace(
            go.Bar(
                y=labels,
                x=wide[name].to_numpy(),
                orientation="h",
                name=name,
                marker={
                    "color": category(index)["color"],
                    "pattern": _pattern(index),
                },
                hovertemplate=f"%{{y}}<br>{name}: %{{x:.1%}}<extra></extra>",
            )
        )
    figure.update_layout(barmode="stack", bargap=0.25)
    return figure


def births(data: Source, *, stream: str = "image", branch: str = "cond", limit: int = 6) -> go.Figure:
    """Draw, for the top channels, how much each block's attention and MLP write into them.

    What enters before any block stands at block 0. `data`: the `births` table, values in activation units,
    of which one `stream` and `branch` is drawn; at most `limit` channels, the largest writes first. Raises
    `BadInput` for missing columns or coordinates.

    >>> dl.plots.births(stats).layout.title.text
    'The largest write, ..., goes into channel 60, by the MLP of block 1 (image stream, ...)'
    """
    table = table_of(data, "births")
    rows = rows_of(table, BIRTHS, stream=stream, branch=branch)
    channels = leading_channels(rows, "value", limit)
    writers = [name for name in WRITERS if name in set(rows["writer"])]
    most = rows.loc[rows["value"].abs().idxmax()]
    panels = Panels(
        titles=tuple(f"channel {channel}" for channel in channels),
        wide=min(3, max(2, len(channels))) if len(channels) != 4 else 2,
        narrow=1,
        height=170,
        x={"matches": "x", "dtick": max(1, rows["block"].nunique() // 12), "showgrid": False},
        y={"nticks": 5},
        x_title=BLOCK_AXIS,
        y_title="written: mean |gate × output|",
        gap=0.08,
        legend=len(writers),
    )
    figure = panels.figure(
        f"The largest write, {number(most['value'])}, goes into channel {int(most['channel'])}, by "
        f"{place_of_write(str(most['writer']), int(most['block']))} ({where(stream, branch)})"
    )
    for index, channel in enumerate(channels):
        for name in writers:
            order = WRITERS.index(name)
            one = rows[(rows["channel"] == channel) & (rows["writer"] == name)].sort_values("block")
            figure.add_trace(
                go.Bar(
                    x=one["block"].to_numpy(),
                    y=one["value"].to_numpy(),
                    name=writer_name(name),
                    legendgroup=name,
                    showlegend=index == 0,
                    marker={"color": category(order)["color"], "pattern": _pattern(order)},
                    customdata=one[["rank", "share"]].to_numpy(),
                    meta={"columns": ["rank", "share"]},
                    hovertemplate=f"channel {channel}, {writer_name(name)} at block %{{x}}<br>writes "
                    "%{y:.3g}, %{customdata[1]:.1%} of all writes into it<br>rank %{customdata[0]} "
                    "among its channels<extra></extra>",
                    **panels.axes(index),
                )
            )
    figure.update_layout(barmode="group", bargap=0.25)
    return figure


def adaln(data: Source, *, stream: str = "image", branch: str = "cond") -> go.Figure:
    """Draw where each massive channel stands among all channels in each AdaLN signal (percentile of |value|).

    `data`: the `adaln` table, percentiles from 0 to 100, of which one `stream` and `branch` is drawn. The
    six channels that occur in most blocks have their own colour. The dotted line is the 50th percentile,
    where channels chosen at random would lie on average. Raises `BadInput` for missing columns or
    coordinates.

    >>> dl.plots.adaln(stats).layout.title.text
    'Massive channels stand highest in the attention shift: percentile ... on average (image stream, ...)'
    """
    table = table_of(data, "adaln")
    rows = rows_of(table, ADALN, stream=stream, branch=branch)
    signals = _signals(rows)
    often = rows.groupby("channel")["block"].nunique().sort_values(ascending=False, kind="stable")
    named = [int(channel) for channel in often.index[:6]]
    mean = rows.groupby("signal")["percentile"].mean()
    others = len(often) > len(named)
    panels = Panels(
        titles=tuple(signal_name(signal) for signal in signals),
        wide=3,
        narrow=2,
        height=150,
        x={"matches": "x", "dtick": max(1, rows["block"].nunique() // 10)},
        y={"range": [-4, 104], "dtick": 25},
        x_title=BLOCK_AXIS,
        y_title="percentile",
        gap=0.06,
        legend=len(named) + 1 + others,
    )
    figure = panels.figure(
        f"Massive channels stand highest in the {signal_name(mean.idxmax())}: percentile "
        f"{number(mean.max())} on average ({where(stream, branch)})"
    )
    ends = [rows["block"].min(), rows["block"].max()]
    for index, signal in enumerate(signals):
        of_signal = rows[rows["signal"] == signal]
        chance_line(figure, panels.axes(index), ends, [50, 50], "any channel (50)", showlegend=index == 0)
        groups = [(f"channel {channel}", [channel], category(order)) for order, channel in enumerate(named)]
        if others:
            rest = [int(channel) for channel in often.index[len(named) :]]
            groups.append(("other massive channels", rest, {"color": NEUTRAL, "symbol": "circle-open"}))
        for name, members, style in groups:
            one = of_signal[of_signal["channel"].isin(members)].sort_values("block")
            figure.add_trace(
                go.Scatter(
                    x=one["block"].to_numpy(),
                    y=one["percentile"].to_numpy(),
                    mode="markers",
                    name=name,
                    legendgroup=name,
                    showlegend=index == 0,
                    marker={"color": style["color"], "symbol": style["symbol"], "size": 8},
                    customdata=one[["channel", "value"]].to_numpy(),
                    meta={"columns": ["channel", "value"]},
                    hovertemplate=f"{signal_name(signal)}, block %{{x}}<br>channel %{{customdata[0]}}: "
                    "%{customdata[1]:.3g}<br>percentile %{y:.1f}<extra></extra>",
                    **panels.axes(index),
                )
            )
    return figure


def _pattern(index: int) -> dict[str, object]:
    """Return a hatch laid over a bar's colour, so that bars differ without it too."""
    shape = ("", "/", "x", ".", "-")[index % 5]
    return {
        "shape": shape,
        "fillmode": "overlay",
        "solidity": 0.16,
        "size": 6,
        "fgcolor": "#ffffff",
        "fgopacity": 0.8,
    }


def _signals(rows: pd.DataFrame) -> list[str]:
    """Return the signals there are: shift, scale, gate of attention first, then those of the MLP."""
    order = {
        f"{kind}_{part}": position
        for position, (part, kind) in enumerate(
            (part, kind) for part in LAYERS for kind in ("shift", "scale", "gate")
        )
    }
    there = [str(name) for name in rows["signal"].unique()]
    return sorted(there, key=lambda name: (order.get(name, len(order)), name))
