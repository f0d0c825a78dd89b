"""Distance of the guided velocity at one step, from the same latents."""

from __future__ import annotations

from dit_lens.methods.metric import Metric

METRIC = Metric(
    name="velocity",
    title="velocity distance",
    unit="share of the reference's norm",
    disrupted="greater",
    measure=lambda rows: rows.distance,
    needs=frozenset({"clean"}),
    row=1,
    place=12,
    readout="step",
)
