"""The treatment's channels, their tokens permuted."""

from __future__ import annotations

from collections.abc import Sequence

from dit_lens.graph.interventions import TokenShuffle
from dit_lens.methods.controls._parts import Choice, ControlKind, Request


def _shuffled(request: Request) -> Sequence[Choice]:
    kept = request.op.ln_preserving
    return [Choice(TokenShuffle(seed=seed, ln_preserving=kept)) for seed in request.seeds]


CONTROL = ControlKind(
    name="token_shuffle",
    make=_shuffled,
    title="tokens shuffled",
    serves=("effects", "maps"),
    own_edit=True,
    drawn=True,
    order=60,
    colour=5,
)
