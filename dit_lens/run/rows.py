"""Values of single rows: layouts, reductions, norms, and rows put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from dit_lens.graph.checked import CheckedRead
from dit_lens.model.hook_points import HookPoint
from dit_lens.model.sampling import SampleBatch


def normed_as_before(module: Any, x: Tensor, removed: Tensor) -> Tensor:
    """LayerNorm of `x` [rows, tokens, C] with the mean and variance of x + removed.

    All channels but the edited ones are normalised as if nothing had been removed.
    """
    wide = x.float() if x.element_size() < 4 else x
    whole = wide + removed.to(wide)
    mean = whole.mean(dim=-1, keepdim=True)
    variance = whole.var(dim=-1, unbiased=False, keepdim=True)
    normed = (wide - mean) * torch.rsqrt(variance + module.eps)
    if getattr(module, "weight", None) is not None:
        normed = normed * module.weight
    if getattr(module, "bias", None) is not None:
        normed = normed + module.bias
    return normed.to(x.dtype)


def reduced(read: CheckedRead, point: HookPoint, value: Tensor) -> Tensor:
    """What a read keeps of one row's value."""
    site = read.sites[point]
    if read.reduce == "none" and site.channels is None and site.tokens is None:
        return value[0]
    tokens = as_tokens(point, value)
    flat = tokens.ndim == 2
    chosen = site.read(tokens.unsqueeze(1) if flat else tokens)[0]
    if read.reduce == "none":
        return chosen[0] if flat else chosen
    wide = chosen.float() if chosen.element_size() < 4 else chosen
    if read.reduce == "norm":
        return wide.norm()
    if read.reduce == "mean":
        return wide.mean(dim=0)
    if read.reduce == "abs_mean":
        return wide.mean(dim=0).abs()
    return wide.abs().mean(dim=0) if read.reduce == "mean_abs" else wide.abs().amax(dim=0)


def as_tokens(point: HookPoint, value: Tensor) -> Tensor:
    """A value in the layout that edits know: [rows, tokens, channels], or [rows, channels]."""
    return rearrange(value, "r c h w -> r (h w) c") if point.component == "velocity" else value


def as_before(point: HookPoint, value: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_tokens`."""
    if point.component != "velocity":
        return value
    return rearrange(value, "r (h w) c -> r c h w", h=like.shape[2])


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Rows as one batch; a single one as it is."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def stacked(batches: Sequence[SampleBatch]) -> SampleBatch:
    """Several rows as one batch; they share their schedule."""
    if len(batches) == 1:
        return batches[0]

    def cat(name: str) -> Any:
        values = [getattr(batch, name) for batch in batches]
        return None if values[0] is None else torch.cat(values)

    return replace(
        batches[0],
        prompts=tuple(p for batch in batches for p in batch.prompts),
        seeds=tuple(s for batch in batches for s in batch.seeds),
        latents=cat("latents"),
        prompt_embeds=cat("prompt_embeds"),
        pooled_embeds=cat("pooled_embeds"),
        negative_embeds=cat("negative_embeds"),
        negative_pooled=cat("negative_pooled"),
    )
