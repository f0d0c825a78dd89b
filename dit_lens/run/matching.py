"""Latents of a run with one number of steps, at the noise levels of a run with another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dit_lens.errors import BadInput

RULES = ("nearest", "linear")


def matched(
    latents: Tensor, sigmas: Sequence[float], target_sigmas: Sequence[float], *, rule: str = "nearest"
) -> Tensor:
    """Latents [steps + 1, …] at `sigmas`, as [target steps + 1, …] at `target_sigmas`.

    "nearest" takes the latents whose sigma is nearest, of two equally near ones the noisier: true latents of
    the run, whose noise is off by up to half a step. "linear" takes the point between the two neighbours that
    has the very sigma: between two steps a flow's Euler sampler goes straight, so the point lies on its way.
    Where a sigma is among the run's own, both give its latents bit for bit.

    Raises:
        BadInput: sigmas that do not fall to 0, another number of them than of latents, target sigmas outside
        the run's ("linear" only: nothing is known there), or an unknown rule.

    >>> path = torch.tensor([[8.0], [4.0], [0.0]])
    >>> matched(path, [1.0, 0.5, 0.0], [1.0, 0.7, 0.4, 0.0]).flatten().tolist()
    [8.0, 4.0, 4.0, 0.0]
    >>> matched(path, [1.0, 0.5, 0.0], [1.0, 0.75, 0.25, 0.0], rule="linear").flatten().tolist()
    [8.0, 6.0, 2.0, 0.0]
    """
    if rule not in RULES:
        raise BadInput(f"matched: rule is {rule!r}; there are: {', '.join(RULES)}.")
    own, target = (
        torch.tensor([float(s) for s in each], dtype=torch.float32) for each in (sigmas, target_sigmas)
    )
    for name, each in (("sigmas", own), ("target_sigmas", target)):
        if len(each) < 2 or any(not a > b for a, b in pairwise(each.tolist())) or each[-1] != 0:
            raise BadInput(f"matched: {name} must fall to 0; got {', '.join(f'{s:.4g}' for s in each)}.")
    if len(latents) != len(own):
        raise BadInput(f"matched: {len(latents)} latents need as many sigmas; got {len(own)}.")
    if rule == "nearest":
        # argmin takes the first of equals, and sigmas fall.
        return latents[(target[:, None] - own[None]).abs().argmin(dim=1)]
    if target[0] > own[0]:
        raise BadInput(
            f"matched: the run's sigmas begin at {own[0]:.4g}, and {target[0]:.4g} was asked for; before its "
            'first step nothing is known. Use rule="nearest".'
        )
    # The last own sigma that is not below the one asked for, and the next.
    before = (own[None] >= target[:, None]).sum(dim=1) - 1
    after = (before + 1).clamp(max=len(own) - 1)
    share = (own[before] - target) / (own[before] - own[after]).clamp(min=torch.finfo(torch.float32).tiny)
    share = share.view(-1, *[1] * (latents.ndim - 1)).to(latents)
    return latents[before] + share * (latents[after] - latents[before])
