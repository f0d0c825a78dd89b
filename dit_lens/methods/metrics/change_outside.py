"""Change of the pixels outside a mask."""

from __future__ import annotations

from dit_lens.methods.metric import InTransport, Metric

METRIC = Metric(
    name="change_outside",
    title="change outside the mask",
    unit="pixel value, 0 to 1",
    disrupted="greater",
    measure=lambda rows: rows.regions.get("change_outside", rows.nothing),
    needs=frozenset({"image", "clean", "mask"}),
    row=9,
    place=8,
    in_transport=InTransport(7, unmoved=0.0),
)
