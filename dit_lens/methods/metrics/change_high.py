"""Change at high spatial frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.frequency import CUTOFF
from dit_lens.methods.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    return rows.bands.high


METRIC = Metric(
    name="change_high",
    title="change at high frequencies",
    unit="pixel value, 0 to 1",
    disrupted="greater",
    measure=_measure,
    needs=frozenset({"image", "clean"}),
    row=7,
    place=6,
    group="image",
    rule=f"1 cutoff={CUTOFF}",
    in_guidance=4,
)
