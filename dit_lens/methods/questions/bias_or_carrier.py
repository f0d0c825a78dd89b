"""Are massive channels a bias or a carrier: does their mean matter, or their layout over the image?

arXiv 2402.17762: in language models, zeroing massive activations destroys the model and setting them to their
mean changes nothing; there they are biases. arXiv 2605.13974 reads a diffusion transformer's as a spatial
code: there they would be carriers. A channel is its token mean plus a spatial residual, so each can be
removed alone. If removing the residual disrupts more they carry, if removing the mean does they bias. The
two removals differ in size as they do in the model; no energy is matched here.

Two more comparisons read the numbers: whether the mean alone repairs anything (2402.17762's test), and
whether zeroing does less harm where the other channels keep the LayerNorm statistics of the unedited run
(arXiv 2505.18584: a LayerNorm divides by a standard deviation that massive channels set, so that zeroing them
rescales all others).

Table `bias_or_carrier`, one row per metric and edit: mean and interval over prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from dit_lens.graph.interventions import Mean, Zero
from dit_lens.methods.answers import Answer
from dit_lens.methods.arms import CLEAN, Arm, ablation_arm
from dit_lens.methods.controls import token_shuffle
from dit_lens.methods.metrics import quantity
from dit_lens.methods.questions.arm_sets import MASSIVE, control_arms, find, massive_arm, one, some, where
from dit_lens.methods.questions.judged import (
    OPPOSITE,
    about_missing,
    joint_answer,
    judged_metrics,
    metrics_for,
)
from dit_lens.methods.questions.levels import Contrast, Measured, mean_of, only
from dit_lens.methods.questions.question import Answered, Judging, Question, Setting
from dit_lens.methods.questions.sentences import levels

SOURCES = ("2402.17762", "2605.13974", "2505.18584")

MEAN_ONLY, RESIDUAL_ONLY, SHUFFLED, LN_PRESERVING = (
    "mean_only",
    "residual_only",
    token_shuffle.CONTROL.name,
    "ln_preserving",
)

LABELS = {
    "zero": "set to zero",
    "mean_only": "token mean kept, layout removed",
    "residual_only": "layout kept, token mean removed",
    "shuffled": "tokens shuffled",
    "ln_preserving": "set to zero, LayerNorm statistics kept",
}

_CARRIER = (
    "massive channels carry a layout: removing it disrupts the image more than removing their token mean"
)
_BIAS = (
    "massive channels act as a bias: removing their token mean disrupts the image more than removing their "
    "layout"
)

_WORDS = {
    RESIDUAL_ONLY: "removing the token mean",
    MEAN_ONLY: "keeping the token mean",
    LN_PRESERVING: "zeroing with LayerNorm statistics kept",
}


def arms(setting: Setting) -> tuple[Arm, ...]:
    """The unedited run, and five edits of the massive channels at the same places."""
    kept = setting.op.ln_preserving
    here = where(setting, setting.massive)

    def edit(name: str, op: object) -> Arm:
        return ablation_arm(name, name, setting.massive, op, **here)

    zero = massive_arm(setting)
    if zero.edits[0].op != Zero():
        zero = ablation_arm(f"{MASSIVE}.zero", "zero", setting.massive, Zero(), **here)
    return (
        CLEAN,
        zero,
        edit(MEAN_ONLY, Mean(of="token", ln_preserving=kept)),
        edit(RESIDUAL_ONLY, Zero(part="mean", ln_preserving=kept)),
        *control_arms(setting, [SHUFFLED]),
        edit(LN_PRESERVING, Zero(ln_preserving=True)),
    )


def answer(
    effects: pd.DataFrame, arms: Sequence[Arm], *, metrics: Sequence[str], judging: Judging | None = None
) -> Answered:
    """The table; "carrier" and "bias" for every judged metric; two comparisons on the primary one."""
    judging = judging or Judging()
    measured = Measured(effects, judging)
    zero = one(arms, "zero" if find(arms, "zero") else MASSIVE)
    edits: dict[str, Contrast] = {
        "zero": only(zero),
        MEAN_ONLY: only(one(arms, MEAN_ONLY)),
        RESIDUAL_ONLY: only(one(arms, RESIDUAL_ONLY)),
        "shuffled": mean_of(some(arms, SHUFFLED)),
        LN_PRESERVING: only(one(arms, LN_PRESERVING)),
    }
    metrics = metrics_for(measured, metrics, zero)
    table = pd.DataFrame(
        {
            "metric": metric,
            "arm": edit,
            "label": LABELS[edit],
            **measured.level(metric, contrast).columns(),
            "clean_mean": measured.clean(metric),
        }
        for metric in metrics
        for edit, contrast in edits.items()
    )
    judged = judged_metrics(metrics)
    answers = [
        each for metric in judged for each in _both(measured, metric, edits, metric == judged[0], metrics)
    ]
    for part, claim, control in (
        ("mean_spares", "zeroing massive channels disrupts more than keeping their token mean", MEAN_ONLY),
        (
            "layernorm",
            "zeroing massive channels disrupts more than the same with LayerNorm statistics kept",
            LN_PRESERVING,
        ),
    ):
        answers.append(
            joint_answer(
                [measured.effect(judged[0], edits["zero"], edits[control], control_name=control)],
                name=f"bias_or_carrier.{part}.{judged[0]}",
                claim=claim,
                metric=judged[0],
                alpha=judging.alpha,
                sources=SOURCES,
                words=_WORDS,
            )
        )
    return Answered({"bias_or_carrier": table}, tuple(answers))


def _both(
    measured: Measured, metric: str, edits: Mapping[str, Contrast], first: bool, metrics: Sequence[str]
) -> list[Answer]:
    """Carrier and bias, by one two-sided test; the one that the estimate leans to comes first."""
    described = quantity(metric)
    side = described.disrupted
    effect = measured.effect(metric, edits[MEAN_ONLY], edits[RESIDUAL_ONLY], control_name=RESIDUAL_ONLY)
    leans = (effect.estimate or 0.0) * (1 if side == "greater" else -1) >= 0
    shown = {"unedited": measured.clean(metric)}
    shown |= {LABELS[edit]: measured.mean(metric, contrast) for edit, contrast in edits.items()}
    found = []
    for part, claim, direction, ahead in (
        ("carrier", _CARRIER, side, leans),
        ("bias", _BIAS, OPPOSITE[side], not leans),
    ):
        extra = [levels(described, shown), about_missing(metrics) if first else ""]
        found.append(
            joint_answer(
                [effect],
                name=f"bias_or_carrier.{part}.{metric}",
                claim=claim,
                metric=metric,
                direction=direction,
                alpha=measured.judging.alpha,
                sources=SOURCES,
                primary=first and ahead,
                words=_WORDS,
                extra=extra if ahead else (),
            )
        )
    return found if leans else found[::-1]


QUESTION = Question("bias_or_carrier", "A bias or a carrier?", SOURCES, arms, answer)
