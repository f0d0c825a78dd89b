"""Whether the surface pattern is as asked; the embedded world."""

from __future__ import annotations

from dit_lens.methods.metric import Metric

METRIC = Metric(
    name="detail",
    title="surface detail as asked",
    unit="share",
    disrupted="less",
    measure=lambda rows: rows.attributes["detail"],
    needs=frozenset({"image", "reader"}),
    row=13,
    place=2,
    group="read-outs",
    in_guidance=0,
)
