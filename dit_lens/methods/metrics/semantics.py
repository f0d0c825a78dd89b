"""Share of the semantic attributes that are as asked; the embedded world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    return rows.attributes[METRIC.name]


METRIC = Metric(
    name="semantics",
    title="semantic attributes as asked",
    unit="share",
    disrupted="less",
    measure=_measure,
    needs=frozenset({"image", "reader"}),
    row=12,
    place=1,
    group="read-outs",
    in_guidance=2,
)
