"""How does the effect grow with the number of channels?

For k strongest channels of every block, k over the setting's doses, and for as many others. Two claims, each
on every judged metric and against every control (Holm over the controls):

- `slope`: on average, a doubling of k disrupts the image by more than with as many others: the least-squares
  slope over log2 k of each prompt, which says nothing of any single doubling. Where one channel already does
  the whole damage, nothing is left to grow, and this claim is not supported: read it beside
- `fewest`: the smallest dose alone disrupts the image more than as many others.

arXiv 2605.13974 fixes k for each model (12 in a re-implementation) and shows no curve.

Table `dose`, one row per metric, family and k: mean and interval over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.methods.answers import Answer
from dit_lens.methods.arms import CLEAN, Arm
from dit_lens.methods.controls import fairest_first
from dit_lens.methods.metrics import quantity
from dit_lens.methods.questions.arm_sets import MASSIVE, declared, dose_arms, doses_of
from dit_lens.methods.questions.judged import (
    about_missing,
    corrected,
    joint_answer,
    judged_metrics,
    metrics_for,
)
from dit_lens.methods.questions.levels import Contrast, Measured, mean_of, only, slope_of
from dit_lens.methods.questions.question import Answered, Judging, Question, Setting
from dit_lens.methods.questions.sentences import control_words, levels, treatment_words
from dit_lens.methods.verdicts import Effect

SOURCES = ("2605.13974",)

CONTROLS = 2
"""Families of control per dose: the fairest of those that the setting declares."""

Doses = Mapping[str, Mapping[int, tuple[Arm, ...]]]
"""{family: {k: draws}}; as many draws at every dose."""


def arms(setting: Setting) -> tuple[Arm, ...]:
    """The unedited run, and for every dose the treatment and draws of two controls."""
    return (CLEAN, *dose_arms(setting, declared(setting, fairest_first("effects"))[:CONTROLS]))


def answer(
    effects: pd.DataFrame, arms: Sequence[Arm], *, metrics: Sequence[str], judging: Judging | None = None
) -> Answered:
    """The table, and for every judged metric the slope and the smallest dose."""
    judging = judging or Judging()
    measured = Measured(effects, judging)
    by_family = _by_family(arms)
    massive = by_family[MASSIVE]
    metrics = metrics_for(measured, metrics, massive[min(massive)][0], attributes=False)
    table = pd.DataFrame(
        {"metric": metric, "family": family, "k": k, **measured.level(metric, mean_of(draws)).columns()}
        for metric in metrics
        for family, doses in by_family.items()
        for k, draws in doses.items()
    ).astype({"k": "Int64"})
    judged = judged_metrics(metrics)
    answers: list[Answer] = []
    for metric in judged:
        primary = metric == judged[0]
        note = about_missing(metrics) if primary else ""
        answers.append(_slope(measured, metric, by_family, primary, note))
        answers.append(_fewest(measured, metric, by_family))
    return Answered({"dose": table}, tuple(answers))


def _by_family(arms: Sequence[Arm]) -> Doses:
    """The doses of every family that has the treatment's, massive channels first."""
    found = {family: doses_of(arms, family) for family in (MASSIVE, *fairest_first("effects"))}
    massive = found[MASSIVE]
    complete = {family: doses for family, doses in found.items() if massive and list(doses) == list(massive)}
    if len(massive) < 2 or len(complete) < 2:
        raise BadInput(
            f"A dose–response needs arms of at least two doses of massive channels (given: {len(massive)}), "
            "and as many of a control. Give it the arms that its arms() declares."
        )
    return complete


def _slope(measured: Measured, metric: str, by_family: Doses, primary: bool, note: str) -> Answer:
    """Whether a doubling does more on average."""
    massive = by_family[MASSIVE]
    slopes = {
        family: [
            slope_of({math.log2(k): draws[i] for k, draws in doses.items()})
            for i in range(min(map(len, doses.values())))
        ]
        for family, doses in by_family.items()
    }
    shown = {"unedited": measured.clean(metric)}
    for family, doses in by_family.items():
        called = MASSIVE if family == MASSIVE else control_words(family)
        shown |= {f"{called} k = {k}": measured.mean(metric, mean_of(draws)) for k, draws in doses.items()}
    return joint_answer(
        _against(measured, metric, slopes, "slope per doubling"),
        name=f"dose.slope.{metric}",
        claim=f"per doubling of their number, on average, {treatment_words(massive[min(massive)][0])} "
        "disrupts the image by more than as many others do",
        metric=metric,
        title=f"the slope of {quantity(metric).title} per doubling",
        alpha=measured.judging.alpha,
        sources=SOURCES,
        primary=primary,
        extra=[levels(quantity(metric), shown), note],
    )


def _fewest(measured: Measured, metric: str, by_family: Doses) -> Answer:
    k = min(by_family[MASSIVE])
    what = treatment_words(by_family[MASSIVE][k][0])
    return joint_answer(
        _against(
            measured,
            metric,
            {family: [only(draw) for draw in doses[k]] for family, doses in by_family.items()},
            f"k = {k}",
        ),
        name=f"dose.fewest.{metric}",
        claim=f"{what}, {k} in each block, already disrupts the image more than as many others do",
        metric=metric,
        alpha=measured.judging.alpha,
        sources=SOURCES,
    )


def _against(
    measured: Measured, metric: str, contrasts: Mapping[str, Sequence[Contrast]], at: str
) -> list[Effect]:
    """Massive − control for the draws of every control, corrected together."""
    found = {
        family: measured.effect(
            metric, contrasts[MASSIVE][0], draws, control_name=family, name=f"{metric}, {at}"
        )
        for family, draws in contrasts.items()
        if family != MASSIVE
    }
    return list(corrected(found).values())


QUESTION = Question("dose", "How many channels does it take?", SOURCES, arms, answer)
