"""How far the final latents went toward the source's (arXiv 2309.16042)."""

from __future__ import annotations

from dit_lens.methods.metric import InTransport, Metric

METRIC = Metric(
    name="toward_latent",
    title="final latent's way to the donor's",
    unit="share of the way",
    disrupted="greater",
    measure=lambda rows: rows.way,
    needs=frozenset({"clean", "source"}),
    row=21,
    place=15,
    in_transport=InTransport(0, title="final latent's way to the source's", unmoved=0.0),
)
