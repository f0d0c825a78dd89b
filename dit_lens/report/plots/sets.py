"""How far the chosen channels depend on what was asked: prompts, seeds, steps, blocks, the statistic."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from dit_lens.errors import BadInput
from dit_lens.report.plots.frame import BLOCK_AXIS, rows_of, where
from dit_lens.report.plots.panels import Panels, chance_line
from dit_lens.report.plots.sources import Source, table_of
from dit_lens.report.text import number
from dit_lens.report.theme import CATEGORICAL, category

AXES = ("prompt", "seed", "step", "block")
STABILITY = ("stream", "branch", "axis", "block", "k", "jaccard", "chance", "n")
AGREEMENT = ("stream", "branch", "block", "k", "jaccard", "chance")
_Y = {"range": [-0.03, 1.05], "dtick": 0.25}


def _one_size(rows: pd.DataFrame, k: int | None) -> tuple[pd.DataFrame, int]:
    sizes = sorted(int(size) for size in rows["k"].unique())
    size = sizes[0] if k is None else k
    if size not in sizes:
        raise BadInput(f"No row has k = {k}; there are: {', '.join(map(str, sizes))}.")
    return rows[rows["k"] == size], size


def stability(
    data: Source, *, stream: str = "image", branch: str = "cond", k: int | None = None
) -> go.Figure:
    """Draw the mean Jaccard overlap of top-k sets over pairs of prompts, seeds, steps and adjacent blocks.

    `data`: the `stability` table, of which one `stream` and `branch` is drawn; `k` defaults to the smallest
    there. The dotted line is the overlap expected of random sets of that size. Axes without a pair to
    compare are left out. Raises `BadInput` for missing columns or coordinates.

    >>> dl.plots.stability(stats, k=4).layout.title.text
    'The top 4 channels overlap at least ...'
    """
    table = table_of(data, "stability")
    rows, size = _one_size(rows_of(table, STABILITY, stream=stream, branch=branch), k)
    rows = rows.dropna(subset=["jaccard"])
    names = [axis for axis in AXES if axis in set(rows["axis"])]
    least = rows.loc[rows["jaccard"].idxmin()] if len(rows) else None
    panels = Panels(
        titles=("",),
        wide=1,
        narrow=1,
        height=270,
        x={"dtick": max(1, rows["block"].nunique() // 20)},
        y=_Y,
        x_title=BLOCK_AXIS,
        y_title="Jaccard overlap (1 = same set)",
        legend=len(names) + 1,
        top=48,
    )
    title = f"Overlap of the top {size} channels between runs of the same kind ({where(stream, branch)})"
    if least is not None:
        title = (
            f"The top {size} channels overlap at least {number(least['jaccard'])} "
            f"(over {least['axis']}s, block {int(least['block'])}; {where(stream, branch)})"
        )
    figure = panels.figure(title)
    for axis in names:
        of_axis = rows[rows["axis"] == axis].sort_values("block")
        style = category(AXES.index(axis))
        figure.add_trace(
            go.Scatter(
                x=of_axis["block"].to_numpy(),
                y=of_axis["jaccard"].to_numpy(),
                mode="lines+markers",
                name={"block": "neighbouring blocks"}.get(axis, f"{axis}s"),
                line={"color": style["color"], "width": 2},
                marker={"symbol": style["symbol"], "size": 8},
                customdata=of_axis[["n", "chance"]].to_numpy(),
                meta={"columns": ["n", "chance"]},
                hovertemplate=f"over {axis}s, block %{{x}}<br>Jaccard %{{y:.3f}} (n = %{{customdata[0]}})"
                "<br>chance %{customdata[1]:.3f}<extra></extra>",
            )
        )
    _chance(figure, panels, rows)
    return figure


def agreement(
    data: Source, *, stream: str = "image", branch: str = "cond", k: int | None = None
) -> go.Figure:
    """Draw, per block, how far the two readings of "massive" choose the same channels.

    |token mean| (`abs_mean`) and mean |value| (`mean_abs`) differ for channels of mixed sign. `data`: the
    `agreement` table, of which one `stream` and `branch` is drawn; `k` defaults to the smallest there.
    Raises `BadInput` for missing columns or coordinates.

    >>> dl.plots.agreement(stats, k=4).layout.title.text
    'Top 4 by |mean| and by mean |value| overlap 0.717 on average (image stream, ...)'
    """
    table = table_of(data, "agreement")
    rows, size = _one_size(rows_of(table, AGREEMENT, stream=stream, branch=branch), k)
    rows = rows.sort_values("block")
    panels = Panels(
        titles=("",),
        wide=1,
        narrow=1,
        height=230,
        x={"dtick": max(1, len(rows) // 20)},
        y=_Y,
        x_title=BLOCK_AXIS,
        y_title="Jaccard overlap (1 = same set)",
        legend=2,
        top=48,
    )
    figure = panels.figure(
        f"Top {size} by |mean| and by mean |value| overlap {number(rows['jaccard'].mean())} on average "
        f"({where(stream, branch)})"
    )
    figure.add_trace(
        go.Bar(
            x=rows["block"].to_numpy(),
            y=rows["jaccard"].to_numpy(),
            marker={"color": CATEGORICAL[0]},
            name="abs_mean set against mean_abs set",
            hovertemplate="block %{x}<br>Jaccard %{y:.3f}<extra></extra>",
        )
    )
    _chance(figure, panels, rows)
    return figure


def _chance(figure: go.Figure, panels: Panels, rows: pd.DataFrame) -> None:
    level = rows.groupby("block")["chance"].mean()
    if len(level):
        # Half a block beyond the data, so that the level shows behind a single block and behind bars.
        xs = [level.index[0] - 0.5, *level.index, level.index[-1] + 0.5]
        ys = [level.iloc[0], *level, level.iloc[-1]]
        chance_line(figure, panels.axes(0), xs, ys, "chance", showlegend=True)
