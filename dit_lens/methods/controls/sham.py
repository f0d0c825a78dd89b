"""No edit of the treatment's channels: what the machinery itself does, which must be nothing."""

from __future__ import annotations

from collections.abc import Sequence

from dit_lens.graph.interventions import Identity
from dit_lens.methods.controls._parts import Choice, ControlKind, Request


def _nothing(request: Request) -> Sequence[Choice]:
    return [Choice(Identity())]


CONTROL = ControlKind(name="sham", make=_nothing, own_edit=True, order=80)
