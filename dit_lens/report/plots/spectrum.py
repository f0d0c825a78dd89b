"""How far the largest channels stand above the rest, block by block."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.report.plots.frame import BLOCK_AXIS, ratio_ticks, rows_of, where
from dit_lens.report.plots.panels import Panels, chance_line
from dit_lens.report.plots.sources import Source, table_of
from dit_lens.report.text import number
from dit_lens.report.theme import CATEGORICAL

COLUMNS = ("stream", "branch", "block", "rank", "channel", "statistic", "value", "ratio")


def spectrum(
    data: Source,
    *,
    stream: str = "image",
    branch: str = "cond",
    statistic: str = "abs_mean",
    label: int = 3,
) -> go.Figure:
    """Draw each block's channels, sorted, as multiples of the block's median channel (both axes logarithmic).

    `data`: the `spectrum` table, of which one `stream`, `branch` and `statistic` is drawn; the `label`
    largest channels of each block are named. Long spectra are thinned beyond rank 24, evenly on the
    logarithmic axis, to keep a report small. Raises `BadInput` for missing columns or coordinates.

    >>> dl.plots.spectrum(stats).layout.title.text
    'Channel 0 reaches ... × the median channel in block 7 (image stream, ...)'
    """
    table = table_of(data, "spectrum")
    rows = rows_of(table, COLUMNS, stream=stream, branch=branch, statistic=statistic)
    rows = rows[rows["ratio"] > 0].sort_values(["block", "ratio"], ascending=[True, False], kind="stable")
    if rows.empty:
        rows = rows_of(rows, COLUMNS)
    blocks = [int(block) for block in rows["block"].unique()]
    most = rows.loc[rows["ratio"].idxmax()]
    size = int(rows.groupby("block").size().max())
    low, high = np.log10(rows["ratio"].quantile(0.002)), np.log10(most["ratio"])
    panels = Panels(
        titles=tuple(
            f"{BLOCK_AXIS} {block}: {', '.join(map(str, of_block['channel'].head(label)))} …"
            for block, of_block in rows.groupby("block", sort=True)
        ),
        wide=4 if len(blocks) <= 16 else 6,
        narrow=2,
        x={"type": "log", "matches": "x", "range": [-0.08, np.log10(size) + 0.08], "dtick": 1},
        y={
            "type": "log",
            "matches": "y",
            "range": [low - 0.1, high + 0.15],
            **ratio_ticks(10**low, 10**high),
        },
        x_title="rank of the channel",
        y_title="ratio to median",
        gap=0.07,
    )
    figure = panels.figure(
        f"Channel {int(most['channel'])} reaches {number(most['ratio'])} × the median channel in block "
        f"{int(most['block'])} ({where(stream, branch, statistic)})"
    )
    for index, (_, of_block) in enumerate(rows.groupby("block", sort=True)):
        axes = panels.axes(index)
        rank = np.arange(1, len(of_block) + 1)
        kept = _thinned(len(of_block))
        shown = of_block.iloc[kept]
        chance_line(figure, axes, [1, size], [1, 1], "channel median")
        figure.add_trace(
            go.Scatter(
                x=rank[kept],
                y=shown["ratio"].to_numpy(),
                mode="lines+markers",
                line={"color": CATEGORICAL[0], "width": 1.5},
                marker={"size": 4, "color": CATEGORICAL[0]},
                customdata=np.column_stack([shown["channel"], shown["value"]]),
                meta={"columns": ["channel", "value"]},
                hovertemplate="channel %{customdata[0]:.0f}, rank %{x}<br>ratio %{y:.3g} ×"
                "<br>value %{customdata[1]:.3g}<extra></extra>",
                showlegend=False,
                **axes,
            )
        )
        top = _apart(of_block.head(label))
        figure.add_trace(
            go.Scatter(
                x=top["position"].to_numpy(),
                y=top["ratio"].to_numpy(),
                mode="markers+text",
                text=[str(int(channel)) for channel in top["channel"]],
                textposition="middle right",
                textfont={"size": 10},
                marker={"size": 7, "color": CATEGORICAL[1]},
                cliponaxis=False,
                hoverinfo="skip",
                showlegend=False,
                **axes,
            )
        )
    return figure


def _apart(top: pd.DataFrame, factor: float = 1.35) -> pd.DataFrame:
    """Return the top channels whose labels do not cover each other: each well below the one before."""
    kept: list[int] = []
    for position, ratio in enumerate(top["ratio"]):
        if not kept or ratio * factor <= top["ratio"].iloc[kept[-1]]:
            kept.append(position)
    return top.iloc[kept].assign(position=[position + 1 for position in kept])


def _thinned(length: int, exact: int = 24, further: int = 60) -> np.ndarray:
    """Return positions to keep: the first `exact`, then `further` evenly spaced on a logarithmic axis."""
    if length <= exact + further:
        return np.arange(length)
    tail = np.geomspace(exact + 1, length, further).round().astype(int) - 1
    return np.unique(np.concatenate([np.arange(exact), tail]))
