"""Uniform among the channels that are not the treatment's (arXiv 2605.13974)."""

from __future__ import annotations

from collections.abc import Sequence

from dit_lens.methods.controls._draws import draw_others
from dit_lens.methods.controls._parts import Choice, ControlKind, Request


def _random(request: Request) -> Sequence[Choice]:
    persistent, drawn = draw_others(request, CONTROL.name)
    return [Choice(request.op, blocks, notes={"persistent": persistent}) for blocks in drawn]


CONTROL = ControlKind(
    name="random",
    make=_random,
    title="random",
    words="random channels",
    serves=("effects", "maps", "transport", "spatial"),
    other_channels=True,
    drawn=True,
    default_draws=5,  # the fewest among which a rank says anything
    fairness=30,
    order=20,
    colour=2,
)
