"""A mask: which image tokens belong to something. Saved, combined, drawn over a picture, given to edits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dit_lens.atomic import atomic_write
from dit_lens.display import Summarised
from dit_lens.errors import BadInput
from dit_lens.summary import Grid as GridDrawing
from dit_lens.summary import Summary

if TYPE_CHECKING:
    from PIL.Image import Image

Grid = tuple[int, int]
Bools = npt.NDArray[np.bool_]

SCHEMA_VERSION = 1
COVERED = 0.5
"""A token belongs to a mask of pixels when at least this share of its pixels does."""

_IN, _OUT = "#", "."
_READ_AS_GREY = ("1", "L")


@dataclass(frozen=True, eq=False)
class Mask(Summarised):
    """Image tokens, bool `values` [rows, columns], true where they belong to the mask; frozen.

    `image_size` (height, width) in pixels ties it to pictures of that size; None fits any picture of the
    grid. `about` says how it was made and takes no part in equality. As `tokens=` of an edit it addresses its
    tokens, and the graph refuses it for images of another grid or size. Empty and full masks are legal: a
    full one addresses every token, an empty one none, and an edit of no token changes nothing, bit for bit.
    As a truth both are refused (`require_partial`).

    Raises:
        BadInput: not two-dimensional, not boolean, or an image that the grid does not divide.

    >>> corner = Mask(np.eye(2, dtype=bool))
    >>> corner.tokens, corner.complement().tokens
    ((0, 3), (1, 2))
    """

    values: Bools
    image_size: Grid | None = None
    about: str = ""

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 2 or not values.size or values.dtype != np.bool_:
            raise BadInput(
                f"A mask is a boolean array [rows, columns]; got {values.dtype} {list(values.shape)}. "
                "Mask.from_pixels makes one of pixels, Mask.from_tokens of token numbers."
            )
        values = values.copy()
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        if self.image_size is not None:
            size = (int(self.image_size[0]), int(self.image_size[1]))
            object.__setattr__(self, "image_size", _require_whole_tokens(size, self.grid))

    # ------------------------------------------------------------------------------ making
    @classmethod
    def from_tokens(cls, tokens: Iterable[int], grid: Grid, *, image_size: Grid | None = None) -> Mask:
        """The mask of these `tokens` of a `grid` (rows, columns), counted along the rows from the top left.

        `image_size` as in `Mask`. Raises `BadInput` for a token that the grid does not have.

        >>> Mask.from_tokens([1, 3], (2, 2)).tolist()
        [[False, True], [False, True]]
        """
        chosen = [int(token) for token in tokens]
        total = grid[0] * grid[1]
        wrong = [token for token in chosen if not 0 <= token < total]
        if wrong:
            raise BadInput(f"There is no token {wrong[0]} in a grid of {grid[0]} × {grid[1]}: 0–{total - 1}.")
        flat = np.zeros(total, dtype=bool)
        flat[chosen] = True
        return cls(flat.reshape(grid), image_size)

    @classmethod
    def from_pixels(cls, pixels: Any, grid: Grid, *, threshold: float = COVERED, about: str = "") -> Mask:
        """The mask of pixels [height, width] on a token grid.

        A token belongs to it when at least `threshold` of its pixels do. A pixel does when it is true; for
        numbers, when it reaches half of the range, which is 0 to 1 for floats and 0 to 255 for integers (0
        to 1 where they hold nothing else). Nothing is resized. `about` as in `Mask`.

        Raises `BadInput` for another layout or range, a size that the grid does not divide, or a threshold
        outside (0, 1].

        >>> Mask.from_pixels(np.tri(4, dtype=bool), (2, 2)).tolist()
        [[True, False], [True, True]]
        """
        if not 0 < threshold <= 1:
            raise BadInput(f"The threshold is {threshold}; it is a share of a token's pixels: above 0, to 1.")
        inside = _inside(np.asarray(pixels))
        height, width = _require_whole_tokens((inside.shape[0], inside.shape[1]), grid)
        tall, wide = height // grid[0], width // grid[1]
        share = inside.reshape(grid[0], tall, grid[1], wide).mean(axis=(1, 3))
        return cls(share >= threshold, (height, width), about)

    # ------------------------------------------------------------------------------ asking
    @property
    def grid(self) -> Grid:
        """(rows, columns) of tokens."""
        return (int(self.values.shape[0]), int(self.values.shape[1]))

    @property
    def tokens(self) -> tuple[int, ...]:
        """Numbers of its tokens, rising."""
        return tuple(int(token) for token in np.flatnonzero(self.values))

    @property
    def share(self) -> float:
        """Share of all tokens that belong to it, from 0 to 1."""
        return float(self.values.mean())

    @property
    def is_empty(self) -> bool:
        """Whether no token belongs to it."""
        return not self.values.any()

    @property
    def is_full(self) -> bool:
        """Whether every token belongs to it."""
        return bool(self.values.all())

    def tolist(self) -> list[list[bool]]:
        """Nested lists of truth values, what the graph reads as a mask of image tokens.

        >>> Mask.from_tokens([1], (1, 2)).tolist()
        [[False, True]]
        """
        rows: list[list[bool]] = self.values.tolist()
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self.image_size == other.image_size and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.grid, self.image_size, self.values.tobytes()))

    def summary(self) -> Summary:
        """The mask drawn, a square per token."""
        rows, columns = self.grid
        share = f"{len(self.tokens)} of {rows * columns} tokens ({self.share:.0%}), {rows} × {columns}"
        size = f"for images of {self.image_size[0]} × {self.image_size[1]} px" if self.image_size else ""
        note = "; ".join(filter(None, (self.about, size)))
        return Summary(f"Mask: {share}", (GridDrawing(self.tolist(), f"Mask of {share}"),), note)

    def __repr__(self) -> str:
        count = int(self.values.sum())
        how = f"; {self.about}" if self.about else ""
        head = f"Mask({count} of {self.values.size} tokens, {self.grid[0]} × {self.grid[1]}{how})"
        # A grid that fits a terminal is worth more than its numbers.
        return "\n".join([head, *self._lines()]) if self.grid[1] <= 64 else head

    def _lines(self) -> list[str]:
        return ["".join(_IN if cell else _OUT for cell in row) for row in self.values]

    # ------------------------------------------------------------------------------ combining
    def union(self, *others: Mask) -> Mask:
        """Tokens of any of `others` or of its own.

        Raises `BadInput` for masks of different grids or image sizes.

        >>> left, top = Mask.from_tokens([0, 2], (2, 2)), Mask.from_tokens([0, 1], (2, 2))
        >>> left.union(top).tokens, left.intersection(top).tokens, left.difference(top).tokens
        ((0, 1, 2), (0,), (2,))
        """
        return self._with(np.logical_or, others)

    def intersection(self, *others: Mask) -> Mask:
        """Tokens of all of `others` and its own.

        Raises `BadInput` for masks of different grids or image sizes.
        """
        return self._with(np.logical_and, others)

    def difference(self, *others: Mask) -> Mask:
        """Its tokens without those of the others. Raises `BadInput` for different grids or image sizes."""
        return self._with(lambda a, b: a & ~b, others)

    def complement(self) -> Mask:
        """All other tokens."""
        return replace(self, values=~self.values, about="")

    def dilate(self, tokens: int = 1) -> Mask:
        """Grown by so many `tokens` up, down, left and right; 0 leaves it as it is.

        Raises `BadInput` for a number below 0.

        >>> Mask.from_tokens([4], (3, 3)).dilate().tokens
        (1, 3, 4, 5, 7)
        """
        from scipy.ndimage import binary_dilation

        if isinstance(tokens, bool) or not isinstance(tokens, (int, np.integer)) or tokens < 0:
            raise BadInput(f"A mask was to grow by {tokens!r} tokens; give a whole number from 0 up.")
        if not tokens:
            return self
        # An empty mask grows into an empty one.
        return replace(self, values=binary_dilation(self.values, iterations=int(tokens)), about="")

    def _with(self, rule: Any, others: tuple[Mask, ...]) -> Mask:
        values, size = self.values, self.image_size
        for other in others:
            if other.grid != self.grid:
                raise BadInput(
                    f"Masks of {_by(self.grid)} and {_by(other.grid)} tokens cannot be combined; make both "
                    "for one image size."
                )
            if size is not None and other.image_size is not None and size != other.image_size:
                raise BadInput(
                    f"Masks for images of {_by(size)} and {_by(other.image_size)} pixels cannot be combined; "
                    "make both for one image size."
                )
            size = size or other.image_size
            values = rule(values, other.values)
        return Mask(values, size)

    # ------------------------------------------------------------------------------ pictures
    def to_pixels(self, height: int | None = None, width: int | None = None) -> Bools:
        """The mask as pixels, bool [height, width], a rectangle per token; by default at its image's size.

        Raises `BadInput` for no size, or one that the grid does not divide or the mask was not made for.

        >>> int(Mask.from_tokens([0], (2, 2)).to_pixels(height=4, width=4).sum())
        4
        """
        height, width = self._size(height, width)
        return self.values.repeat(height // self.grid[0], axis=0).repeat(width // self.grid[1], axis=1)

    def _size(self, height: int | None, width: int | None) -> Grid:
        if height is None or width is None:
            if self.image_size is None or height != width:
                raise BadInput("This mask names no image size; give height and width in pixels.")
            return self.image_size
        if self.image_size not in (None, (height, width)):
            raise BadInput(
                f"The mask was made for images of {_by(self.image_size)} pixels, not {height} × {width}. "
                "Make it for this size; nothing is resized."
            )
        return _require_whole_tokens((int(height), int(width)), self.grid)

    def overlay(
        self, image: Any, *, colour: tuple[int, int, int] = (255, 0, 128), opacity: float = 0.45
    ) -> Image:
        """The picture with the mask tinted and outlined, at its own size.

        Args:
            image: a PIL image, or [H, W, 3] as uint8 or floats in [0, 1].
            colour: 0 to 255 each.
            opacity: of the tint, 0 to 1; the outline is drawn in full.

        Raises `BadInput` for a picture of another size, or values out of range.

        >>> Mask.from_tokens([0], (2, 2)).overlay(np.zeros((4, 4, 3), dtype=np.uint8)).size
        (4, 4)
        """
        from PIL import Image as images
        from scipy.ndimage import binary_erosion

        from dit_lens.methods.pixels import as_pixels

        if not 0 <= opacity <= 1:
            raise BadInput(f"opacity is {opacity}; it must lie between 0 and 1.")
        picture = as_pixels([image])[0]
        inside = self.to_pixels(*picture.shape[:2])
        # Pixels at the picture's edge are no outline: the subject may go on there.
        outline = inside & ~binary_erosion(inside, border_value=1)
        tint = np.asarray(colour, dtype=np.float64) / 255
        weight = np.where(outline, 1.0, np.where(inside, opacity, 0.0))[..., None]
        mixed = (1 - weight) * picture + weight * tint
        return images.fromarray((mixed * 255).round().astype(np.uint8))

    # ------------------------------------------------------------------------------ files
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the mask to `path`, whole or not at all.

        As `.json` (everything) or `.png` (pixels, white is the mask). Raises `BadInput` for another suffix,
        or a PNG of a mask without an image size; `RunFailure` when the place cannot be written.

        >>> corner = Mask.from_tokens([0], (2, 2))
        >>> Mask.load(corner.save("corner.json")) == corner
        True
        """
        path = Path(path)
        suffix = _suffix(path)
        if suffix == ".json":
            data = {
                "schema_version": SCHEMA_VERSION,
                "image_size": self.image_size,
                "about": self.about,
                "mask": self._lines(),
            }
            return atomic_write(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        from PIL import Image as images

        drawn = BytesIO()
        images.fromarray(self.to_pixels().astype(np.uint8) * 255).save(drawn, format="PNG")
        return atomic_write(path, drawn.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str], grid: Grid | None = None) -> Mask:
        """Read a mask from `path`: JSON that `save` wrote, or a black-and-white or grey PNG.

        A PNG needs the token `grid`, (rows, columns).

        Raises `BadInput` for a file that is missing, damaged or of another kind: colour and alpha channels
        are refused, since which of them is the mask would be a guess.
        """
        path = Path(path)
        mask = cls._from_json(path) if _suffix(path) == ".json" else cls._from_png(path, grid)
        if grid is not None and mask.grid != tuple(grid):
            raise BadInput(f"{path} holds {_by(mask.grid)} tokens; {_by(grid)} were asked for.")
        return mask

    @classmethod
    def _from_json(cls, path: Path) -> Mask:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version, lines = data["schema_version"], data["mask"]
            size, about = data["image_size"], str(data["about"])
            plain = bool(lines) and all(len(line) == len(lines[0]) > 0 for line in lines)
            if not plain or set("".join(lines)) - {_IN, _OUT}:
                raise ValueError(f"mask must be lines of equal length, of {_IN!r} and {_OUT!r}")
        except OSError as error:
            raise BadInput(f"Cannot read the mask {path}: {error.strerror or error}.") from error
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(f"{path} is no mask that Mask.save wrote: {error!r:.120}.") from error
        if version != SCHEMA_VERSION:
            raise BadInput(f"{path} has schema version {version}; this dit_lens reads {SCHEMA_VERSION}.")
        values = np.array([[cell == _IN for cell in line] for line in lines])
        return cls(values, None if size is None else (int(size[0]), int(size[1])), about)

    @classmethod
    def _from_png(cls, path: Path, grid: Grid | None) -> Mask:
        from PIL import Image as images

        if grid is None:
            raise BadInput(f"{path} holds pixels; give the token grid too, lens.token_grid(height, width).")
        try:
            with images.open(path) as opened:
                mode, pixels = opened.mode, np.asarray(opened)
        except OSError as error:
            raise BadInput(f"Cannot read the mask {path}: {error.strerror or error}.") from error
        if mode not in _READ_AS_GREY:
            raise BadInput(
                f"{path} has the mode {mode}; a mask is black and white or grey (mode 1 or L), white where "
                "the subject is. Save it without colours and without an alpha channel."
            )
        return cls.from_pixels(pixels, grid, about=path.name)


def require_partial(mask: Mask, what: str) -> Mask:
    """The mask, or `BadInput` if it is empty or full: an overlap with it would say nothing.

    >>> require_partial(Mask(np.eye(2, dtype=bool)), "the truth").share
    0.5
    """
    if mask.is_empty or mask.is_full:
        state = "is empty" if mask.is_empty else "covers the whole picture"
        raise BadInput(
            f"{what} {state} ({_by(mask.grid)} tokens), so no overlap with it means anything. Give a mask "
            "that holds some tokens and leaves some out."
        )
    return mask


def _inside(pixels: npt.NDArray[Any]) -> Bools:
    """Which pixels belong to a mask, from truth values, integers or floats."""
    if pixels.ndim != 2 or not pixels.size:
        raise BadInput(f"A mask of pixels is [height, width]; got {list(pixels.shape)}.")
    if pixels.dtype == np.bool_:
        return pixels
    if pixels.dtype.kind not in "iuf":
        raise BadInput(f"A mask of {pixels.dtype} values has no inside; give truth values or numbers.")
    low, high = float(pixels.min()), float(pixels.max())
    top = 255.0 if pixels.dtype.kind in "iu" and high > 1 else 1.0
    if not (low >= 0 and high <= top):
        raise BadInput(
            f"Mask values run from {low:.3g} to {high:.3g} ({pixels.dtype}); give truth values, integers "
            "from 0 to 255 or floats from 0 to 1."
        )
    return np.asarray(pixels >= top / 2)


def _require_whole_tokens(size: Grid, grid: Grid) -> Grid:
    """The size, or BadInput if the grid does not divide it into equal tokens."""
    if min(size) < 1 or size[0] % grid[0] or size[1] % grid[1]:
        raise BadInput(
            f"{_by(size)} pixels do not divide into {_by(grid)} tokens. Give the mask at the picture's own "
            "size; nothing is resized."
        )
    return size


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".json", ".png"):
        raise BadInput(f"{path} is neither .json nor .png, the two kinds of file that hold a mask.")
    return suffix


def _by(size: Grid | None) -> str:
    return "any" if size is None else f"{size[0]} × {size[1]}"
