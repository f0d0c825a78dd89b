"""A picture from a file, from PIL or from an array → the pixels that the autoencoder reads.

Nothing is converted, cut or resized unless it loses nothing or was asked for. What each kind of picture
becomes:

| picture | becomes |
|---|---|
| RGB, 8 bits | itself |
| grey (L, 1 bit, 16 bits), palette (P), YCbCr | RGB with the same values; 16-bit grey keeps its precision |
| with transparency | refused unless `background` says what lies behind it; opaque everywhere: itself |
| CMYK, Lab, HSV, 32-bit, animated | refused: the conversion needs a choice that is not ours |

A camera's orientation tag is followed, as every viewer does, and of a JPEG with several pictures (MPO) the
first is taken. Colour profiles are not applied: the values are taken as sRGB. Pillow itself reads a PNG with
16 bits per *colour* channel at 8 bits.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.paths import named_path

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.model.lens import DiTLens

Pixels = npt.NDArray[np.float32]

MAX_PIXELS = 2**25
"""Largest picture that is decoded, 8192 × 4096: a few kilobytes of PNG can claim far more."""

RESIZES = ("exact", "crop")
"""`"exact"` stretches to the size asked for; `"crop"` first cuts the middle to its proportions."""

# Others cost more than they give: EPS would start Ghostscript on whatever the file says.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_AS_RGB = ("RGB", "L", "1", "P", "YCbCr")
_WITH_ALPHA = ("RGBA", "LA", "PA")


def read_picture(
    picture: str | os.PathLike[str] | Image | npt.NDArray[Any],
    size: DiTLens | tuple[int, int],
    *,
    background: str | tuple[float, float, float] | None = None,
    resize: str | None = None,
) -> Tensor:
    """A picture as the autoencoder reads it: float32 [3, H, W] in [-1, 1].

    Args:
        picture: a file, a PIL image, or an array [H, W], [H, W, 3] or [H, W, 4] as uint8, uint16 or floats in
            [0, 1]. See the module's table for modes.
        size: (height, width) in pixels, or a lens for its default size.
        background: colour behind a transparent picture: a CSS name, `"#rrggbb"`, or three numbers in 0…255.
        resize: None refuses another size; see `RESIZES`. Resizing is Lanczos, on the values as they are.

    Raises:
        BadInput: unreadable, of another size or of a kind that cannot be read without a choice.

    >>> read_picture(np.zeros((48, 48, 3), dtype=np.uint8), (48, 48)).min()
    tensor(-1.)
    """
    height, width = _wanted(size)
    if resize is not None and resize not in RESIZES:
        raise BadInput(
            f"resize={resize!r} is unknown. Use {' or '.join(map(repr, RESIZES))}, or None to refuse "
            f"pictures of another size.{did_you_mean(str(resize), RESIZES)}"
        )
    behind = None if background is None else _colour(background)
    if isinstance(picture, str | os.PathLike):
        name, pixels = str(picture), _from_file(Path(picture), (height, width), resize, behind)
    elif hasattr(picture, "getbands"):
        name = "The picture"
        with _readable(name):  # PIL decodes a file when its pixels are first asked for
            pixels = _from_pil(picture, name, (height, width), resize, behind)  # type: ignore[arg-type]
    else:
        name = "The picture"
        pixels = _from_array(picture, behind)
    _require_size(name, pixels.shape[:2], (height, width), resize)
    if pixels.shape[:2] != (height, width):
        pixels = _resized(pixels, height, width, crop=resize == "crop")
    # The operations, and so the last bits, are those of diffusers' own image processor.
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))) * 2 - 1


def to_image(picture: Tensor) -> Image:
    """The PIL image of [3, H, W] in [-1, 1], for a report to show; 8-bit pictures come back exactly.

    >>> to_image(torch.zeros(3, 2, 2)).getpixel((0, 0))
    (128, 128, 128)
    """
    from PIL import Image as Pillow

    values = ((picture.detach().cpu().double() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Pillow.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def _wanted(size: DiTLens | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(size, tuple | list):
        return size.defaults.height, size.defaults.width
    if len(size) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in size):
        raise BadInput(f"size is {size!r}; it must be (height, width) in pixels, or a lens.")
    return size[0], size[1]


def _colour(background: Any) -> Pixels:
    """[3] in [0, 1]."""
    from PIL import ImageColor

    if isinstance(background, str):
        try:
            found = ImageColor.getrgb(background)
        except ValueError:
            raise BadInput(
                f"background={background!r} is no colour."
                f"{did_you_mean(background, ImageColor.colormap)} Use a CSS name such as "
                "'white', or '#rrggbb'."
            ) from None
        if len(found) == 4 and found[3] < 255:
            raise BadInput(f"background={background!r} is itself transparent. Use '#rrggbb'.")
        values: tuple[Any, ...] = found[:3]
    else:
        values = tuple(background) if isinstance(background, tuple | list) else ()
        if len(values) != 3 or not all(_is_byte_value(v) for v in values):
            raise BadInput(
                f"background={background!r} is no colour. Use a name such as 'white', '#rrggbb', or red, "
                "green and blue from 0 to 255."
            )
    return np.asarray(values, dtype=np.float32) / np.float32(255)


def _is_byte_value(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 255


# ------------------------------------------------------------------ files and PIL images


def _from_file(path: Path, size: tuple[int, int], resize: str | None, behind: Pixels | None) -> Pixels:
    from PIL import Image as Pillow

    path = named_path(path, asked_by="picture")
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give the picture's file.")
    if not path.exists():
        near = [str(each) for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise BadInput(f"There is no file {path}.{did_you_mean(str(path), near)}")
    with _readable(str(path)), Pillow.open(path, formats=_FORMATS) as image:
        return _from_pil(image, str(path), size, resize, behind)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever a decoder raises, as BadInput."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Sizes are checked here before a pixel is decoded; Pillow's own warning says nothing new.
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            yield
    except BadInput:
        raise
    except UnidentifiedImageError:
        raise BadInput(f"{name} is no picture that can be read: {', '.join(_FORMATS)} can.") from None
    except Pillow.DecompressionBombError:
        raise BadInput(
            f"{name} is too large: at most {MAX_PIXELS:,} pixels are read. Shrink it first."
        ) from None
    except Exception as error:
        # Decoders raise almost anything on damaged data: OSError, SyntaxError, ValueError, struct.error …
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"{name} cannot be read: {reason}. It may be cut off or damaged; open it in a viewer and save it "
            "again as PNG."
        ) from None


def _from_pil(
    image: Image, name: str, size: tuple[int, int], resize: str | None, behind: Pixels | None
) -> Pixels:
    """[H, W, 3] in [0, 1]; a size that cannot be right is refused by the header, before decoding."""
    from PIL import ImageOps

    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise BadInput(f"{name} is animated or has several pages ({frames}). Save one of them as PNG.")
    height, width = image.height, image.width
    if height * width > MAX_PIXELS:
        raise BadInput(
            f"{name} is too large: {height} × {width} pixels (height × width), and at most {MAX_PIXELS:,} "
            "pixels are read. Shrink it first."
        )
    if size not in ((height, width), (width, height)):
        _require_size(name, (height, width), size, resize)
    upright = ImageOps.exif_transpose(image)
    mode = upright.mode
    if mode in _WITH_ALPHA or "transparency" in upright.info:
        values = np.asarray(upright.convert("RGBA"), dtype=np.float32) / np.float32(255)
        return _composited(name, values, behind)
    if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
        # Older Pillow opens a 16-bit grey PNG in mode I.
        grey = np.asarray(upright).astype(np.float32) / np.float32(65535)
        return np.repeat(grey[..., None], 3, axis=2)
    if mode not in _AS_RGB:
        raise BadInput(
            f"{name} has mode {mode}{_WHY.get(mode, '')}. Convert it yourself, in an image editor or with "
            "PIL's image.convert('RGB'), and look at the result."
        )
    return np.asarray(upright.convert("RGB"), dtype=np.float32) / np.float32(255)


_WHY = {
    "CMYK": ": inks, whose colours depend on the printer's profile",
    "LAB": ": Lab colours, some of which no screen has",
    "I": ": 32-bit numbers without a white",
    "F": ": 32-bit numbers without a white",
}


def _composited(name: str, values: Pixels, behind: Pixels | None) -> Pixels:
    """[H, W, 4] on its background."""
    alpha = values[..., 3:]
    if (alpha == 1).all():
        return values[..., :3]
    if behind is None:
        share = float((alpha < 1).mean())
        raise BadInput(
            f"{name} is transparent in {share:.1%} of its pixels, and what lies behind them is not known. "
            "Say so with background='white' (or another colour), or save it without an alpha channel."
        )
    mixed: Pixels = alpha * values[..., :3] + (1 - alpha) * behind
    return mixed


# ------------------------------------------------------------------ arrays


def _from_array(picture: Any, behind: Pixels | None) -> Pixels:
    try:
        array = np.asarray(picture)
    except (TypeError, ValueError, RuntimeError):  # for instance a tensor on another device
        array = np.empty(0)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or not array.size:
        raise BadInput(
            f"A picture must be a file, a PIL image, or an array [H, W], [H, W, 3] or [H, W, 4]; got "
            f"{type(picture).__name__} {list(array.shape)}."
        )
    if array.dtype in (np.uint8, np.uint16):
        values = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    elif np.issubdtype(array.dtype, np.floating):
        values = array.astype(np.float32)
        if not np.isfinite(values).all():
            raise BadInput("The picture holds values that are not finite.")
        if values.min() < 0 or values.max() > 1:
            raise BadInput(
                f"The picture's values run from {values.min():.3g} to {values.max():.3g}; floats must lie in "
                "[0, 1]. Scale them, or give uint8 for 0 to 255."
            )
    else:
        raise BadInput(f"A picture's array must be uint8, uint16 or floats in [0, 1]; got {array.dtype}.")
    return _composited("The picture", values, behind) if values.shape[2] == 4 else values


# ------------------------------------------------------------------ size


def _require_size(name: str, found: tuple[int, ...], wanted: tuple[int, int], resize: str | None) -> None:
    if resize is not None or tuple(found) == wanted:
        return
    raise BadInput(
        f"{name} is {found[0]} × {found[1]} pixels (height × width), and {wanted[0]} × {wanted[1]} are "
        "needed. Nothing is resized silently: cut and resize it yourself, or pass resize='crop' (cut the "
        "middle, then resize) or resize='exact' (stretch)."
    )


def _resized(pixels: Pixels, height: int, width: int, *, crop: bool) -> Pixels:
    """Lanczos on each channel as floats; what overshoots [0, 1] is clipped."""
    from PIL import Image as Pillow

    if crop:
        # Cut before resizing: the kernel must not reach into what was cut off.
        rows, columns = pixels.shape[:2]
        scale = min(rows / height, columns / width)
        kept = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
        pixels = pixels[top : top + kept[0], left : left + kept[1]]
    channels = [
        Pillow.fromarray(np.ascontiguousarray(pixels[..., c])).resize(
            (width, height), Pillow.Resampling.LANCZOS
        )
        for c in range(3)
    ]
    resized: Pixels = np.stack([np.asarray(channel) for channel in channels], axis=2)
    return np.clip(resized, 0.0, 1.0)
