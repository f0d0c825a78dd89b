"""How far the final latents went toward the source's (arXiv 2309.16042)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.distances import share_of_the_way
from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import InTransport, Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    if rows.source is None:
        return rows.nothing
    assert rows.edited is not None and rows.clean is not None
    return share_of_the_way(rows.edited, rows.clean, rows.source)


METRIC = Metric(
    name="toward_latent",
    title="final latent's way to the donor's",
    unit="share of the way",
    disrupted="greater",
    measure=_measure,
    needs=frozenset({"clean", "source"}),
    row=21,
    place=15,
    in_transport=InTransport(0, title="final latent's way to the source's", unmoved=0.0),
)
