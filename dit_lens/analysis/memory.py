"""Bytes that work on a model takes, computed before anything is loaded or run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.model.quantities import readable_bytes

if TYPE_CHECKING:
    from dit_lens.model.adapters import Adapter
    from dit_lens.model.hook_points import HookPoint

# float64 vectors of all channels that discovery keeps for one (step, branch, hook point), by component.
_VECTORS = {"resid_post": 13, "attn_out": 2, "attn2_out": 2, "mlp_out": 2}

_DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}

_PARTS = {
    "transformer": "transformer",
    "text_encoder": "CLIP-L",
    "text_encoder_2": "OpenCLIP bigG",
    "text_encoder_3": "T5-XXL",
    "vae": "autoencoder",
}

_CONTEXT_TOKENS = 77 + 256
"""CLIP's tokens and T5's, as the pipeline joins them by default."""


def statistics_bytes(points: Iterable[HookPoint], channels: int, cells: int) -> int:
    """Bytes of discovery's running state on the CPU, whatever the number of prompts, seeds and tokens.

    Args:
        points: hook points of the model. channels: its width. cells: steps × guidance branches.

    >>> from dit_lens.model.hook_points import HookPoint
    >>> statistics_bytes([HookPoint("resid_post", 0, "image")], 1536, 28 * 2)
    8945664
    """
    vectors = sum(1 if p.component.startswith("adaln.") else _VECTORS.get(p.component, 0) for p in points)
    return cells * vectors * channels * 8


@dataclass(frozen=True)
class Needs:
    """What one published checkpoint takes. Parameters are counted, bytes computed; nothing was loaded.

    Args:
        parameters: of each part of the pipeline.
        weights: bytes of each part in the asked dtype.
        statistics: bytes of discovery's state, float64, on the CPU.
        step_outputs: bytes of what all blocks hand on at one step for one image, both streams and branches:
            what hooks that keep everything would add to memory at every step.
    """

    model: str
    tokens: int
    parameters: dict[str, int]
    weights: dict[str, int]
    statistics: int
    step_outputs: int

    @property
    def total(self) -> int:
        """Bytes of all weights."""
        return sum(self.weights.values())

    @property
    def without_t5(self) -> int:
        """Bytes of all weights but T5's, as after `load(…, drop_t5=True)`."""
        return self.total - self.weights["text_encoder_3"]

    @property
    def largest(self) -> int:
        """Bytes of the largest part: the weights on the accelerator at a time with `offload="model"`."""
        return max(self.weights.values())

    def as_data(self) -> dict[str, Any]:
        """All numbers as plain data; bytes where no other unit is named."""
        return {
            "model": self.model,
            "image_tokens": self.tokens,
            "parameters": dict(self.parameters),
            "weights": dict(self.weights),
            "weights_total": self.total,
            "weights_without_t5": self.without_t5,
            "weights_offloaded": self.largest,
            "statistics": self.statistics,
            "step_outputs": self.step_outputs,
        }


def published_needs(*, size: int = 1024, dtype: str = "bfloat16", steps: int = 28) -> tuple[Needs, ...]:
    """What each published SD3 checkpoint takes, from its configuration on the meta device.

    Args:
        size: height and width of the image in pixels. dtype: of the weights. steps: denoising steps, with
            guidance, hence two branches.

    Raises:
        BadInput: an unknown dtype, a size that the model cannot draw, less than one step.
    """
    if dtype not in _DTYPES:
        raise BadInput(
            f"There is no dtype {dtype!r} here; there are: {', '.join(_DTYPES)}."
            f"{did_you_mean(dtype, _DTYPES)}"
        )
    if steps < 1:
        raise BadInput(f"{steps} steps were asked for; use at least 1.")
    if size < 8 or size % 8:
        raise BadInput(f"Images of {size} px cannot be encoded; use a multiple of 16, such as 512 or 1024.")
    from dit_lens.model.adapters import Geometry
    from dit_lens.zoo.published_configs import PUBLISHED

    found = []
    for model in PUBLISHED:
        adapter, own = _transformer(model)
        geometry = Geometry(2, size // 8, size // 8, _CONTEXT_TOKENS)
        rows, columns = adapter.token_grid(geometry.latent_height, geometry.latent_width)
        counted = {"transformer": own, **_surroundings()}
        outputs = 0
        for point in adapter.points:
            if point.component == "resid_post":
                branches, tokens, channels = adapter.shape(point, geometry)
                outputs += branches * tokens * channels * _DTYPES[dtype]
        found.append(
            Needs(
                model=model,
                tokens=rows * columns,
                parameters=counted,
                weights={name: count * _DTYPES[dtype] for name, count in counted.items()},
                statistics=statistics_bytes(adapter.points, adapter.num_channels, 2 * steps),
                step_outputs=outputs,
            )
        )
    return tuple(found)


@cache
def _transformer(model: str) -> tuple[Adapter, int]:
    from dit_lens.model.adapters import adapter_for
    from dit_lens.model.weights import parameter_count
    from dit_lens.zoo.published_configs import meta_transformer

    transformer = meta_transformer(model)
    return adapter_for(transformer), parameter_count(transformer)


@cache
def _surroundings() -> dict[str, int]:
    from dit_lens.model.weights import parameter_count
    from dit_lens.zoo.published_configs import meta_surroundings

    return {name: parameter_count(part) for name, part in meta_surroundings().items()}


def needs_table(needs: Iterable[Needs]) -> str:
    """Models side by side, for a reader."""
    needs = tuple(needs)
    rows = [("", [each.model for each in needs])]
    for part, title in _PARTS.items():
        cells = [f"{readable_bytes(n.weights[part])} ({n.parameters[part] / 1e9:.2f} B)" for n in needs]
        rows.append((title, cells))
    for title, name in (
        ("all weights", "total"),
        ("without T5", "without_t5"),
        ("largest part", "largest"),
        ("discovery's state", "statistics"),
        ("block outputs, a step", "step_outputs"),
    ):
        rows.append((title, [readable_bytes(getattr(n, name)) for n in needs]))
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(needs))]
    first = max(len(title) for title, _ in rows)
    return "\n".join(
        f"{title:<{first}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for title, cells in rows
    )
