"""What the weights of a loaded pipeline say about it: a fingerprint, their size, whether they are finite."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dit_lens.errors import BadInput

_SAMPLES = 64


def _modules(pipeline: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, part in sorted(pipeline.components.items()):
        if isinstance(part, nn.Module):
            yield name, part


def _weights(pipeline: Any) -> Iterator[tuple[str, Tensor]]:
    for part, module in _modules(pipeline):
        for name, tensor in module.state_dict().items():
            yield f"{part}.{name}", tensor


@torch.no_grad()
def fingerprint(pipeline: Any) -> str:
    """sha256 over names, shapes, dtypes and 64 evenly spaced values of every weight.

    Two checkpoints that differ in training differ in all their values, so a sample of each tensor tells them
    apart.
    """
    digest = hashlib.sha256()
    for name, tensor in _weights(pipeline):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if tensor.is_meta or tensor.numel() == 0:
            continue
        flat = tensor.detach().reshape(-1)
        chosen = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES]
        digest.update(chosen.to("cpu", torch.float64).numpy().astype("<f8").tobytes())
    return digest.hexdigest()


@torch.no_grad()
def require_finite_weights(pipeline: Any, name: str) -> None:
    """Raise BadInput, naming the tensor, if any weight is NaN or infinite."""
    for weight, tensor in _weights(pipeline):
        if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        # Extremes of a tensor with a NaN are NaN: one pass and no mask as large as the weights.
        low, high = torch.aminmax(tensor)
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            bad = int((~torch.isfinite(tensor)).sum())
            raise BadInput(
                f"{name}: weight {weight} holds {bad} NaN or infinite values of {tensor.numel()}. "
                "The checkpoint is damaged, or overflowed in float16; download it again or load it as "
                "bfloat16."
            )


def parameter_count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())
