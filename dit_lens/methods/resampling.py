"""Intervals and p-values of one sample of paired differences, by resampling: no normality is assumed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from dit_lens.errors import BadInput

Array = npt.NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]
IntervalMethod = Literal["bca", "percentile"]

RESAMPLES = 9999
MIN_DRAWS = 5
"""Fewest random draws among which a rank says anything: its p-value cannot fall below 1 / (draws + 1)."""

NO_SPREAD = "the differences do not vary"
"""Note of an interval of width 0: resampling cannot tell how far off equal differences are."""

EXACT = "the rate does not vary: exact binomial interval (Clopper–Pearson)"
"""Note of the interval of a rate that is the same in every unit."""

_ALTERNATIVES = ("two-sided", "greater", "less")
_BATCH_VALUES = 2**22  # float64 values that one batch of sign flips may hold: 32 MiB


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a mean; the ends are None where none is defined, and `note` says why."""

    low: float | None
    high: float | None
    note: str = ""


def mean_interval(
    differences: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    method: IntervalMethod = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Bootstrap confidence interval of the mean of one sample.

    Args:
        differences: float [n], finite; the unit of resampling is one entry (a prompt).
        confidence: share of such intervals that cover the true mean, in (0, 1).
        method: `bca` corrects percentile ends for bias and skewness; where that correction is undefined the
            percentile interval is given, and the note says so.

    Raises:
        BadInput: not one sample of finite values, or a confidence or method that does not exist.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 14.

    >>> mean_interval([2.0, 2.0, 2.0])
    Interval(low=2.0, high=2.0, note='the differences do not vary')
    """
    x = _sample(differences)
    if not 0 < confidence < 1:
        raise BadInput(f"The confidence is {confidence}; it must lie between 0 and 1, for example 0.95.")
    if method not in ("bca", "percentile"):
        raise BadInput(f"There is no bootstrap interval {method!r}; there are 'bca' and 'percentile'.")
    if len(x) < 2:
        return Interval(None, None, "one value has no interval")
    if not _varies(x):
        mean = float(x.mean())
        return Interval(mean, mean, NO_SPREAD)
    low, high = _bootstrap(x, confidence, "BCa" if method == "bca" else "percentile", resamples, seed)
    if math.isfinite(low) and math.isfinite(high):
        return Interval(low, high)
    low, high = _bootstrap(x, confidence, "percentile", resamples, seed)
    return Interval(low, high, "percentile interval, since the BCa correction is undefined here")


def rate_interval(
    shares: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Confidence interval of a rate: as `mean_interval`, and the exact binomial one where nothing varies.

    0 of 16 does not mean that the rate is 0: resampling equal values gives an interval of width 0, and
    Clopper and Pearson's of as many trials one that ends at 0.206. It is too wide, never too narrow, for
    shares that are means of several trials.

    Args:
        shares: float [n] in [0, 1], one per unit (a pair of prompts).

    Raises:
        BadInput: as `mean_interval`, and for values outside [0, 1].

    Source: Clopper and Pearson, Biometrika 26, 1934.

    >>> found = rate_interval([0.0] * 16)
    >>> found.low, round(found.high, 3), found.note
    (0.0, 0.206, 'the rate does not vary: exact binomial interval (Clopper–Pearson)')
    """
    x = _sample(shares)
    if x.min() < 0 or x.max() > 1:
        outside = x.min() if x.min() < 0 else x.max()
        raise BadInput(f"A rate lies between 0 and 1, and one of these is {outside:g}.")
    plain = mean_interval(x, confidence=confidence, resamples=resamples, seed=seed)
    if plain.note != NO_SPREAD:
        return plain
    # A share strictly between 0 and 1 may be no whole number of successes: then the wider end of both.
    successes = round(float(x.mean()) * len(x), 9)
    low, high = (
        stats.binomtest(k, len(x)).proportion_ci(confidence, method="exact")
        for k in (math.floor(successes), math.ceil(successes))
    )
    return Interval(float(low.low), float(high.high), EXACT)


def _bootstrap(x: Array, confidence: float, method: str, resamples: int, seed: int) -> tuple[float, float]:
    with warnings.catch_warnings():
        # An undefined correction comes back as NaN, which the caller handles.
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (x,),
            np.mean,
            confidence_level=confidence,
            method=method,
            n_resamples=resamples,
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip_p(
    differences: npt.ArrayLike,
    *,
    alternative: Alternative = "two-sided",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Any:
    """p-value of "the differences are symmetric about 0", by flipping their signs.

    Exact (all 2ⁿ sign patterns) where `resamples` allows as many, else from `resamples` random patterns with
    the observed one counted among them, so that p is never 0. The smallest possible two-sided p is 2 / 2ⁿ.

    Args:
        differences: float [..., n], finite. Every leading entry is a test of its own (a map's cells); all
            see the same sign patterns.

    Returns:
        p: a float for [n], else float64 [...].

    Raises:
        BadInput: no values, values that are not finite, or an alternative that does not exist.

    Source: Fisher's permutation test of paired differences, as `scipy.stats.permutation_test` runs it.

    >>> round(sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 5)
    0.03125
    """
    x = _finite(differences)
    if alternative not in _ALTERNATIVES:
        raise BadInput(f"There is no alternative {alternative!r}; there are {', '.join(_ALTERNATIVES)}.")
    # The sign patterns and the two sides of each pair are materialised; the batch keeps that small.
    batch = max(1, _BATCH_VALUES // (2 * x.size))
    found = stats.permutation_test(
        (x,),
        _mean,
        permutation_type="samples",
        vectorized=True,
        axis=-1,
        n_resamples=resamples,
        alternative=alternative,
        batch=batch,
        rng=np.random.default_rng(seed),
    )
    p = np.asarray(found.pvalue, dtype=float)
    return float(p) if p.ndim == 0 else p


def _mean(x: Array, axis: int = -1) -> Any:
    return np.mean(x, axis=axis)


def smallest_p(n: int) -> float:
    """The smallest two-sided p-value that `n` paired differences can give.

    >>> smallest_p(5), smallest_p(6)
    (0.0625, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - n))


def rank_p(
    treatment: float, draws: npt.ArrayLike, *, alternative: Literal["greater", "less"] = "greater"
) -> float | None:
    """p-value of a treatment's rank among random draws: (1 + #{draws at least as extreme}) / (draws + 1).

    Args:
        treatment: its statistic, for instance the mean over prompts.
        draws: the same statistic of every random draw, float [R].

    Returns:
        p, or None for fewer than five draws, among which no rank says anything.

    Raises:
        BadInput: values that are not finite, or an alternative that does not exist.

    >>> rank_p(5.0, [1.0, 2.0, 3.0, 4.0])
    >>> rank_p(5.0, [1.0, 2.0, 3.0, 4.0, 6.0, 0.0, 0.5, 0.2, 0.1])
    0.2
    """
    x = np.asarray(draws, dtype=float).ravel()
    if not (np.isfinite(x).all() and math.isfinite(treatment)):
        raise BadInput("A rank needs finite values; drop the prompts that are not finite in any draw.")
    if alternative not in ("greater", "less"):
        raise BadInput(f"There is no alternative {alternative!r} for a rank; there are greater and less.")
    if len(x) < MIN_DRAWS:
        return None
    extreme = x >= treatment if alternative == "greater" else x <= treatment
    return float((1 + extreme.sum()) / (len(x) + 1))


def _finite(values: npt.ArrayLike) -> Array:
    x = np.asarray(values, dtype=float)
    if x.ndim == 0 or x.size == 0:
        raise BadInput(f"There are no differences to test: got an array of shape {list(x.shape)}.")
    if not np.isfinite(x).all():
        raise BadInput(
            f"{int((~np.isfinite(x)).sum())} of {x.size} differences are not finite; leave those out."
        )
    return x


def _sample(values: npt.ArrayLike) -> Array:
    x = _finite(values)
    if x.ndim != 1:
        raise BadInput(f"An interval is for one sample [n], got shape {list(x.shape)}.")
    return x


def _varies(x: Array) -> bool:
    """Whether the spread exceeds float64 rounding of the largest value."""
    return bool(np.ptp(x) > 8 * np.finfo(float).eps * np.abs(x).max())
