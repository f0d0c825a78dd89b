"""How much pictures changed inside a mask, and how much outside of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput
from dit_lens.methods.pixels import pixel_pairs

if TYPE_CHECKING:
    from dit_lens.methods.pixels import Images

Array = npt.NDArray[np.float64]


def region_change(edited: Images, reference: Images, inside: npt.NDArray[np.bool_]) -> dict[str, Array]:
    """Root mean square change of pixels inside and outside of one mask, float64 [n], pixel value 0 to 1.

    Args:
        edited, reference: as in `as_pixels`, one to one.
        inside: bool [H, W], the same for all pictures.

    Returns:
        `change_inside` and `change_outside`, over pixels and colours; NaN for a side without pixels.

    Raises:
        BadInput: images that do not pair, or a mask of another size or of other than truth values.

    >>> half = np.array([[True, False]])
    >>> found = region_change([np.array([[[0.5] * 3, [0.0] * 3]])], [np.zeros((1, 2, 3))], half)
    >>> float(found["change_inside"][0]), float(found["change_outside"][0])
    (0.5, 0.0)
    """
    after, before = pixel_pairs(edited, reference)
    if inside.shape != after.shape[1:3] or inside.dtype != np.bool_:
        raise BadInput(
            f"The mask is {list(inside.shape)} of {inside.dtype}, and the pictures are "
            f"{after.shape[1]} × {after.shape[2]} pixels; give a truth value for each pixel."
        )
    squares = ((after - before) ** 2).mean(axis=-1)
    regions = {"change_inside": inside, "change_outside": ~inside}
    return {
        name: np.sqrt(squares[:, region].mean(axis=1)) if region.any() else np.full(len(squares), np.nan)
        for name, region in regions.items()
    }
