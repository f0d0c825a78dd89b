"""An edit of other channels that is exactly as large as zeroing the treatment's channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from dit_lens.errors import BadInput
from dit_lens.graph.operation import Intervention, precise, seed_number, split
from dit_lens.graph.site import EVERYTHING, Material, Site, indices

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EnergyMatched(Intervention):
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

    treatment_channels: Any  # a tuple of indices, or of (block, indices) pairs: hashable, unlike a mapping
    seed: int = 0

    op: ClassVar[str] = "energy_matched"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "treatment_channels", _treatment(self.treatment_channels))
        object.__setattr__(self, "seed", seed_number(self.op, self.seed))

    @property
    def welcomes(self) -> frozenset[str]:
        return frozenset({"displaced"})

    @property
    def blocks(self) -> dict[int, tuple[int, ...]] | None:
        """Treatment channels by block, or None if they are the same wherever the edit is applied."""
        held = self.treatment_channels
        return dict(held) if held and isinstance(held[0], tuple) else None

    def at_block(self, block: int | None) -> EnergyMatched:
        blocks = self.blocks
        if blocks is None:
            return self
        if block not in blocks:
            raise BadInput(
                f"energy_matched: the treatment has no channels at block {block}; it has some at "
                f"{', '.join(map(str, blocks))}. Apply the control where the treatment is applied."
            )
        return replace(self, treatment_channels=blocks[block])

    def require(self, shape: Sequence[int], site: Site = EVERYTHING) -> None:
        super().require(shape, site)
        if self.blocks is not None:
            raise BadInput("energy_matched holds channels per block; choose one with at_block(block).")
        treatment, channels = self.treatment_channels, shape[-1]
        if treatment and max(treatment) >= channels:
            raise BadInput(
                f"energy_matched: treatment channel {max(treatment)} was named; there are {channels}, "
                f"0 to {channels - 1}."
            )
        both = sorted(set(treatment) & set(site.channels or ()))
        if both:
            raise BadInput(
                f"energy_matched: {both} are channels of the treatment and of its control. Address others."
            )
        there = channels - len(treatment) if site.channels is None else len(site.channels)
        if there < len(treatment):
            raise BadInput(
                f"energy_matched: the treatment has {len(treatment)} channels and its control {there}; "
                f"address at least {len(treatment)}."
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

    def _at_site(self, x: Tensor, site: Site, material: Material) -> Tensor:
        value = precise(site.read(x))
        if material.displaced is not None:
            before = material.displaced if material.displaced.ndim == 3 else material.displaced.unsqueeze(1)
            value = value - precise(site.read(before))
        removed = precise(Site(self.treatment_channels, site.tokens).read(x))
        if self.part != "all":
            removed = split(removed, self.part)[0]
        isometry = removed.new_tensor(_isometry(removed.shape[-1], value.shape[-1], self.seed))
        return value - removed @ isometry


@lru_cache(maxsize=64)
def _isometry(inner: int, outer: int, seed: int) -> tuple[tuple[float, ...], ...]:
    """A random [inner, outer] matrix with orthonormal rows, of uniform direction."""
    import numpy as np

    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(outer, inner)))
    # Without these signs the result of QR is not uniformly distributed.
    return tuple(tuple(row) for row in (q * np.where(np.diag(r) < 0, -1.0, 1.0)).T.tolist())


def _treatment(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, Mapping):
        pairs = isinstance(value, tuple) and value and isinstance(value[0], tuple)
        if not pairs:
            return indices("energy_matched: treatment_channels", value)
        value = dict(value)
    blocks = {}
    for block, channels in value.items():
        number = int(block) if isinstance(block, str) and block.isdecimal() else block
        name = f"energy_matched: treatment_channels of block {block}"
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise BadInput(f"{name}: blocks are whole numbers from 0 up.")
        blocks[number] = indices(name, channels)
    if not blocks:
        raise BadInput("energy_matched: treatment_channels names no block; give block → channels.")
    return tuple(sorted(blocks.items()))
