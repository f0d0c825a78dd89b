"""Distance of the final latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.distances import step_distance
from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    assert rows.edited is not None and rows.clean is not None
    return step_distance(rows.edited[:, None], rows.clean[:, None])[:, 0]


METRIC = Metric(
    name="latent",
    title="latent distance",
    unit="share of the reference's norm",
    disrupted="greater",
    measure=_measure,
    needs=frozenset({"clean"}),
    row=0,
    place=10,
    group="image",
)
