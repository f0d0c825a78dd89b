"""Edits of other channels that are exactly as large as the treatment's: of zeroing, and of a patch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dit_lens.errors import BadInput
from dit_lens.graph.operation import Intervention, as_tokens_like, number, precise, seed_number, split
from dit_lens.graph.site import EVERYTHING, NO_MATERIAL, Material, Site, indices

if TYPE_CHECKING:
    from torch import Tensor

_Op = TypeVar("_Op", bound="MatchedControl")


@dataclass(frozen=True)
class MatchedControl(Intervention):
    """What matched controls share: the treatment's channels, which are never among those they edit.

    `treatment_channels` are indices, or a mapping block → indices, of which `at_block` takes one.
    """

    treatment_channels: Any  # a tuple of indices, or of (block, indices) pairs: hashable, unlike a mapping

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "treatment_channels", _treatment(self.op, self.treatment_channels))

    @property
    def blocks(self) -> dict[int, tuple[int, ...]] | None:
        """Treatment channels by block, or None if they are the same wherever the edit is applied."""
        held = self.treatment_channels
        return dict(held) if held and isinstance(held[0], tuple) else None

    def at_block(self: _Op, block: int | None) -> _Op:
        blocks = self.blocks
        if blocks is None:
            return self
        if block not in blocks:
            raise BadInput(
                f"{self.op}: the treatment has no channels at block {block}; it has some at "
                f"{', '.join(map(str, blocks))}. Apply the control where the treatment is applied."
            )
        return replace(self, treatment_channels=blocks[block])

    def fewest(self, treated: int) -> int:
        """How many channels a control of so many `treated` ones has to address at least.

        >>> EnergyMatched((0, 1)).fewest(2), PatchMatched((0, 1)).fewest(2)
        (2, 1)
        """
        return treated

    def require(self, shape: Sequence[int], site: Site = EVERYTHING) -> None:
        super().require(shape, site)
        if self.blocks is not None:
            raise BadInput(f"{self.op} holds channels per block; choose one with at_block(block).")
        treatment, channels = self.treatment_channels, shape[-1]
        if treatment and max(treatment) >= channels:
            raise BadInput(
                f"{self.op}: treatment channel {max(treatment)} was named; there are {channels}, "
                f"0 to {channels - 1}."
            )
        both = sorted(set(treatment) & set(site.channels or ()))
        if both:
            raise BadInput(
                f"{self.op}: {both} are channels of the treatment and of its control. Address others."
            )
        there = channels - len(treatment) if site.channels is None else len(site.channels)
        if there < self.fewest(len(treatment)):
            raise BadInput(
                f"{self.op}: the treatment has {len(treatment)} channels and its control {there}; "
                f"address at least {self.fewest(len(treatment))}."
            )

    def to_data(self) -> dict[str, Any]:
        blocks = self.blocks
        channels: Any = (
            list(self.treatment_channels)
            if blocks is None
            else {str(block): list(channels) for block, channels in blocks.items()}
        )
        return {**super().to_data(), "treatment_channels": channels}

    def _where(self, site: Site, channels: int) -> Site:
        if not self.treatment_channels:
            return Site(channels=())
        if site.channels is not None:
            return site
        return Site(tuple(c for c in range(channels) if c not in self.treatment_channels), site.tokens)

    def _undisplaced(self, x: Tensor, site: Site, material: Material) -> Tensor:
        """The addressed entries without what the edit added to them at earlier blocks."""
        value = precise(site.read(x))
        if material.displaced is None:
            return value
        return value - precise(site.read(as_tokens_like(material.displaced, x)))


@dataclass(frozen=True)
class EnergyMatched(MatchedControl):
    """Change the addressed channels by as much, token by token, as zeroing the treatment's would remove.

    Zeroing channels that are not massive perturbs far less than zeroing massive ones, so it is no fair
    control. Here the vector that the treatment removes from a token, x_S, is carried over to the addressed
    channels by a random isometry Q (fixed by `seed`) and removed there: x_R − x_S Q. The size of the change
    equals ‖x_S‖ in every token, and so does its layout over the image; only the channels differ. The
    treatment's channels are left alone. With `part`, x_S is the mean or the residual part.

    Addressing more channels than the treatment has perturbs a random subspace of as many dimensions; with
    `Site(channels=None)` a subspace of everything but the treatment's channels.

    Zeroing at a second block removes only what was written since the first: channels that are zero stay at
    distance ‖x_S‖ from what they would be. So that the control's stay as far, what the edit added to them at
    earlier blocks of the same forward pass (`Material.displaced`) is taken back first: x_R − displaced_R −
    x_S Q. Without it, edits at successive blocks would add up to far more than the treatment's.

    Args:
        treatment_channels: channels that the treatment zeroes; or a mapping block → channels, of which
            `at_block` takes one.
        seed: of the isometry.

    Raises:
        BadInput: fewer addressed channels than the treatment has, or some of the treatment's among them.

    >>> import torch
    >>> x = torch.tensor([[[3.0, 4.0, 0.1, 0.2]]])
    >>> edited = EnergyMatched(treatment_channels=(0, 1), seed=0).apply(x, Site(channels=(2, 3)))
    >>> round((edited - x).norm().item(), 4)
    5.0
    """

    seed: int = 0

    op: ClassVar[str] = "energy_matched"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seed", seed_number(self.op, self.seed))

    @property
    def welcomes(self) -> frozenset[str]:
        return frozenset({"displaced"})

    def _at_site(self, x: Tensor, site: Site, material: Material) -> Tensor:
        value = self._undisplaced(x, site, material)
        removed = precise(Site(self.treatment_channels, site.tokens).read(x))
        if self.part != "all":
            removed = split(removed, self.part)[0]
        isometry = removed.new_tensor(_isometry(removed.shape[-1], value.shape[-1], self.seed))
        return value - removed @ isometry


@dataclass(frozen=True)
class PatchMatched(MatchedControl):
    """Move the addressed channels towards the donor by as much, token by token, as patching the treatment's.

    Carrying over channels that differ little between two runs changes little, so it is no fair control of a
    patch of channels S that differ much. Here the addressed channels R go along their own difference from the
    donor, (source − x)_R, scaled so that in every token the change is as large as what `Patch(strength)`
    changes at S, `strength` · (source − x)_S: other channels, of the donor just as well, moved just as far.
    Where the addressed channels of a token equal the donor's there is no direction and nothing moves.

    With `part`, both differences are those of the mean or of the residual part. One factor per token would
    give residuals a mean; with `part="residual"` one factor serves all tokens, and sizes are equal over all
    of them together.

    A patch at a second block finds S where the first one left it, and only makes up for what was written
    since; at `strength` s below 1, n patches have covered 1 − (1 − s)ⁿ of a constant difference. So that the
    control's channels are at every block as far from where they would be as the treatment's, two sums are
    carried along a forward pass: what the edit added so far, which is taken back first
    (`Material.displaced`), and what the treatment would have added so far (`Material.owed`).

    Args:
        treatment_channels: channels that the treatment patches; or a mapping block → channels, of which
            `at_block` takes one.
        strength: of the treatment. Below 0 both move away from the donor.

    Raises:
        BadInput: no addressed channel, or some of the treatment's among them.

    >>> import torch
    >>> x, donor = torch.zeros(1, 1, 4), torch.tensor([[[3.0, 4.0, 0.0, 0.2]]])
    >>> op = PatchMatched(treatment_channels=(0, 1), strength=0.5)
    >>> op.apply(x, Site(channels=(2, 3)), Material(source=donor))[0, 0].tolist()
    [0.0, 0.0, 0.0, 2.5]
    """

    strength: float = 1.0

    op: ClassVar[str] = "patch_matched"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "strength", number(self.op, "strength", self.strength))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"source"})

    @property
    def welcomes(self) -> frozenset[str]:
        return frozenset({"displaced", "owed"})

    @property
    def changes_nothing(self) -> bool:
        return self.strength == 0

    def fewest(self, treated: int) -> int:
        # Any number of channels can be moved by any size; moving none cannot.
        return min(treated, 1)

    def owes(self, x: Tensor, site: Site = EVERYTHING, material: Material = NO_MATERIAL) -> Tensor:
        """What the treatment would have added to this stream by now, of the shape of `x`.

        `x` [rows, tokens, channels], `site` and `material` as of `apply`. To be given as `Material.owed` at
        the next block.

        >>> import torch
        >>> x, donor = torch.zeros(1, 1, 4), torch.tensor([[[3.0, 4.0, 0.0, 0.2]]])
        >>> op = PatchMatched(treatment_channels=(0, 1), strength=0.5)
        >>> op.owes(x, Site(channels=(2, 3)), Material(source=donor))[0, 0].tolist()
        [1.5, 2.0, 0.0, 0.0]
        """
        import torch

        owed = torch.zeros_like(x) if material.owed is None else material.owed
        treated = Site(self.treatment_channels, site.tokens)
        if self.changes_nothing or treated.is_empty:
            return owed
        tokens, before = (each if x.ndim == 3 else each.unsqueeze(1) for each in (x, owed))
        new = treated.write(before, self._owed_now(tokens, treated, material).to(x.dtype))
        return new if x.ndim == 3 else new.squeeze(1)

    def _owed_now(self, x: Tensor, treated: Site, material: Material) -> Tensor:
        change = self._difference(x, treated, material)
        if material.owed is None:
            return self.strength * change
        owed = precise(treated.read(as_tokens_like(material.owed, x)))
        return owed + self.strength * (change - owed)

    def _difference(self, x: Tensor, site: Site, material: Material) -> Tensor:
        """From what the entries of a site would be without this edit to the donor's."""
        assert material.source is not None, "apply refuses missing material"
        source = precise(site.read(as_tokens_like(material.source, x)))
        change = source - self._undisplaced(x, site, material)
        return change if self.part == "all" else split(change, self.part)[0].expand_as(change)

    def _at_site(self, x: Tensor, site: Site, material: Material) -> Tensor:
        import torch

        value = self._undisplaced(x, site, material)
        way = self._difference(x, site, material)
        owed = self._owed_now(x, Site(self.treatment_channels, site.tokens), material)
        over = (1, 2) if self.part == "residual" else (2,)
        size, length = (torch.linalg.vector_norm(each, dim=over, keepdim=True) for each in (owed, way))
        unit = way / length.clamp(min=torch.finfo(length.dtype).tiny)
        moves = (size > 0) & (length > 0)
        return torch.where(moves, value + math.copysign(1.0, self.strength) * size * unit, value)


@lru_cache(maxsize=64)
def _isometry(inner: int, outer: int, seed: int) -> tuple[tuple[float, ...], ...]:
    """A random [inner, outer] matrix with orthonormal rows, of uniform direction."""
    import numpy as np

    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(outer, inner)))
    # Without these signs the result of QR is not uniformly distributed.
    return tuple(tuple(row) for row in (q * np.where(np.diag(r) < 0, -1.0, 1.0)).T.tolist())


def _treatment(op: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, Mapping):
        pairs = isinstance(value, tuple) and value and isinstance(value[0], tuple)
        if not pairs:
            return indices(f"{op}: treatment_channels", value)
        value = dict(value)
    blocks = {}
    for block, channels in value.items():
        number = int(block) if isinstance(block, str) and block.isdecimal() else block
        name = f"{op}: treatment_channels of block {block}"
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise BadInput(f"{name}: blocks are whole numbers from 0 up.")
        blocks[number] = indices(name, channels)
    if not blocks:
        raise BadInput(f"{op}: treatment_channels names no block; give block → channels.")
    return tuple(sorted(blocks.items()))
