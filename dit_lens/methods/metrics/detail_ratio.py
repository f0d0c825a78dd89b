"""High-frequency magnitude over that of the unedited image."""

from __future__ import annotations

from dit_lens.methods.frequency import CUTOFF
from dit_lens.methods.metric import Metric

METRIC = Metric(
    name="detail_ratio",
    title="high-frequency magnitude over the clean image's",
    unit="ratio",
    disrupted="less",
    measure=lambda rows: rows.bands.detail_ratio,
    needs=frozenset({"image", "clean"}),
    row=10,
    place=9,
    group="image",
    unchanged=1.0,
    rule=f"1 cutoff={CUTOFF}",
    in_guidance=1,
)
