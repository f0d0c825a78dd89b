"""One paired effect: treatment − control over prompts, with its interval and p-value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput
from dit_lens.methods.resampling import (
    MIN_DRAWS,
    RESAMPLES,
    IntervalMethod,
    mean_interval,
    rank_p,
    sign_flip_p,
)
from dit_lens.methods.verdicts import Direction, Effect

Array = npt.NDArray[np.float64]


def paired_effect(
    name: str,
    treatment: npt.ArrayLike,
    control: npt.ArrayLike,
    *,
    control_name: str,
    confidence: float = 0.95,
    method: IntervalMethod = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
    unit: str = "prompt",
) -> Effect:
    """Mean of treatment − control over prompts: bootstrap interval and two-sided sign-flip p-value.

    Args:
        treatment: float [n], one value per prompt (seeds averaged).
        control: float [n] for the same prompts in the same order.
        unit: what the values are of, where not of prompts.

    Prompts where either value is not finite are left out, and the note counts them. One prompt: no interval
    and no p. Differences that do not vary: an interval of width 0, and the sign-flip p all the same.

    Raises:
        BadInput: no prompts, or treatment and control of different lengths.

    >>> effect = paired_effect("distance", [3.0, 4.0, 5.5], [1.0, 2.0, 2.5], control_name="random")
    >>> round(effect.estimate, 3), effect.n, effect.p
    (2.333, 3, 0.25)
    """
    first, second = _row(treatment, "treatment"), _row(control, "control")
    if first.shape != second.shape:
        raise BadInput(
            f"{len(first)} treatment and {len(second)} control values are not pairs; give one each."
        )
    with np.errstate(invalid="ignore"):
        differences = first - second
    kept, notes = _finite_only(differences)
    if not len(kept):
        return no_effect(name, control_name, notes, confidence, unit)
    interval = mean_interval(kept, confidence=confidence, method=method, resamples=resamples, seed=seed)
    p = sign_flip_p(kept, resamples=resamples, seed=seed) if len(kept) > 1 else None
    if p is None:
        notes.append(f"one {unit} gives no interval and no p-value")
    elif interval.note:
        notes.append(interval.note)
    return Effect(
        name=name,
        estimate=float(kept.mean()),
        ci_low=interval.low,
        ci_high=interval.high,
        n=len(kept),
        p=p,
        p_adjusted=None,
        control=control_name,
        note="; ".join(notes),
        sd=_sd(kept),
        confidence=confidence,
        unit=unit,
    )


def random_draw_effect(
    name: str,
    treatment: npt.ArrayLike,
    draws: npt.ArrayLike,
    *,
    control_name: str,
    direction: Direction = "greater",
    confidence: float = 0.95,
    method: IntervalMethod = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Effect:
    """Is the treatment exceptional among random draws of its control? p is its rank among them.

    The estimate is treatment − mean of the draws, its interval is over prompts;
    p = (1 + #{draws at least as extreme}) / (R + 1), one-sided. Where `paired_effect` against the mean draw
    asks whether the difference holds for other prompts, this asks whether other random channels could do as
    much. Fewer than five draws: the effect is kept, p is None and the note says why.

    Args:
        treatment: float [n], one value per prompt.
        draws: float [R, n], the control's value in each of R draws.
        direction: which end is extreme.

    Raises:
        BadInput: no prompts or no draws, or shapes that do not pair.
    """
    first = _row(treatment, "treatment")
    second = np.asarray(draws, dtype=float)
    if second.ndim != 2 or not len(second) or second.shape[1] != len(first):
        raise BadInput(
            f"The draws have shape {list(second.shape)}; {len(first)} prompts need [draws, {len(first)}]."
        )
    finite = np.isfinite(first) & np.isfinite(second).all(axis=0)
    effect = paired_effect(
        name,
        np.where(finite, first, np.nan),
        np.where(finite, second, 0.0).mean(axis=0),
        control_name=control_name,
        confidence=confidence,
        method=method,
        resamples=resamples,
        seed=seed,
    )
    if not effect.n:
        return effect
    p = rank_p(float(first[finite].mean()), second[:, finite].mean(axis=1), alternative=direction)
    note = rank_note(p, len(second))
    return replace(effect, p=p, note="; ".join(filter(None, (effect.note, note))))


def rank_note(p: float | None, draws: int) -> str:
    """The rank of the treatment among so many draws, in words; a p of None for too few draws."""
    if p is None:
        return f"{counted(draws, 'random draw')} are too few for a rank p-value, which needs {MIN_DRAWS}"
    return f"rank p-value among {counted(draws, 'random draw')}, at least {1 / (draws + 1):.2g}"


def _row(values: npt.ArrayLike, what: str) -> Array:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not len(x):
        raise BadInput(f"The {what} values have shape {list(x.shape)}; give [n], one per prompt, n ≥ 1.")
    return x


def _finite_only(differences: Array) -> tuple[Array, list[str]]:
    kept = differences[np.isfinite(differences)]
    lost = len(differences) - len(kept)
    return kept, [f"{lost} of {counted(len(differences), 'prompt')} left out: not finite"] if lost else []


def no_effect(name: str, control: str, notes: list[str], confidence: float, unit: str = "prompt") -> Effect:
    """The effect where no prompt is left: no estimate, and a note that says so."""
    note = "; ".join([*notes, "no prompt is left"])
    return Effect(name, None, None, None, 0, None, None, control, note, None, confidence, unit=unit)


def _sd(x: Array) -> float | None:
    return float(x.std(ddof=1)) if len(x) > 1 else None


def counted(number: int, thing: str) -> str:
    """A number and its noun, in the plural where it is not one."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
