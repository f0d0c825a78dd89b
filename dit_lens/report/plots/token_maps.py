"""What massive channels look like over the image: token maps beside the picture they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from dit_lens.report.plots.frame import rows_of
from dit_lens.report.plots.images import place_picture, square
from dit_lens.report.plots.panels import Panels
from dit_lens.report.plots.sources import Source, table_of
from dit_lens.report.text import number, plot_text
from dit_lens.report.theme import SEQUENTIAL

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = (
    "prompt", "prompt_index", "seed", "stream", "branch", "block", "step", "channel", "row", "col", "value",
)  # fmt: skip
MOST = 40  # panels in one figure


def token_maps(
    data: Source,
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

    `data`: the `token_maps` table, and `image` its picture, which a run folder brings along. Of
    `prompt_index`, `seed`, `stream`, `branch`, `step` and `block`, one left at None takes the first sample
    or the last step there is, and `block=None` draws them all. Each map has its own colour range, written
    above it, because massive channels differ in size by an order of magnitude. Raises `BadInput` for missing
    columns or coordinates.

    >>> dl.plots.token_maps("reports/massive_activations").layout.title.text
    '“a large red circle on a blue background”, seed 0: massive channels over the image tokens at step 9'
    """
    table = table_of(data, "token_maps")
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
    square(figure, len(titles))
    if image is not None:
        place_picture(figure, panels, 0, image)
    for index, (of_block, channel, grid) in enumerate(maps, start=offset):
        figure.add_trace(
            go.Heatmap(
                z=grid.to_numpy(dtype="float32"),
                x=grid.columns.to_numpy(),
                y=grid.index.to_numpy(),
                colorscale=SEQUENTIAL,
                showscale=False,
                meta={"z": "value"},
                hovertemplate=f"block {of_block}, channel {channel}<br>token row %{{y}}, column %{{x}}"
                "<br>value %{z:.3g}<extra></extra>",
                **panels.axes(index),
            )
        )
    return figure
