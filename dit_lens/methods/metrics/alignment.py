"""Alignment of image and prompt, by a CLIP (arXiv 2104.08718)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import Metric
from dit_lens.methods.scorers import score_images

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    assert rows.scorer is not None and rows.images is not None
    return score_images(rows.scorer, rows.images, list(rows.prompts))


METRIC = Metric(
    name="alignment",
    title="prompt alignment",
    unit="cosine",
    disrupted="less",
    measure=_measure,
    needs=frozenset({"image", "clip"}),
    row=11,
    place=0,
    group="read-outs",
    in_guidance=3,
)
