"""One sentence per effect table, for runs that judged no claim on it: numbers, and no verdict."""

from __future__ import annotations

import pandas as pd

from dit_lens.methods.metrics import quantity
from dit_lens.report.effect_words import families_in_order, family_name, metrics_in_order, p_words
from dit_lens.report.text import count, listing, number


def _head(metric: str) -> str:
    title = quantity(metric).title
    return title[:1].upper() + title[1:]


def _of(table: pd.DataFrame, metric: str | None) -> tuple[str, pd.DataFrame]:
    name = metrics_in_order(table["metric"])[0] if metric is None else metric
    return name, table[table["metric"] == name]


def disruption(table: pd.DataFrame, metric: str | None = None) -> str:
    """Say massive − control for every control, in one metric."""
    name, rows = _of(table, metric)
    rows = rows.drop_duplicates("control").set_index("control")
    words = [
        f"{number(rows.loc[kind, 'estimate'])} against {family_name(kind)} (95 % CI "
        f"{number(rows.loc[kind, 'ci_low'])} to {number(rows.loc[kind, 'ci_high'])}, n = "
        f"{int(rows.loc[kind, 'n'])}, corrected {p_words(rows.loc[kind, 'p_adjusted'])})"
        for kind in families_in_order(rows.index)
    ]
    return f"{_head(name)}, massive − control: {listing(words)}."


def bias_or_carrier(table: pd.DataFrame, metric: str | None = None) -> str:
    """Say the level of every arm, in one metric."""
    name, rows = _of(table, metric)
    words = [
        f"{number(row.mean)} ({row.label})"
        for row in rows[["label", "mean"]].itertuples(index=False, name="Row")
    ]
    clean = rows["clean_mean"].dropna()
    beside = f"; the clean image has {number(clean.iloc[0])}" if len(clean) else ""
    return f"{_head(name)}: {listing(words)}{beside}."


def semantics_or_detail(table: pd.DataFrame) -> str:
    """Say what editing all blocks, and single ones on average, changes in the first two metrics."""
    said = []
    for name in metrics_in_order(table["metric"])[:2]:
        rows = table[table["metric"] == name]
        parts = []
        for family in families_in_order(rows["family"]):
            own = rows[rows["family"] == family]
            levels = [
                (words, own.loc[own["protocol"] == protocol, "change"].mean())
                for protocol, words in (
                    ("all_blocks", "all blocks"),
                    ("single_block", "one block, on average"),
                )
            ]
            known = [f"{number(level)} ({words})" for words, level in levels if pd.notna(level)]
            parts.append(f"{family_name(family)} {listing(known)}")
        said.append(f"{_head(name)}: {'; '.join(parts)}.")
    return " ".join(said)


def single_or_all(table: pd.DataFrame, metric: str | None = None) -> str:
    """Say where a single block differs most from the control, and what all blocks do at once."""
    name, rows = _of(table, metric)
    rows = rows[(rows["family"] == "massive") & rows["difference"].notna()]
    single, whole = rows[rows["block"].notna()], rows[rows["block"].isna()]
    parts = []
    if len(single):
        peak = single.loc[single["difference"].abs().idxmax()]
        parts.append(
            f"of single blocks, block {int(peak['block'])} differs most ({number(peak['difference'])}, 95 % "
            f"CI {number(peak['difference_low'])} to {number(peak['difference_high'])}, corrected "
            f"{p_words(peak['p_adjusted'])})"
        )
    if len(whole):
        parts.append(f"all blocks at once differ by {number(whole['difference'].iloc[0])}")
    return f"{_head(name)}, massive − control: {'; '.join(parts) or 'nothing to compare'}."


def dose(table: pd.DataFrame, metric: str | None = None) -> str:
    """Say the level at the smallest and at the largest dose, for every family."""
    name, rows = _of(table, metric)
    words = []
    for family in families_in_order(rows["family"]):
        own = rows[rows["family"] == family].sort_values("k")
        words.append(
            f"{family_name(family)} from {number(own['mean'].iloc[0])} (k = {int(own['k'].iloc[0])}) to "
            f"{number(own['mean'].iloc[-1])} (k = {int(own['k'].iloc[-1])})"
        )
    return f"{_head(name)}: {listing(words)}."


def effect_map(table: pd.DataFrame, metric: str | None = None, direction: str | None = None) -> str:
    """Say in how many cells massive exceed the control, in how many they fall short, and where most."""
    name, rows = _of(table, metric)
    rows = rows[rows["family"] == "massive"]
    direction = rows["direction"].min() if direction is None else direction
    rows = rows[rows["direction"] == direction].dropna(subset=["difference"])
    if "control" in rows.columns and len(rows):
        # The treatment's rows are repeated for every control; the section shows the first one first.
        rows = rows[rows["control"] == families_in_order(rows["control"])[0]]
    where = f" ({direction})" if direction else ""
    if rows.empty:
        return f"{_head(name)}{where}: this map has no control to compare with."
    passing = rows[rows["p_adjusted"] <= 0.05]
    more, less = int((passing["difference"] > 0).sum()), int((passing["difference"] < 0).sum())
    peak = rows.loc[rows["difference"].abs().idxmax()]
    return (
        f"{_head(name)}{where}: massive channels exceed their control in {more} of "
        f"{count(len(rows), 'cell')} and fall short of it in {less} (Benjamini–Hochberg, 0.05; n = "
        f"{int(rows['n'].max())} prompts). The largest difference is "
        f"{number(peak['difference'])}, in block {int(peak['block'])} at step {int(peak['step'])}. "
        "This is exploration: no cell was named beforehand."
    )
