"""One sentence per table of what was carried, for titles of figures and for runs that judged no claim."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dit_lens.report.carry_words import (
    ATTRIBUTES,
    AXES,
    OTHER_WAYS,
    in_order,
    unit_word,
    way_column,
    way_words,
    ways,
    whole_strength,
)
from dit_lens.report.text import count, listing, number, percent, plot_text

_AXIS_WORDS = {"k": "k =", "part": "the part"}


def strength_sentence(rows: pd.DataFrame) -> str:
    """Return the levels at full strength in the first direction, as the end of a title."""
    at = whole_strength(rows)
    there = rows[(rows["strength"] == at) & (rows[way_column(rows)].astype(str) == ways(rows)[0])]
    level = there.drop_duplicates("family").set_index("family")["mean"].astype(float).dropna()
    controls = [family for family in level.index if family != "massive" and family not in OTHER_WAYS]
    said = [f"massive channels {number(level['massive'])}"] if "massive" in level.index else []
    if controls:
        low, high = level[controls].min(), level[controls].max()
        spread = number(low) if len(controls) == 1 else f"{number(low)} to {number(high)}"
        said.append(f"as many other channels {spread}")
    return f" at strength {number(at)}{first_way(rows)}: {', '.join(said)}" if said else " over strength"


def first_way(rows: pd.DataFrame) -> str:
    """Return which direction or origin a sentence speaks of, where there are several."""
    return f", {plot_text(way_words(ways(rows)[0]))}" if len(ways(rows)) > 1 else ""


def attribute_sentence(rows: pd.DataFrame, strength: float) -> str:
    """Return which attributes massive channels move most and which least, all that are tied, with n."""
    massive = rows[rows["family"] == "massive"]
    alone = massive[massive["pair_group"] == massive["attribute"]]
    # Attributes are compared on pairs of one sort; those that differ in several read them all at once.
    every = alone["attribute"].nunique() == massive["attribute"].nunique()
    chosen = (alone if every else massive[massive["pair_group"] == "all"]).dropna(subset=["mean"])
    if chosen.empty:
        return f"what moves at strength {number(strength)}"
    unit = f" {unit_word(rows)}s"
    chosen = chosen.assign(mean=chosen["mean"].astype(float))
    ends = [chosen[np.isclose(chosen["mean"], end)] for end in (chosen["mean"].max(), chosen["mean"].min())]
    said = f"at strength {number(strength)}, massive channels move"
    if len(ends[0]) == len(chosen):
        alike = " alike" if len(chosen) > 1 else ""
        return f"{said} {_attributes_of(chosen)}{alike} ({_share(chosen, unit)})"
    most, least = ends
    return (
        f"{said} {_attributes_of(most)} most ({_share(most, unit)}), "
        f"{_attributes_of(least)} least ({_share(least, unit)})"
    )


def _attributes_of(rows: pd.DataFrame) -> str:
    names = in_order(rows["attribute"], ATTRIBUTES)
    return listing([plot_text(name.replace("_", " ")) for name in names])


def _share(rows: pd.DataFrame, unit: str) -> str:
    return f"{percent(rows['mean'].iloc[0])}, {_counted(rows, unit)}"


def _counted(rows: pd.DataFrame, unit: str) -> str:
    """Return n, as a range where rows differ in it."""
    low, high = int(rows["n"].min()), int(rows["n"].max())
    several = unit if (low, high) != (1, 1) else unit.removesuffix("s")
    return f"n = {low}{several}" if low == high else f"n = {low} to {high}{several}"


def curve_sentence(rows: pd.DataFrame) -> str:
    """Return which single choice of each axis carries most of the metric, for massive channels.

    It is the highest of several that nothing was tested against, and said to be: with n, and with the axes
    along which some control was carried too.
    """
    massive = rows[(rows["family"] == "massive") & (rows["value"].astype(str) != "all")].dropna(
        subset=["mean"]
    )
    said, peaks = [], []
    for axis in in_order(massive["axis"], tuple(AXES)):
        own = massive[massive["axis"].astype(str) == axis].reset_index(drop=True)
        peaks.append(own.loc[own["mean"].astype(float).idxmax()])
        what = _AXIS_WORDS.get(axis, axis)
        peak = plot_text(str(peaks[-1]["value"]), limit=24)
        said.append(f"{what} {peak} ({number(peaks[-1]['mean'])})")
    if not said:
        return "massive channels were not carried in parts"
    counts = _counted(pd.DataFrame(peaks), " pairs")
    return f"highest for {listing(said)}; exploratory, {counts}{_control_words(rows)}"


def _control_words(rows: pd.DataFrame) -> str:
    """Return where no control stands beside massive channels; nothing where one always does."""
    axes, with_control = controlled_axes(rows)
    if axes == with_control:
        return ""
    over = f" except over {listing([plot_text(axis) for axis in with_control])}" if with_control else ""
    return f", no control beside it{over}"


def controlled_axes(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the axes along which massive channels were carried, and those where a control was too."""
    part = rows[rows["value"].astype(str) != "all"].dropna(subset=["mean"])
    axes = in_order(part.loc[part["family"] == "massive", "axis"], tuple(AXES))
    beside = set(part.loc[~part["family"].isin(["massive", *OTHER_WAYS]), "axis"].astype(str))
    return axes, [axis for axis in axes if axis in beside]


def guidance_sentence(rows: pd.DataFrame) -> str:
    """Return what the largest weight makes of the smallest one's level, with CFG and without."""
    said = []
    massive = rows[rows["family"] == "massive"].sort_values("weight", kind="stable")
    for cfg in (True, False):
        own = massive[[(str(value).lower() == "true") == cfg for value in massive["cfg"]]]
        if len(own):
            said.append(
                f"from {number(own['mean'].iloc[0])} (w = {number(own['weight'].iloc[0])}) to "
                f"{number(own['mean'].iloc[-1])} (w = {number(own['weight'].iloc[-1])}) "
                f"{'with' if cfg else 'without'} CFG"
            )
    return f"massive channels, {listing(said)}" if said else f"{count(len(rows), 'level')} over the weight"
