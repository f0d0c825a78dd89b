"""Attributes that read as the source's prompt says; the embedded world."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import LAST, InTransport, Metric
from dit_lens.zoo.scenes import ATTRIBUTES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _of(name: str) -> Callable[[Evidence], npt.NDArray[np.float64]]:
    def measure(rows: Evidence) -> npt.NDArray[np.float64]:
        return rows.moves.get(name, rows.nothing)

    return measure


METRICS = (
    Metric(
        name="moved",
        title="differing attributes that read as the source's",
        unit="share",
        disrupted="greater",
        measure=_of("moved"),
        needs=frozenset({"image", "clean", "source", "reader"}),
        row=23,
        place=17,
        in_transport=InTransport(2),
    ),
    *(
        Metric(
            name=f"moved.{name}",
            title=f"{name} that reads as the source's",
            unit="share",
            disrupted="greater",
            measure=_of(f"moved.{name}"),
            needs=frozenset({"image", "clean", "source", "reader"}),
            row=25,
            in_transport=InTransport(LAST),
        )
        for name in ATTRIBUTES
    ),
)
