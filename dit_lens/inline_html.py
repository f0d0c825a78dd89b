"""HTML that needs nothing beside it, for a cell of a notebook: escaped text, small tables, inline pictures.

Everything that is not `Markup` is escaped. Nothing sets a colour: text and rules are `currentColor`, so a
cell is readable in light and dark themes. Needs markupsafe, which jinja2 brings, and Pillow for pictures.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dit_lens.summary import MOST_LINES, MOST_PICTURES, MOST_ROWS, Line, beyond, scale, shortened

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 128  # pixels of a thumbnail's longer side

_CELL = "padding:.15em .9em .15em 0;text-align:left;vertical-align:top;border:0"
_RULE = "border-bottom:1px solid currentColor"
_LINE, _LETTER, _LEFT, _MOST = 22, 7.3, 52, 120  # of an outline: pixels, and letters of a line


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
    return _table(Markup("<tr>{}</tr>{}").format(head, body)) + faint(beyond(len(rows), most, "rows"))


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
    return Markup("<div>{}</div>").format(shown) + faint(beyond(len(pictures), most, "pictures"))


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


def heat(values: Any, title: str, *, cell: int = 12) -> Markup:
    """Return numbers [rows, columns] as a drawing, more opaque where larger; NaN stays blank.

    Larger maps than 1200 cells are left to a figure.
    """
    rows = scale(values)
    if not rows:
        return Markup("")
    squares = Markup("").join(
        Markup("<rect x='{}' y='{}' width='{}' height='{}' fill-opacity='{:.2f}'/>").format(
            x * cell, y * cell, cell - 1, cell - 1, 0.06 + 0.94 * share
        )
        for y, row in enumerate(rows)
        for x, share in enumerate(row)
        if share is not None
    )
    width, height = cell * len(rows[0]), cell * len(rows)
    return Markup(
        "<svg role='img' aria-label='{}' width='{}' height='{}' viewBox='0 0 {} {}' style='max-width:100%' "
        "fill='currentColor'><title>{}</title>{}</svg>"
    ).format(title, width, height, width, height, title, squares)


def outline(every: Sequence[Line], title: str) -> Markup:
    """Return lines as a drawing: an arrow leads from each head to what draws on it.

    Lines beyond 60 are counted, and long ones are cut; hovering over one shows it in full.
    """
    lines = every[:MOST_LINES]
    y = {line.id: _LINE * (i + 1) for i, line in enumerate(lines) if line.mark}
    words, paths = [], []
    for i, line in enumerate(lines):
        down, left = _LINE * (i + 1), _LEFT if line.mark else _LEFT + 22
        words.append(_words(left, down, f"{line.mark} {line.text}".strip(), bold=bool(line.mark)))
        if not line.mark:
            paths.append(Markup("<path d='M{} {}v{}h10'/>").format(_LEFT + 5, down - _LINE + 8, _LINE - 8))
        if line.source in y:
            # Arcs of neighbouring lines bend by different widths, so that they can be told apart.
            bend, start = _LEFT - 26 - 6 * (i % 5), y[line.source]
            path = f"M{_LEFT - 4} {start}C{bend} {start} {bend} {down} {left - 8} {down}l-6 -4m6 4l-6 4"
            paths.append(Markup("<path d='{}'/>").format(path))
    rest = beyond(len(every), MOST_LINES, "lines")
    if rest:
        words.append(_words(_LEFT, _LINE * (len(lines) + 1), rest))
    width = _LEFT + 30 + _LETTER * max((min(len(line.text) + 2, _MOST) for line in lines), default=10)
    height = _LINE * (len(lines) + 1 + bool(rest))
    return Markup(
        "<svg role='img' aria-label='{}' viewBox='0 0 {:.0f} {}' width='{:.0f}' "
        "style='max-width:100%;height:auto'>"
        "<g stroke='currentColor' stroke-opacity='.6' stroke-width='1.2' fill='none'>{}</g>"
        "<g fill='currentColor' font-family='ui-monospace,monospace' font-size='12'>{}</g></svg>"
    ).format(title, width, height, width, Markup("").join(paths), Markup("").join(words))


def _words(left: int, down: int, text: str, *, bold: bool = False) -> Markup:
    weight = Markup(" font-weight='600'") if bold else Markup("")
    return Markup("<text x='{}' y='{}'{}><title>{}</title>{}</text>").format(
        left, down + 4, weight, text, shortened(text, _MOST)
    )


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
