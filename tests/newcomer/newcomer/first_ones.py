"""A control of somebody else's: the lowest channel numbers, whatever they hold."""

from __future__ import annotations

from dit_lens.methods.controls import Choice, ControlKind


def first(request):
    """As many channels as the treatment has in each block, from 0 up, none of them of the treatment."""
    found = {}
    for block, held in request.massive.blocks.items():
        rest = [number for number in range(len(held) * 2) if number not in held]
        found[block] = tuple(rest[: len(held)])
    return [Choice(request.op, found)]


CONTROL = ControlKind(
    name="first_ones",
    make=first,
    title="first in line",
    words="the first channels",
    serves=("effects",),
    other_channels=True,
    fairness=50,
    order=90,
)
