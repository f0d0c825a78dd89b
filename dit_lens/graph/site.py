"""What of an activation an edit addresses, and what it may draw on besides it. Loads without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Site:
    """The entries of an activation [rows, tokens, channels] that an edit addresses; None means all.

    Indices are distinct and count from 0; their order is kept (an `Add` with one value per channel follows
    it). Every row is addressed. An empty tuple addresses nothing, and the edit does nothing. Raises
    `BadInput` for anything that is no such list of indices.

    >>> Site(channels=[5, 2]).channels
    (5, 2)
    """

    channels: tuple[int, ...] | None = None
    tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", optional_indices("channels", self.channels))
        object.__setattr__(self, "tokens", optional_indices("tokens", self.tokens))

    @property
    def is_empty(self) -> bool:
        """Whether the site addresses nothing."""
        return self.channels == () or self.tokens == ()

    def require(self, shape: Sequence[int]) -> None:
        """Raise `BadInput` unless every index exists in [rows, tokens, channels] or [rows, channels]."""
        if len(shape) not in (2, 3):
            raise BadInput(
                f"An edit of a value of shape {tuple(shape)} was asked for; edits act on "
                "[rows, tokens, channels], or on [rows, channels] where there are no tokens."
            )
        if len(shape) == 2 and self.tokens is not None:
            raise BadInput(
                f"Tokens {list(self.tokens[:3])} … were addressed in a value without tokens, of shape "
                f"[rows, channels] = {list(shape)}. Leave tokens out here."
            )
        for what, asked, size in (
            ("Channel", self.channels, shape[-1]),
            ("Token", self.tokens, shape[1]),
        ):
            if asked and max(asked) >= size:
                raise BadInput(
                    f"{what} {max(asked)} was addressed; there are {size}, 0 to {size - 1}. "
                    "Was it chosen for another model or image size?"
                )

    def read(self, x: Tensor) -> Tensor:
        """The addressed entries of [rows, tokens, channels], in the site's order."""
        if self.tokens is not None:
            x = x[:, list(self.tokens)]
        if self.channels is not None:
            x = x[..., list(self.channels)]
        return x

    def write(self, x: Tensor, values: Tensor) -> Tensor:
        """A copy of `x` [rows, tokens, channels] that holds `values` at the addressed entries."""
        import torch

        edited = x.clone()
        if self.tokens is None:
            edited[..., slice(None) if self.channels is None else list(self.channels)] = values
        elif self.channels is None:
            edited[:, list(self.tokens)] = values
        else:
            edited[:, torch.tensor(self.tokens)[:, None], list(self.channels)] = values
        return edited


@dataclass(frozen=True, eq=False)
class Material:
    """What an edit may draw on besides the activation; each optional, and never changed.

    - `source`: the donor's activation at the same hook point, step and branch, of the same shape or with one
      row for all; for `Mean("dataset")` the mean over a dataset, [channels] or [tokens, channels].
    - `quantiles`: lower and upper bound of each channel, [2, channels], for `Clamp`.
    - `generator`: a generator on the CPU, for `Noise` and `TokenShuffle`. Read, not advanced: the same
      generator gives the same draw, so give each hook point and step its own.
    - `displaced`: what the same edit has added to this stream so far in the same forward pass, of the shape
      of the activation, for `EnergyMatched` and `PatchMatched`.
    - `owed`: likewise, what the treatment that `PatchMatched` mimics would have added to this stream so far.
    """

    source: Tensor | None = None
    quantiles: Tensor | None = None
    generator: Generator | None = None
    displaced: Tensor | None = None
    owed: Tensor | None = None


def indices(name: str, value: Any) -> tuple[int, ...]:
    """Distinct whole numbers from 0 up, as a tuple; else `BadInput`."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise BadInput(f"{name} is {value!r}; give a list of indices, for example [3, 5].")
    found = list(value)
    for index in found:
        if isinstance(index, bool) or type(index).__name__ in ("bool", "bool_"):
            raise BadInput(f"{name} holds True and False; give the indices of a mask, not the mask.")
        if not isinstance(index, Integral) or index < 0:
            raise BadInput(f"{name} holds {index!r}; indices are whole numbers from 0 up.")
    if len(set(found)) != len(found):
        twice = next(index for index in found if found.count(index) > 1)
        raise BadInput(f"{name} names {twice} twice; give each index once.")
    return tuple(int(index) for index in found)


def optional_indices(name: str, value: Any) -> tuple[int, ...] | None:
    """`indices`, or None for None."""
    return None if value is None else indices(name, value)


EVERYTHING = Site()
NO_MATERIAL = Material()
