"""Reading attributes off pictures of the shapes world, and splitting the score into semantics and detail."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput
from dit_lens.methods.pixels import as_pixels
from dit_lens.zoo.scenes import ATTRIBUTES, SEMANTIC

if TYPE_CHECKING:
    from dit_lens.methods.pixels import Images

Array = npt.NDArray[np.float64]


class Reader(Protocol):
    """Pictures → one value per attribute, by the embedded CLIP (`dit_lens.zoo.readout.AttributeReader`) or by
    the nearest rendering (`dit_lens.zoo.nearest.NearestRendering`)."""

    def read(self, images: Sequence[Any]) -> list[dict[str, str]]: ...


def asked_attributes(prompt: str) -> dict[str, str]:
    """The attribute values that a prompt of the shapes world names; the others are left open.

    Raises:
        BadInput: the prompt names none, or two values of one attribute.

    >>> asked_attributes("a red star")
    {'shape': 'star', 'colour': 'red'}
    """
    found: dict[str, str] = {}
    for attribute, values in ATTRIBUTES.items():
        named = [value for value in values if re.search(rf"\b{re.escape(value)}\b", prompt.lower())]
        if len(named) > 1:
            raise BadInput(f"{prompt!r} names more than one {attribute}: {', '.join(named)}.")
        if named:
            found[attribute] = named[0]
    if not found:
        raise BadInput(
            f"{prompt!r} names no attribute of the shapes world, as 'a large red striped star on the left' "
            "does. The attribute read-out is for the embedded model's prompts."
        )
    return found


def attribute_scores(
    images: Images, asked: Sequence[str | Mapping[str, str]], *, reader: Reader | None = None
) -> dict[str, Array]:
    """Which attributes of each picture are as asked: float64 [n] each, 1 or 0, NaN where not asked.

    Args:
        images: n pictures of the shapes world, see `as_pixels`.
        asked: for each picture its prompt, or attribute values; the read-out of the clean picture, to score
            agreement with that rather than with the prompt.
        reader: what reads the pictures; the embedded CLIP by default.

    Returns:
        One entry per attribute, then `semantics` (mean over the semantic ones that were asked: shape,
        colour, size, position, background) and `detail` (the surface pattern).

    Raises:
        BadInput: numbers that differ, a prompt outside the world, or the embedded CLIP is not there.

    >>> from dit_lens.zoo.nearest import NearestRendering
    >>> from dit_lens.zoo.scenes import Scene, render
    >>> star = Scene("star", "red", "large", "on the left", "white", "plain")
    >>> scores = attribute_scores([render(star)], ["a red striped circle"], reader=NearestRendering())
    >>> float(scores["semantics"][0]), float(scores["detail"][0])
    (0.5, 0.0)
    """
    pixels = as_pixels(images)
    if isinstance(asked, str) or len(asked) != len(pixels):
        raise BadInput(
            f"{len(pixels)} images and {len(asked)} prompts: give a list with one prompt per image."
            if not isinstance(asked, str)
            else f"{len(pixels)} images and one prompt: give a list with one prompt per image."
        )
    wanted = [asked_attributes(each) if isinstance(each, str) else _known(each) for each in asked]
    if reader is None:
        from dit_lens.zoo.readout import load_reader

        reader = load_reader()
    read = reader.read(list(pixels))
    scores = {
        name: np.array(
            [float(r[name] == w[name]) if name in w else np.nan for r, w in zip(read, wanted, strict=True)]
        )
        for name in ATTRIBUTES
    }
    semantic = np.stack([scores[name] for name in SEMANTIC])
    asked_for = (~np.isnan(semantic)).sum(axis=0)
    total = np.nansum(semantic, axis=0)
    mean = np.divide(total, asked_for, out=np.full_like(total, np.nan), where=asked_for > 0)
    return {**scores, "semantics": mean}


def _known(attributes: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in attributes.items():
        if value not in ATTRIBUTES.get(name, ()):
            raise BadInput(f"The shapes world has no {name} {value!r}; it has {dict(ATTRIBUTES)}.")
    return attributes
