"""The smallest channels by the set's own statistic: of arXiv 2605.13974, and hardly a perturbation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dit_lens.methods.controls._draws import profile_of, require_room
from dit_lens.methods.controls._parts import Choice, ControlKind, Request


def _lowest(request: Request) -> Sequence[Choice]:
    """As many channels as the set has in each block, smallest first, none of them of the set."""
    require_room(request.massive, request.stats)
    profile = profile_of(request.massive, request.stats)
    found = {}
    for block, channels in request.massive.blocks.items():
        rising = (int(c) for c in np.argsort(profile[block], kind="stable"))
        found[block] = tuple(c for c in rising if c not in channels)[: len(channels)]
    return [Choice(request.op, found)]


CONTROL = ControlKind(
    name="low",
    make=_lowest,
    title="weakest",
    words="the weakest channels",
    serves=("effects", "maps", "transport", "spatial"),
    other_channels=True,
    default_draws=1,
    fairness=40,
    order=10,
    colour=4,
)
