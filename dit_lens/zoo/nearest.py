"""Reading pictures of the shapes world without a trained model: the nearest rendering says what they show.

A second ruler beside the embedded CLIP, which a disrupted picture might fool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dit_lens.zoo.scenes import Scene, read_image

if TYPE_CHECKING:
    from PIL.Image import Image


def scene_of(picture: Image | np.ndarray) -> Scene:
    """The scene whose rendering is nearest to a picture: PIL, or float [48, 48, 3] in [0, 1].

    Raises:
        BadInput: a picture of another size.

    >>> from dit_lens.zoo.scenes import render
    >>> star = Scene("star", "red", "large", "on the left", "white", "striped")
    >>> scene_of(render(star)) == star
    True
    """
    if not isinstance(picture, np.ndarray):
        picture = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return read_image(picture.astype(np.float32))


class NearestRendering:
    """A reader without a trained model, exact on clean renderings. Pictures of 48 × 48 only."""

    def read(self, images: Sequence[Image | np.ndarray]) -> list[dict[str, str]]:
        """The nearest value of every attribute, one dict per picture; pictures as in `scene_of`."""
        return [scene_of(image).attributes for image in images]
