"""Change of the pixels inside a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import InTransport, Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    return rows.regions.get(METRIC.name, rows.nothing)


METRIC = Metric(
    name="change_inside",
    title="change inside the mask",
    unit="pixel value, 0 to 1",
    disrupted="greater",
    measure=_measure,
    needs=frozenset({"image", "clean", "mask"}),
    row=8,
    place=7,
    in_transport=InTransport(6, unmoved=0.0),
)
