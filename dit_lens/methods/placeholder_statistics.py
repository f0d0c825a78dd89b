"""Statistics of the right shape and no meaning, so that a plan can be priced before discovery has run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from dit_lens.methods.channel_labels import STATISTICS
from dit_lens.methods.channels import ChannelStatistics

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling


def placeholder_statistics(lens: DiTLens, sampling: Sampling, sigmas: np.ndarray) -> ChannelStatistics:
    """Statistics in which the low-numbered channels are the massive ones. Nothing runs.

    What an analysis costs depends on how many channels it edits where, not on which: a plan made with these
    counts the forwards and block passes of the real one.

    `sigmas` are the noise levels of the steps, [steps] or [steps + 1].
    """
    points = [point for point in lens.hook_points if point.component == "resid_post"]
    streams = list(dict.fromkeys(str(point.stream) for point in points))
    axes: dict[str, list[Any]] = {
        "step": list(range(sampling.steps)),
        "branch": list(sampling.branches),
        "block": list(range(lens.num_blocks)),
        "stream": streams,
        "channel": list(range(lens.num_channels)),
    }
    falling = 1e4 / (1 + np.arange(lens.num_channels, dtype=np.float32)) ** 2
    values = np.broadcast_to(falling, [len(each) for each in axes.values()]).copy()
    there = {(point.block, point.stream) for point in points}
    for i, block in enumerate(axes["block"]):
        for j, stream in enumerate(streams):
            if (block, stream) not in there:
                values[:, :, i, j] = np.nan
    data = xr.Dataset(
        {name: (tuple(axes), values) for name in STATISTICS},
        coords={**axes, "sigma": ("step", np.asarray(sigmas[: sampling.steps]))},
    )
    return ChannelStatistics(data, {"model": lens.name, "fingerprint": lens.fingerprint})
