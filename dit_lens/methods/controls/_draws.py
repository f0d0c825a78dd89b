"""Other channels in the treatment's place, drawn so that they are matched to it block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dit_lens.errors import BadInput
from dit_lens.methods.channel_labels import RANKED
from dit_lens.methods.controls._parts import Blocks, Request

if TYPE_CHECKING:
    from dit_lens.methods.channel_sets import ChannelSet
    from dit_lens.methods.channels import ChannelStatistics

_TRIES = 2000

Channels = np.ndarray[Any, np.dtype[np.int64]]
Candidates = Channels | dict[int, Channels]


def draw_channels(
    request: Request, kind: str, candidates: Candidates, salt: int
) -> tuple[bool, list[Blocks]]:
    """Draw channels for a control: whether one replaces another in all blocks, and those of each draw.

    Args:
        kind: named in messages.
        candidates: channels to draw from: for all blocks, or block → channels.
        salt: kinds with the same number draw alike from equal candidates.

    Raises:
        BadInput: more different draws than there are.
    """
    rng = np.random.default_rng([request.seed, salt])
    found: list[Blocks] = []
    seen: set[tuple[frozenset[int], ...]] = set()
    for draw in range(request.draws):
        for _ in range(_TRIES):
            blocks = _one_draw(request.massive, candidates, rng)
            # Two orders of the same channels are the same control.
            key = tuple(frozenset(channels) for channels in blocks.values())
            if key not in seen:
                break
        else:
            raise BadInput(
                f"{request.draws} different draws of kind {kind!r} were asked for, and there are only "
                f"{draw}. Ask for {draw} draws or fewer; equal draws would count the same evidence twice."
            )
        seen.add(key)
        found.append(blocks)
    return isinstance(candidates, np.ndarray), found


def single_pool(massive: ChannelSet, stats: ChannelStatistics) -> bool:
    """Whether there are enough channels that none massive in any block is taken anywhere."""
    return 2 * len(massive.channels) <= stats.num_channels


def all_others(massive: ChannelSet, stats: ChannelStatistics) -> Candidates:
    """All channels but the treatment's: one pool for all blocks where it is large enough, else one each."""
    everything = np.arange(stats.num_channels)
    if single_pool(massive, stats):
        return everything[~np.isin(everything, massive.channels)]
    return {block: everything[~np.isin(everything, held)] for block, held in massive.blocks.items()}


def draw_others(request: Request, kind: str) -> tuple[bool, list[Blocks]]:
    """`draw_channels` from all channels but the treatment's: the same ones for every kind that asks."""
    require_room(request.massive, request.stats)
    return draw_channels(request, kind, all_others(request.massive, request.stats), salt=0)


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


def profile_of(massive: ChannelSet, stats: ChannelStatistics) -> dict[int, np.ndarray]:
    """The set's own statistic, where it was taken: block → [channels].

    Raises:
        BadInput: a statistic that does not measure size.
    """
    if massive.statistic not in RANKED:
        raise BadInput(
            f"The channel set names the statistic {massive.statistic!r}, by which channels cannot be ranked; "
            f"there are: {', '.join(RANKED)}. Choose the set with stats.select, or take kind='random'."
        )
    steps: Any = massive.selection.get("steps", "all")
    branch = str(massive.selection.get("branch", "cond"))
    values = stats.profile(massive.statistic, stream=massive.stream, branch=branch, steps=steps)
    return {block: np.asarray(values.sel(block=block).values) for block in massive.blocks}


def require_room(massive: ChannelSet, stats: ChannelStatistics) -> None:
    """Raise `BadInput` unless every block has as many other channels as the treatment's."""
    block, largest = max(massive.blocks.items(), key=lambda item: len(item[1]))
    if 2 * len(largest) > stats.num_channels:
        raise BadInput(
            f"The channel set has {len(largest)} of {stats.num_channels} channels at block {block}, and a "
            f"control needs as many others. Choose at most {stats.num_channels // 2} for each block."
        )
