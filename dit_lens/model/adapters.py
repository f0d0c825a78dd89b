"""What each transformer family calls things: hook point → module, tuple slot or keyword, shape, presence.

Everything that is particular to one architecture lives here. A family is one class, registered under the name
of its diffusers transformer; see `SD3Adapter` for what it has to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.hook_points import STREAMS, HookPoint, in_forward_order


@dataclass(frozen=True)
class Geometry:
    """Sizes of one forward pass that the weights do not fix."""

    rows: int
    latent_height: int
    latent_width: int
    context_tokens: int


@dataclass(frozen=True)
class Access:
    """Where a hook point's value lies: an input or output of a module, a slot of it, a chunk of that.

    `slot` is a keyword of the inputs, a position in an output tuple, or None for the output itself.
    `chunk` is (index, count) along the channels, for AdaLN signals that leave one linear layer together.
    """

    module: str
    side: str
    slot: str | int | None = None
    chunk: tuple[int, int] | None = None

    def pick(self, value: Any) -> Tensor:
        """The hook point's tensor out of what the module received or returned."""
        if self.side == "input":
            _, keywords = value
            whole = keywords[self.slot]
        else:
            whole = value if self.slot is None else value[self.slot]
        if self.chunk is None:
            return whole
        index, count = self.chunk
        return whole.chunk(count, dim=1)[index]

    def put(self, value: Any, new: Tensor) -> Any:
        """The module's whole input or output with this hook point's tensor replaced.

        Always rebuilds the full tuple: `context, image = block(...)` would unpack a bare tensor of two rows
        along its batch without complaint.
        """
        if self.chunk is not None:
            index, count = self.chunk
            whole = value if self.slot is None else value[self.slot]
            parts = list(whole.chunk(count, dim=1))
            parts[index] = new
            new = torch.cat(parts, dim=1)
        if self.side == "input":
            positional, keywords = value
            return positional, {**keywords, self.slot: new}
        if self.slot is None:
            return new
        return tuple(new if i == self.slot else each for i, each in enumerate(value))


@dataclass(frozen=True)
class StreamNorm:
    """A LayerNorm that reads a residual stream: its module, and where the forward pass meets it.

    `key` sorts among the `forward_key`s of hook points.
    """

    module: str
    block: int | None
    stream: str
    key: tuple[float, float, float]


@runtime_checkable
class Adapter(Protocol):
    """What the rest of the package may ask of a transformer family."""

    family: str
    num_blocks: int
    num_channels: int
    block_class: type[nn.Module]
    points: tuple[HookPoint, ...]

    def access(self, point: HookPoint) -> Access:
        """Where the point lies. Raises BadInput if this transformer lacks it."""

    def shape(self, point: HookPoint, geometry: Geometry) -> tuple[int, ...]:
        """Shape of the point's tensor in a forward pass of that geometry."""

    def token_grid(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """(rows, columns) of image tokens. Raises BadInput if the latents do not fit."""

    def embedding(self, stream: str) -> str:
        """Path of the module whose output enters the first block as this stream."""

    def norms(self) -> tuple[StreamNorm, ...]:
        """Every LayerNorm over channels that reads a residual stream, in forward order."""

    def bypass(self, streams: Mapping[str, Tensor]) -> Any:
        """The whole output of a block, made of these streams: what stands in for running it."""

    def entrance(self, block: int) -> str:
        """Path of the module that takes the streams into a block, or, for `num_blocks`, out of the last."""

    def entering(self, block: int, inputs: Any, change: Callable[[str, Tensor], Tensor]) -> Any:
        """The inputs of `entrance(block)` with other rows: `change` gets "image", "context" and "temb"."""

    def ready(self) -> None:
        """Raise BadInput if the transformer is in a mode in which its modules run differently."""


_FAMILIES: dict[str, Callable[[nn.Module], Adapter]] = {}
_A = TypeVar("_A", bound=Callable[[nn.Module], Adapter])


def register(transformer_class: str) -> Callable[[_A], _A]:
    """Class decorator: this adapter serves that diffusers transformer class."""

    def decorate(adapter: _A) -> _A:
        if transformer_class in _FAMILIES:
            raise ValueError(f"{transformer_class} already has an adapter: {_FAMILIES[transformer_class]}")
        _FAMILIES[transformer_class] = adapter
        return adapter

    return decorate


def known_transformers() -> tuple[str, ...]:
    """Names of the transformer classes that have an adapter."""
    return tuple(sorted(_FAMILIES))


def adapter_for(transformer: nn.Module) -> Adapter:
    """The adapter of a transformer.

    Raises:
        BadInput: no family is registered for its class.
    """
    name = type(transformer).__name__
    if name not in _FAMILIES:
        raise BadInput(
            f"No adapter knows the transformer class {name}. Known: {', '.join(known_transformers())}. "
            "Write one and put it under `dit_lens.model.adapters.register`."
        )
    return _FAMILIES[name](transformer)


# Channel chunks of the linear layers behind AdaLN, in the order in which diffusers splits them.
_ZERO = ("shift_attn", "scale_attn", "gate_attn", "shift_mlp", "scale_mlp", "gate_mlp")
_DUAL = (*_ZERO, "shift_attn2", "scale_attn2", "gate_attn2")
_CONTINUOUS = ("scale_attn", "shift_attn")


@register("SD3Transformer2DModel")
class SD3Adapter:
    """SD3 and SD3.5 (arXiv 2403.03206): joint blocks of an image and a context stream.

    Blocks receive keywords only and return (context, image); their attention returns (image, context). After
    the last block there is no context: it receives one, normalises it for the attention, and drops it.
    SD3.5-medium adds a second attention over the image alone to its first blocks.
    """

    family = "sd3"

    def __init__(self, transformer: Any) -> None:
        from diffusers.models.attention import JointTransformerBlock

        config = transformer.config
        self._blocks = list(transformer.transformer_blocks)
        self.block_class: type[nn.Module] = JointTransformerBlock
        self.num_blocks = len(self._blocks)
        self.num_channels = int(transformer.inner_dim)
        self._patch_size = int(config.patch_size)
        self._out_channels = int(transformer.out_channels)
        self._max_grid = int(config.pos_embed_max_size)
        self._accesses = self._build_accesses()
        self.points = in_forward_order(list(self._accesses))

    def _build_accesses(self) -> Mapping[HookPoint, Access]:
        accesses = {
            HookPoint("temb"): Access("time_text_embed", "output"),
            HookPoint("velocity"): Access("", "output", 0),
        }
        for i, block in enumerate(self._blocks):
            path = f"transformer_blocks.{i}"
            ends_context = bool(block.context_pre_only)
            here = {
                ("resid_pre", "image"): Access(path, "input", "hidden_states"),
                ("resid_pre", "context"): Access(path, "input", "encoder_hidden_states"),
                ("attn_out", "image"): Access(f"{path}.attn", "output", 0),
                ("mlp_out", "image"): Access(f"{path}.ff", "output"),
                ("resid_post", "image"): Access(path, "output", 1),
            }
            if block.use_dual_attention:
                here["attn2_out", "image"] = Access(f"{path}.attn2", "output")
            if not ends_context:
                here["attn_out", "context"] = Access(f"{path}.attn", "output", 1)
                here["mlp_out", "context"] = Access(f"{path}.ff_context", "output")
                here["resid_post", "context"] = Access(path, "output", 0)
            signals = {
                ("norm1", "image"): _DUAL if block.use_dual_attention else _ZERO,
                ("norm1_context", "context"): _CONTINUOUS if ends_context else _ZERO,
            }
            for (norm, stream), names in signals.items():
                for k, name in enumerate(names):
                    here[f"adaln.{name}", stream] = Access(
                        f"{path}.{norm}.linear", "output", None, (k, len(names))
                    )
            accesses |= {HookPoint(component, i, stream): a for (component, stream), a in here.items()}
        return accesses

    def access(self, point: HookPoint) -> Access:
        try:
            return self._accesses[point]
        except KeyError:
            raise BadInput(f"{point} does not exist in this transformer. {self._why_absent(point)}") from None

    def _why_absent(self, point: HookPoint) -> str:
        if point.block is not None and point.block >= self.num_blocks:
            return f"It has {self.num_blocks} blocks, 0 to {self.num_blocks - 1}."
        if point.stream == "context" and point.block == self.num_blocks - 1:
            return (
                "The last block only reads the context: after it there is none. Its context has "
                "resid_pre, adaln.shift_attn and adaln.scale_attn."
            )
        if "attn2" in point.component:
            dual = [i for i, block in enumerate(self._blocks) if block.use_dual_attention]
            where = f"blocks {', '.join(map(str, dual))}" if dual else "no block of this model"
            return f"A second attention exists in the image stream of {where}."
        same_block = [str(p) for p in self.points if p.block == point.block]
        return f"Block {point.block} has {', '.join(same_block)}."

    def token_grid(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        patch = self._patch_size
        if latent_height % patch or latent_width % patch:
            raise BadInput(
                f"Latents of {latent_height} × {latent_width} cannot be cut into {patch} × {patch} patches."
            )
        rows, columns = latent_height // patch, latent_width // patch
        if max(rows, columns) > self._max_grid:
            raise BadInput(
                f"An image of {rows} × {columns} tokens is larger than this model's position embedding "
                f"({self._max_grid} × {self._max_grid})."
            )
        return rows, columns

    def shape(self, point: HookPoint, geometry: Geometry) -> tuple[int, ...]:
        self.access(point)
        if point.component == "velocity":
            return (geometry.rows, self._out_channels, geometry.latent_height, geometry.latent_width)
        if point.component == "temb" or point.component.startswith("adaln."):
            return (geometry.rows, self.num_channels)
        rows, columns = self.token_grid(geometry.latent_height, geometry.latent_width)
        tokens = rows * columns if point.stream == STREAMS[0] else geometry.context_tokens
        return (geometry.rows, tokens, self.num_channels)

    def embedding(self, stream: str) -> str:
        return {"image": "pos_embed", "context": "context_embedder"}[stream]

    def norms(self) -> tuple[StreamNorm, ...]:
        found = []
        for i, block in enumerate(self._blocks):
            path = f"transformer_blocks.{i}"
            # A norm stands right behind the signals of its stream, or right before the MLP it feeds.
            for stream, suffix in (("image", ""), ("context", "_context")):
                signal = HookPoint("adaln.gate_attn2", i, stream).forward_key
                found.append(
                    StreamNorm(
                        f"{path}.norm1{suffix}.norm", i, stream, (signal[0], signal[1], signal[2] + 0.5)
                    )
                )
                if suffix and block.context_pre_only:
                    continue
                mlp = HookPoint("mlp_out", i, stream).forward_key
                found.append(StreamNorm(f"{path}.norm2{suffix}", i, stream, (mlp[0], mlp[1], mlp[2] - 0.5)))
        last = HookPoint("velocity").forward_key
        found.append(StreamNorm("norm_out.norm", None, "image", (last[0], last[1] - 0.5, 0)))
        return tuple(sorted(found, key=lambda norm: norm.key))

    def bypass(self, streams: Mapping[str, Tensor]) -> Any:
        return streams.get("context"), streams["image"]

    def entrance(self, block: int) -> str:
        return "norm_out" if block == self.num_blocks else f"transformer_blocks.{block}"

    def entering(self, block: int, inputs: Any, change: Callable[[str, Tensor], Tensor]) -> Any:
        positional, keywords = inputs
        if block == self.num_blocks:
            image, temb = positional
            return (change("image", image), change("temb", temb)), keywords
        names = {"hidden_states": "image", "encoder_hidden_states": "context", "temb": "temb"}
        return positional, keywords | {key: change(name, keywords[key]) for key, name in names.items()}

    def ready(self) -> None:
        chunked = [
            i for i, block in enumerate(self._blocks) if getattr(block, "_chunk_size", None) is not None
        ]
        if chunked:
            raise BadInput(
                f"Feed-forward chunking is on in block {chunked[0]}: its MLP runs several times per "
                "forward, so "
                "`mlp_out` would see one chunk. Call `pipeline.transformer.disable_forward_chunking()`."
            )


def require_finite(tensor: Tensor, what: str) -> None:
    """Raise RunFailure, naming `what`, if the tensor holds NaN or infinity."""
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise RunFailure(
            f"{what}: {bad} of {tensor.numel()} values are NaN or infinite. "
            "Check the checkpoint (`dit-lens check`), a half-precision overflow (use bfloat16 or "
            "float32), or the edit."
        )
