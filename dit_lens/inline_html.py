"""HTML that needs nothing beside it, for a cell of a notebook: escaped text, small tables, inline pictures.

Everything that is not `Markup` is escaped. Nothing sets a colour: text and rules are `currentColor`, so a
cell is readable in light and dark themes. Needs markupsafe, which jinja2 brings, and Pillow for pictures.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PICTURES = 12
LONGEST = 128  # pixels of a thumbnail's longer side
MOST_ROWS = 40

_CELL = "padding:.15em .9em .15em 0;text-align:left;vertical-align:top;border:0"
_RULE = "border-bottom:1px solid currentColor"


def card(title: object, *parts: Markup, note: object = "") -> str:
    """Return one cell: a title, what follows it, and a faint line at its end.

    >>> card("a < b", facts({"n": 1}))[:41]
    '<div><div><strong>a &lt; b</strong></div>'
    """
    head = Markup("<div><strong>{}</strong></div>").format(title)
    foot = Markup("<div style='opacity:.75'>{}</div>").format(note) if note else Markup("")
    return str(Markup("<div>{}{}{}</div>").format(head, Markup("").join(parts), foot))


def facts(pairs: Mapping[str, object]) -> Markup:
    """Return names and values as a table of two columns; empty values are left out."""
    lines = [
        Markup("<tr><th scope='row' style='{}'>{}</th><td style='{}'>{}</td></tr>").format(
            _CELL, name, _CELL, value
        )
        for name, value in pairs.items()
        if value not in ("", None)
    ]
    return _table(Markup("").join(lines))


def table(columns: Sequence[object], rows: Iterable[Sequence[object]], most: int = MOST_ROWS) -> Markup:
    """Return rows below their columns' names; rows beyond `most` are counted, not shown."""
    rows = list(rows)
    head = Markup("").join(
        Markup("<th scope='col' style='{};{}'>{}</th>").format(_CELL, _RULE, name) for name in columns
    )
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td style='{}'>{}</td>").format(_CELL, cell) for cell in row)
        )
        for row in rows[:most]
    )
    rest = f"… and {len(rows) - most:,} more rows" if len(rows) > most else ""
    return _table(Markup("<tr>{}</tr>{}").format(head, body)) + faint(rest)


def _table(rows: Markup) -> Markup:
    return Markup("<table style='border-collapse:collapse;color:inherit;background:none'>{}</table>").format(
        rows
    )


def faint(text: object) -> Markup:
    """Return a line of less weight; nothing for an empty text."""
    return Markup("<div style='opacity:.75'>{}</div>").format(text) if text else Markup("")


def folded(summary: object, content: Markup, *, opened: bool = False) -> Markup:
    """Return content that opens on a click."""
    state = Markup(" open") if opened else Markup("")
    return Markup("<details{}><summary>{}</summary>{}</details>").format(state, summary, content)


def preformatted(text: str) -> Markup:
    """Return text with its line breaks and spaces."""
    return Markup("<pre style='color:inherit;background:none;margin:.3em 0'>{}</pre>").format(text)


def thumbnails(pictures: Sequence[tuple[str, Image]], most: int = MOST_PICTURES) -> Markup:
    """Return pictures side by side over their labels; those beyond `most` are counted, not shown.

    Each is 128 pixels wide, with its pixels kept where it is smaller, and carried inside the HTML.
    """
    shown = Markup("").join(
        Markup(
            "<figure style='display:inline-block;margin:.3em .6em .3em 0;width:{}px;vertical-align:top'>"
            "<img src='{}' alt='{}' style='width:100%{}'>"
            "<figcaption style='font-size:85%;overflow-wrap:anywhere'>{}</figcaption></figure>"
        ).format(
            LONGEST,
            data_uri(picture, LONGEST),
            label,
            ";image-rendering:pixelated" if max(picture.size) < LONGEST else "",
            shortened(label, 90),
        )
        for label, picture in pictures[:most]
    )
    rest = f"… and {len(pictures) - most:,} more pictures" if len(pictures) > most else ""
    return Markup("<div>{}</div>").format(shown) + faint(rest)


def grid(cells: Sequence[Sequence[bool]], title: str, *, side: int = LONGEST) -> Markup:
    """Return truth values [rows][columns] as a drawing: full squares where they are true.

    Runs along a row are one rectangle, so that fine grids stay small.
    """
    tall, wide = len(cells), len(cells[0])
    runs = []
    for y, row in enumerate(cells):
        start = None
        for x, inside in enumerate([*row, False]):
            if inside and start is None:
                start = x
            elif not inside and start is not None:
                runs.append(f"M{start} {y}h{x - start}v1h{start - x}z")
                start = None
    return Markup(
        "<svg role='img' aria-label='{}' width='{}' height='{}' viewBox='0 0 {} {}' "
        "style='border:1px solid currentColor' shape-rendering='crispEdges'><title>{}</title>"
        "<path fill='currentColor' d='{}'/></svg>"
    ).format(
        title,
        side * wide // max(tall, wide),
        side * tall // max(tall, wide),
        wide,
        tall,
        title,
        "".join(runs),
    )


def heat(values: Any, title: str, *, cell: int = 12, most: int = 1200) -> Markup:
    """Return numbers [rows, columns] as a drawing, more opaque where larger; NaN stays blank.

    Larger maps than `most` cells are left to a figure.
    """
    rows = [[float(value) for value in row] for row in values]
    finite = [value for row in rows for value in row if math.isfinite(value)]
    if not finite or len(rows) * len(rows[0]) > most:
        return Markup("")
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    squares = Markup("").join(
        Markup("<rect x='{}' y='{}' width='{}' height='{}' fill-opacity='{:.2f}'/>").format(
            x * cell, y * cell, cell - 1, cell - 1, 0.06 + 0.94 * (value - low) / span
        )
        for y, row in enumerate(rows)
        for x, value in enumerate(row)
        if math.isfinite(value)
    )
    width, height = cell * len(rows[0]), cell * len(rows)
    return Markup(
        "<svg role='img' aria-label='{}' width='{}' height='{}' viewBox='0 0 {} {}' style='max-width:100%' "
        "fill='currentColor'><title>{}</title>{}</svg>"
    ).format(title, width, height, width, height, title, squares)


def shortened(text: object, limit: int = 160) -> str:
    """Return text on one line, cut with an ellipsis where it is longer than `limit` characters."""
    plain = " ".join(str(text).split())
    return plain if len(plain) <= limit else plain[: limit - 1].rstrip() + "…"


def data_uri(image: Image, longest: int = 512) -> str:
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
