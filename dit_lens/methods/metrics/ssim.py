"""Structural similarity of the images (Wang et al. 2004)."""

from __future__ import annotations

from dit_lens.methods.distances import require_ssim_window, ssim
from dit_lens.methods.metric import InTransport, Metric

METRIC = Metric(
    name="ssim",
    title="SSIM with the clean image",
    unit="",
    disrupted="less",
    measure=lambda rows: ssim(*rows.pairs),
    needs=frozenset({"image", "clean"}),
    row=4,
    place=3,
    group="image",
    unchanged=1.0,
    require_size=require_ssim_window,
    in_transport=InTransport(4, title="SSIM with the unedited target", unmoved=1.0),
    in_guidance=5,
)
