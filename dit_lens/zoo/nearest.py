"""Reading pictures of the shapes world without a trained model: the nearest rendering says what they show.

A second ruler beside the embedded CLIP, which a disrupted picture might fool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dit_lens.errors import BadInput
from dit_lens.zoo.scenes import Scene, read_image

if TYPE_CHECKING:
    from PIL.Image import Image


_ROUNDING = 1e-3
"""How far outside [0, 1] a pixel may lie and still be one."""


def scene_of(picture: Image | np.ndarray) -> Scene:
    """The scene whose rendering is nearest to a picture: PIL, or [48, 48, 3] in [0, 1] or bytes' integers.

    Raises:
        BadInput: a picture of another size, or values that are no pixels.

    >>> from dit_lens.zoo.scenes import render
    >>> star = Scene("star", "red", "large", "on the left", "white", "striped")
    >>> scene_of(render(star)) == star
    True
    """
    if not isinstance(picture, np.ndarray):
        picture = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    pixels = picture.astype(np.float32) / (255 if np.issubdtype(picture.dtype, np.integer) else 1)
    # NaN compares false, and is refused as well.
    if pixels.size and not (pixels.min() >= -_ROUNDING and pixels.max() <= 1 + _ROUNDING):
        raise BadInput(
            f"A picture's values run from {picture.min():.4g} to {picture.max():.4g} ({picture.dtype}); give "
            "floats from 0 to 1, or integers from 0 to 255."
        )
    return read_image(pixels)


class NearestRendering:
    """A reader without a trained model, exact on clean renderings. Pictures of 48 × 48 only."""

    def read(self, images: Sequence[Image | np.ndarray]) -> list[dict[str, str]]:
        """The nearest value of every attribute, one dict per picture; pictures as in `scene_of`."""
        return [scene_of(image).attributes for image in images]
