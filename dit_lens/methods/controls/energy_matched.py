"""The channels of `random`, changed by as much as zeroing (or patching) the treatment changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dit_lens.errors import BadInput
from dit_lens.graph.energy import PatchMatched
from dit_lens.graph.interventions import EnergyMatched, Intervention, Zero
from dit_lens.methods.controls import random
from dit_lens.methods.controls._draws import draw_others, require_room
from dit_lens.methods.controls._parts import Choice, ControlKind, Request

if TYPE_CHECKING:
    from dit_lens.methods.channel_sets import ChannelSet


def _energy_matched(request: Request) -> Sequence[Choice]:
    op, blocks = request.op, request.massive.blocks
    if not isinstance(op, Zero):
        raise BadInput(
            f"energy_matched measures what zeroing removes, and the treatment's edit is {op.written}. Leave "
            "energy_matched out of the controls (in a spec, out of effects.controls), or match zeroing; for "
            "a treatment that sets the token mean, {op: zero, part: residual}."
        )
    edits = [
        EnergyMatched(blocks, seed, part=op.part, ln_preserving=op.ln_preserving) for seed in request.seeds
    ]
    if request.subspace:
        require_room(request.massive, request.stats)
        return [Choice(edit, everywhere=True) for edit in edits]
    # Draw by draw the channels of `random`, so that the two differ in size alone.
    persistent, drawn = draw_others(request, CONTROL.name)
    notes = {"persistent": persistent}
    return [Choice(edit, blocks, notes=notes) for edit, blocks in zip(edits, drawn, strict=True)]


def _patch(massive: ChannelSet, strength: float) -> Intervention:
    return PatchMatched(massive.blocks, strength)


CONTROL = ControlKind(
    name="energy_matched",
    make=_energy_matched,
    title="energy matched",
    words="random channels changed by the same energy",
    serves=("effects", "maps", "transport"),
    other_channels=True,
    own_edit=True,
    drawn=True,
    default_draws=5,
    fairness=10,
    order=40,
    colour=0,
    subspace=True,
    drawn_like=random.CONTROL.name,
    patch=_patch,
)
