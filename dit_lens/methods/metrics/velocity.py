"""Distance of the guided velocity at one step, from the same latents."""

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
    name="velocity",
    title="velocity distance",
    unit="share of the reference's norm",
    disrupted="greater",
    measure=_measure,
    needs=frozenset({"clean"}),
    row=1,
    place=12,
    readout="step",
)
