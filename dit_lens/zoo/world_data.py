"""Rendered pools of the shapes world as tensors: what every training stage draws its batches from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dit_lens.zoo import scenes
from dit_lens.zoo.scenes import ATTRIBUTES, Scene


@dataclass(frozen=True)
class Pool:
    """Scenes, their pictures as uint8 [n, 3, 48, 48] and their attribute indices int64 [n, 6]."""

    scenes: tuple[Scene, ...]
    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scenes)

    def pixels(self, rows: Tensor) -> Tensor:
        """Pictures as float32 in [-1, 1]."""
        return self.images[rows].float() / 127.5 - 1


def labels_of(scene: Scene) -> list[int]:
    """Index of each attribute's value, in the order of `ATTRIBUTES`."""
    return [values.index(getattr(scene, name)) for name, values in ATTRIBUTES.items()]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float [0, 1] to uint8 as image files store it."""
    return np.clip(np.round(image * 255), 0, 255).astype(np.uint8)


def build_pool(count: int, seed: int, *, held_out: bool | None = False) -> Pool:
    """Render `count` random scenes."""
    drawn = scenes.sample_scenes(count, seed, held_out=held_out)
    pictures = np.stack([to_uint8(scenes.render(s)).transpose(2, 0, 1) for s in drawn])
    return Pool(tuple(drawn), torch.from_numpy(pictures), torch.tensor([labels_of(s) for s in drawn]))


def caption_of(scene: Scene, generator: torch.Generator, *, partial: float) -> tuple[str, list[bool]]:
    """A caption and which attributes it names, in the order of `ATTRIBUTES`.

    The full caption, or (with probability `partial`) one that names each attribute with probability 1/2.
    """
    if torch.rand((), generator=generator) >= partial:
        return scene.caption, [True] * len(ATTRIBUTES)
    keep = (torch.rand(len(ATTRIBUTES), generator=generator) < 0.5).tolist()
    named = {name: getattr(scene, name) for name, k in zip(ATTRIBUTES, keep, strict=True) if k}
    return scenes.partial_caption(**named), keep
