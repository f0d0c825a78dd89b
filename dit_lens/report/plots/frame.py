"""Choosing rows of a tidy table, with errors that name what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.report.text import number

STEP_AXIS = "denoising step (0 = pure noise)"
BLOCK_AXIS = "block"


def rows_of(table: pd.DataFrame, columns: Sequence[str], **wanted: Any) -> pd.DataFrame:
    """Return the rows at the coordinates `wanted` (None: any), in a fresh frame.

    Raises `BadInput` for a missing column, and where no row is left, with the values each coordinate has.
    """
    missing = [name for name in (*columns, *wanted) if name not in table.columns]
    if missing:
        raise BadInput(
            f"This figure needs the column(s) {', '.join(missing)}; the table has {', '.join(table.columns)}."
        )
    chosen = table
    for name, value in wanted.items():
        if value is None:
            continue
        left = chosen[chosen[name] == value]
        if left.empty:
            there = sorted({str(item) for item in chosen[name].unique()})
            raise BadInput(
                f"No row has {name} = {value!r}; there are: "
                f"{', '.join(there) if there else 'no rows at all'}."
            )
        chosen = left
    if chosen.empty:
        raise BadInput("The table has no rows, so there is nothing to draw.")
    return chosen.reset_index(drop=True)


def leading_channels(table: pd.DataFrame, by: str, limit: int = 6) -> list[int]:
    """Return at most `limit` channels, the one with the largest `by` (in magnitude) first."""
    peak = table[by].abs().groupby(table["channel"]).max().sort_values(ascending=False, kind="stable")
    return [int(channel) for channel in peak.index[:limit]]


def where(stream: str | None, branch: str | None, statistic: str | None = None) -> str:
    """Return the coordinates of a figure as words for its title."""
    parts = [
        f"{stream} stream" if stream else "",
        {"cond": "conditional branch", "uncond": "unconditional branch", None: ""}.get(
            branch, f"branch {branch}"
        ),
        statistic or "",
    ]
    return ", ".join(part for part in parts if part)


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers (1, 2, 5 × powers of ten) between two positive values, at most eight.

    >>> log_ticks(0.9, 22)
    [1.0, 2.0, 5.0, 10.0, 20.0]
    """
    every = [lead * 10.0**power for power in range(-9, 12) for lead in (1, 2, 5)]
    inside = [tick for tick in every if low <= tick <= high]
    if len(inside) > 8:
        inside = [tick for tick in inside if f"{tick:e}".startswith("1")]
    return inside


def ratio_ticks(low: float, high: float) -> dict[str, Any]:
    """Return plotly's tick attributes for a logarithmic axis of ratios between two positive values."""
    ticks = log_ticks(low, high) or [low]
    return {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{number(tick)}×" for tick in ticks]}
