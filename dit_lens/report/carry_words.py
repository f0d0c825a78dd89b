"""What is carried, in words: names and orders of metrics, groups of pairs, directions and axes.

Names that are not known here are shown as they stand in the table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dit_lens.methods.metrics import LAST, Quantity, quantity

if TYPE_CHECKING:
    import pandas as pd

LEVEL = ("metric", "mean", "ci_low", "ci_high", "n")
MOVED = "moved."  # before an attribute: the share of its pairs in which it reads as the source's

OTHER_WAYS = ("all", "all_but_massive", "latent_blend", "pixel_blend", "prompt_blend")
"""Families that do not carry as many channels as massive: more of them, or something else altogether."""

ATTRIBUTES = ("shape", "colour", "size", "position", "background", "detail")
_WAYS = ("forward", "backward", "noised", "inverted")
AXES = {
    "blocks": "carried in these blocks",
    "steps": "carried at these steps",
    "k": "channels of each block (k)",
    "part": "part that is carried",
}


def carry_words(metric: str) -> Quantity:
    """Return what a metric is called where activations are carried from a source into a target.

    >>> carry_words("ssim").title, carry_words("moved.shape").axis
    ('SSIM with the unedited target', "shape that reads as the source's (share)")
    """
    known = quantity(metric)
    here = known.in_transport
    return known if here is None or not here.title else replace(known, title=here.title)


def unmoved(metric: str) -> float | None:
    """Return a metric's value for the target itself; None where none can be drawn."""
    here = quantity(metric).in_transport
    return None if here is None else here.unmoved


def carry_metrics(table: pd.DataFrame, first: str | None = None) -> list[str]:
    """Return the metrics of a transport table in the order of a report, without those of one attribute."""
    names = {str(name) for name in table["metric"] if not str(name).startswith(MOVED)}
    return sorted(names, key=lambda name: (name != first, _place(name), name))


def _place(metric: str) -> int:
    here = quantity(metric).in_transport
    return LAST if here is None else here.place


def pair_groups(table: pd.DataFrame) -> list[str]:
    """Return the groups of pairs: those that differ in several attributes, then attribute by attribute."""
    return in_order(table["pair_group"], ("all", *ATTRIBUTES))


def ways(table: pd.DataFrame) -> list[str]:
    """Return the directions of a text transport, or the origins of an image transport, in order."""
    return in_order(table[way_column(table)], _WAYS)


def whole_strength(rows: pd.DataFrame) -> float:
    """Return the strength to compare at: 1, where the source's activations replace the target's."""
    there = rows["strength"].dropna().astype(float)
    return 1.0 if (there == 1).any() else float(there.max())


def in_order(values: Any, known: Sequence[str]) -> list[str]:
    """Return different values as text: those that are known in their order, then others by name."""
    names = {str(value) for value in values}
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def way_column(table: pd.DataFrame) -> str:
    """Return the column that says from where to where: `direction`, or `origin` of a source picture."""
    return "origin" if "origin" in table.columns else "direction"


def unit_word(table: pd.DataFrame) -> str:
    """Return what n counts: a pair, a picture, or a target where one picture was carried into several.

    >>> import pandas as pd
    >>> unit_word(pd.DataFrame({"direction": ["forward"]}))
    'pair'
    >>> unit_word(pd.DataFrame({"origin": ["noised"], "unit": ["target"]}))
    'target'
    """
    if way_column(table) == "direction":
        return "pair"
    known = [unit for unit in ("target", "picture") if "unit" in table and unit in set(table["unit"])]
    return known[0] if known else "picture"


def way_words(way: str) -> str:
    """Return a direction or an origin as words."""
    return {
        "forward": "first prompt into second",
        "backward": "second prompt into first",
        "noised": "source picture noised",
        "inverted": "source picture inverted",
    }.get(way, way)


def upper_first(text: str) -> str:
    """Return a sentence's beginning."""
    return text[:1].upper() + text[1:]


def natural(value: str) -> tuple[Any, ...]:
    """Return a key that sorts numbers and ranges as numbers, and everything at once last.

    >>> sorted(["all", "4-7", "16", "mean", "0-3"], key=natural)
    ['0-3', '4-7', '16', 'mean', 'all']
    """
    numbers = tuple(float(part) for part in re.findall(r"\d+(?:\.\d+)?", value))
    return value == "all", not numbers, numbers, value
