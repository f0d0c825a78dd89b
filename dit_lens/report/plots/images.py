"""Pictures side by side: what a run made, arms of one seed, a mask over its image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import plotly.graph_objects as go

from dit_lens.errors import BadInput
from dit_lens.inline_html import data_uri
from dit_lens.report.plots.panels import Panels
from dit_lens.report.text import count, plot_text
from dit_lens.run.records import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 48  # pictures in one figure
LONGEST = 384  # pixels of a picture's longer side
_HEIGHT = 168  # pixels of a panel


@runtime_checkable
class HasPictures(Protocol):
    """What made pictures: a trajectory, the result of a graph, a first look at masks or at carrying."""

    @property
    def labelled_images(self) -> Sequence[tuple[str, Image]]:
        """Its pictures, each with the words that tell it from the others."""


Pictures: TypeAlias = "HasPictures | Mapping[str, Image] | Sequence[Image] | Image | str | os.PathLike[str]"


def images(
    pictures: Pictures,
    *,
    labels: Sequence[str] | None = None,
    across: int | None = None,
    title: str = "",
    kind: str | None = None,
    seed: int | None = None,
) -> go.Figure:
    """Draw pictures side by side, each under its label; hovering shows the label in full.

    `pictures`: what `lens.generate` or `dl.run` gave, or a first look at masks or at carrying; {label: PIL
    image}; PIL images, with `labels` of the same number; or a run folder. `across` pictures stand in a row
    (a fitting number by default), under a `title`. Of a run folder, `kind` names which to draw (`sample` by
    default; `arm` is what edits made, each labelled with its arm) and `seed` keeps one seed. Raises
    `BadInput` for no pictures, more than 48, or labels of another number.

    >>> figure = dl.plots.images(trajectory, title="two prompts, one seed")
    >>> figure.layout.title.text, len(figure.layout.images)
    ('two prompts, one seed', 2)
    """
    shown = _labelled(pictures, labels, kind, seed)
    if not shown:
        raise BadInput("There are no pictures to draw.")
    if len(shown) > MOST:
        raise BadInput(
            f"{len(shown)} pictures were given; one figure draws at most {MOST}. Give some of them."
        )
    wide = across or (len(shown) if len(shown) <= 6 else min(8, -(-len(shown) // -(-len(shown) // 6))))
    letters = max(14, min(28, 110 // wide))  # two labels fit beside each other on a phone, too
    titles = tuple(plot_text(label, limit=5 * letters, width=letters) for label, _ in shown)
    above = 16 * max(text.count("<br>") + 1 for text in titles) + 6
    panels = Panels(
        titles=titles,
        wide=wide,
        narrow=2,
        height=_HEIGHT,
        x={"visible": False, "constrain": "domain", "constraintoward": "left"},
        y={"visible": False, "constrain": "domain", "constraintoward": "top"},
        gap=0.03,
        row_gap=above + 16,
        top=above + 40,
        bottom=12,
    )
    figure = panels.figure(plot_text(title, limit=120) if title else count(len(shown), "picture"))
    figure.update_layout(margin={"l": 4, "r": 4}, title={"yref": "container", "y": 1, "yanchor": "top"})
    figure.update_layout(title={"pad": {"t": 12}})
    figure.update_annotations(align="left", font={"size": 11})
    square(figure, len(shown))
    for index, (label, picture) in enumerate(shown):
        place_picture(figure, panels, index, picture, label=label, longest=LONGEST)
    return figure


def square(figure: go.Figure, amount: int) -> None:
    """Give the first panels pixels and tokens as wide as they are high."""
    for index in range(amount):
        suffix = "" if index == 0 else str(index + 1)
        figure.layout[f"yaxis{suffix}"].update(scaleanchor=f"x{suffix}", scaleratio=1)


def place_picture(
    figure: go.Figure, panels: Panels, index: int, picture: Image, *, label: str = "", longest: int = 512
) -> None:
    """Put a picture into a panel, whose axes then count its pixels."""
    width, height = picture.size
    axes = panels.axes(index)
    suffix = axes["xaxis"].removeprefix("x")
    figure.add_trace(
        # An invisible trace makes plotly draw the axes that the picture hangs on, and carries the label.
        go.Scatter(
            x=[0, width / 2, width],
            y=[0, height / 2, height],
            mode="markers",
            marker={"opacity": 0, "size": [1, _HEIGHT, 1]},
            hovertemplate=f"{plot_text(label, limit=400, width=60)}<extra></extra>" if label else None,
            hoverinfo=None if label else "skip",
            showlegend=False,
            **axes,
        )
    )
    figure.layout[f"xaxis{suffix}"].update(range=[0, width])
    figure.layout[f"yaxis{suffix}"].update(range=[height, 0], autorange=False)
    figure.add_layout_image(
        source=data_uri(picture, longest), xref=axes["xaxis"], yref=axes["yaxis"], x=0, y=0, sizex=width,
        sizey=height, sizing="stretch", layer="above",
    )  # fmt: skip


def _labelled(
    pictures: Any, labels: Sequence[str] | None, kind: str | None, seed: int | None
) -> list[tuple[str, Image]]:
    if isinstance(pictures, RunFolder | str | os.PathLike):
        folder = pictures if isinstance(pictures, RunFolder) else RunFolder.read(pictures)
        found = _of_run(folder, kind, seed)
    elif kind is not None or seed is not None:
        raise BadInput("kind and seed choose pictures of a run folder; choose others before drawing them.")
    elif isinstance(pictures, HasPictures):
        found = list(pictures.labelled_images)
    elif isinstance(pictures, Mapping):
        found = [(str(label), picture) for label, picture in pictures.items()]
    else:
        several = [pictures] if hasattr(pictures, "getbands") else list(pictures)
        found = [(f"picture {index}" if len(several) > 1 else "", one) for index, one in enumerate(several)]
    for _, picture in found:
        if not hasattr(picture, "getbands"):
            raise BadInput(f"A {type(picture).__name__} is no picture; give PIL images.")
    if labels is None:
        return found
    if len(labels) != len(found):
        raise BadInput(f"{len(labels)} labels for {len(found)} pictures; give one each.")
    return [(str(label), picture) for label, (_, picture) in zip(labels, found, strict=True)]


def _of_run(folder: RunFolder, kind: str | None, seed: int | None) -> list[tuple[str, Image]]:
    from PIL import Image as Pillow

    entries = [entry for entry in folder.images() if folder.image_path(entry).is_file()]
    kind = kind or "sample"
    chosen = [entry for entry in entries if entry.kind == kind and seed in (None, entry.seed)]
    if not chosen:
        kinds = sorted({entry.kind for entry in entries})
        seeds = sorted({entry.seed for entry in entries})
        raise BadInput(
            f"{folder.path} has no pictures of kind {kind!r}"
            f"{'' if seed is None else f' and seed {seed}'}; it has the kinds {', '.join(kinds) or '(none)'} "
            f"and the seeds {', '.join(map(str, seeds)) or '(none)'}."
        )
    found = []
    for entry in chosen:
        with Pillow.open(folder.image_path(entry)) as picture:
            label = f"{entry.caption} · " if entry.caption and kind != "sample" else ""
            found.append((f"{label}{entry.prompt} · seed {entry.seed}", picture.convert("RGB")))
    return found
