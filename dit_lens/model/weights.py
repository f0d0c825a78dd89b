"""What the weights of a loaded pipeline say about it: their content, their size, whether they are finite.

Weights are read in whatever form they are stored: float32 to fp8, int8, and the tensor classes of torchao,
quanto, bitsandbytes and GGUF, of which the plain tensors inside are looked at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dit_lens.errors import BadInput

_SAMPLES = 64
_HASHED = 2**15
"""Bytes up to which a tensor is hashed whole. Of larger ones exact sums are hashed, as quick as reading."""

_BLOCKS = 64
"""Parts of a larger tensor that are summed, as 8-byte whole numbers: sums that no order of adding changes."""


def modules_of(pipeline: Any) -> dict[str, nn.Module]:
    """The parts of a pipeline that hold weights, by name, in alphabetical order."""
    parts = sorted(pipeline.components.items())
    return {name: part for name, part in parts if isinstance(part, nn.Module)}


def weights_of(part: str, module: nn.Module) -> dict[str, tuple[Any, bool]]:
    """Name → (value, whether a checkpoint holds it) of everything that a part of a pipeline stores.

    In the order of `state_dict`, which is not asked: some libraries convert their weights to answer it.
    Values are tensors, or for torch's own quantised layers tuples of tensors and plain values.
    """
    found: dict[str, tuple[Any, bool]] = {}
    hidden: dict[str, tuple[Any, bool]] = {}
    for name, each in module.named_modules(prefix=part, remove_duplicate=False):
        if type(each).__module__.startswith("torch.ao."):
            packed: dict[str, Any] = {}
            each._save_to_state_dict(packed, f"{name}.", True)
            found |= {key: (value, True) for key, value in packed.items()}
            continue
        own = {**each._parameters, **each._buffers}
        for key, value in own.items():
            if value is not None:
                passing = key in each._non_persistent_buffers_set
                (hidden if passing else found)[f"{name}.{key}"] = (value, not passing)
    return {**found, **hidden}


def kept_by_library(value: Any) -> bool:
    """Whether its library repacks a weight as it runs, so that only the first reading means anything."""
    return type(value).__module__.partition(".")[0] == "bitsandbytes"


@dataclass(frozen=True)
class Weight:
    """What is remembered of one stored value.

    `sample` is its name, shape, dtype and 64 evenly spaced values, of which `fingerprint` is made; `content`
    is a sha256 of every value. `saved` says whether a checkpoint holds it.
    """

    sample: bytes
    content: str
    saved: bool = True


def fingerprint(weights: Mapping[str, Weight]) -> str:
    """sha256 over the samples of all weights that a checkpoint holds: the short name of a set of weights."""
    digest = hashlib.sha256()
    for weight in weights.values():
        if weight.saved:
            digest.update(weight.sample)
    return digest.hexdigest()


def weigh(name: str, value: Any, *, saved: bool = True, finite: bool = False) -> Weight:
    """Read one stored value; `name` begins with its part.

    Raises:
        BadInput: with `finite`, a value that is NaN or infinite.
    """
    return Weight(sample_of(name, value), content(value, name=name, finite=finite), saved)


def sample_of(name: str, value: Any) -> bytes:
    """Name, shape, dtype and 64 evenly spaced values, float64, of every plain tensor inside."""
    found = b""
    for about, tensor in _plain(value):
        found += f"{name}{about}".encode()
        if tensor is not None:
            found += f" {tuple(tensor.shape)} {tensor.dtype}\n".encode() + _sampled(tensor)
    return found


def _sampled(tensor: Tensor) -> bytes:
    if tensor.is_meta or tensor.numel() == 0:
        return b""
    flat = tensor.reshape(-1)
    chosen = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES]
    # To the CPU first: Apple's GPUs have no float64.
    return chosen.cpu().double().numpy().astype("<f8", copy=False).tobytes()


def content(value: Any, *, name: str = "", finite: bool = False) -> str:
    """sha256 of a stored value: class, shape, dtype, and every value of its tensors; the same on any device.

    Small tensors are hashed byte by byte; of larger ones the exact sums of 64 parts are. Of a tensor on the
    meta device there is its shape alone.

    Raises:
        BadInput: with `finite`, a NaN or infinite value, naming the weight `name`.

    >>> content(torch.ones(3)) == content(torch.ones(3)), content(torch.ones(3)) == content(torch.zeros(3))
    (True, False)
    """
    digest = hashlib.sha256()
    for about, tensor in _plain(value):
        digest.update(f"{about}\n".encode())
        if tensor is None:
            continue
        stride = "" if tensor.is_contiguous() else f" stride {tensor.stride()}"
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}{stride}\n".encode())
        if not tensor.is_meta and tensor.numel():
            for each in _read(tensor, name if finite else None):
                digest.update(each)
    return digest.hexdigest()


def _read(tensor: Tensor, name: str | None) -> Iterator[bytes]:
    """What is hashed of a plain tensor; BadInput, naming the weight, if it is to be finite and is not."""
    flat = tensor.reshape(-1)
    if name is not None and not _finite(flat):
        raise _not_finite(name, flat)
    raw = flat.view(torch.uint8)
    if raw.numel() <= _HASHED:
        yield raw.cpu().numpy().tobytes()
        return
    even = raw.numel() // (8 * _BLOCKS) * 8 * _BLOCKS
    words = raw[:even]
    try:
        words = words.view(torch.int64)
    except RuntimeError:  # it does not begin at a multiple of 8 bytes
        words = words.clone().view(torch.int64)
    yield words.view(_BLOCKS, -1).sum(dim=1).cpu().numpy().astype("<i8", copy=False).tobytes()
    yield raw[even:].cpu().numpy().tobytes()


def _finite(values: Tensor) -> bool:
    if not values.is_floating_point():
        return True
    if values.element_size() == 1:  # fp8 has no sums
        values = values.to(torch.float32)
    # A sum with NaN or infinity in it is neither finite; it may also overflow, and then the extremes tell.
    if math.isfinite(values.sum().item()):
        return True
    low, high = torch.aminmax(values)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def _not_finite(name: str, flat: Tensor) -> BadInput:
    bad = int((~torch.isfinite(flat.to(torch.float32))).sum())
    return BadInput(
        f"weight {name} holds {bad} NaN or infinite values of {flat.numel()}. The checkpoint is damaged, or "
        "overflowed in float16; download it again or load it as bfloat16."
    )


_USUAL = (Tensor, nn.Parameter, nn.Buffer)


def _plain(value: Any) -> Iterator[tuple[str, Tensor | None]]:
    """The plain tensors that a stored value is made of, and words for the rest of it."""
    if type(value) in _USUAL and not value.is_quantized:
        yield "", value.detach()
    elif isinstance(value, tuple | list):
        for i, each in enumerate(value):
            for about, tensor in _plain(each):
                yield f"[{i}]{about}", tensor
    elif not isinstance(value, Tensor):
        # Some quantised layers store a dtype, a number or nothing at all beside their tensors.
        yield f" {value!r}" if isinstance(value, bool | int | float | str | torch.dtype | None) else "", None
    elif hasattr(value, "__tensor_flatten__"):
        # torchao's and quanto's classes: tensors that are made of others.
        names, context = value.__tensor_flatten__()
        yield f" {type(value).__qualname__} {_words(context)}", None
        for name in names:
            for about, tensor in _plain(getattr(value, name)):
                yield f".{name}{about}", tensor
    elif value.is_quantized:
        per_channel = value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        if per_channel:
            yield ".scales", value.q_per_channel_scales()
            yield ".zero_points", value.q_per_channel_zero_points()
        else:
            yield f" {value.q_scale()!r} {value.q_zero_point()!r}", None
        yield "", value.int_repr()
    else:
        # A class of its own, such as GGUF's, would answer for what it stands for, not for what it stores.
        yield "", value.detach().as_subclass(Tensor)
        for name in ("SCB", "quant_state"):
            # bitsandbytes keeps the scales of its weights beside them.
            yield from _beside(name, getattr(value, name, None))


def _beside(name: str, value: Any) -> Iterator[tuple[str, Tensor | None]]:
    if isinstance(value, Tensor):
        yield f".{name}", value.detach()
    for key, each in vars(value).items() if hasattr(value, "quant_type") else ():
        yield from _beside(f"{name}.{key}", each)


def _words(context: Any) -> str:
    """The settings of a quantised tensor that read the same in every process."""
    items = context.items() if isinstance(context, Mapping) else enumerate(context or ())
    plain = (bool, int, float, str, tuple, torch.dtype, torch.Size)
    return " ".join(f"{key}={value}" for key, value in items if isinstance(value, plain))


def parameter_count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())
