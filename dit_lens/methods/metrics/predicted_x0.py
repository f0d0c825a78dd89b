"""Drift of the predicted image, mean over all steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    assert rows.paths is not None
    return rows.paths.drift()


METRIC = Metric(
    name="predicted_x0",
    title="mean drift of the predicted image",
    unit="share of the reference's norm",
    disrupted="greater",
    measure=_measure,
    needs=frozenset({"clean", "path"}),
    row=2,
    place=11,
    group="image",
    unasked=False,
)
