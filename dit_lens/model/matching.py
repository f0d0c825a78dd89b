"""Latents of a run with one number of steps, at the noise levels of a run with another.

So a run is carried into one of another schedule: its steps are matched by their noise, not by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dit_lens.errors import BadInput
from dit_lens.model.given import GivenPath
from dit_lens.words import known_words

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling, Trajectory

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


@known_words
def matched_path(
    lens: DiTLens, run: Trajectory, *, sampling: Sampling | None = None, rule: str = "nearest"
) -> tuple[GivenPath, ...]:
    """A run with steps of its own as donors for runs of another schedule: a path per row.

    A trajectory of a graph goes along such a path (`path=`) and is drawn on by `g.patch`: each step of the
    target then takes over from donor latents of about its own noise. The donor's prompt conditions what is
    harvested. With the run's own schedule the path is the run, bit for bit.

    Args:
        run: what `lens.generate` gave, in the size of the runs it is carried into.
        sampling: of those runs; the model's default unless given.
        rule: as in `matched`.

    Raises:
        BadInput: an unknown rule, or sigmas that cannot be matched.

    >>> source = lens.generate("a red star on the left", seeds=[0], steps=6, progress=False)
    >>> (path,) = matched_path(lens, source, sampling=lens.sampling(steps=4))
    >>> path.steps, path.origin
    (4, '6 steps, matched by sigma (nearest)')
    >>> g = dl.InterventionGraph(sampling={"steps": 4})
    >>> target = g.trajectory(prompt="a blue star", seed=0)
    >>> donor = g.trajectory(prompt=path.prompt, seed=0, path="source")
    >>> g.patch(donor, into=target, at="blocks.*.resid_post.image", channels=[3])
    >>> dl.run(lens, g, paths={"source": path}, progress=False)[target].image.size
    (48, 48)
    """
    schedule = replace(sampling or lens.defaults, guidance_scale=1.0)
    sigmas = lens.prepare_rows(list(run.prompts[:1]), [0], schedule).sigmas.tolist()
    own, origin = run.sigmas.tolist(), f"{run.sampling.steps} steps, matched by sigma ({rule})"
    return tuple(
        GivenPath(matched(latents.float().cpu(), own, sigmas, rule=rule), tuple(sigmas), prompt, seed, origin)
        for latents, prompt, seed in zip(run.latents, run.prompts, run.seeds, strict=True)
    )
