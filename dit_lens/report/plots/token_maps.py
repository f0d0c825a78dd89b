"""What massive channels look like over the image: token maps beside the picture they belong to."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from dit_lens.report.plots.frame import rows_of
from dit_lens.report.plots.panels import Panels
from dit_lens.report.text import number, plot_text
from dit_lens.report.theme import SEQUENTIAL

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = (
    "prompt", "prompt_index", "seed", "stream", "branch", "block", "step", "channel", "row", "col", "value",
)  # fmt: skip
MOST = 40  # panels in one figure


def token_maps(
    table: pd.DataFrame,
    image: Image.Image | None = None,
    *,
    prompt_index: int | None = None,
    seed: int | None = None,
    stream: str = "image",
    branch: str = "cond",
    step: int | None = None,
    block: int | None = None,
) -> go.Figure:
    """Draw the generated picture and, beside it, one small map over the image tokens per block and channel.

    `table`: the `token_maps` table; a coordinate left at None takes the first sample or the last step there
    is, `block=None` draws them all. Each map has its own colour range, written above it, because massive
    channels differ in size by an order of magnitude. Raises `BadInput` for missing columns or coordinates.
    """
    rows = rows_of(
        table, COLUMNS, stream=stream, branch=branch, prompt_index=prompt_index, seed=seed, block=block
    )
    first = rows.iloc[0]
    rows = rows[(rows["prompt_index"] == first["prompt_index"]) & (rows["seed"] == first["seed"])]
    last = int(rows["step"].max()) if step is None else step
    rows = rows_of(rows, COLUMNS, step=last)
    maps = [
        (int(of_block), int(channel), cells.pivot_table(index="row", columns="col", values="value"))
        for (of_block, channel), cells in rows.groupby(["block", "channel"], sort=False)
    ]
    maps = sorted(maps, key=lambda entry: entry[0])[:MOST]
    offset = 0 if image is None else 1
    titles = ["generated image"] * offset
    for of_block, channel, grid in maps:
        low, high = number(float(grid.min().min())), number(float(grid.max().max()))
        titles.append(
            f"block {of_block} · channel {channel}<br><span style='font-size:10px'>{low} to {high}</span>"
        )
    per_block = max(sum(entry[0] == maps[0][0] for entry in maps), 1)
    panels = Panels(
        titles=tuple(titles),
        wide=offset + 4 if len({entry[0] for entry in maps}) > 1 or per_block > 4 else offset + per_block,
        narrow=2,
        height=150,
        x={"visible": False, "constrain": "domain"},
        y={"visible": False, "autorange": "reversed", "constrain": "domain"},
        gap=0.03,
        row_gap=48,
        top=78,
        bottom=12,
    )
    figure = panels.figure(
        f"“{plot_text(str(first['prompt']), limit=90)}”, seed {int(first['seed'])}: massive channels over "
        f"the image tokens at step {last}"
    )
    figure.update_layout(margin={"l": 4, "r": 4})
    figure.update_annotations(align="left")
    for index in range(len(titles)):
        suffix = "" if index == 0 else str(index + 1)
        figure.layout[f"yaxis{suffix}"].update(scaleanchor=f"x{suffix}", scaleratio=1)
    if image is not None:
        _place(figure, image)
    for index, (of_block, channel, grid) in enumerate(maps, start=offset):
        figure.add_trace(
            go.Heatmap(
                z=grid.to_numpy(dtype="float32"),
                x=grid.columns.to_numpy(),
                y=grid.index.to_numpy(),
                colorscale=SEQUENTIAL,
                showscale=False,
                hovertemplate=f"block {of_block}, channel {channel}<br>token row %{{y}}, column %{{x}}"
                "<br>value %{z:.3g}<extra></extra>",
                **panels.axes(index),
            )
        )
    return figure


def _place(figure: go.Figure, image: Image.Image) -> None:
    """Put the picture into the first panel; its axes count pixels."""
    width, height = image.size
    figure.add_trace(
        # An invisible trace makes plotly draw the axes that the picture hangs on.
        go.Scatter(x=[0, width], y=[0, height], mode="markers", marker={"opacity": 0}, hoverinfo="skip")
    )
    figure.layout.xaxis.update(range=[0, width])
    figure.layout.yaxis.update(range=[height, 0], autorange=False)
    figure.add_layout_image(
        source=data_uri(image), xref="x", yref="y", x=0, y=0, sizex=width, sizey=height, sizing="stretch",
        layer="above",
    )  # fmt: skip


def data_uri(image: Image.Image, longest: int = 512) -> str:
    """Return a picture as a `data:` address: at most `longest` pixels a side, small ones enlarged unsmoothed.

    Pictures from a tiny model are enlarged by a whole factor, so that a browser does not blur their pixels.
    """
    from PIL import Image as Pillow

    picture = image.convert("RGB")
    side = max(picture.size)
    if side > longest:
        picture = picture.resize(
            tuple(max(1, round(length * longest / side)) for length in picture.size),  # type: ignore[arg-type]
            Pillow.Resampling.LANCZOS,
        )
    elif side * 2 <= longest // 2:
        factor = longest // 2 // side
        picture = picture.resize((picture.width * factor, picture.height * factor), Pillow.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", lossless=side <= longest // 4, quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
