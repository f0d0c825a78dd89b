"""The effects table, looked up: means with intervals, and paired differences of groups of arms.

What is compared is a *contrast*, {arm: weight}: one arm, the mean of several draws, a slope over doses. A
(prompt, seed) counts for a contrast only where all of its arms have a finite value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.methods.arms import CLEAN, Arm
from dit_lens.methods.controls import is_drawn
from dit_lens.methods.effect_tables import compare
from dit_lens.methods.metrics import quantity
from dit_lens.methods.paired_effects import no_effect, rank_note
from dit_lens.methods.questions.question import Judging
from dit_lens.methods.resampling import mean_interval, rank_p, rate_interval
from dit_lens.methods.verdicts import Direction, Effect

Array = npt.NDArray[np.float64]
Contrast = Mapping[str, float]

_COLUMNS = ("arm", "prompt", "seed", "metric", "value")


@dataclass(frozen=True)
class Level:
    """A mean over prompts with its interval, NaN where there is none; `note` says how it was made."""

    mean: float
    low: float
    high: float
    n: int
    note: str = ""

    def columns(self, mean: str = "mean", low: str = "ci_low", high: str = "ci_high") -> dict[str, Any]:
        """As columns of a table; `n` comes last."""
        return {mean: self.mean, low: self.low, high: self.high, "n": self.n}


@dataclass(frozen=True)
class _Values:
    """One metric: values [pairs, arms], pairs (prompt, seed) sorted, and the number of each one's prompt."""

    pairs: tuple[tuple[str, Any], ...]
    prompts: npt.NDArray[np.int64]
    values: Array
    column: dict[str, int]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _Values:
        frame = rows.pivot(index=["prompt", "seed"], columns="arm", values="value")
        return cls(
            tuple(frame.index),
            pd.factorize(frame.index.get_level_values("prompt"))[0],
            frame.to_numpy(dtype=float),
            {str(arm): i for i, arm in enumerate(frame.columns)},
        )

    def arm(self, name: str) -> Array:
        """[pairs]; NaN for an arm without this metric."""
        if name not in self.column:
            return np.full(len(self.pairs), np.nan)
        return self.values[:, self.column[name]]

    def means(self, values: Array) -> Array:
        """[pairs, n] → [n, prompts], seeds averaged, where all n are finite."""
        finite = np.isfinite(values).all(axis=1)
        _, codes = np.unique(self.prompts[finite], return_inverse=True)
        sums = [np.bincount(codes, weights=column) for column in values[finite].T]
        return np.asarray(sums) / np.bincount(codes)


class Measured:
    """The effects by metric, prompt, seed and arm."""

    def __init__(
        self, effects: pd.DataFrame, judging: Judging | None = None, *, unit: str = "prompt"
    ) -> None:
        """`unit` is what stands in the place of prompts.

        Raises `BadInput` for a missing column, or two values for one arm, prompt, seed and metric.
        """
        missing = [name for name in _COLUMNS if name not in effects]
        if missing:
            raise BadInput(
                f"The effects table has no column {missing[0]!r}; it needs {', '.join(_COLUMNS)} and has "
                f"{', '.join(map(str, effects.columns))}."
            )
        twice = effects.duplicated(["arm", "prompt", "seed", "metric"])
        if twice.any():
            row = effects[twice].iloc[0]
            raise BadInput(
                f"Two values for arm {row['arm']!r}, prompt {row['prompt']!r}, seed {row['seed']} and metric "
                f"{row['metric']!r}: one of them would be counted twice."
            )
        self.judging, self.unit = judging or Judging(), unit
        self._arms = frozenset(effects["arm"])
        self._by_metric = {
            str(metric): _Values.of(rows) for metric, rows in effects.groupby("metric", sort=False)
        }

    def measured(self, metrics: Iterable[str], arm: Arm) -> tuple[str, ...]:
        """Those of `metrics` that have at least one finite value for this arm."""
        return tuple(metric for metric in dict.fromkeys(metrics) if self.has(metric, arm.name))

    def has(self, metric: str, arm: str) -> bool:
        """Whether an arm has a finite value of a metric."""
        held = self._by_metric.get(metric)
        return held is not None and bool(np.isfinite(held.arm(arm)).any())

    def clean(self, metric: str) -> float:
        """Mean of the unedited images, for metrics that rate an image by itself; NaN for others."""
        return self.mean(metric, only(CLEAN)) if self.has(metric, CLEAN.name) else np.nan

    def mean(self, metric: str, contrast: Contrast, *, beside: Sequence[Contrast] = ()) -> float:
        """Mean of a contrast over prompts; with `beside`, over those in which these are known too."""
        values = self._prompts(metric, [contrast, *beside])[0]
        return float(values.mean()) if len(values) else np.nan

    def level(self, metric: str, contrast: Contrast, *, rate: bool = False) -> Level:
        """Mean of a contrast over prompts, with its interval; with `rate`, as `level_of` says."""
        return level_of(self._prompts(metric, [contrast])[0], self.judging, rate=rate)

    def effect(
        self,
        metric: str,
        treatment: Contrast,
        control: Contrast | Sequence[Contrast],
        *,
        control_name: str,
        name: str | None = None,
    ) -> Effect:
        """Paired difference of two contrasts, not corrected; called by its metric unless named.

        Several contrasts are draws of one control: their mean is compared with, and what lies between the
        treatment and each of them is told.
        """
        judging, pairs = self.judging, self._by_metric[metric].pairs if metric in self._by_metric else ()
        draws = [control] if isinstance(control, Mapping) else list(control)
        drawn = [f"control-{i}" for i in range(len(draws))]
        columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        for arm, contrast in zip(["treatment", *drawn], [treatment, *draws], strict=True):
            values, there = self._contrast(metric, contrast)
            if not there.any():
                return no_effect(name or metric, control_name, [], judging.confidence, self.unit)
            kept = [pair for pair, known in zip(pairs, there, strict=True) if known]
            columns["arm"] += [arm] * len(kept)
            columns["prompt"] += [prompt for prompt, _ in kept]
            columns["seed"] += [seed for _, seed in kept]
            columns["metric"] += [metric] * len(kept)
            columns["value"] += values[there].tolist()
        (found,) = compare(
            columns,
            treatment="treatment",
            controls={control_name: drawn},
            direction={metric: quantity(metric).disrupted},
            correction="none",
            confidence=judging.confidence,
            resamples=judging.resamples,
            seed=judging.seed,
            unit=self.unit,
        ).values()
        if is_drawn(control_name) and len(draws) == 1 and found.estimate is not None:
            found = replace(found, draw_estimates=(found.estimate,))
        return found if name is None else replace(found, name=name)

    def rank(
        self, metric: str, treatment: Arm, draws: Sequence[Arm], direction: Direction
    ) -> tuple[float | None, str]:
        """p-value of the treatment's rank among draws (None for fewer than five) and a note about it."""
        values = self._prompts(metric, [only(treatment), *(only(arm) for arm in draws)])
        if len(draws) < 2 or not values.shape[1]:
            return None, ""
        means = values.mean(axis=1)
        p = rank_p(float(means[0]), means[1:], alternative=direction)
        note = rank_note(p, len(draws))
        return p, note if p is None else f"{note}: {p:.2g}"

    def _prompts(self, metric: str, contrasts: Sequence[Contrast]) -> Array:
        """[contrasts, prompts], seeds averaged, where all contrasts are finite."""
        values = np.stack([self._contrast(metric, each)[0] for each in contrasts], axis=1)
        return self._by_metric[metric].means(values)

    def _contrast(self, metric: str, contrast: Contrast) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Values [pairs], NaN where an arm has none, and where any of the arms has one.

        A prompt of another study has no value in any of these arms, and is no missing pair.
        """
        unknown = sorted(set(contrast) - self._arms)
        if unknown or metric not in self._by_metric:
            what = f"arm {unknown[0]!r}" if unknown else f"metric {metric!r}"
            raise BadInput(f"There is no {what} in the effects table; run it, or leave it out.")
        values = np.stack([self._by_metric[metric].arm(arm) for arm in contrast], axis=1)
        weights = np.array(list(contrast.values()))
        result = (values * weights).sum(axis=1)
        if (weights > 0).all() and np.isclose(weights.sum(), 1):
            # A mean of equal values is that value, and not its neighbour in floating point: where an edit
            # does exactly what its controls do, the difference must be 0.
            result = np.clip(result, values.min(axis=1), values.max(axis=1))
        return result, np.asarray(~np.isnan(values).all(axis=1))


def level_of(values: Array, judging: Judging, *, rate: bool = False) -> Level:
    """Mean of one value per unit, with its interval; a `rate` that does not vary gets an exact one.

    >>> round(level_of(np.ones(4), Judging(), rate=True).low, 3)
    0.398
    """
    if not len(values):
        return Level(np.nan, np.nan, np.nan, 0)
    make = rate_interval if rate else mean_interval
    found = make(values, confidence=judging.confidence, resamples=judging.resamples, seed=judging.seed)
    low, high = (np.nan if end is None else end for end in (found.low, found.high))
    return Level(float(values.mean()), low, high, len(values), found.note)


def is_rate(metric: str) -> bool:
    """Whether a metric counts: the share of readings that come out one way.

    >>> is_rate("moved.colour"), is_rate("ssim")
    (True, False)
    """
    return quantity(metric).unit == "share"


def only(arm: Arm) -> Contrast:
    """One arm by itself."""
    return {arm.name: 1.0}


def mean_of(arms: Sequence[Arm]) -> Contrast:
    """The mean of several arms, such as the draws of a control."""
    return {arm.name: 1.0 / len(arms) for arm in arms}


def change(arm: Contrast, reference: Contrast) -> Contrast:
    """The difference of two contrasts."""
    return {name: arm.get(name, 0.0) - reference.get(name, 0.0) for name in {**arm, **reference}}


def slope_of(arms: Mapping[float, Arm]) -> Contrast:
    """The least-squares slope over {x: arm}.

    >>> from dit_lens.methods.arms import CLEAN
    >>> slope_of({0.0: CLEAN, 2.0: replace(CLEAN, name="edited")})
    {'clean': -0.5, 'edited': 0.5}
    """
    x = np.array(list(arms), dtype=float)
    centred = x - x.mean()
    weights = centred / (centred**2).sum()
    return {arm.name: float(weight) for arm, weight in zip(arms.values(), weights, strict=True)}
