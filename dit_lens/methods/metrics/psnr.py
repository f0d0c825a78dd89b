"""Peak signal-to-noise ratio of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.distances import psnr
from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    return psnr(*rows.pairs)


METRIC = Metric(
    name="psnr",
    title="PSNR to the clean image",
    unit="dB",
    disrupted="less",
    measure=_measure,
    needs=frozenset({"image", "clean"}),
    row=3,
    place=13,
    group="image",
    unchanged=None,
)
