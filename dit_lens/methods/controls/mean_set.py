"""The treatment's channels, set to their token mean."""

from __future__ import annotations

from collections.abc import Sequence

from dit_lens.graph.interventions import Mean
from dit_lens.methods.controls._parts import Choice, ControlKind, Request


def _mean(request: Request) -> Sequence[Choice]:
    return [Choice(Mean(ln_preserving=request.op.ln_preserving))]


CONTROL = ControlKind(
    name="mean_set",
    make=_mean,
    title="set to the mean",
    serves=("effects", "maps"),
    own_edit=True,
    order=50,
    instead="bias_or_carrier sets the token mean by itself",
)
