"""Does zeroing massive channels disrupt the image more than perturbing as many others?

arXiv 2605.13974 (claim 1): quality collapses when massive channels are zeroed, and hardly changes when as
many channels of low statistic are. A reviewer of arXiv 2510.11538 objects that other channels are no fair
control, because zeroing them perturbs far less. Hence four controls, and the claim is supported only if every
one is beaten: `low`, `random`, `random_rank_window` (as strong) and `energy_matched` (changed by as much).

Table `disruption`, one row per metric and control: means of treatment and control over the prompts that both
have, the unedited image's where the metric is a score, their difference with interval and p (Holm over the
controls of the metric), and the treatment's rank among the draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dit_lens.methods.arms import CLEAN, Arm
from dit_lens.methods.metrics import quantity
from dit_lens.methods.questions.arm_sets import (
    MASSIVE,
    control_arms,
    declared,
    families,
    find,
    massive_arm,
    one,
    other_channels,
)
from dit_lens.methods.questions.judged import (
    about_missing,
    against,
    joint_answer,
    judged_metrics,
    metrics_for,
)
from dit_lens.methods.questions.levels import Measured, mean_of, only
from dit_lens.methods.questions.question import Answered, Judging, Question, Setting
from dit_lens.methods.questions.sentences import levels, treatment_words
from dit_lens.methods.stats import judge

SOURCES = ("2605.13974", "2510.11538")

_WHAT = {"alignment": "away from its prompt", "semantics": "in its semantics"}


def arms(setting: Setting) -> tuple[Arm, ...]:
    """The unedited run, the treatment, and every draw of the controls that edit other channels."""
    kinds = declared(setting, other_channels())
    return (CLEAN, massive_arm(setting), *control_arms(setting, kinds))


def answer(
    effects: pd.DataFrame, arms: Sequence[Arm], *, metrics: Sequence[str], judging: Judging | None = None
) -> Answered:
    """The table, and one answer per judged metric; see the module."""
    judging = judging or Judging()
    measured = Measured(effects, judging)
    massive = one(arms, MASSIVE)
    controls = {kind: find(arms, kind) for kind in families(arms, other_channels())}
    metrics = metrics_for(measured, metrics, massive)
    judged = judged_metrics(metrics)
    rows, answers = [], {}
    for metric in metrics:
        side = quantity(metric).disrupted
        found = against(measured, metric, massive, controls)
        for kind, effect in found.items():
            beside = [mean_of(controls[kind])]
            treated = measured.mean(metric, only(massive), beside=beside)
            others = measured.mean(metric, beside[0], beside=[only(massive)])
            rank_p, _ = measured.rank(metric, massive, controls[kind], side)
            rows.append(
                {
                    "metric": metric,
                    "control": kind,
                    "draws": len(controls[kind]),
                    "treatment_mean": treated,
                    "control_mean": others,
                    "clean_mean": measured.clean(metric),
                    "estimate": effect.estimate,
                    "ci_low": effect.ci_low,
                    "ci_high": effect.ci_high,
                    "n": effect.n,
                    "p": effect.p,
                    "p_adjusted": effect.p_adjusted,
                    "rank_p": rank_p,
                    "direction": side,
                    "outcome": judge(effect, direction=side, alpha=judging.alpha).outcome,
                }
            )
        if metric in judged:
            shown = {"unedited": measured.clean(metric), "massive": measured.mean(metric, only(massive))}
            answers[metric] = joint_answer(
                list(found.values()),
                name=f"disruption.{metric}",
                claim=_claim(massive, metric),
                metric=metric,
                alpha=judging.alpha,
                sources=SOURCES,
                primary=metric == judged[0],
                extra=[levels(quantity(metric), shown), about_missing(metrics) * (metric == judged[0])],
            )
    return Answered({"disruption": _typed(rows)}, tuple(answers[metric] for metric in judged))


def _claim(massive: Arm, metric: str) -> str:
    how = f" {_WHAT[metric]}" if metric in _WHAT else ""
    return f"{treatment_words(massive)} disrupts the image{how} more than every control"


def _typed(rows: list[dict[str, object]]) -> pd.DataFrame:
    numbers = [
        "treatment_mean", "control_mean", "clean_mean", "estimate", "ci_low", "ci_high", "p", "p_adjusted",
        "rank_p",
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, "float64"))


QUESTION = Question("disruption", "Do massive channels hold the image together?", SOURCES, arms, answer)
