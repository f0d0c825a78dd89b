"""One sentence per table, made from its numbers and from nothing else.

A sentence says what was measured and how often, and leaves what it means to the reader; where the numbers do
not support a pattern, it says so.
"""

from __future__ import annotations

import pandas as pd

from dit_lens.report.text import count, listing, number, percent, place_of_write, signal_name, spans, times

STRONG = 5.0  # × the median: the level the sentences count blocks and steps at
UNDEFINED = "No ratio is defined: in every block the median channel is zero."


def spectrum(table: pd.DataFrame) -> str:
    """Say which channel leads, where, and how far above the median (one stream, branch, statistic)."""
    table = table.dropna(subset=["ratio"])
    if table.empty:
        return UNDEFINED
    top = table.sort_values("ratio", ascending=False, kind="stable").drop_duplicates("block")
    leader = top["channel"].mode().iloc[0]
    led = int((top["channel"] == leader).sum())
    peak = top.iloc[0]
    strong = sorted(int(block) for block in top.loc[top["ratio"] >= STRONG, "block"])
    reach = (
        f"The top channel is at {times(STRONG)} the median or more in blocks {spans(strong)}."
        if strong
        else f"In no block does a channel reach {times(STRONG)} the median."
    )
    return (
        f"Channel {int(leader)} is the largest in {led} of {count(len(top), 'block')}; the highest ratio "
        f"to the median channel is {number(peak['ratio'])} (channel {int(peak['channel'])}, block "
        f"{int(peak['block'])}). {reach}"
    )


def ratio_map(table: pd.DataFrame) -> str:
    """Say where and when the ratio peaks, how it moves over time, and how often one channel leads."""
    table = table.dropna(subset=["ratio"])
    if table.empty:
        return UNDEFINED
    peak = table.loc[table["ratio"].idxmax()]
    over_time = table.groupby("step")["ratio"].mean()
    sigma = table.groupby("step")["sigma"].first()
    same = table["channel"].value_counts()
    change = over_time.iloc[-1] / over_time.iloc[0]
    trend = "rises" if change > 1.1 else "falls" if change < 1 / 1.1 else "hardly changes"
    return (
        f"The ratio peaks at {number(peak['ratio'])} in block {int(peak['block'])} at step "
        f"{int(peak['step'])} (σ = {number(peak['sigma'])}). Averaged over blocks it {trend} from the "
        f"first step to the last, from {number(over_time.iloc[0])} (σ = {number(sigma.iloc[0])}) to "
        f"{number(over_time.iloc[-1])} (σ = {number(sigma.iloc[-1])}). Channel {int(same.index[0])} leads "
        f"in {int(same.iloc[0])} of {count(len(table), 'cell')}."
    )


def life(table: pd.DataFrame) -> str:
    """Say where the strongest channel first stands out, and where it is largest."""
    table = table.dropna(subset=["ratio"])
    if table.empty:
        return UNDEFINED
    leader = int(table.loc[table["ratio"].idxmax(), "channel"])
    depth = table[table["channel"] == leader].groupby("block")["ratio"].mean()
    above = depth[depth >= STRONG]
    peak = f"is largest in block {int(depth.idxmax())} ({times(depth.max())}, mean of the steps' ratios)"
    if above.empty:
        return f"Channel {leader} stays below {times(STRONG)} the median in every block; it {peak}."
    last = depth.index[-1]
    end = (
        f"and is still at {times(depth.iloc[-1])} in the last block"
        if depth.iloc[-1] >= STRONG
        else f"and falls to {times(depth.iloc[-1])} in the last block ({int(last)})"
    )
    first = int(above.index[0])
    return f"Channel {leader} first reaches {times(STRONG)} the median in block {first}, {peak}, {end}."


def stability(table: pd.DataFrame) -> str:
    """Say the mean overlap along each axis beside what chance gives."""
    known = table.dropna(subset=["jaccard"])
    if known.empty:
        return "No axis has two values to compare, so this run says nothing about stability."
    mean = known.groupby("axis")["jaccard"].mean()
    words = [
        f"{number(mean[axis])} over {axis}s" for axis in ("prompt", "seed", "step", "block") if axis in mean
    ]
    absent = [axis for axis in ("prompt", "seed", "step", "block") if axis not in mean]
    note = (
        f" There is no pair of {listing([f'{axis}s' for axis in absent], 'or')} to compare." if absent else ""
    )
    sizes = sorted(int(size) for size in known["k"].unique())
    return (
        f"Mean Jaccard overlap of the top {listing(sizes)}: {listing(words)}; chance gives "
        f"{number(known['chance'].mean())}.{note}"
    )


def agreement(table: pd.DataFrame) -> str:
    """Say how far the two readings of the statistic choose the same channels."""
    same = sorted(int(block) for block in table.loc[table["jaccard"] >= 1, "block"].unique())
    blocks = table["block"].nunique()
    which = f"; they are identical in {len(same)} of {count(blocks, 'block')}" + (
        f" ({spans(same)})" if same else ""
    )
    return (
        f"The sets by |mean| and by mean |value| overlap {number(table['jaccard'].mean())} on average "
        f"(chance {number(table['chance'].mean())}){which}."
    )


def variance(table: pd.DataFrame) -> str:
    """Say the mean share of each source, largest first."""
    share = table.groupby("source")["share"].mean().sort_values(ascending=False)
    words = [f"{source} {percent(value)}" for source, value in share.items()]
    content = sum(float(share.get(source, 0.0)) for source in ("prompt", "seed", "interaction"))
    return (
        f"Averaged over {count(len(table.drop_duplicates(['block', 'channel'])), 'massive channel')} (one "
        f"per block and channel), the variance comes from {listing(words)}. Prompt, seed and their "
        f"interaction together make {percent(content)}."
    )


def births(table: pd.DataFrame) -> str:
    """Say who makes the largest write into the leading channels, and its part of all writes there."""
    by_size = table.sort_values("value", key=abs, ascending=False, kind="stable")
    peak = by_size.drop_duplicates("channel").head(3)
    words = [
        f"channel {int(row.channel)} by {place_of_write(str(row.writer), int(row.block))} "
        f"({percent(row.share)} of all that is written into it)"
        for row in peak.itertuples()
    ]
    return f"Largest single writes: into {listing(words)}."


def adaln(table: pd.DataFrame) -> str:
    """Say in which AdaLN signals massive channels stand out, and by how much."""
    mean = table.groupby("signal")["percentile"].mean().sort_values(ascending=False)
    gates = table[table["signal"].str.startswith("gate")]
    high = ""
    if len(gates):
        extreme = int((gates["percentile"] >= 95).sum())
        of_all = count(len(gates), "gate value")
        high = f" {extreme} of {of_all} lie at or above the 95th percentile (5 % by chance)."
    return (
        f"Mean percentile of massive channels: highest in the {signal_name(mean.index[0])} "
        f"({number(mean.iloc[0])}), lowest in the {signal_name(mean.index[-1])} ({number(mean.iloc[-1])}); "
        f"50 would be no preference.{high}"
    )


def token_maps(table: pd.DataFrame) -> str:
    """Say how much of a map is layout, and how much the same value at every token."""
    coordinates = ["prompt_index", "seed", "stream", "branch", "block", "step", "channel"]
    value = table.groupby(coordinates)["value"]
    variance = value.var(ddof=0)
    spatial = variance / (variance + value.mean() ** 2).where(lambda energy: energy > 0)
    samples = len(table.drop_duplicates(["prompt_index", "seed"]))
    return (
        f"In {count(len(spatial), 'map')} of {count(samples, 'image')}, on average "
        f"{percent(spatial.mean())} of a map's energy varies over the image; the rest is the same at every "
        "token."
    )


def channel_set(blocks: dict[str, list[int]], nearest: str = "") -> str:
    """Say how many different channels a set holds, and which are in every block.

    `nearest` is what to add where it holds none.
    """
    chosen = {int(block): list(channels) for block, channels in blocks.items() if channels}
    if not chosen:
        return f"No channel passes the rule of this run in any block. {nearest}".strip()
    distinct = {channel for channels in chosen.values() for channel in channels}
    everywhere = sorted(set.intersection(*(set(channels) for channels in chosen.values())))
    words = (
        f"{'channel' if len(everywhere) == 1 else 'channels'} {listing(everywhere)} "
        f"{'is' if len(everywhere) == 1 else 'are'} in every one of them"
        if everywhere
        else "none is in every one of them"
    )
    return f"{count(len(distinct), 'different channel')} in {count(len(chosen), 'block')}; {words}."
