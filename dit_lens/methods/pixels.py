"""Images of any kind as one array of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dit_lens.atomic import atomic_write
from dit_lens.errors import BadInput

if TYPE_CHECKING:
    import os

    from PIL.Image import Image
    from torch import Tensor

    Images = Sequence[Image | npt.NDArray[Any]] | npt.NDArray[Any] | Tensor

Array = npt.NDArray[np.float64]


def as_array(values: Any) -> Array:
    """A float64 numpy array of a numpy array or a tensor (any dtype, any device).

    >>> as_array([[1, 2]]).dtype
    dtype('float64')
    """
    if hasattr(values, "detach"):
        # numpy has no bfloat16; float64 holds every half and single precision value exactly.
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


_TOLERANCE = 0.5  # a decoder overshoots by a little; pixels from 0 to 255 or from −1 to 1 go further


def as_pixels(images: Images) -> Array:
    """Images → float64 [n, H, W, 3], values in [0, 1].

    Args:
        images: PIL images; or arrays [H, W, 3], uint8 in 0…255 or float in [0, 1], as a list or stacked; or a
            tensor [n, 3, H, W] with the same values. Floats a little outside are clipped, as in a file.

    Raises:
        BadInput: no images, another layout or range, different sizes, or values that are not finite.

    >>> as_pixels([np.full((2, 2, 3), 255, dtype=np.uint8)]).max()
    np.float64(1.0)
    """
    if hasattr(images, "detach"):
        return _checked(_from_tensor(images))
    if not len(images):
        raise BadInput("There are no images to measure.")
    single = [_one(image) for image in images]
    sizes = {pixels.shape for pixels in single}
    if len(sizes) > 1:
        raise BadInput(f"The images differ in size: {', '.join(str(list(size)) for size in sorted(sizes))}.")
    return _checked(np.stack(single))


def _from_tensor(images: Any) -> Array:
    if images.ndim != 4 or images.shape[1] != 3:
        raise BadInput(f"A tensor of images must be [n, 3, H, W]; got {list(images.shape)}.")
    scale = 1.0 if images.is_floating_point() else 255.0
    return np.moveaxis(as_array(images), 1, -1) / scale


def _one(image: Any) -> Array:
    if hasattr(image, "convert"):
        image = np.asarray(image.convert("RGB"))
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise BadInput(f"An image must be [H, W, 3]; got {list(array.shape)}.")
    return array.astype(np.float64) / (255.0 if np.issubdtype(array.dtype, np.integer) else 1.0)


def _checked(pixels: Array) -> Array:
    if not pixels.size:
        raise BadInput(f"There are no pixels to measure: {list(pixels.shape)}.")
    if not np.isfinite(pixels).all():
        raise BadInput("An image holds values that are not finite; the run that made it went wrong.")
    if pixels.min() < -_TOLERANCE or pixels.max() > 1 + _TOLERANCE:
        raise BadInput(
            f"Pixel values run from {pixels.min():.3g} to {pixels.max():.3g}; floats must lie in [0, 1]. "
            "Scale them, or give uint8 for 0 to 255."
        )
    return np.clip(pixels, 0.0, 1.0)


def save_png(path: str | os.PathLike[str], image: Image) -> Path:
    """Write a picture as a PNG, whole or not at all; raises `RunFailure` where that cannot be."""
    drawn = BytesIO()
    image.save(drawn, format="PNG", optimize=True)
    return atomic_write(path, drawn.getvalue())


def pixel_pairs(edited: Images, reference: Images) -> tuple[Array, Array]:
    """Two equally long lists of equally large images, as pixels.

    Raises:
        BadInput: as `as_pixels`, or numbers or sizes that do not pair.
    """
    first, second = as_pixels(edited), as_pixels(reference)
    if first.shape != second.shape:
        raise BadInput(
            f"Edited images {list(first.shape)} and reference images {list(second.shape)} do not pair: they "
            "are compared one to one, at one size."
        )
    return first, second
