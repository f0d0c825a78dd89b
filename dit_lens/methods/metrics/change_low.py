"""Change at low spatial frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.frequency import CUTOFF
from dit_lens.methods.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    return rows.bands.low


METRIC = Metric(
    name="change_low",
    title="change at low frequencies",
    unit="pixel value, 0 to 1",
    disrupted="greater",
    measure=_measure,
    needs=frozenset({"image", "clean"}),
    row=6,
    place=5,
    group="image",
    rule=f"1 cutoff={CUTOFF}",
)
