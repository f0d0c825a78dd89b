"""How far the velocity at one step went toward the source's (arXiv 2309.16042)."""

from __future__ import annotations

from dit_lens.methods.metric import Metric

METRIC = Metric(
    name="toward",
    title="velocity's way to the donor's",
    unit="share of the way",
    disrupted="greater",
    measure=lambda rows: rows.way,
    needs=frozenset({"clean", "source"}),
    row=20,
    place=14,
    readout="step",
)
