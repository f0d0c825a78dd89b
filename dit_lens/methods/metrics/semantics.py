"""Share of the semantic attributes that are as asked; the embedded world."""

from __future__ import annotations

from dit_lens.methods.metric import Metric

METRIC = Metric(
    name="semantics",
    title="semantic attributes as asked",
    unit="share",
    disrupted="less",
    measure=lambda rows: rows.attributes["semantics"],
    needs=frozenset({"image", "reader"}),
    row=12,
    place=1,
    group="read-outs",
    in_guidance=2,
)
