"""Distance of the final latents."""

from __future__ import annotations

from dit_lens.methods.metric import Metric

METRIC = Metric(
    name="latent",
    title="latent distance",
    unit="share of the reference's norm",
    disrupted="greater",
    measure=lambda rows: rows.distance,
    needs=frozenset({"clean"}),
    row=0,
    place=10,
    group="image",
)
