"""What a value says about itself: a title and parts, before anyone decides how they look.

Values build a `Summary` and know nothing of HTML. `dit_lens.display` renders it as a notebook's cell, `str()`
gives its text. Nothing but the standard library is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_ROWS = 40
MOST_LINES = 60
MOST_PICTURES = 12
MOST_CELLS = 1200
"""Rows of a table, lines of an outline, images of a strip and cells of a heat map that are shown; what goes
beyond is counted, and a larger heat map is left to a figure."""

_SHADES = "·░▒▓█"


@dataclass(frozen=True)
class Facts:
    """Names and values, one below another; those whose value is empty or None are left out."""

    pairs: Mapping[str, object]

    @property
    def shown(self) -> list[tuple[str, object]]:
        """Pairs that have a value."""
        return [(name, value) for name, value in self.pairs.items() if value not in ("", None)]


@dataclass(frozen=True)
class Table:
    """Rows below the names of their columns; a cell is anything with a text, or a `Fold`."""

    columns: Sequence[object]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Note:
    """A line of less weight; an empty one is left out."""

    text: object


@dataclass(frozen=True)
class Text:
    """Text that keeps its line breaks and spaces."""

    text: str


@dataclass(frozen=True)
class Images:
    """A strip of images, each with its label."""

    labelled: Sequence[tuple[str, Image]]


@dataclass(frozen=True)
class Grid:
    """Truth values [rows][columns], drawn as squares."""

    cells: Sequence[Sequence[bool]]
    title: str


@dataclass(frozen=True)
class Heat:
    """Numbers [rows, columns], drawn stronger where they are larger; NaN stays blank."""

    values: Any
    title: str


@dataclass(frozen=True)
class Line:
    """One line of an outline: a head (`mark` is set), or what belongs to the head above it.

    `source` is the `id` of the head that an arrow comes from; `last` ends what belongs to a head.
    """

    text: str
    mark: str = ""
    id: str = ""
    source: str = ""
    last: bool = False

    def __str__(self) -> str:
        return f"{self.mark} {self.text}" if self.mark else f"{'└' if self.last else '├'}─ {self.text}"


@dataclass(frozen=True)
class Outline:
    """Heads, what belongs to each, and arrows between them."""

    lines: Sequence[Line]
    title: str


@dataclass(frozen=True)
class Fold:
    """A part that opens on a click, behind its title."""

    title: str
    part: Part
    opened: bool = False

    def __str__(self) -> str:
        return " ".join([f"{self.title}:", *_lines(self.part)])


Part = Facts | Table | Note | Text | Images | Grid | Heat | Outline | Fold


@dataclass(frozen=True)
class Summary:
    """A title, what follows it, and a note at the end. `str()` of it is its text.

    >>> print(Summary("Run", (Facts({"steps": 4, "seed": None}), Table(("n", "x"), [(1, "a"), (20, "b")]))))
    Run
      steps  4
      n   x
      1   a
      20  b
    """

    title: str
    parts: tuple[Part, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        lines = [line for part in (*self.parts, Note(self.note)) for line in _lines(part)]
        return "\n".join([self.title, *(f"  {line}".rstrip() for line in lines)])


def beyond(count: int, most: int, things: str) -> str:
    """Say how many of `count` things are left out when `most` are shown; nothing if none are.

    >>> beyond(13, 10, "rows"), beyond(10, 10, "rows")
    ('… and 3 more rows', '')
    """
    return f"… and {count - most:,} more {things}" if count > most else ""


def shortened(text: object, limit: int = 160) -> str:
    """Return text on one line, cut with an ellipsis where it is longer than `limit` characters."""
    plain = " ".join(str(text).split())
    return plain if len(plain) <= limit else plain[: limit - 1].rstrip() + "…"


def number(value: float | None) -> str:
    """Return a number with three digits, a dash where there is none.

    >>> number(0.12345), number(None), number(float("nan"))
    ('0.123', '–', '–')
    """
    return "–" if value is None or value != value else f"{value:.3g}"


def scale(values: Any) -> list[list[float | None]]:
    """Numbers [rows, columns] from 0 for the smallest to 1 for the largest; None where they are not finite.

    Empty if no number is finite, or if there are more than `MOST_CELLS`.

    >>> scale([[2.0, 4.0], [float("nan"), 3.0]])
    [[0.0, 1.0], [None, 0.5]]
    """
    rows = [[float(value) for value in row] for row in values]
    finite = [value for row in rows for value in row if math.isfinite(value)]
    if not finite or len(rows) * len(rows[0]) > MOST_CELLS:
        return []
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return [[(value - low) / span if math.isfinite(value) else None for value in row] for row in rows]


def _lines(part: Part) -> Iterator[str]:
    """The part as lines of text."""
    match part:
        case Facts():
            yield from _aligned(part.shown)
        case Table():
            yield from _aligned([part.columns, *part.rows[:MOST_ROWS]])
            yield from _lines(Note(beyond(len(part.rows), MOST_ROWS, "rows")))
        case Note():
            yield from str(part.text).splitlines()
        case Text():
            yield from part.text.splitlines()
        case Images():
            yield from (f"[image] {label}" for label, _ in part.labelled[:MOST_PICTURES])
            yield from _lines(Note(beyond(len(part.labelled), MOST_PICTURES, "pictures")))
        case Grid():
            yield from ("".join("#" if cell else "." for cell in row) for row in part.cells)
        case Heat():
            yield part.title
            yield from ("".join(map(_shade, row)) for row in scale(part.values))
        case Outline():
            yield from map(str, part.lines[:MOST_LINES])
            yield from _lines(Note(beyond(len(part.lines), MOST_LINES, "lines")))
        case Fold():
            yield part.title
            yield from (f"  {line}" for line in _lines(part.part))


def _aligned(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    cells = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _shade(share: float | None) -> str:
    return " " if share is None else _SHADES[round(share * (len(_SHADES) - 1))]
