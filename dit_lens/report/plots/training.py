"""Figures of the embedded model's card: how its training went, and how massive its channels became."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dit_lens.report.plots.frame import BLOCK_AXIS, rows_of
from dit_lens.report.theme import category, template


def training_curve(table: pd.DataFrame) -> go.Figure:
    """Draw the training loss of each stage against its step, one panel a stage (loss axis logarithmic).

    `table`: columns stage, step, loss.
    """
    rows = rows_of(table, ("stage", "step", "loss"))
    stages = list(dict.fromkeys(rows["stage"]))
    figure = make_subplots(cols=len(stages), subplot_titles=stages, horizontal_spacing=0.06)
    for index, stage in enumerate(stages):
        of_stage = rows[rows["stage"] == stage]
        line = {"color": category(index)["color"], "width": 1.5}
        figure.add_trace(
            go.Scatter(x=of_stage["step"].to_numpy(), y=of_stage["loss"].to_numpy(), mode="lines", line=line),
            row=1,
            col=index + 1,
        )
    figure.update_yaxes(type="log")
    figure.update_xaxes(title="step")
    figure.update_layout(
        template=template(), showlegend=False, title="Training loss by stage", paper_bgcolor="white"
    )
    return figure


def top_ratios(table: pd.DataFrame) -> go.Figure:
    """Draw the ratio of each block's largest channels to its median channel, one panel a statistic.

    `table`: columns block, rank, channel, statistic, ratio.
    """
    rows = rows_of(table, ("block", "rank", "channel", "statistic", "ratio"))
    names = list(dict.fromkeys(rows["statistic"]))
    figure = make_subplots(cols=len(names), subplot_titles=names, horizontal_spacing=0.08)
    for panel, name in enumerate(names):
        for rank, of_rank in rows[rows["statistic"] == name].groupby("rank", sort=True):
            look = category(int(rank) - 1)
            figure.add_trace(
                go.Bar(
                    x=of_rank["block"].to_numpy(),
                    y=of_rank["ratio"].to_numpy(),
                    text=[str(channel) for channel in of_rank["channel"]],
                    name=f"rank {rank}",
                    marker_color=look["color"],
                    showlegend=panel == 0,
                ),
                row=1,
                col=panel + 1,
            )
    figure.add_hline(y=1, line_dash="dot")
    figure.update_xaxes(title=BLOCK_AXIS, dtick=1)
    figure.update_yaxes(title="ratio to the channel median", col=1)
    figure.update_layout(
        template=template(),
        barmode="group",
        title="The four largest channels of each block",
        paper_bgcolor="white",
    )
    return figure
