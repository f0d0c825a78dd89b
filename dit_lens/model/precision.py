"""Switches of the whole process that decide in which precision, and by which kernels, torch computes."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

_SAME = {"none": "ieee", "tf32": "tf32"}

_KERNELS = ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "math_sdp_enabled", "cudnn_sdp_enabled")


def precision(device: str) -> dict[str, str]:
    """The switches that differ from torch's defaults, by name, as far as they bear on a kind of device.

    >>> precision("cpu")
    {}
    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     precision("cpu")
    {'autocast cpu': 'bfloat16'}
    """
    found = {
        f"autocast {kind}": _short(torch.get_autocast_dtype(kind))
        for kind in sorted({"cpu", device})
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    }
    found |= {name: value for name, (value, usual) in _switches(device).items() if value != usual}
    return found


def _switches(device: str) -> dict[str, tuple[Any, Any]]:
    """Name → (its value, torch's default), as texts."""
    found = {
        "default dtype": (_short(torch.get_default_dtype()), "float32"),
        "float32 matmul precision": (torch.get_float32_matmul_precision(), "highest"),
        "deterministic algorithms": (_on(torch.are_deterministic_algorithms_enabled()), "off"),
        "mkldnn": (_on(bool(torch.backends.mkldnn.enabled)), "on"),
        **{name: (_on(getattr(torch.backends.cuda, name)()), "on") for name in _KERNELS},
        "diffusers attention backend": (_attention_backend(), "native"),
    }
    backends: list[tuple[str, Any]] = [("", torch.backends), ("mkldnn ", torch.backends.mkldnn)]
    for kind in ("matmul", "conv"):
        backends.append((f"mkldnn {kind} ", getattr(torch.backends.mkldnn, kind, None)))
    if device == "cuda":
        backends += [
            ("cuda matmul ", torch.backends.cuda.matmul),
            ("cudnn conv ", getattr(torch.backends.cudnn, "conv", None)),
        ]
        matmul = torch.backends.cuda.matmul
        for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
            found[f"cuda matmul {name}"] = (str(getattr(matmul, name)), "True")
        found["cudnn deterministic"] = (_on(torch.backends.cudnn.deterministic), "off")
        found["cudnn benchmark"] = (_on(torch.backends.cudnn.benchmark), "off")
        for name, module, usual in (("cuda matmul", matmul, "off"), ("cudnn", torch.backends.cudnn, "on")):
            # Refused by torch where the newer `fp32_precision` was set as well; that one is read below.
            with contextlib.suppress(RuntimeError):
                found[f"{name} allow_tf32"] = (_on(module.allow_tf32), usual)
    for name, backend in backends:
        value = getattr(backend, "fp32_precision", None)
        if value is not None:
            usual = "tf32" if name == "cudnn conv " else "none"
            # What was set and set back is called "ieee", and computes what "none" does.
            found[f"{name}fp32_precision"] = (usual if value == _SAME[usual] else str(value), usual)
    return found


def _attention_backend() -> str:
    """Which implementation diffusers' dispatcher takes where a processor names none."""
    try:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    except ImportError:  # diffusers before 0.35
        return "native"
    backend, _ = _AttentionBackendRegistry.get_active_backend()
    return str(getattr(backend, "value", backend))


def _on(value: bool) -> str:
    return "on" if value else "off"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
