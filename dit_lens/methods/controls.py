"""Controls matched to a set of massive channels: what else an effect could have come from.

A control takes the treatment's place at the same hook points, steps and branches. Either other channels get
the treatment's edit, or the treatment's channels get another one.

| kind               | channels                            | edit                                          |
|--------------------|-------------------------------------|-----------------------------------------------|
| low                | smallest by the set's own statistic | the treatment's                               |
| random             | uniform                             | the treatment's                               |
| random_rank_window | uniform among the next strongest    | the treatment's                               |
| energy_matched     | those of `random`                   | changed by what zeroing the treatment removes |
| mean_set           | the treatment's                     | token mean                                    |
| token_shuffle      | the treatment's                     | tokens permuted                               |
| ln_preserving      | the treatment's                     | the treatment's, LayerNorm statistics kept    |
| sham               | the treatment's                     | none                                          |

Zeroing channels near zero hardly perturbs, whatever they do: `low` and `random` alone (the controls of arXiv
2605.13974) let any large channels look important. Hence the rank window, whose channels are large too, and
the energy match, whose change is as large.

**How channels are drawn.** Massive channels are mostly the same in many blocks, so a control that took others
in every block would reach far more channels of the stream. Each distinct channel of the treatment is
therefore replaced by one other channel, the same in all blocks where it occurs, and none of them massive in
any block. Where the model has too few channels for that, channels are drawn for each block alone, from those
not massive there; `selection["persistent"]` of the control's channels says which.

**Rank window.** Channels that are not the treatment's, ordered by their value over the channel median,
averaged over the set's blocks (for a block alone: by value). The window holds the first 4 for each channel to
replace, and at least 16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.interventions import (
    EnergyMatched,
    Identity,
    Intervention,
    Mean,
    TokenShuffle,
    Zero,
    require_value,
)
from dit_lens.methods.channel_labels import RANKED
from dit_lens.methods.channel_sets import ChannelSet
from dit_lens.methods.channels import ChannelStatistics
from dit_lens.words import known_words

KINDS = (
    "low", "random", "random_rank_window", "energy_matched",
    "mean_set", "token_shuffle", "ln_preserving", "sham",
)  # fmt: skip

DRAWN = ("random", "random_rank_window", "energy_matched", "token_shuffle")
"""Kinds that involve chance; of the others there is one."""

WINDOW = 4
"""Channels in the rank window for each channel to replace."""

MOST_DRAWS = 1000
"""Draws of one control, each of which costs an image per prompt and seed; 999 give a rank p of 0.001."""

_SMALLEST_WINDOW = 16

_TRIES = 2000

Blocks = dict[int, tuple[int, ...]]


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

    `low` and `random` are the controls of arXiv 2605.13974; the module's text says why the others are
    needed.

    Args:
        massive: the treatment's channels.
        stats: the statistics they were chosen from.
        kind: one of `KINDS`; the module's text says what each is.
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
    if not isinstance(massive, ChannelSet) or not isinstance(stats, ChannelStatistics):
        raise BadInput(
            "controls takes a channel set and the statistics it was chosen from; got "
            f"{type(massive).__name__}, {type(stats).__name__}."
        )
    op = Zero() if op is None else op
    _require_request(kind, draws, seed, op, subspace)
    _require_match(massive, stats)

    def one(draw: int, blocks: Blocks | None, edit: Intervention, **how: Any) -> Control:
        channels: ChannelSet | None = massive
        if blocks is not None:
            selection = {"control": kind, "of": massive.selection, **how}
            if kind in DRAWN:
                selection |= {"draw": draw, "seed": int(seed)}
            channels = type(massive).model_validate(
                {**massive.model_dump(), "selection": selection, "blocks": blocks}
            )
        return Control(f"{kind}-{draw}" if kind in DRAWN else kind, kind, draw, channels, edit)

    if kind == "low":
        return (one(0, _lowest(massive, stats), op),)
    if kind == "mean_set":
        return (one(0, None, Mean(ln_preserving=op.ln_preserving)),)
    if kind == "ln_preserving":
        return (one(0, None, replace(op, ln_preserving=True)),)
    if kind == "sham":
        return (one(0, None, Identity()),)
    seeds = [_draw_seed(seed, draw) for draw in range(draws)]
    if kind == "token_shuffle":
        return tuple(
            one(draw, None, TokenShuffle(seed=s, ln_preserving=op.ln_preserving))
            for draw, s in enumerate(seeds)
        )
    edits: list[Intervention] = [op] * draws
    if kind == "energy_matched":
        edits = [
            EnergyMatched(massive.blocks, s, part=op.part, ln_preserving=op.ln_preserving) for s in seeds
        ]
        if subspace:
            _require_room(massive, stats)
            return tuple(replace(one(i, None, edit), channels=None) for i, edit in enumerate(edits))
    persistent, drawn = _drawn(massive, stats, kind, draws, seed)
    return tuple(
        one(draw, blocks, edit, persistent=persistent)
        for draw, (blocks, edit) in enumerate(zip(drawn, edits, strict=True))
    )


def _lowest(massive: ChannelSet, stats: ChannelStatistics) -> Blocks:
    """As many channels as the set has in each block, smallest first, none of them of the set."""
    _require_room(massive, stats)
    profile = _profile(massive, stats)
    found = {}
    for block, channels in massive.blocks.items():
        rising = (int(c) for c in np.argsort(profile[block], kind="stable"))
        found[block] = tuple(c for c in rising if c not in channels)[: len(channels)]
    return found


def _drawn(
    massive: ChannelSet, stats: ChannelStatistics, kind: str, draws: int, seed: int
) -> tuple[bool, list[Blocks]]:
    """Whether one channel replaces another in all blocks, and the channels of each draw."""
    _require_room(massive, stats)
    windowed = kind == "random_rank_window"
    candidates = _candidates(massive, stats, windowed)
    # `energy_matched` takes the channels of `random`, so that the two differ in size alone.
    rng = np.random.default_rng([seed, int(windowed)])
    found: list[Blocks] = []
    seen: set[tuple[frozenset[int], ...]] = set()
    for draw in range(draws):
        for _ in range(_TRIES):
            blocks = _one_draw(massive, candidates, rng)
            # Two orders of the same channels are the same control.
            key = tuple(frozenset(channels) for channels in blocks.values())
            if key not in seen:
                break
        else:
            raise BadInput(
                f"{draws} different draws of kind {kind!r} were asked for, and there are only {draw}. Ask "
                f"for {draw} draws or fewer; equal draws would count the same evidence twice."
            )
        seen.add(key)
        found.append(blocks)
    return isinstance(candidates, np.ndarray), found


Candidates = np.ndarray[Any, np.dtype[np.int64]] | dict[int, "np.ndarray[Any, np.dtype[np.int64]]"]


def _candidates(massive: ChannelSet, stats: ChannelStatistics, windowed: bool) -> Candidates:
    """Channels to draw from: one pool for all blocks where it is large enough, else one for each."""
    union = massive.channels
    profile = _profile(massive, stats) if windowed else None
    everything = np.arange(stats.num_channels)
    if 2 * len(union) <= stats.num_channels:
        order = everything if profile is None else np.argsort(-_mean_ratio(profile), kind="stable")
        pool = order[~np.isin(order, union)]
        return pool if profile is None else pool[: _window(len(union))]
    pools = {}
    for block, channels in massive.blocks.items():
        order = everything if profile is None else np.argsort(-profile[block], kind="stable")
        pool = order[~np.isin(order, channels)]
        pools[block] = pool if profile is None else pool[: _window(len(channels))]
    return pools


def _window(channels: int) -> int:
    return max(WINDOW * channels, _SMALLEST_WINDOW)


def _one_draw(massive: ChannelSet, candidates: Candidates, rng: np.random.Generator) -> Blocks:
    if isinstance(candidates, dict):
        return {
            block: tuple(int(c) for c in rng.choice(candidates[block], size=len(channels), replace=False))
            for block, channels in massive.blocks.items()
        }
    union = massive.channels
    chosen = rng.choice(candidates, size=len(union), replace=False)
    stands_for = {channel: int(other) for channel, other in zip(union, chosen, strict=True)}
    return {
        block: tuple(stands_for[channel] for channel in channels)
        for block, channels in massive.blocks.items()
    }


def _profile(massive: ChannelSet, stats: ChannelStatistics) -> dict[int, np.ndarray]:
    """The set's own statistic, where it was taken: block → [channels]."""
    if massive.statistic not in RANKED:
        raise BadInput(
            f"The channel set names the statistic {massive.statistic!r}, by which channels cannot be ranked; "
            f"there are: {', '.join(RANKED)}. Choose the set with stats.select, or take kind='random'."
        )
    steps: Any = massive.selection.get("steps", "all")
    branch = str(massive.selection.get("branch", "cond"))
    values = stats.profile(massive.statistic, stream=massive.stream, branch=branch, steps=steps)
    return {block: np.asarray(values.sel(block=block).values) for block in massive.blocks}


def _mean_ratio(profile: dict[int, np.ndarray]) -> np.ndarray:
    """Value over channel median, averaged over blocks, so that deep blocks do not outvote the others."""
    tiny = np.finfo(np.float64).tiny
    ratios = [values / max(float(np.median(values)), tiny) for values in profile.values()]
    return np.asarray(np.mean(ratios, axis=0))


def _draw_seed(seed: int, draw: int) -> int:
    return int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])


def _require_request(kind: Any, draws: Any, seed: Any, op: Any, subspace: bool) -> None:
    if kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS)
        raise BadInput(f"There is no control {kind!r}; there are: {', '.join(KINDS)}.{hint}")
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise BadInput(f"{name} is {value!r}; it must be a whole number, at least {least}.")
    if draws > MOST_DRAWS:
        raise BadInput(
            f"{draws} draws of kind {kind!r} were asked for; each is an arm, so at most {MOST_DRAWS:,}."
        )
    if draws > 1 and kind not in DRAWN:
        raise BadInput(
            f"{draws} draws of kind {kind!r} were asked for, and nothing in it is drawn: there is one. "
            f"Draws make sense for {', '.join(DRAWN)}."
        )
    if not isinstance(op, Intervention):
        raise BadInput(f"op is {op!r}; give the treatment's edit, for example Zero().")
    require_value(op)
    if kind == "energy_matched" and not isinstance(op, Zero):
        raise BadInput(
            f"energy_matched measures what zeroing removes, and the treatment's edit is {op.written}. Leave "
            "energy_matched out of the controls (in a spec, out of effects.controls), or match zeroing; for "
            "a treatment that sets the token mean, {op: zero, part: residual}."
        )
    if subspace and kind != "energy_matched":
        raise BadInput(f"subspace=True belongs to energy_matched, and kind is {kind!r}. Leave it out.")


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


def _require_room(massive: ChannelSet, stats: ChannelStatistics) -> None:
    block, largest = max(massive.blocks.items(), key=lambda item: len(item[1]))
    if 2 * len(largest) > stats.num_channels:
        raise BadInput(
            f"The channel set has {len(largest)} of {stats.num_channels} channels at block {block}, and a "
            f"control needs as many others. Choose at most {stats.num_channels // 2} for each block."
        )


def _named(model: str, fingerprint: str) -> str:
    return f"{model!r} ({fingerprint[:8]})" if fingerprint else f"{model!r}"
