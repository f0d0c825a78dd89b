"""Share of the attributes that both prompts name alike and that stayed; the embedded world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import InTransport, Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    return rows.moves.get(METRIC.name, rows.nothing)


METRIC = Metric(
    name="kept",
    title="shared attributes that read as before",
    unit="share",
    disrupted="less",
    measure=_measure,
    needs=frozenset({"image", "clean", "source", "reader"}),
    row=24,
    place=18,
    in_transport=InTransport(3),
)
