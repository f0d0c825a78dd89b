"""Tables of carrying: every way at every strength, and the curves along blocks, steps, k and part.

Means are over units (pairs of prompts, pictures); what a unit has more of is averaged first. `ci_note` says
where an interval is no BCa interval: a rate that is the same in every unit has the exact binomial one.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dit_lens.methods.questions.levels import is_rate, level_of
from dit_lens.methods.questions.question import Judging
from dit_lens.methods.resampling import NO_SPREAD
from dit_lens.methods.transport.arms import carried_families
from dit_lens.methods.transport.blends import KINDS as BLENDS
from dit_lens.methods.transport.pairs import EVERYTHING
from dit_lens.zoo.scenes import ATTRIBUTES


def families(effects: pd.DataFrame, metrics: Sequence[str], judging: Judging, *, side: str) -> pd.DataFrame:
    """The table of families: group × side × family × strength × metric, in the order of a report.

    `side` names the column that tells directions, or origins of a picture's latents, apart.
    """
    keys = ["group", "side", "family", "strength", "metric"]
    order = {family: i for i, family in enumerate((*carried_families(), *BLENDS))}
    groups = {name: i for i, name in enumerate((*ATTRIBUTES, EVERYTHING))}
    rows = [
        (*at, *_level(of, at[-1], judging)) for at, of in effects.groupby(keys, sort=False, observed=True)
    ]
    table = pd.DataFrame(
        rows,
        columns=["pair_group", side, "family", "strength", "metric", "mean", "ci_low",
                 "ci_high", "n", "ci_note"],
    )  # fmt: skip
    places = [
        table["pair_group"].map(lambda g: groups.get(g, len(groups))),
        table["family"].map(lambda f: order.get(f, len(order))),
        table["metric"].map(lambda m: list(metrics).index(m)),
    ]
    ranked = table.assign(_g=places[0], _f=places[1], _m=places[2])
    ranked = ranked.sort_values(["_g", side, "_f", "strength", "_m"], kind="stable")
    return ranked.drop(columns=["_g", "_f", "_m"]).reset_index(drop=True)


def curves(effects: pd.DataFrame, metrics: Sequence[str], judging: Judging) -> pd.DataFrame:
    """The table `transport_curves`; an axis' point "all" is the comparison of families, on its units."""
    varied = effects[effects["axis"] != ""]
    rows = []
    for (axis, family), part in varied.groupby(["axis", "family"], sort=False):
        points = [(at, each) for at, each in part.groupby("at", sort=False)]
        if axis != "k":
            whole = effects[
                (effects["axis"] == "")
                & (effects["family"] == family)
                & (effects["strength"] == 1)
                & (effects["draw"] == 0)
                & effects["unit"].isin(set(part["unit"]))
            ]
            points.append(("all", whole))
        for at, each in points:
            for metric in metrics:
                here = each[each["metric"] == metric]
                if len(here):
                    rows.append((axis, str(at), family, metric, *_level(here, metric, judging)))
    columns = ["axis", "value", "family", "metric", "mean", "ci_low", "ci_high", "n", "ci_note"]
    return pd.DataFrame(rows, columns=columns)


def _level(rows: pd.DataFrame, metric: str, judging: Judging) -> tuple[float, float, float, int, str]:
    """(mean, interval, n, note) over units; sides, seeds and draws of a unit are averaged first."""
    values = rows.dropna(subset="value").groupby("unit")["value"].mean().to_numpy()
    found = level_of(values, judging, rate=is_rate(metric))
    note = "the values do not vary" if found.note == NO_SPREAD else found.note
    return found.mean, found.low, found.high, found.n, note
