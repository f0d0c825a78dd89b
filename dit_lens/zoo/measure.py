"""Measuring the embedded models: read-out accuracy on rendered scenes and on generated pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dit_lens.zoo.nearest import NearestRendering
from dit_lens.zoo.readout import AttributeReader
from dit_lens.zoo.scenes import ATTRIBUTES, SEMANTIC, Scene, render, sample_scenes

if TYPE_CHECKING:
    from PIL import Image


def accuracy(read: Sequence[Mapping[str, str]], truth: Sequence[Scene]) -> dict[str, float]:
    """Share of pictures whose attribute was read as the caption says, by attribute, with means.

    `semantic_mean` averages the five semantic attributes; `mean` averages all six.
    """
    hits = {
        name: float(np.mean([r[name] == getattr(t, name) for r, t in zip(read, truth, strict=True)]))
        for name in ATTRIBUTES
    }
    return {
        **hits,
        "semantic_mean": float(np.mean([hits[name] for name in SEMANTIC])),
        "mean": float(np.mean(list(hits.values()))),
    }


def scorer_accuracy(reader: AttributeReader, *, count: int = 1000, seed: int = 101) -> dict[str, float]:
    """How well the CLIP reads freshly rendered held-out scenes."""
    truth = sample_scenes(count, seed, held_out=True)
    return accuracy(reader.read([render(s) for s in truth]), truth)


def held_out_captions(count: int = 200, seed: int = 202) -> list[Scene]:
    """Distinct held-out scenes for judging the generator, jitter left out."""
    seen: dict[str, Scene] = {}
    for scene in sample_scenes(8 * count, seed, held_out=True):
        seen.setdefault(scene.caption, scene)
    return list(seen.values())[:count]


def picture_accuracy(
    reader: AttributeReader, images: Sequence[Image.Image], truth: Sequence[Scene]
) -> dict[str, dict[str, float]]:
    """Accuracy of generated pictures by two rulers: the CLIP, and the nearest rendering (no model in it)."""
    nearest = NearestRendering().read(images)
    return {"clip": accuracy(reader.read(images), truth), "nearest_rendering": accuracy(nearest, truth)}
