"""What discovery measured, as material for edits that draw on a dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from dit_lens.methods.channels import ChannelStatistics
    from dit_lens.run.material import MaterialRequest


def dataset_means(stats: ChannelStatistics) -> Callable[[MaterialRequest], Tensor]:
    """Material for `Mean(of="dataset")`: each channel's mean over all samples and tokens, float32 [channels].

    Pass it as `material=` to `dit_lens.run`. The mean is that of the same step, branch, block and stream;
    the run has to take as many steps as discovery did. Setting massive channels to it is the test of arXiv
    2402.17762: where nothing changes, they act as a bias.

    Raises (when asked):
        BadInput: bounds for `Clamp`, a place other than a stream's `resid_post`, or a step, branch or noise
            level that discovery did not see.

    >>> graph = dl.InterventionGraph(sampling={"steps": 4})
    >>> arm = graph.trajectory(prompt="a red circle", seed=0)
    >>> graph.edit(arm, at="blocks.7.resid_post.image", channels=massive, op=dl.Mean("dataset"))
    >>> dl.run(lens, graph, material=dataset_means(stats))[arm].image.size
    (48, 48)
    """

    def material(request: MaterialRequest) -> Tensor:
        import torch

        if request.kind != "mean":
            raise BadInput(
                f"{request.op.op} needs {request.kind} measured on a dataset, and discovery keeps means. "
                "Use mean, or pass a material= of your own."
            )
        point = request.point
        if point.component != "resid_post":
            raise BadInput(
                f"Discovery measured means of resid_post, and the edit is at {point}. Edit resid_post, or "
                "pass a material= of your own."
            )
        sigmas = stats.data["sigma"].values
        if request.step >= len(sigmas) or not np.isclose(sigmas[request.step], request.sigma, atol=1e-6):
            raise BadInput(
                f"The edit at step {request.step} has noise level {request.sigma:.4g}; discovery took "
                f"{len(sigmas)} steps, with other levels. Discover with the sampling of the run."
            )
        if request.branch not in stats.branches:
            raise BadInput(
                f"The edit is in the {request.branch} branch; discovery saw {', '.join(stats.branches)}."
            )
        mean = stats.data["mean"].isel(step=request.step)
        values = mean.sel(branch=request.branch, block=point.block, stream=point.stream).values
        return torch.from_numpy(np.array(values, dtype=np.float32))

    return material
