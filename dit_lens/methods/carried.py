"""What came over from a donor: alignment with its prompt, and attributes that moved and that stayed.

A picture is compared with the unedited picture of its own prompt (the target) and with what the donor shows
(the source). Attributes are those that both prompts name: where they differ, the picture may read as the
source's (it *moved*); where they agree, it may read as the unedited picture does (it was *kept*).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dit_lens.methods.attribute_scores import Reader, asked_attributes
from dit_lens.methods.pixels import as_pixels
from dit_lens.methods.scorers import Scorer, score_images
from dit_lens.zoo.scenes import ATTRIBUTES

if TYPE_CHECKING:
    from dit_lens.methods.pixels import Images

Array = npt.NDArray[np.float64]


def margins(
    scorer: Scorer, images: Images, clean: Images, targets: Sequence[str], sources: Sequence[str]
) -> Array:
    """How far pictures went from their own prompt to another, float64 [n], in the scorer's unit.

    (alignment with the source − alignment with the target) of each picture, minus that of the unedited one: 0
    where nothing changed, positive where the picture went over to the source.

    Raises:
        BadInput: numbers that differ. RunFailure: a score that is not finite.
    """
    before: dict[tuple[int, str, str], float] = {}
    references = []
    for image, target, source in zip(clean, targets, sources, strict=True):
        # One unedited picture serves all arms of a prompt.
        key = (id(image), target, source)
        if key not in before:
            before[key] = float(_lead(scorer, [image], [target], [source])[0])
        references.append(before[key])
    return _lead(scorer, images, targets, sources) - np.array(references)


def _lead(scorer: Scorer, images: Any, targets: Sequence[str], sources: Sequence[str]) -> Array:
    return score_images(scorer, images, list(sources)) - score_images(scorer, images, list(targets))


def moves(
    images: Images, clean: Images, targets: Sequence[str], sources: Sequence[str], *, reader: Reader
) -> dict[str, Array]:
    """Which attributes moved to the source's and which were kept: float64 [n] each.

    Returns:
        `moved.<attribute>`: 1 where the picture reads as the source's prompt says, else 0; NaN where the two
        prompts do not differ in it. `moved`: their mean. `kept`: share of the attributes that both prompts
        name alike and that read as in the unedited picture; NaN where there is none.

    Raises:
        BadInput: a prompt that names no attribute.

    >>> from dit_lens.zoo.nearest import NearestRendering
    >>> from dit_lens.zoo.scenes import Scene, render
    >>> red = Scene("star", "red", "large", "on the left", "white", "plain")
    >>> blue = red.with_(colour="blue")
    >>> found = moves([render(red)], [render(blue)], [blue.caption], [red.caption], reader=NearestRendering())
    >>> float(found["moved"][0]), float(found["kept"][0])
    (1.0, 1.0)
    """
    after = reader.read(list(as_pixels(images)))
    known: dict[int, Mapping[str, str]] = {}
    for image in clean:
        if id(image) not in known:
            known[id(image)] = reader.read(list(as_pixels([image])))[0]
    rows: list[dict[str, float]] = []
    for read, image, target, source in zip(after, clean, targets, sources, strict=True):
        differing, shared = differences(target, source)
        before = known[id(image)]
        row = {f"moved.{name}": float(read[name] == value) for name, value in differing.items()}
        row["moved"] = _mean(list(row.values()))
        row["kept"] = _mean([float(read[name] == before[name]) for name in shared])
        rows.append(row)
    names = ("moved", "kept", *(f"moved.{name}" for name in ATTRIBUTES))
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def differences(target: str, source: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """(attribute → the source's value where the prompts differ, attributes in which they agree).

    Only attributes that both prompts name count.

    Raises:
        BadInput: a prompt that names none, or two values of one.

    >>> differences("a red star", "a blue star")
    ({'colour': 'blue'}, ('shape',))
    """
    mine, theirs = asked_attributes(target), asked_attributes(source)
    both = [name for name in ATTRIBUTES if name in mine and name in theirs]
    differing = {name: theirs[name] for name in both if mine[name] != theirs[name]}
    return differing, tuple(name for name in both if name not in differing)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
