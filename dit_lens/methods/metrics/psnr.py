"""Peak signal-to-noise ratio of the images."""

from __future__ import annotations

from dit_lens.methods.distances import psnr
from dit_lens.methods.metric import Metric

METRIC = Metric(
    name="psnr",
    title="PSNR to the clean image",
    unit="dB",
    disrupted="less",
    measure=lambda rows: psnr(*rows.pairs),
    needs=frozenset({"image", "clean"}),
    row=3,
    place=13,
    group="image",
    unchanged=None,
)
