"""Edits that draw random numbers, from a generator that they read and do not advance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dit_lens.graph.operation import PartEdit, number, seed_number
from dit_lens.graph.site import Material

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Noise(PartEdit):
    """Add Gaussian noise of `scale` times the root mean square of what is edited, per row and channel.

    So 0.5 is half as large as the channel (or part of it) itself, massive or not. Every row gets the same
    standard normal draw, times its own size: arms of one comparison share their noise. With `part="mean"`
    all tokens move together; with `part="residual"` the mean stays. `seed` makes several draws of one
    trajectory differ. Raises `BadInput` for a scale below 0 or a seed that is no whole number.

    >>> import torch
    >>> x, generator = torch.full((1, 1000, 1), 8.0), torch.Generator().manual_seed(0)
    >>> noisy = Noise(0.5).apply(x, material=Material(generator=generator))
    >>> round((noisy - x).std().item())
    4
    """

    scale: float
    seed: int = 0

    op: ClassVar[str] = "noise"
    verb: ClassVar[str] = "adding noise to"
    recentred: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        scale = number(self.op, "scale", self.scale, above=0.0, closed=True)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "seed", seed_number(self.op, self.seed))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"generator"})

    @property
    def changes_nothing(self) -> bool:
        return self.scale == 0

    def _change(self, value: Tensor, material: Material) -> Tensor:
        import torch

        draw = torch.randn(value.shape[1:], generator=material.generator)
        size = value.square().mean(dim=1, keepdim=True).sqrt()
        return value + self.scale * size * draw.to(value)


@dataclass(frozen=True)
class TokenShuffle(PartEdit):
    """Permute the addressed tokens, all addressed channels and rows alike.

    Each channel keeps its values, and channels stay together; what is lost is where in the image they lie.
    With `part="mean"` nothing changes. `seed` makes several draws of one trajectory differ. Raises
    `BadInput` for a seed that is no whole number.

    >>> import torch
    >>> x, generator = torch.arange(6.0).reshape(1, 3, 2), torch.Generator().manual_seed(0)
    >>> shuffled = TokenShuffle(seed=3).apply(x, material=Material(generator=generator))
    >>> sorted(shuffled[0].tolist())
    [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    """

    seed: int = 0

    op: ClassVar[str] = "token_shuffle"
    verb: ClassVar[str] = "shuffling the tokens of"
    needs_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seed", seed_number(self.op, self.seed))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"generator"})

    @property
    def changes_nothing(self) -> bool:
        return self.part == "mean"

    def _change(self, value: Tensor, material: Material) -> Tensor:
        import torch

        order = torch.randperm(value.shape[1], generator=material.generator)
        return value[:, order.to(value.device)]
