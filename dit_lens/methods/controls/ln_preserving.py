"""The treatment itself, with the LayerNorm statistics of the unedited run kept (arXiv 2505.18584)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dit_lens.methods.controls._parts import Choice, ControlKind, Request


def _preserving(request: Request) -> Sequence[Choice]:
    return [Choice(replace(request.op, ln_preserving=True))]


CONTROL = ControlKind(
    name="ln_preserving",
    make=_preserving,
    title="LayerNorm kept",
    serves=("effects", "maps"),
    own_edit=True,
    order=70,
    instead="bias_or_carrier keeps LayerNorm statistics by itself",
)
