"""Channel statistics as tidy tables: one pure function each. Their columns are the interface to the
figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.methods.channel_labels import RANKED, SOURCES
from dit_lens.methods.channel_sets import require_k
from dit_lens.methods.stability import (
    Overlap,
    chance_jaccard,
    jaccard,
    overlap_along,
    paired_overlap,
    pairwise_overlap,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

    from dit_lens.methods.channel_sets import ChannelSet


class Statistics(Protocol):
    """What the tables need of channel statistics; `methods.channels.ChannelStatistics` says what each is."""

    @property
    def data(self) -> xr.Dataset: ...

    @property
    def model(self) -> str: ...

    @property
    def top_k(self) -> int: ...

    @property
    def num_channels(self) -> int: ...

    @property
    def streams(self) -> tuple[str, ...]: ...

    @property
    def branches(self) -> tuple[str, ...]: ...

    def blocks(self, stream: str) -> tuple[int, ...]: ...

    def profile(self, statistic: str = ..., *, stream: str = ..., branch: str = ...) -> xr.DataArray: ...

    def select(
        self, *, top_k: int | None = ..., statistic: str = ..., stream: str = ..., branch: str = ...
    ) -> ChannelSet: ...


def spectrum(stats: Statistics) -> pd.DataFrame:
    """Every channel of every block, ranked by each statistic (rank 1 is the largest).

    Averaged over steps (`max_abs`: the maximum). `ratio` is value / channel median.
    Columns: stream, branch, block, rank, channel, statistic, value, ratio.
    """
    frames = []
    for stream, branch, statistic in _profiles(stats):
        profile = stats.profile(statistic, stream=stream, branch=branch)
        values = profile.values
        order = np.argsort(-values, axis=1, kind="stable")
        ranked = np.take_along_axis(values, order, axis=1)
        blocks, channels = values.shape
        frames.append(
            pd.DataFrame(
                {
                    "stream": stream,
                    "branch": branch,
                    "block": np.repeat(profile["block"].values, channels),
                    "rank": np.tile(np.arange(1, channels + 1), blocks),
                    "channel": order.ravel(),
                    "statistic": statistic,
                    "value": ranked.ravel(),
                    "ratio": _ratio(ranked, np.median(values, axis=1, keepdims=True)).ravel(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def ratio_map(stats: Statistics) -> pd.DataFrame:
    """The top channel of each (block, step) by each statistic, and its ratio to the channel median.

    Columns: stream, branch, step, sigma, block, channel, statistic, value, ratio.
    """
    frames = []
    for stream, branch, statistic in _profiles(stats):
        cells = _cells(stats, statistic, stream, branch)
        top = cells.argmax("channel").values
        frames.append(_over_depth_and_time(stats, cells, stream, branch, statistic, top[..., None]))
    return pd.concat(frames, ignore_index=True)


def life(stats: Statistics, k: int | None = None) -> pd.DataFrame:
    """The `k` channels that lead the stream as a whole (see `leading_channels`), in every block at every
    step.

    Columns: stream, branch, step, sigma, block, channel, statistic, value, ratio.
    """
    frames = []
    for stream, branch, statistic in _profiles(stats):
        cells = _cells(stats, statistic, stream, branch)
        leading = np.array(leading_channels(stats, stream, k))
        at = np.broadcast_to(leading, (*cells.shape[:2], len(leading)))
        frames.append(_over_depth_and_time(stats, cells, stream, branch, statistic, at))
    return pd.concat(frames, ignore_index=True).sort_values(
        ["stream", "branch", "statistic", "channel", "block", "step"], kind="stable", ignore_index=True
    )


def leading_channels(stats: Statistics, stream: str, k: int | None = None) -> tuple[int, ...]:
    """The `k` channels with the largest `abs_mean` in units of the block's median, averaged over blocks and
    branches.

    One list for a stream, so that a channel can be followed through depth. Raises `BadInput` for a bad `k`.
    """
    k = require_k(stats.top_k if k is None else k, stats.num_channels)
    profile = stats.profile("abs_mean", stream=stream, branch="both").values
    ratios = _ratio(profile, np.median(profile, axis=1, keepdims=True))
    # A block without a median (most channels dead) has no ratios, and no say.
    mean = np.nan_to_num(np.nanmean(ratios, axis=0) if np.isfinite(ratios).any() else profile.mean(axis=0))
    return tuple(int(channel) for channel in np.argsort(-mean, kind="stable")[:k])


def stability(stats: Statistics, k: int | None = None) -> pd.DataFrame:
    """Do the top k by `abs_mean` stay the same? Mean Jaccard over `n` pairs of sets, with its chance level.

    - axis `prompt`: sets of two samples that differ in prompt only (same seed; each averaged over its steps).
    - axis `seed`: two samples that differ in seed only.
    - axis `step`: sets at two steps, each averaged over samples.
    - axis `block`: one sample's sets after a block and after the next; the last block has no such row.

    Pairs share members, so `n` is no count of independent observations. An axis with one value has NaN and n
    = 0. Raises `BadInput` when k exceeds the channels logged per sample.
    Columns: stream, branch, axis, block, k, jaccard, chance, n.
    """
    k = require_k(
        stats.top_k if k is None else k,
        int(stats.data.sizes["rank"]),
        "channels logged per sample (discover with a larger top_k for more)",
    )
    channels = stats.num_channels
    chance = chance_jaccard(channels, k)
    prompts = stats.data["sample_prompt"].values.tolist()
    seeds = stats.data["sample_seed"].values.tolist()
    rows = []
    for stream, branch in _places(stats):
        blocks = stats.blocks(stream)
        log = stats.data["top_channels"].sel(stream=stream, branch=branch)
        sets = {block: log.sel(block=block).values[:, :k] for block in blocks}
        cells = _cells(stats, "abs_mean", stream, branch)
        by_step = np.argsort(-cells.values, axis=-1, kind="stable")[..., :k]
        for i, block in enumerate(blocks):
            found: dict[str, Overlap] = {
                "prompt": overlap_along(sets[block], channels, groups=seeds, compared=prompts),
                "seed": overlap_along(sets[block], channels, groups=prompts, compared=seeds),
                "step": pairwise_overlap(by_step[:, i], channels),
            }
            if block + 1 in sets:
                found["block"] = paired_overlap(sets[block], sets[block + 1])
            rows += [
                (stream, branch, axis, block, k, overlap.jaccard, chance, overlap.n)
                for axis, overlap in found.items()
            ]
    return pd.DataFrame(
        rows, columns=["stream", "branch", "axis", "block", "k", "jaccard", "chance", "n"]
    ).sort_values(["stream", "branch", "axis", "block"], kind="stable", ignore_index=True)


def agreement(stats: Statistics, k: int | None = None) -> pd.DataFrame:
    """Top k by |token mean| against top k by mean magnitude: the two readings of "massive", per block.

    Columns: stream, branch, block, k, jaccard, chance.
    """
    k = require_k(stats.top_k if k is None else k, stats.num_channels)
    chance = chance_jaccard(stats.num_channels, k)
    rows = []
    for stream, branch in _places(stats):
        first, second = (
            stats.select(top_k=k, statistic=name, stream=stream, branch=branch).blocks
            for name in ("abs_mean", "mean_abs")
        )
        rows += [(stream, branch, b, k, jaccard(first[b], second[b]), chance) for b in first]
    return pd.DataFrame(rows, columns=["stream", "branch", "block", "k", "jaccard", "chance"])


def variance(stats: Statistics, massive: ChannelSet) -> pd.DataFrame:
    """Shares of each massive channel's variance that step, prompt, seed, their interaction and token explain.

    The five shares of a channel sum to one; a channel without variance has no rows. Of the set's stream, in
    every branch. Columns: stream, branch, block, channel, source, share.
    """
    stream = _stream_of(stats, massive)
    rows = []
    for branch in stats.branches:
        shares = stats.data["variance_share"].sel(stream=stream, branch=branch)
        for block, channel in _members(massive):
            values = shares.sel(block=block, channel=channel).values
            if np.isfinite(values).all():
                rows += [
                    (stream, branch, block, channel, source, float(value))
                    for source, value in zip(SOURCES, values, strict=True)
                ]
    return pd.DataFrame(rows, columns=["stream", "branch", "block", "channel", "source", "share"])


def births(stats: Statistics, stream: str = "image", channels: Sequence[int] | None = None) -> pd.DataFrame:
    """Who writes a channel: the mean |gate × output| that each block's attention and MLP add to it.

    `value` is in activation units, averaged over steps. `rank` is the channel's place among all channels of
    that writer in that block (1 is the largest). `share` is the write's part of all that is written into the
    channel, and sums to one over blocks and writers; writes may cancel, so it says who moves the channel, not
    what remains. Writer `embed` at block 0 is what enters the stream before any block. `channels` defaults to
    `leading_channels`.
    Columns: stream, branch, block, channel, writer, value, rank, share.
    """
    chosen = list(leading_channels(stats, stream) if channels is None else channels)
    frames = []
    for branch in stats.branches:
        # Absent writers are NaN at every step and stay NaN.
        writes = (
            stats.data["write_mean_abs"].sel(stream=stream, branch=branch).astype(np.float64).mean("step")
        )
        values = writes.values
        order = np.argsort(-values, axis=-1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(1, order.shape[-1] + 1)[None, None], axis=-1)
        total = np.nansum(values, axis=(0, 1))
        for channel in chosen:
            frames.append(
                pd.DataFrame(
                    {
                        "stream": stream,
                        "branch": branch,
                        "block": np.repeat(writes["block"].values, writes.sizes["writer"]),
                        "channel": channel,
                        "writer": np.tile(writes["writer"].values, writes.sizes["block"]),
                        "value": values[..., channel].ravel(),
                        "rank": rank[..., channel].ravel(),
                        "share": _ratio(values[..., channel], total[channel]).ravel(),
                    }
                )
            )
    columns = ["stream", "branch", "block", "channel", "writer", "value", "rank", "share"]
    if not frames:
        return pd.DataFrame(columns=columns)
    return pd.concat(frames, ignore_index=True).dropna(subset=["value"]).reset_index(drop=True)


def adaln(stats: Statistics, massive: ChannelSet) -> pd.DataFrame:
    """AdaLN shift, scale and gate at each massive channel of a block, averaged over samples and steps.

    `percentile` places |value| among all channels of that signal: 100 is the largest, 0 the smallest, equal
    values share the middle of their ranks. Columns: stream, branch, block, channel, signal, value,
    percentile.
    """
    from scipy.stats import rankdata

    stream = _stream_of(stats, massive)
    rows = []
    for branch in stats.branches:
        signals = stats.data["adaln"].sel(stream=stream, branch=branch).astype(np.float64).mean("step")
        for block, channels in massive.blocks.items():
            for signal in signals["signal"].values:
                values = signals.sel(block=block, signal=signal).values
                if not np.isfinite(values).all():
                    continue
                percentile = 100 * (rankdata(np.abs(values)) - 1) / max(len(values) - 1, 1)
                rows += [
                    (stream, branch, block, c, str(signal), float(values[c]), float(percentile[c]))
                    for c in channels
                ]
    return pd.DataFrame(
        rows, columns=["stream", "branch", "block", "channel", "signal", "value", "percentile"]
    )


def tables(stats: Statistics, massive: ChannelSet | None = None) -> dict[str, pd.DataFrame]:
    """All tables of a discovery by name, for every stream and branch; `token_maps` needs the model and is not
    here.

    `massive` replaces the top k of its own stream in `variance` and `adaln`.

    >>> sorted(tables(stats))
    ['adaln', 'agreement', 'births', 'life', 'ratio_map', 'spectrum', 'stability', 'variance']
    """
    sets = _sets(stats, massive)
    return {name: make(stats, sets) for name, make in _MAKERS.items()}


def table(stats: Statistics, name: str, massive: ChannelSet | None = None) -> pd.DataFrame:
    """One of `tables`, by its name. Raises `BadInput` for another name.

    >>> table(stats, "variance", stats.select(ratio=5)).source.unique().tolist()
    ['step', 'prompt', 'seed', 'interaction', 'token']
    """
    if name not in _MAKERS:
        raise BadInput(
            f"Channel statistics have no table {name!r}; there are: {', '.join(_MAKERS)}."
            f"{did_you_mean(name, _MAKERS)}"
        )
    return _MAKERS[name](stats, _sets(stats, massive))


def _sets(stats: Statistics, massive: ChannelSet | None) -> list[ChannelSet]:
    """The set of each stream: the one given, or the top k."""
    return [
        massive
        if massive is not None and massive.stream == stream
        else stats.select(stream=stream, branch="both")
        for stream in stats.streams
    ]


_MAKERS: dict[str, Callable[[Statistics, list[ChannelSet]], pd.DataFrame]] = {
    "spectrum": lambda stats, _: spectrum(stats),
    "ratio_map": lambda stats, _: ratio_map(stats),
    "life": lambda stats, _: life(stats),
    "stability": lambda stats, _: stability(stats, min(stats.top_k, int(stats.data.sizes["rank"]))),
    "agreement": lambda stats, _: agreement(stats),
    "variance": lambda stats, sets: pd.concat([variance(stats, one) for one in sets], ignore_index=True),
    "births": lambda stats, _: pd.concat([births(stats, each) for each in stats.streams], ignore_index=True),
    "adaln": lambda stats, sets: pd.concat([adaln(stats, one) for one in sets], ignore_index=True),
}
TABLES = tuple(_MAKERS)


def _places(stats: Statistics) -> Iterator[tuple[str, str]]:
    return ((stream, branch) for stream in stats.streams for branch in stats.branches)


def _profiles(stats: Statistics) -> Iterator[tuple[str, str, str]]:
    return ((*place, statistic) for place in _places(stats) for statistic in RANKED)


def _cells(stats: Statistics, statistic: str, stream: str, branch: str) -> xr.DataArray:
    """[step, block, channel] of the blocks that have the stream."""
    chosen = stats.data[statistic].sel(stream=stream, branch=branch, block=list(stats.blocks(stream)))
    return chosen.transpose("step", "block", "channel")


def _over_depth_and_time(
    stats: Statistics,
    cells: xr.DataArray,
    stream: str,
    branch: str,
    statistic: str,
    channels: npt.NDArray[np.integer[Any]],
) -> pd.DataFrame:
    """Rows for `channels` [step, block, n] of `cells` [step, block, channel]."""
    values = np.take_along_axis(cells.values, channels, axis=-1).astype(np.float64)
    steps, blocks, n = channels.shape
    median = np.median(cells.values, axis=-1, keepdims=True).astype(np.float64)
    return pd.DataFrame(
        {
            "stream": stream,
            "branch": branch,
            "step": np.repeat(cells["step"].values, blocks * n),
            "sigma": np.repeat(cells["sigma"].values, blocks * n),
            "block": np.tile(np.repeat(cells["block"].values, n), steps),
            "channel": channels.ravel(),
            "statistic": statistic,
            "value": values.ravel(),
            "ratio": _ratio(values, median).ravel(),
        }
    )


def _ratio(values: Any, reference: Any) -> npt.NDArray[np.float64]:
    """values / reference, NaN where the reference is zero."""
    values, reference = np.broadcast_arrays(np.asarray(values, dtype=np.float64), reference)
    return np.divide(values, reference, out=np.full(values.shape, np.nan), where=reference > 0)


def _members(massive: ChannelSet) -> Iterator[tuple[int, int]]:
    return ((block, channel) for block, channels in massive.blocks.items() for channel in channels)


def _stream_of(stats: Statistics, massive: ChannelSet) -> str:
    """The set's stream, if its channels exist in these statistics."""
    there = stats.blocks(massive.stream)
    beyond = [(b, c) for b, c in _members(massive) if b not in there or c >= stats.num_channels]
    if beyond:
        block, channel = beyond[0]
        raise BadInput(
            f"The channel set of {massive.model} names channel {channel} of block {block} in the "
            f"{massive.stream} stream; these statistics of {stats.model} have blocks {there[0]}–{there[-1]} "
            f"and "
            f"channels 0–{stats.num_channels - 1}. Use a set from the same model."
        )
    return massive.stream
