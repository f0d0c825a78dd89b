"""How well masks by some channels outline the subject: by block, by block × step, over their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dit_lens.report.effect_words import families_in_order, family_name
from dit_lens.report.plots.effect_marks import line_with_band
from dit_lens.report.plots.frame import BLOCK_AXIS, STEP_AXIS, rows_of
from dit_lens.report.plots.panels import Panels, chance_line
from dit_lens.report.plots.sources import Source, table_of
from dit_lens.report.text import number, plot_text
from dit_lens.report.theme import INK, SEQUENTIAL

SPATIAL_BLOCKS = ("family", "block", "step", "mean", "ci_low", "ci_high", "n", "chance")
SPATIAL_K = ("family", "k", *SPATIAL_BLOCKS[1:])
IOU = "IoU with the subject's mask"

_CHANCE = "chance (shuffled mask)"
_MOST_TICKS = 12


def spatial_blocks(data: Source, *, step: int | None = None) -> go.Figure:
    """Draw the IoU of every family's masks by block at one step, with the chance level of a shuffled mask.

    `data`: the `spatial_blocks` table; bands are 95 % intervals. `step` defaults to the last at which
    several families were looked at. Raises `BadInput` for missing columns or a step that is not there.

    >>> dl.plots.spatial_blocks("reports/massive_activations").layout.title.text
    'At step 19, massive channels reach ... after block ... (chance ...)'
    """
    table = table_of(data, "spatial_blocks")
    rows = rows_of(table, SPATIAL_BLOCKS)
    step = compared_steps(rows)[-1] if step is None else step
    rows = rows_of(rows, SPATIAL_BLOCKS, step=step).sort_values("block", kind="stable")
    blocks = sorted({int(block) for block in rows["block"]})
    massive = rows[rows["family"] == "massive"].dropna(subset=["mean"])
    said = "no massive channels"
    if len(massive):
        best = massive.loc[massive["mean"].idxmax()]
        said = (
            f"massive channels reach {number(best['mean'], 2)} after block {int(best['block'])} "
            f"(chance {number(best['chance'], 2)})"
        )
    return _curves(
        rows,
        "block",
        f"At step {step}, {said}",
        {"dtick": max(1, -(-len(blocks) // _MOST_TICKS))},
        BLOCK_AXIS,
        "after block %{x}",
    )


def spatial_k(data: Source, *, block: int | None = None, step: int | None = None) -> go.Figure:
    """Draw the IoU of masks made of k channels over k (logarithmic), massive and controls, at one place.

    `data`: the `spatial_k` table; bands are 95 % intervals. `block` and `step` default to the first place.
    Raises `BadInput` for missing columns or a place that is not there.

    >>> dl.plots.spatial_k("reports/massive_activations").layout.title.text
    'After block 6 at step 5: IoU ... by the strongest channel, ... by 128'
    """
    table = table_of(data, "spatial_k")
    rows = rows_of(table, SPATIAL_K)
    rows = rows_of(rows, SPATIAL_K, block=block)
    block = int(rows["block"].iloc[0])
    rows = rows_of(rows, SPATIAL_K, block=block, step=step)
    step = int(rows["step"].iloc[0])
    rows = rows_of(rows, SPATIAL_K, step=step).sort_values("k", kind="stable")
    ks = sorted({int(k) for k in rows["k"]})
    massive = rows[rows["family"] == "massive"].dropna(subset=["mean"])
    said = "no massive channels"
    if len(massive):
        first, last = massive.iloc[0], massive.iloc[-1]
        said = (
            f"{number(first['mean'], 2)} by the strongest {_strongest(int(first['k']))}, "
            f"{number(last['mean'], 2)} by {int(last['k'])}"
        )
    axis = {
        "type": "log",
        "tickmode": "array",
        "tickvals": ks,
        "ticktext": list(map(str, ks)),
        "range": [np.log10(ks[0] / 1.15), np.log10(ks[-1] * 1.15)],
    }
    title = f"After block {block} at step {step}: IoU {said}"
    return _curves(rows, "k", title, axis, "channels that tokens are clustered by (k)", "k = %{x}")


def spatial_map(
    data: Source, *, family: str = "massive", places: tuple[tuple[int, int], ...] = ()
) -> go.Figure:
    """Draw the mean IoU of one family's masks by block × step, in colours that all families share.

    `data`: the `spatial_blocks` table. `places`: (block, step) cells to mark, those where claims are judged.
    Raises `BadInput` for missing columns or a table without that family.

    >>> dl.plots.spatial_map("reports/massive_activations").layout.title.text
    'Massive channels: IoU from ... to ... over block × step'
    """
    table = table_of(data, "spatial_blocks")
    rows = rows_of(table, SPATIAL_BLOCKS, family=family)
    blocks = sorted({int(block) for block in rows["block"]})
    steps = sorted({int(step) for step in rows["step"]})

    def grid(name: str) -> np.ndarray:
        cells = rows.pivot_table(index="block", columns="step", values=name, aggfunc="first", dropna=False)
        return cells.reindex(index=blocks, columns=steps).to_numpy(dtype="float32")

    mean = grid("mean")
    # Steps are equally wide, however far apart: each is a column of its own, named on the axis.
    panels = Panels(
        titles=("",),
        wide=1,
        narrow=1,
        height=int(np.clip(28 * len(blocks), 160, 560)),
        x={"type": "category", "showgrid": False, "tickmode": "auto", "nticks": _MOST_TICKS},
        y={"dtick": max(1, -(-len(blocks) // _MOST_TICKS)), "showgrid": False},
        x_title=STEP_AXIS,
        y_title=BLOCK_AXIS,
        top=44,
        bottom=56,
    )
    known = np.isfinite(mean)
    low, high = (float(np.nanmin(mean)), float(np.nanmax(mean))) if known.any() else (0.0, 1.0)
    name = plot_text(family_name(family))
    figure = panels.figure(
        f"{name[:1].upper()}{name[1:]}: IoU from {number(low, 2)} to {number(high, 2)} over block × step"
    )
    top = float(table["mean"].max()) if table["mean"].notna().any() else high
    few = len(blocks) * len(steps) <= 240
    figure.add_trace(
        go.Heatmap(
            x=[str(step) for step in steps],
            y=blocks,
            z=mean,
            customdata=np.stack([grid("ci_low"), grid("ci_high"), grid("chance"), grid("n")], axis=-1),
            meta={"columns": ["ci_low", "ci_high", "chance", "n"], "z": "iou"},
            hovertemplate="after block %{y}, step %{x}<br>IoU %{z:.3f}<br>95 % CI %{customdata[0]:.2f} to "
            "%{customdata[1]:.2f}, n = %{customdata[3]:.0f} prompts<br>chance %{customdata[2]:.2f}"
            "<extra></extra>",
            texttemplate="%{z:.2f}" if few else None,
            textfont={"size": 10},
            colorscale=SEQUENTIAL,
            zmin=0,
            zmax=max(top, 1e-9),
            xgap=1,
            ygap=1,
            colorbar={"outlinewidth": 0, "thickness": 10, "title": {"text": "IoU"}},
            **panels.axes(0),
        )
    )
    half = (blocks[1] - blocks[0]) / 2 if len(blocks) > 1 else 0.5
    for block, step in places:
        if block in blocks and step in steps:
            at = steps.index(step)
            figure.add_shape(
                type="rect",
                x0=at - 0.5,
                x1=at + 0.5,
                y0=block - half,
                y1=block + half,
                line={"color": INK["light"], "width": 2.5},
                xref="x",
                yref="y",
            )
    return figure


def compared_steps(table: pd.DataFrame) -> list[int]:
    """Return the steps at which other families than the massive one have rows; all where there are none."""
    others = table[table["family"] != "massive"]
    return sorted({int(step) for step in (others if len(others) else table)["step"]})


def _curves(
    rows: pd.DataFrame, over: str, title: str, axis: dict[str, Any], x_title: str, where: str
) -> go.Figure:
    """Draw one line with its band per family, over the column `over`, and the chance level."""
    families = families_in_order(rows["family"])
    panels = Panels(
        titles=("",),
        wide=1,
        narrow=1,
        height=320,
        x=axis,
        y={"rangemode": "tozero"},
        x_title=x_title,
        y_title=IOU,
        legend=len(families) + 1,
        top=44,
    )
    figure = panels.figure(title)
    for family in families:
        own = rows[rows["family"] == family].drop_duplicates(over)
        line_with_band(
            figure, panels.axes(0), own, over, family, where=where, also=["chance"],
            hover="<br>chance %{customdata[3]:.3g}",
        )  # fmt: skip
    level = rows[rows["family"] == ("massive" if "massive" in families else families[0])]
    level = level.drop_duplicates(over).dropna(subset=["chance"])
    if len(level):
        chance_line(
            figure, panels.axes(0), list(level[over]), list(level["chance"]), _CHANCE, showlegend=True
        )
    return figure


def _strongest(count: int) -> str:
    return "channel" if count == 1 else f"{count} channels"
