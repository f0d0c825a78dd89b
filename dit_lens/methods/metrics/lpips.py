"""Learned perceptual distance of the images (arXiv 1801.03924)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.methods.evidence import Evidence
from dit_lens.methods.lpips import require_size
from dit_lens.methods.metric import InTransport, Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def _measure(rows: Evidence) -> npt.NDArray[np.float64]:
    assert rows.lpips is not None and rows.images is not None and rows.clean_images is not None
    return rows.lpips(rows.images, rows.clean_images)


METRIC = Metric(
    name="lpips",
    title="LPIPS distance to the clean image",
    unit="",
    disrupted="greater",
    measure=_measure,
    needs=frozenset({"image", "clean", "lpips"}),
    row=5,
    place=4,
    group="image",
    require_size=require_size,
    in_transport=InTransport(5, title="LPIPS distance to the unedited target", unmoved=0.0),
    in_guidance=6,
)
