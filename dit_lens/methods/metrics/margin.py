"""How far an image went from its own prompt to the source's, by a CLIP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.carried import margins
from dit_lens.methods.evidence import Evidence
from dit_lens.methods.metric import InTransport, Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    if rows.source_prompts is None:
        return rows.nothing
    assert rows.scorer is not None and rows.images is not None and rows.clean_images is not None
    return margins(rows.scorer, rows.images, rows.clean_images, rows.prompts, rows.source_prompts)


METRIC = Metric(
    name="margin",
    title="alignment with the source's prompt over the target's",
    unit="cosine",
    disrupted="greater",
    measure=_measure,
    needs=frozenset({"image", "clean", "source", "clip"}),
    row=22,
    place=16,
    in_transport=InTransport(1, unmoved=0.0),
)
