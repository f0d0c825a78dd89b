"""What metrics look at: some rows of a study, edited and unedited, and whatever reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dit_lens.methods.attribute_scores import Reader, attribute_scores
from dit_lens.methods.carried import moves
from dit_lens.methods.distances import share_of_the_way, step_distance
from dit_lens.methods.frequency import CUTOFF, BandChange, band_change
from dit_lens.methods.pixels import pixel_pairs
from dit_lens.methods.regions import region_change
from dit_lens.methods.scorers import Scorer

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dit_lens.methods.along_steps import Paths
    from dit_lens.methods.lpips import Lpips

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Rows of one study that are measured together; a metric finds here what it says that it needs.

    Attributes:
        prompts: of each row; `source_prompts` what each row's source shows, None where there is no source.
        edited, clean: final latents [rows, C, h, w], or at one step the guided velocities; `source` likewise.
        images, clean_images: one per row, for metrics of images.
        inside: bool [H, W], the mask of pixels; None where none is known.
        paths: latents of every step.
        reader, scorer, lpips: what reads attributes, rates alignment and measures LPIPS.
        cutoff: cycles per pixel between low and high frequencies.
    """

    prompts: Sequence[str]
    edited: Tensor | None = None
    clean: Tensor | None = None
    source: Tensor | None = None
    images: Sequence[Image] | None = None
    clean_images: Sequence[Image] | None = None
    source_prompts: Sequence[str] | None = None
    inside: npt.NDArray[np.bool_] | None = None
    paths: Paths | None = None
    reader: Reader | None = None
    scorer: Scorer | None = None
    lpips: Lpips | None = None
    cutoff: float = CUTOFF

    @property
    def nothing(self) -> Array:
        """NaN for every row: a metric that has no value here."""
        return np.full(len(self.prompts), np.nan)

    @cached_property
    def distance(self) -> Array:
        """Relative distance of the edited tensors from the unedited ones."""
        assert self.edited is not None and self.clean is not None
        return step_distance(self.edited[:, None], self.clean[:, None])[:, 0]

    @cached_property
    def way(self) -> Array:
        """Share of the way to the source; NaN where there is none."""
        if self.source is None:
            return self.nothing
        assert self.edited is not None and self.clean is not None
        return share_of_the_way(self.edited, self.clean, self.source)

    @cached_property
    def pairs(self) -> tuple[Any, Any]:
        """Pixels of edited and unedited images, float64 [rows, H, W, 3] from 0 to 1 each."""
        assert self.images is not None and self.clean_images is not None
        return pixel_pairs(self.images, self.clean_images)

    @cached_property
    def bands(self) -> BandChange:
        """Change by spatial frequency; computed once for all metrics that look at it."""
        return band_change(*self.pairs, cutoff=self.cutoff)

    @cached_property
    def attributes(self) -> dict[str, Array]:
        """Attributes as asked, by name; see `attribute_scores`."""
        assert self.images is not None
        return attribute_scores(self.images, list(self.prompts), reader=self.reader)

    @cached_property
    def moves(self) -> dict[str, Array]:
        """Attributes that came over from the source and that stayed; empty where there is no source."""
        if self.source_prompts is None:
            return {}
        assert self.images is not None and self.clean_images is not None and self.reader is not None
        return moves(self.images, self.clean_images, self.prompts, self.source_prompts, reader=self.reader)

    @cached_property
    def regions(self) -> dict[str, Array]:
        """Change inside and outside of the mask; empty where no mask is known."""
        if self.inside is None:
            return {}
        assert self.images is not None and self.clean_images is not None
        return region_change(self.images, self.clean_images, self.inside)
