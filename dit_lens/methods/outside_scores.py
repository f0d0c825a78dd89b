"""A door for scorers that live elsewhere: pairs go out as files and a CSV, scores come back as a CSV.

Out: `pairs.csv` with the columns id, image, prompt (image: path relative to the CSV) and the pictures as PNG.
In: any CSV with a column `id` and one column of numbers per scorer, in any order of rows.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from dit_lens.atomic import atomic_write
from dit_lens.errors import BadInput, did_you_mean
from dit_lens.methods.pixels import as_pixels
from dit_lens.methods.scorers import require_pairs

if TYPE_CHECKING:
    import os

    from dit_lens.methods.pixels import Images

Array = npt.NDArray[np.float64]

PAIRS, PICTURES = "pairs.csv", "pictures"
COLUMNS = ("id", "image", "prompt")


def export_pairs(
    folder: str | os.PathLike[str], images: Images, prompts: Sequence[str], ids: Sequence[str]
) -> Path:
    """Write pictures and `pairs.csv` for an outside scorer and return the CSV's path.

    Args:
        folder: where to; files of the same name are replaced, `pairs.csv` last.
        images: n pictures, see `as_pixels`; saved as 8-bit PNG without loss.
        prompts: n captions, one for each picture.
        ids: n different names, by which the scores come back ("massive/zero, prompt 3, seed 0").

    Raises:
        BadInput: numbers that differ, or ids that are empty or repeat.
        RunFailure: the folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export_pairs(folder, [np.zeros((2, 2, 3))], ["a red star"], ["clean/0"])
    ...     print(path.read_text(encoding="utf-8-sig").strip())
    id,image,prompt
    clean/0,pictures/00000.png,a red star
    """
    require_pairs(images, prompts)
    _require_ids(ids, len(prompts))
    folder = Path(folder)
    rows = []
    for index, (pixels, prompt, name) in enumerate(zip(as_pixels(images), prompts, ids, strict=True)):
        picture = io.BytesIO()
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(picture, format="PNG")
        atomic_write(folder / PICTURES / f"{index:05d}.png", picture.getvalue())
        rows.append((name, f"{PICTURES}/{index:05d}.png", prompt))
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *rows])
    # The mark makes spreadsheets read the prompts as UTF-8; `import_scores` accepts it too.
    return atomic_write(folder / PAIRS, text.getvalue().encode("utf-8-sig"))


def import_scores(path: str | os.PathLike[str], ids: Sequence[str], column: str = "score") -> Array:
    """Read one scorer's column of a CSV, in the order of `ids`: float64 [n].

    Args:
        path: a CSV in UTF-8 with a header, the column `id` and the one asked for; others are ignored.
        ids: those that were exported; each must be there once, and no other.

    Raises:
        BadInput: no such file or column, an id that is missing, unknown or repeated, or a score that is no
            finite number; with the line it is on.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = atomic_write(Path(folder) / "scores.csv", "id,hps\\nb,0.5\\na,0.25\\n")
    ...     import_scores(path, ["a", "b"], "hps")
    array([0.25, 0.5 ])
    """
    _require_ids(ids, len(ids))
    path = Path(path)
    header, lines = _read(path)
    for name in ("id", column):
        if name not in header:
            raise BadInput(
                f"{path} has no column {name!r}; its header has {', '.join(header)}."
                f"{did_you_mean(name, header)}"
            )
    expected, found = set(ids), {}
    for number, line in lines:
        if len(line) != len(header):
            raise BadInput(f"{path}, line {number}: {len(line)} fields, but the header has {len(header)}.")
        row = dict(zip(header, line, strict=True))
        name = row["id"]
        if name not in expected:
            raise BadInput(
                f"{path}, line {number}: the id {name!r} was not exported.{did_you_mean(name, expected)}"
            )
        if name in found:
            raise BadInput(f"{path}, line {number}: the id {name!r} stands there a second time.")
        found[name] = _number(row[column], column, path, number)
    missing = [name for name in ids if name not in found]
    if missing:
        raise BadInput(
            f"{path} has no score for {len(missing)} of {len(ids)} ids, the first being {missing[0]!r}. "
            "A score for every pair is needed, since rows left out at will could make any effect."
        )
    return np.array([found[name] for name in ids], dtype=np.float64)


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"There is no file {path}. `export_pairs` writes what a scorer needs.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text: {error}.") from None
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        # An empty line is no row; the number of the line is the reader's, which counts those in quotes.
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: this is no CSV: {error}.") from None
    if not rows:
        raise BadInput(f"{path} is empty; its first line must name the columns, with id among them.")
    header = [name.strip() for name in rows[0][1]]
    if len(set(header)) < len(header):
        raise BadInput(f"{path} names a column twice: {', '.join(header)}.")
    return header, rows[1:]


def _number(text: str, column: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{path}, line {line}: {column} is {text!r}, which is no finite number.")
    return value


def _require_ids(ids: Sequence[str], count: int) -> None:
    if isinstance(ids, str) or len(ids) != count or not count:
        raise BadInput(f"Give a list of ids, one per pair: {count} pairs, {len(ids)} ids.")
    seen: set[str] = set()
    for name in ids:
        if not isinstance(name, str) or not name.strip() or name != name.strip() or name in seen:
            raise BadInput(
                f"The id {name!r} is empty, repeated, padded or no text; every pair needs its own."
            )
        seen.add(name)
