"""A sample as a truth sees it: what its image should show, and how its tokens lie over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dit_lens.methods.spatial.masks import Grid

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Subject:
    """One sample whose subject is asked for; `picture` is None where the truth did not ask for it."""

    prompt: str
    seed: int
    picture: Image | None
    grid: Grid
    image_size: Grid

    def __str__(self) -> str:
        return f"prompt {self.prompt!r}, seed {self.seed}"
