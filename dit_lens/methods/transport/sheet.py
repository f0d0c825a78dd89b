"""A sheet of pictures with words: lines above, a label under every picture, a line below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_ACROSS = 8
_SMALL, _ENLARGED = 128, 192  # pixels: pictures below the first are enlarged to at least the second
_GAP, _MARGIN, _LINE, _LETTERS = 10, 14, 18, 14
_MOST_LINES = 3  # of each text above the pictures
_INK, _SOFT, _PAPER = (31, 36, 48), (91, 98, 112), (255, 255, 255)


def labelled_grid(
    tiles: Sequence[tuple[Image, str, str]], head: Sequence[str], foot: str, across: int = _MOST_ACROSS
) -> Image:
    """Draw pictures of one size side by side, at most `across` in a row.

    Small pictures are enlarged by a whole factor, with their pixels kept; large ones are left alone.

    Args:
        tiles: picture, label, and a second, fainter line of label.
        head: texts above, each wrapped to the width of the sheet.

    >>> from PIL import Image
    >>> labelled_grid([(Image.new("RGB", (96, 96)), "target", "")], ["a star"], "seed 0").size
    (220, 307)
    """
    from PIL import Image as images
    from PIL import ImageDraw

    width, height = tiles[0][0].size
    factor = -(-_ENLARGED // max(width, height)) if max(width, height) < _SMALL else 1
    width, height = width * factor, height * factor
    columns = min(len(tiles), across)
    rows = -(-len(tiles) // columns)
    inner = columns * width + (columns - 1) * _GAP
    font = _font()
    above = [line for text in head for line in _wrapped(text, inner, font)]
    below = _wrapped(foot, inner, font)
    tall = height + 2 * _LINE + _GAP
    size = (
        inner + 2 * _MARGIN,
        2 * _MARGIN + (len(above) + len(below)) * _LINE + _GAP // 2 + rows * tall,
    )
    sheet = images.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    y = _MARGIN
    for line in above:
        pen.text((_MARGIN, y), line, fill=_INK, font=font)
        y += _LINE
    y += _GAP // 2
    for index, (picture, label, more) in enumerate(tiles):
        row, column = divmod(index, columns)
        left, top = _MARGIN + column * (width + _GAP), y + row * tall
        enlarged = picture.convert("RGB").resize((width, height), images.Resampling.NEAREST)
        sheet.paste(enlarged, (left, top))
        pen.text((left, top + height + 2), _fitting(label, width, font), fill=_INK, font=font)
        pen.text((left, top + height + 2 + _LINE), _fitting(more, width, font), fill=_SOFT, font=font)
    y += rows * tall
    for line in below:
        pen.text((_MARGIN, y), line, fill=_SOFT, font=font)
        y += _LINE
    return sheet


def _font() -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size=_LETTERS)
    except TypeError:
        # Pillow before 10.1 has one size.
        return ImageFont.load_default()


def _written(text: str, font: Any) -> str:
    """A text on one line, in letters that the font can draw at all."""
    from PIL import ImageFont

    text = " ".join(text.split())
    if isinstance(font, ImageFont.ImageFont):
        # The bitmap font of a Pillow without FreeType knows Latin-1 and fails on anything else.
        return text.encode("latin-1", "replace").decode("latin-1")
    return text


def _wrapped(text: str, width: int, font: Any) -> list[str]:
    letters = max(8, int(width / max(1.0, font.getlength("abcdefghij") / 10)))
    lines = textwrap.wrap(_written(text, font), letters, max_lines=_MOST_LINES, placeholder=" ...")
    return [_fitting(line, width, font) for line in lines] or [""]


def _fitting(text: str, width: int, font: Any) -> str:
    text = _written(text, font)
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
