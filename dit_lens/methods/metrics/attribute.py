"""Whether one semantic attribute is as asked; the embedded world."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import LAST, Metric
from dit_lens.zoo.scenes import SEMANTIC

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _of(name: str) -> Callable[[Evidence], npt.NDArray[np.float64]]:
    def measure(rows: Evidence) -> npt.NDArray[np.float64]:
        return rows.attributes[name]

    return measure


METRICS = (
    *(
        Metric(
            name=f"attribute.{name}",
            title=f"{name} as asked",
            unit="share",
            disrupted="less",
            measure=_of(name),
            needs=frozenset({"image", "reader"}),
            group="single attributes",
            row=14,
            place=LAST - 1,
        )
        for name in SEMANTIC
    ),
)
