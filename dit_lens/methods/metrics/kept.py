"""Share of the attributes that both prompts name alike and that stayed; the embedded world."""

from __future__ import annotations

from dit_lens.methods.metric import InTransport, Metric

METRIC = Metric(
    name="kept",
    title="shared attributes that read as before",
    unit="share",
    disrupted="less",
    measure=lambda rows: rows.moves.get("kept", rows.nothing),
    needs=frozenset({"image", "clean", "source", "reader"}),
    row=24,
    place=18,
    in_transport=InTransport(3),
)
