"""Change of the pixels inside a mask."""

from __future__ import annotations

from dit_lens.methods.metric import InTransport, Metric

METRIC = Metric(
    name="change_inside",
    title="change inside the mask",
    unit="pixel value, 0 to 1",
    disrupted="greater",
    measure=lambda rows: rows.regions.get("change_inside", rows.nothing),
    needs=frozenset({"image", "clean", "mask"}),
    row=8,
    place=7,
    in_transport=InTransport(6, unmoved=0.0),
)
