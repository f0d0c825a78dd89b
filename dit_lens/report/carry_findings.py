"""One sentence per table of what was carried, for titles of figures and for runs that judged no claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.report.carry_words import (
    AXES,
    OTHER_WAYS,
    in_order,
    way_column,
    way_words,
    ways,
    whole_strength,
)
from dit_lens.report.text import count, listing, number, percent, plot_text

if TYPE_CHECKING:
    import pandas as pd


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
    """Return which attribute massive channels move most and which least."""
    massive = rows[rows["family"] == "massive"]
    alone = massive[massive["pair_group"] == massive["attribute"]]
    # Attributes are compared on pairs of one sort; those that differ in several read them all at once.
    every = alone["attribute"].nunique() == massive["attribute"].nunique()
    level = (alone if every else massive[massive["pair_group"] == "all"]).set_index("attribute")["mean"]
    level = level.astype(float).groupby(level=0).mean()
    if level.empty:
        return f"what moves at strength {number(strength)}"
    most, least = str(level.idxmax()), str(level.idxmin())
    said = f"{plot_text(most)} most (in {percent(level[most])} of pairs)"
    if most != least:
        said += f", {plot_text(least)} least ({percent(level[least])})"
    return f"at strength {number(strength)}, massive channels move {said}"


def curve_sentence(rows: pd.DataFrame) -> str:
    """Return which single choice of each axis carries most of the metric, for massive channels."""
    massive = rows[(rows["family"] == "massive") & (rows["value"].astype(str) != "all")].dropna(
        subset=["mean"]
    )
    said = []
    for axis in in_order(massive["axis"], tuple(AXES)):
        own = massive[massive["axis"].astype(str) == axis].reset_index(drop=True)
        peak = own.loc[own["mean"].astype(float).idxmax()]
        what = {"k": "k =", "part": "the part"}.get(axis, axis)
        said.append(f"{what} {plot_text(str(peak['value']), limit=24)} ({number(peak['mean'])})")
    return f"highest for {listing(said)}" if said else "massive channels were not carried in parts"


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
