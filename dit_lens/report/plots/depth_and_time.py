"""Where in the network, and when in the denoising, channels are massive."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.report.plots.effect_marks import band
from dit_lens.report.plots.frame import BLOCK_AXIS, STEP_AXIS, leading_channels, ratio_ticks, rows_of, where
from dit_lens.report.plots.panels import Panels
from dit_lens.report.plots.sources import Source, table_of
from dit_lens.report.text import number
from dit_lens.report.theme import SEQUENTIAL, category, template

COLUMNS = ("stream", "branch", "step", "sigma", "block", "channel", "statistic", "value", "ratio")


def ratio_map(
    data: Source, *, stream: str = "image", branch: str = "cond", statistic: str = "abs_mean"
) -> go.Figure:
    """Draw the ratio of the strongest channel to the median, one cell per block and step.

    `data`: the `ratio_map` table, of which one `stream`, `branch` and `statistic` is drawn; colour is
    logarithmic. The number in a cell is the channel; hovering shows ratio, value and sigma. Raises
    `BadInput` for missing columns or coordinates.

    >>> dl.plots.ratio_map(stats).layout.title.text
    'The strongest channel peaks at ... × the median in block 7, step 0 (image stream, ...)'
    """
    table = table_of(data, "ratio_map")
    rows = rows_of(table, COLUMNS, stream=stream, branch=branch, statistic=statistic)
    grid = rows.drop_duplicates(["block", "step"]).set_index(["block", "step"]).sort_index()
    blocks, steps = grid.index.levels[0].tolist(), grid.index.levels[1].tolist()

    def cells(name: str) -> np.ndarray:
        return grid[name].unstack("step").reindex(index=blocks, columns=steps).to_numpy(dtype=float)

    ratio, channel = cells("ratio"), cells("channel")
    ticks = ratio_ticks(*_extent(rows["ratio"]))
    most = rows.loc[rows["ratio"].idxmax()] if rows["ratio"].notna().any() else rows.iloc[0]
    legible = len(steps) <= 28 and np.nanmax(channel, initial=0) < 10_000
    figure = go.Figure(
        go.Heatmap(
            x=steps,
            y=blocks,
            z=np.log10(np.where(ratio > 0, ratio, np.nan)),
            text=[["" if np.isnan(value) else f"{value:.0f}" for value in row] for row in channel],
            texttemplate="%{text}" if legible else None,
            textfont={"size": 10},
            customdata=np.stack([channel, cells("value"), ratio, cells("sigma")], axis=-1),
            meta={"columns": ["channel", "value", "ratio", "sigma"], "z": "log10_ratio"},
            hovertemplate="block %{y}, step %{x} (σ %{customdata[3]:.3f})<br>channel %{customdata[0]:.0f}"
            "<br>ratio %{customdata[2]:.3g} ×<br>value %{customdata[1]:.3g}<extra></extra>",
            colorscale=SEQUENTIAL,
            xgap=1,
            ygap=1,
            colorbar={
                "title": {"text": "ratio", "side": "top"},
                "tickvals": [float(np.log10(tick)) for tick in ticks["tickvals"]],
                "ticktext": ticks["ticktext"],
                "thickness": 12,
                "outlinewidth": 0,
            },
        )
    )
    figure.update_layout(
        template=template(),
        title={
            "text": f"The strongest channel peaks at {number(most['ratio'])} × the median in block "
            f"{int(most['block'])}, step {int(most['step'])} ({where(stream, branch, statistic)})"
        },
        height=int(np.clip(30 * len(blocks), 200, 760)) + 110,
        xaxis={"title": {"text": STEP_AXIS}, "dtick": _tick(len(steps)), "showgrid": False},
        yaxis={"title": {"text": BLOCK_AXIS}, "dtick": _tick(len(blocks)), "showgrid": False},
        meta={
            "arrangements": {
                "narrow": {"xaxis.dtick": _tick(len(steps), 10)},
                "wide": {"xaxis.dtick": _tick(len(steps))},
                "narrow_traces": {"texttemplate": ""},
                "wide_traces": {"texttemplate": "%{text}" if legible else ""},
            }
        },
    )
    return figure


def life(
    data: Source, *, stream: str = "image", branch: str = "cond", statistic: str = "abs_mean"
) -> go.Figure:
    """Draw the ratio of the top channels through depth (over all steps) and through time (over all blocks).

    `data`: the `life` table, of which one `stream`, `branch` and `statistic` is drawn. Lines are means,
    bands run from the smallest to the largest value; at most six channels are drawn. Raises `BadInput` for
    missing columns or coordinates.

    >>> dl.plots.life(stats).layout.title.text
    'The life of the 4 top channels (image stream, conditional branch, abs_mean)'
    """
    table = table_of(data, "life")
    rows = rows_of(table, COLUMNS, stream=stream, branch=branch, statistic=statistic)
    # One order of rows, so that the last bits of the means do not depend on theirs.
    rows = rows.sort_values(["channel", "block", "step"], kind="stable")
    channels = leading_channels(rows, "ratio")
    sigma = rows.groupby("step")["sigma"].first()
    panels = Panels(
        titles=("through depth (mean over steps)", "through time (mean over blocks)"),
        wide=2,
        narrow=1,
        height=270,
        y={"type": "log", "matches": "y", **ratio_ticks(*_extent(rows["ratio"]))},
        y_title="ratio to the channel median",
        gap=0.06,
        row_gap=84,
        legend=len(channels),
    )
    figure = panels.figure(
        f"The life of the {len(channels)} top channels ({where(stream, branch, statistic)})"
    )
    for rank, channel in enumerate(channels):
        style = category(rank)
        for index, axis in enumerate(("block", "step")):
            along = rows[rows["channel"] == channel].groupby(axis)["ratio"].agg(["mean", "min", "max"])
            position = along.index.to_numpy()
            extra = sigma.reindex(position).to_numpy() if axis == "step" else np.full(len(position), np.nan)
            group = {"legendgroup": str(channel), **panels.axes(index)}
            band(
                figure, position, along["min"], along["max"], style["color"], panels.axes(index), str(channel)
            )
            figure.add_trace(
                go.Scatter(
                    x=position,
                    y=along["mean"].to_numpy(),
                    mode="lines+markers",
                    name=f"channel {channel}",
                    line={"color": style["color"], "dash": style["dash"], "width": 2},
                    marker={"symbol": style["symbol"], "size": 7, "color": style["color"]},
                    customdata=np.column_stack([along["min"], along["max"], extra]),
                    meta={"columns": ["min", "max", "sigma"]},
                    hovertemplate=f"channel {channel}, {axis} %{{x}}"
                    + (" (σ %{customdata[2]:.3f})" if axis == "step" else "")
                    + "<br>mean %{y:.3g} × (%{customdata[0]:.3g} to %{customdata[1]:.3g})<extra></extra>",
                    showlegend=index == 0,
                    **group,
                )
            )
    figure.update_layout(
        xaxis={"title": {"text": BLOCK_AXIS}, "dtick": _tick(rows["block"].nunique())},
        xaxis2={"title": {"text": STEP_AXIS}, "dtick": _tick(rows["step"].nunique())},
    )
    # The two panels have different axes, so neither arrangement may carry one title for both.
    for patch in figure.layout.meta["arrangements"].values():
        patch.update({"xaxis.title.text": BLOCK_AXIS, "xaxis2.title.text": STEP_AXIS})
    for shape, most in (("wide", 20), ("narrow", 10)):
        tick = _tick(rows["step"].nunique(), most)
        figure.layout.meta["arrangements"][shape]["xaxis2.dtick"] = tick
    return figure


def _extent(ratio: pd.Series) -> tuple[float, float]:
    """Return the smallest and largest ratio that a logarithmic axis can show."""
    positive = ratio[np.isfinite(ratio) & (ratio > 0)]
    return (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)


def _tick(positions: int, most: int = 20) -> int:
    """Return the distance of axis ticks that keeps at most about this many of them."""
    return max(1, -(-positions // most))
