"""High-frequency magnitude over that of the unedited image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.frequency import CUTOFF
from dit_lens.methods.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    return rows.bands.detail_ratio


METRIC = Metric(
    name="detail_ratio",
    title="high-frequency magnitude over the clean image's",
    unit="ratio",
    disrupted="less",
    measure=_measure,
    needs=frozenset({"image", "clean"}),
    row=10,
    place=9,
    group="image",
    unchanged=1.0,
    rule=f"1 cutoff={CUTOFF}",
    in_guidance=1,
)
