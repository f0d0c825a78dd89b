"""Many tests at once: Holm for the cells a study declares, Benjamini–Hochberg for the maps it explores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from dit_lens.errors import BadInput, did_you_mean

Array = npt.NDArray[np.float64]
Correction = Literal["holm", "benjamini-hochberg", "none"]

CORRECTIONS: dict[str, str] = {
    "holm": "Holm (family-wise error)",
    "benjamini-hochberg": "Benjamini–Hochberg (false discovery rate)",
    "none": "no correction",
}


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down p-values: the chance of any false positive among the tests stays below alpha.

    An absent p stays absent and does not count as a test. Source: Holm, Scand. J. Statist. 6, 1979.

    >>> [round(q, 3) for q in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    return _where_known(p, _holm)


def benjamini_hochberg(p: Sequence[float | None]) -> list[float | None]:
    """Benjamini–Hochberg p-values: among the cells at or below q, a share of q is expected to be false.

    An absent p stays absent and does not count as a test. Source: J. R. Statist. Soc. B 57, 1995.

    >>> [round(q, 3) for q in benjamini_hochberg([0.01, 0.04, 0.03])]
    [0.03, 0.04, 0.04]
    """
    return _where_known(p, lambda known: np.asarray(stats.false_discovery_control(known, method="bh")))


def adjusted(p: Sequence[float | None], correction: str) -> list[float | None]:
    """p-values after a correction by name; `none` leaves every test as it is (all absent in the result).

    Raises:
        BadInput: no such correction, or a p-value outside [0, 1].
    """
    if correction not in CORRECTIONS:
        raise BadInput(
            f"There is no correction {correction!r}; there are {', '.join(CORRECTIONS)}."
            f"{did_you_mean(correction, CORRECTIONS)}"
        )
    if correction == "none":
        return [None] * len(p)
    return holm(p) if correction == "holm" else benjamini_hochberg(p)


def _holm(p: Array) -> Array:
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    result = np.empty_like(p)
    result[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return result


def _where_known(p: Sequence[float | None], rule: Callable[[Array], Any]) -> list[float | None]:
    at = [i for i, value in enumerate(p) if value is not None]
    known = np.array([p[i] for i in at], dtype=float)
    if not ((known >= 0) & (known <= 1)).all():
        raise BadInput(f"A p-value lies outside [0, 1]: {known[~((known >= 0) & (known <= 1))][0]}.")
    result: list[float | None] = [None] * len(p)
    if at:
        for i, value in zip(at, rule(known), strict=True):
            result[i] = float(value)
    return result
