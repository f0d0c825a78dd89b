"""Carrying channels from one trajectory into another: from another prompt's run, or from a picture."""

from dit_lens.methods.transport.arms import Carry, curve_carries, family_carries
from dit_lens.methods.transport.blends import Blend
from dit_lens.methods.transport.cases import Case, Donor
from dit_lens.methods.transport.pairs import Pair, groups_of, read_pairs
from dit_lens.methods.transport.study import CarryResult, CarryStudy

__all__ = [
    "Blend",
    "Carry",
    "CarryResult",
    "CarryStudy",
    "Case",
    "Donor",
    "Pair",
    "curve_carries",
    "family_carries",
    "groups_of",
    "read_pairs",
]
