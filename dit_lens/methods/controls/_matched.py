"""The controls of one kind for a treatment: the request is checked, the kind chooses, and draws get names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.interventions import Intervention, Zero, require_value
from dit_lens.methods.controls._kinds import CONTROLS, control_kinds
from dit_lens.methods.controls._parts import Choice, Request
from dit_lens.words import known_words

if TYPE_CHECKING:
    from dit_lens.methods.channel_sets import ChannelSet
    from dit_lens.methods.channels import ChannelStatistics

MOST_DRAWS = 1000
"""Draws of one control, each of which costs an image per prompt and seed; 999 give a rank p of 0.001."""


@dataclass(frozen=True)
class Control:
    """One control arm: the edit `op` of `channels` (None: of all), at the sites of the treatment.

    `name` is unique within a kind and its draws: "low", "random-0", "random-1".
    """

    name: str
    kind: str
    draw: int
    channels: ChannelSet | None
    op: Intervention


@known_words
def controls(
    massive: ChannelSet,
    stats: ChannelStatistics,
    kind: str,
    draws: int = 1,
    seed: int = 0,
    *,
    op: Intervention | None = None,
    subspace: bool = False,
) -> tuple[Control, ...]:
    """Controls of one kind, matched to a channel set block by block in size.

    `low` and `random` are the controls of arXiv 2605.13974; the package's text says why the others are
    needed.

    Args:
        massive: the treatment's channels.
        stats: the statistics they were chosen from.
        kind: a name in `CONTROLS` (`dit_lens.methods.controls`), whose modules say what each is.
        draws: how many, for kinds that involve chance; all different. The first n of more draws are the n
            draws. `random` and `energy_matched` share their channels draw by draw.
        seed: of the draws.
        op: the treatment's edit (default `Zero()`).
        subspace: `energy_matched` in a random subspace of all other channels, of the treatment's dimension,
            in place of single channels.

    Raises:
        BadInput: an unknown kind; an empty set, or one of another model, stream or width; more channels or
            draws than there are.

    >>> massive = stats.select(top_k=4)
    >>> [control.name for control in controls(massive, stats, "random", draws=3)]
    ['random-0', 'random-1', 'random-2']
    """
    from dit_lens.methods.channels import ChannelSet, ChannelStatistics

    if not isinstance(massive, ChannelSet) or not isinstance(stats, ChannelStatistics):
        raise BadInput(
            "controls takes a channel set and the statistics it was chosen from; got "
            f"{type(massive).__name__}, {type(stats).__name__}."
        )
    op = Zero() if op is None else op
    _require_request(kind, draws, seed, op, subspace)
    _require_match(massive, stats)
    made = CONTROLS[kind].make(Request(massive, stats, op, int(draws), int(seed), subspace))
    return tuple(
        _named_draw(kind, draw, choice, massive, int(seed))
        for draw, choice in zip(range(draws), made, strict=True)
    )


def _named_draw(kind: str, draw: int, choice: Choice, massive: ChannelSet, seed: int) -> Control:
    drawn = CONTROLS[kind].drawn
    channels: ChannelSet | None = None if choice.everywhere else massive
    if choice.blocks is not None and channels is not None:
        selection = {"control": kind, "of": massive.selection, **choice.notes}
        if drawn:
            selection |= {"draw": draw, "seed": seed}
        channels = type(massive).model_validate(
            {**massive.model_dump(), "selection": selection, "blocks": choice.blocks}
        )
    return Control(f"{kind}-{draw}" if drawn else kind, kind, draw, channels, choice.op)


def _require_request(kind: Any, draws: Any, seed: Any, op: Any, subspace: bool) -> None:
    if not isinstance(kind, str) or kind not in CONTROLS:
        known = control_kinds()
        hint = did_you_mean(str(kind), known)
        raise BadInput(f"There is no control {kind!r}; there are: {', '.join(known)}.{hint}")
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise BadInput(f"{name} is {value!r}; it must be a whole number, at least {least}.")
    if draws > MOST_DRAWS:
        raise BadInput(
            f"{draws} draws of kind {kind!r} were asked for; each is an arm, so at most {MOST_DRAWS:,}."
        )
    if draws > 1 and not CONTROLS[kind].drawn:
        raise BadInput(
            f"{draws} draws of kind {kind!r} were asked for, and nothing in it is drawn: there is one. "
            f"Draws make sense for {', '.join(k for k in control_kinds() if CONTROLS[k].drawn)}."
        )
    if not isinstance(op, Intervention):
        raise BadInput(f"op is {op!r}; give the treatment's edit, for example Zero().")
    require_value(op)
    if subspace and not CONTROLS[kind].subspace:
        able = " or ".join(name for name in control_kinds() if CONTROLS[name].subspace)
        raise BadInput(f"subspace=True belongs to {able}, and kind is {kind!r}. Leave it out.")


def _require_match(massive: ChannelSet, stats: ChannelStatistics) -> None:
    """Raise `BadInput` unless the set fits the statistics' model, stream, blocks and width."""
    prints = [str(each.get("fingerprint", "")) for each in (massive.provenance, stats.provenance)]
    if massive.model != stats.model or (all(prints) and prints[0] != prints[1]):
        raise BadInput(
            f"The channel set was made for {_named(massive.model, prints[0])} and the statistics for "
            f"{_named(stats.model, prints[1])}. Choose the set from these statistics."
        )
    if massive.is_empty:
        raise BadInput(
            "The channel set has no channels in any block, so no control can be matched to it. Choose by "
            "top_k, or by a lower ratio."
        )
    there = stats.blocks(massive.stream)
    missing = [block for block in massive.blocks if block not in there]
    if missing:
        raise BadInput(
            f"The channel set holds block {missing[0]} of the {massive.stream} stream; these statistics have "
            f"blocks {there[0]} to {there[-1]}."
        )
    if massive.channels[-1] >= stats.num_channels:
        raise BadInput(
            f"The channel set holds channel {massive.channels[-1]}; the model has {stats.num_channels}, "
            f"0 to {stats.num_channels - 1}."
        )


def _named(model: str, fingerprint: str) -> str:
    return f"{model!r} ({fingerprint[:8]})" if fingerprint else f"{model!r}"
