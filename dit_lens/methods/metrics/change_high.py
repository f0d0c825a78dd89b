"""Change at high spatial frequencies."""

from __future__ import annotations

from dit_lens.methods.frequency import CUTOFF
from dit_lens.methods.metric import Metric

METRIC = Metric(
    name="change_high",
    title="change at high frequencies",
    unit="pixel value, 0 to 1",
    disrupted="greater",
    measure=lambda rows: rows.bands.high,
    needs=frozenset({"image", "clean"}),
    row=7,
    place=6,
    group="image",
    rule=f"1 cutoff={CUTOFF}",
    in_guidance=4,
)
