"""Change at low spatial frequencies."""

from __future__ import annotations

from dit_lens.methods.frequency import CUTOFF
from dit_lens.methods.metric import Metric

METRIC = Metric(
    name="change_low",
    title="change at low frequencies",
    unit="pixel value, 0 to 1",
    disrupted="greater",
    measure=lambda rows: rows.bands.low,
    needs=frozenset({"image", "clean"}),
    row=6,
    place=5,
    group="image",
    rule=f"1 cutoff={CUTOFF}",
)
