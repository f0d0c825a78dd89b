"""Every edit in every part, activations and sites to try them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from dit_lens.graph.interventions import (
    PARTS,
    Add,
    Clamp,
    Identity,
    Intervention,
    Material,
    Mean,
    Noise,
    Patch,
    Resample,
    Scale,
    Site,
    TokenShuffle,
    Zero,
)

# Rounding of a mean, a subtraction and an addition.
TOLERANCE = 8 * torch.finfo(torch.float32).eps

EDITS: dict[str, Callable[[str], Intervention]] = {
    "identity": lambda part: Identity(part=part),
    "zero": lambda part: Zero(part=part),
    "mean token": lambda part: Mean(part=part),
    "mean dataset": lambda part: Mean("dataset", part=part),
    "scale": lambda part: Scale(-1.5, part=part),
    "clamp": lambda part: Clamp(0.8, part=part),
    "add": lambda part: Add(2.5, part=part),
    "noise": lambda part: Noise(0.5, part=part),
    "resample": lambda part: Resample(part=part),
    "token_shuffle": lambda part: TokenShuffle(part=part),
    "patch": lambda part: Patch(0.3, part=part),
}
every_edit = pytest.mark.parametrize("name", list(EDITS))
every_part = pytest.mark.parametrize("part", PARTS)


def activation(rows: int, tokens: int, channels: int, seed: int) -> torch.Tensor:
    """Ordinary channels beside one that is large and nearly constant, as in a diffusion transformer."""
    x = torch.randn(rows, tokens, channels, generator=torch.Generator().manual_seed(seed))
    x[..., seed % channels] = x[..., seed % channels] * 0.5 + 60
    return x


def dataset_mean(x: torch.Tensor, seed: int) -> torch.Tensor:
    return activation(1, *x.shape[1:], seed + 7)[0]


def material(op: Intervention, x: torch.Tensor, seed: int = 3) -> Material:
    """Everything an edit may ask for, of the right shapes."""
    source = dataset_mean(x, seed) if isinstance(op, Mean) else activation(*x.shape, seed + 1)
    bounds = torch.stack([torch.full(x.shape[-1:], -0.4), torch.full(x.shape[-1:], 0.5)])
    return Material(source, bounds, torch.Generator().manual_seed(seed))


@st.composite
def cases(draw: st.DrawFn, min_tokens: int = 1) -> tuple[torch.Tensor, Site]:
    """An activation and a site in it."""
    tokens, channels = draw(st.integers(min_tokens, 7)), draw(st.integers(1, 6))
    x = activation(draw(st.integers(1, 3)), tokens, channels, draw(st.integers(0, 99)))

    def some(size: int) -> st.SearchStrategy[Any]:
        return st.none() | st.lists(st.integers(0, size - 1), unique=True, min_size=1)

    return x, Site(draw(some(channels)), draw(some(tokens)))


def addressed(x: torch.Tensor, site: Site) -> torch.Tensor:
    """A mask [rows, tokens, channels] of the site, made entry by entry."""
    mask = torch.zeros(x.shape, dtype=torch.bool)
    for token in range(x.shape[1]) if site.tokens is None else site.tokens:
        for channel in range(x.shape[2]) if site.channels is None else site.channels:
            mask[:, token, channel] = True
    return mask


def close(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> bool:
    """Equal up to rounding of numbers as large as those of `x` and its materials."""
    return (a - b).abs().max().item() <= 4 * TOLERANCE * max(x.abs().max().item(), 70.0)
