"""Uniform among the next strongest channels, which are large too.

The window: channels that are not the treatment's, ordered by their value over the channel median, averaged
over the set's blocks (for a block alone: by value). It holds the first 4 for each channel to replace, and at
least 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dit_lens.methods.controls._draws import (
    Candidates,
    draw_channels,
    profile_of,
    require_room,
    single_pool,
)
from dit_lens.methods.controls._parts import Choice, ControlKind, Request

if TYPE_CHECKING:
    from dit_lens.methods.channel_sets import ChannelSet
    from dit_lens.methods.channels import ChannelStatistics

WINDOW = 4
"""Channels in the rank window for each channel to replace."""

_SMALLEST_WINDOW = 16


def _in_the_window(request: Request) -> Sequence[Choice]:
    require_room(request.massive, request.stats)
    candidates = _candidates(request.massive, request.stats)
    persistent, drawn = draw_channels(request, CONTROL.name, candidates, salt=1)
    return [Choice(request.op, blocks, notes={"persistent": persistent}) for blocks in drawn]


def _candidates(massive: ChannelSet, stats: ChannelStatistics) -> Candidates:
    profile = profile_of(massive, stats)
    if single_pool(massive, stats):
        return _next(_mean_ratio(profile), massive.channels)
    return {block: _next(profile[block], channels) for block, channels in massive.blocks.items()}


def _next(values: np.ndarray, held: Sequence[int]) -> np.ndarray:
    """The strongest channels by `values` [channels] but for those held, as many as the window has."""
    order = np.argsort(-values, kind="stable")
    return order[~np.isin(order, held)][: max(WINDOW * len(held), _SMALLEST_WINDOW)]


def _mean_ratio(profile: dict[int, np.ndarray]) -> np.ndarray:
    """Value over channel median, averaged over blocks, so that deep blocks do not outvote the others."""
    tiny = np.finfo(np.float64).tiny
    ratios = [values / max(float(np.median(values)), tiny) for values in profile.values()]
    return np.asarray(np.mean(ratios, axis=0))


CONTROL = ControlKind(
    name="random_rank_window",
    make=_in_the_window,
    title="random, next ranks",
    words="random channels of the next ranks",
    serves=("effects", "maps", "transport", "spatial"),
    other_channels=True,
    drawn=True,
    default_draws=5,
    fairness=20,
    order=30,
    colour=3,
)
