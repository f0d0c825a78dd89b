"""A tidy table of measured values → the effects of one arm against its controls, corrected together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.methods.multiplicity import Correction, adjusted
from dit_lens.methods.paired_effects import no_effect, paired_effect, rank_note
from dit_lens.methods.resampling import RESAMPLES, IntervalMethod, rank_p
from dit_lens.methods.verdicts import Direction, Effect
from dit_lens.words import known_words

Array = npt.NDArray[np.float64]
Values = dict[tuple[str, Any], float]
"""{(prompt, seed): value} of one arm, metric and cell."""


@known_words
def compare(
    table: Any,
    *,
    treatment: str,
    controls: Mapping[str, str | Sequence[str]],
    metrics: Sequence[str] | None = None,
    by: Sequence[str] = (),
    prompts: Sequence[str] | None = None,
    direction: Mapping[str, Direction] | None = None,
    correction: Correction = "holm",
    confidence: float = 0.95,
    method: IntervalMethod = "bca",
    resamples: int = RESAMPLES,
    seed: int = 0,
    unit: str = "prompt",
) -> dict[tuple[Any, ...], Effect]:
    """Effects of one treatment arm against each control, for each metric (and map cell), corrected together.

    Args:
        table: columns arm, prompt, seed, metric, value (and those in `by`), each of the same length: a
            pandas DataFrame or a mapping of columns.
        treatment: its arm.
        controls: control name → its arm, or its arms where it was drawn several times. Draws are averaged
            per prompt; with five or more the note also ranks the treatment among them.
        metrics: those to compare; by default all in the table.
        by: coordinates whose every value is a cell of its own, for instance `("block", "step")`.
        prompts: those to judge on (the held-out ones); by default all.
        direction: for each metric, which end is extreme in the rank among draws; `greater` by default.
        correction: over all effects returned: `holm`, `benjamini-hochberg` (exploratory maps) or `none`.
        confidence: of the intervals, in (0, 1).
        method: of the intervals: `bca` or `percentile`.
        resamples: of the bootstrap, and of the sign flips where not all of them are tried.
        seed: of both.
        unit: what the column `prompt` holds, where it does not hold prompts, as sentences call one of it.

    Returns:
        {(metric, control, *coordinates): Effect}, in the order of metrics, controls and table.

    A (prompt, seed) counts only if treatment and every arm of the control have a finite value there; the
    note counts what is left out.

    Raises:
        BadInput: a column, arm, metric or prompt that is not there, or two values for one address.

    >>> table = {"arm": ["t", "t", "c", "c"], "prompt": ["a", "b"] * 2, "seed": [0] * 4,
    ...          "metric": ["distance"] * 4, "value": [3.0, 5.0, 1.0, 2.0]}
    >>> compare(table, treatment="t", controls={"random": "c"})["distance", "random"].estimate
    2.5
    """
    if not isinstance(controls, Mapping):
        raise BadInput(
            f"controls is {controls!r:.60}; name each control and its arm, such as "
            'controls={"random": "random-0"}.'
        )
    values, cells = _index(table, by)
    drawn = {name: (arm,) if isinstance(arm, str) else tuple(arm) for name, arm in controls.items()}
    if not drawn or not all(drawn.values()):
        raise BadInput("An effect needs a control; give at least one arm for each name in controls.")
    known_metrics = list(dict.fromkeys(key[1] for key in values))
    _require(
        "arm", [treatment, *(arm for arms in drawn.values() for arm in arms)], {key[0] for key in values}
    )
    _require("metric", metrics or (), set(known_metrics))
    if prompts is not None:
        _require("prompt", prompts, {prompt for pairs in values.values() for prompt, _ in pairs})
    options: dict[str, Any] = {
        "confidence": confidence,
        "method": method,
        "resamples": resamples,
        "seed": seed,
        "unit": unit,
    }
    effects: dict[tuple[Any, ...], Effect] = {}
    for metric in metrics or known_metrics:
        for name, arms in drawn.items():
            for cell in cells:
                at = [values.get((arm, metric, *cell), {}) for arm in (treatment, *arms)]
                pairs = _pair(at, prompts)
                if not pairs.present:
                    continue
                label = ", ".join(
                    [metric, *(f"{axis} {value}" for axis, value in zip(by, cell, strict=True))]
                )
                extreme = (direction or {}).get(metric, "greater")
                effects[(metric, name, *cell)] = _effect(pairs, label, name, extreme, options)
    return correct(effects, correction)


def correct(effects: Mapping[Any, Effect], correction: Correction = "holm") -> dict[Any, Effect]:
    """The same effects with `p_adjusted` set over all of them together.

    Raises:
        BadInput: no such correction.
    """
    p = adjusted([effect.p for effect in effects.values()], correction)
    return {
        key: replace(effect, p_adjusted=value)
        for (key, effect), value in zip(effects.items(), p, strict=True)
    }


@dataclass(frozen=True)
class _Pairs:
    """Complete pairs of one cell: treatment [n] and control draws [R, n], seeds averaged within a prompt."""

    treatment: Array
    draws: Array
    present: int
    dropped: int


def _pair(at: Sequence[Values], prompts: Sequence[str] | None) -> _Pairs:
    """Join the arms of a cell (treatment first) on (prompt, seed)."""
    wanted = None if prompts is None else set(prompts)
    # Sorted, so that the order of the table's rows cannot move a resampled number.
    keys = sorted({key for of_arm in at for key in of_arm if wanted is None or key[0] in wanted})
    by_prompt: dict[str, list[list[float]]] = {}
    for key in keys:
        row = [of_arm.get(key, math.nan) for of_arm in at]
        if all(map(math.isfinite, row)):
            by_prompt.setdefault(key[0], []).append(row)
    # Seeds first, so that a prompt with more seeds weighs no more than another.
    means = np.array([np.mean(rows, axis=0) for rows in by_prompt.values()]).reshape(-1, len(at))
    return _Pairs(means[:, 0], means[:, 1:].T, len(keys), len(keys) - sum(map(len, by_prompt.values())))


def _effect(
    pairs: _Pairs, label: str, control: str, direction: Direction, options: Mapping[str, Any]
) -> Effect:
    notes = (
        [f"{pairs.dropped} of {pairs.present} pairs left out: missing or not finite"] if pairs.dropped else []
    )
    if not len(pairs.treatment):
        return no_effect(label, control, notes, options["confidence"], options["unit"])
    # A mean of equal values is that value, and not its neighbour in floating point.
    mean = np.clip(pairs.draws.mean(axis=0), pairs.draws.min(axis=0), pairs.draws.max(axis=0))
    found = paired_effect(label, pairs.treatment, mean, control_name=control, **options)
    if found.note:
        notes.append(found.note)
    if len(pairs.draws) > 1:
        p = rank_p(float(pairs.treatment.mean()), pairs.draws.mean(axis=1), alternative=direction)
        rank = rank_note(p, len(pairs.draws))
        notes.append(rank if p is None else f"{rank}: {p:.2g}")
        apart = (pairs.treatment - pairs.draws).mean(axis=1)
        found = replace(found, draw_estimates=tuple(map(float, apart)))
    return replace(found, note="; ".join(notes))


def _index(table: Any, by: Sequence[str]) -> tuple[dict[tuple[Any, ...], Values], list[tuple[Any, ...]]]:
    """{(arm, metric, *by): {(prompt, seed): value}} and the cells of `by`, in order of appearance."""
    columns = []
    for name in ("arm", "metric", *by, "prompt", "seed", "value"):
        try:
            columns.append(np.asarray(table[name]).tolist())
        except KeyError:
            there = ", ".join(map(str, table.keys()))
            raise BadInput(f"The effects table has no column {name!r}; it has {there}.") from None
    lengths = {len(column) for column in columns}
    if len(lengths) != 1 or 0 in lengths:
        raise BadInput("The effects table is empty, or its columns have different lengths.")
    values: dict[tuple[Any, ...], Values] = {}
    for *address, prompt, seed, value in zip(*columns, strict=True):
        pairs = values.setdefault(tuple(address), {})
        if (prompt, seed) in pairs:
            raise BadInput(
                f"Two values for arm {address[0]!r}, metric {address[1]!r}, prompt {prompt!r}, seed {seed}: "
                "name the coordinates that tell them apart in by=, or give every draw an arm of its own."
            )
        pairs[(prompt, seed)] = math.nan if value is None else float(value)
    return values, list(dict.fromkeys(key[2:] for key in values))


def _require(what: str, asked: Sequence[str], there: set[str]) -> None:
    for name in asked:
        if name not in there:
            raise BadInput(
                f"There is no {what} {name!r} in the effects table. It has {', '.join(sorted(there))}."
                f"{did_you_mean(name, there)}"
            )
