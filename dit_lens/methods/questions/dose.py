"""How does the effect grow with the number of channels?

For k strongest channels of every block, k over the setting's doses, and for as many others. Two claims, each
on every judged metric and against every control (Holm over the controls):

- `slope`: with every doubling of k the image is disrupted by more than with as many others; the slope over
  log2 k is taken for each prompt. Where one channel already does the whole damage, nothing is left to grow,
  and this claim is not supported: read it beside
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
from dit_lens.methods.questions.arm_sets import FAIR, MASSIVE, declared, dose_arms, doses_of
from dit_lens.methods.questions.judged import (
    about_missing,
    corrected,
    joint_answer,
    judged_metrics,
    metrics_for,
)
from dit_lens.methods.questions.levels import Contrast, Measured, metric_of, only, slope_of
from dit_lens.methods.questions.question import Answered, Judging, Question, Setting
from dit_lens.methods.questions.sentences import control_words, levels, treatment_words
from dit_lens.methods.verdicts import Effect

SOURCES = ("2605.13974",)

CONTROLS = 2
"""Families of control per dose: the fairest of those that the setting declares."""

Doses = Mapping[str, Mapping[int, Arm]]
"""{family: {k: arm}}."""


def arms(setting: Setting) -> tuple[Arm, ...]:
    """The unedited run, and for every dose the treatment and the first draw of two controls."""
    return (CLEAN, *dose_arms(setting, declared(setting, FAIR)[:CONTROLS]))


def answer(
    effects: pd.DataFrame, arms: Sequence[Arm], *, metrics: Sequence[str], judging: Judging | None = None
) -> Answered:
    """The table, and for every judged metric the slope and the smallest dose."""
    judging = judging or Judging()
    measured = Measured(effects, judging)
    by_family = _by_family(arms)
    massive = by_family[MASSIVE]
    metrics = metrics_for(measured, metrics, massive[min(massive)], attributes=False)
    table = pd.DataFrame(
        {"metric": metric, "family": family, "k": k, **measured.level(metric, only(arm)).columns()}
        for metric in metrics
        for family, doses in by_family.items()
        for k, arm in doses.items()
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
    found = {family: doses_of(arms, family) for family in (MASSIVE, *FAIR)}
    massive = found[MASSIVE]
    complete = {family: doses for family, doses in found.items() if massive and list(doses) == list(massive)}
    if len(massive) < 2 or len(complete) < 2:
        raise BadInput(
            f"A dose–response needs arms of at least two doses of massive channels (given: {len(massive)}), "
            "and as many of a control. Give it the arms that its arms() declares."
        )
    return complete


def _slope(measured: Measured, metric: str, by_family: Doses, primary: bool, note: str) -> Answer:
    """Whether each doubling does more."""
    massive = by_family[MASSIVE]
    fewest, most = min(massive), max(massive)
    slopes = {
        family: slope_of({math.log2(k): arm for k, arm in doses.items()})
        for family, doses in by_family.items()
    }
    shown = {"unedited": measured.clean(metric)}
    for family, doses in by_family.items():
        called = MASSIVE if family == MASSIVE else control_words(family)
        shown |= {f"{called} k = {k}": measured.mean(metric, only(doses[k])) for k in (fewest, most)}
    return joint_answer(
        _against(measured, metric, slopes, "slope per doubling"),
        name=f"dose.slope.{metric}",
        claim=f"with every doubling of their number, {treatment_words(massive[fewest])} disrupts the image "
        "by more than as many others do",
        metric=metric,
        title=f"the slope of {metric_of(metric).title} per doubling",
        alpha=measured.judging.alpha,
        sources=SOURCES,
        primary=primary,
        extra=[levels(metric_of(metric), shown), note],
    )


def _fewest(measured: Measured, metric: str, by_family: Doses) -> Answer:
    k = min(by_family[MASSIVE])
    what = treatment_words(by_family[MASSIVE][k])
    return joint_answer(
        _against(measured, metric, {f: only(doses[k]) for f, doses in by_family.items()}, f"k = {k}"),
        name=f"dose.fewest.{metric}",
        claim=f"{what}, {k} in each block, already disrupts the image more than as many others do",
        metric=metric,
        alpha=measured.judging.alpha,
        sources=SOURCES,
    )


def _against(measured: Measured, metric: str, contrasts: Mapping[str, Contrast], at: str) -> list[Effect]:
    """Massive − control for every control of these contrasts, corrected together."""
    found = {
        family: measured.effect(
            metric, contrasts[MASSIVE], contrast, control_name=family, name=f"{metric}, {at}"
        )
        for family, contrast in contrasts.items()
        if family != MASSIVE
    }
    return list(corrected(found).values())


QUESTION = Question("dose", "How many channels does it take?", SOURCES, arms, answer)
