"""Does leading a run away from disrupted massive channels add detail? (arXiv 2510.11538)

Claims, one per weight, with and without classifier-free guidance: the guided image has more detail than the
unguided one, and than one that is led away from as many channels of the next ranks. Corrected (Holm) over
the weights and both comparisons. Semantics and alignment stand beside, in the table and in the sentence.

Table `guidance`, one row per weight, cfg, family and metric; weight 0 is the unguided image, for each family.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.methods.answers import Answer
from dit_lens.methods.arms import UNGUIDED
from dit_lens.methods.metrics import quantity
from dit_lens.methods.questions.judged import corrected, joint_answer
from dit_lens.methods.questions.levels import Contrast, Measured
from dit_lens.methods.questions.question import Answered, Judging
from dit_lens.methods.questions.sentences import figure, levels

NAME, TABLE = "detail_guidance", "guidance"

TITLE = "Does guidance away from disrupted massive channels add detail?"

SOURCES = ("2510.11538",)

JUDGED = ("detail", "detail_ratio")
"""The first of these that was measured is primary: read off the surface, and the strength of what is fine."""

MASSIVE = "massive"


def answer(effects: pd.DataFrame, *, metrics: Sequence[str], judging: Judging | None = None) -> Answered:
    """The table, and one answer for each weight, cfg and judged metric; see the module.

    Args:
        effects: as `GuidanceStudy.run` gives them.
        metrics: those that were measured, in the order in which the table shows them.

    Raises:
        BadInput: nothing was guided away from massive channels, or nothing that can be judged was measured.
    """
    judging = judging or Judging()
    judged = [metric for metric in JUDGED if metric in metrics]
    if not judged:
        raise BadInput(f"{NAME} is judged by {' or '.join(JUDGED)}, and neither was measured.")
    if MASSIVE not in set(effects["family"]):
        raise BadInput(f"{NAME} judges guidance away from massive channels, and there was none.")
    rows: list[dict[str, object]] = []
    answers: list[Answer] = []
    for cfg in sorted(set(effects["cfg"]), reverse=True):
        part = effects[effects["cfg"] == cfg]
        measured = Measured(part, judging)
        families = [f for f in dict.fromkeys(part["family"]) if f != UNGUIDED]
        weights = sorted(set(part["weight"]))
        for weight in weights:
            for family in families:
                for metric in metrics:
                    level = measured.level(metric, _arm(family, weight))
                    rows.append(
                        {"weight": weight, "cfg": cfg, "family": family, "metric": metric, **level.columns()}
                    )
        for metric in judged:
            answers += _answers(measured, cfg, [w for w in weights if w], families, metric, metrics)
    # Fixed by rule: the smallest weight, with classifier-free guidance where it was asked for.
    answers[0] = answers[0].model_copy(update={"primary": True})
    return Answered({TABLE: pd.DataFrame(rows)}, tuple(answers))


def _answers(
    measured: Measured,
    cfg: bool,
    weights: Sequence[float],
    families: Sequence[str],
    metric: str,
    metrics: Sequence[str],
) -> Iterable[Answer]:
    controls = {UNGUIDED: "the unguided image"} | {
        family: "guidance away from channels of the next ranks" for family in families if family != MASSIVE
    }
    found = corrected(
        {
            (weight, control): measured.effect(
                metric,
                _arm(MASSIVE, weight),
                _arm(control, 0.0 if control == UNGUIDED else weight),
                control_name=control,
                name=f"{metric}, weight {weight:g}",
            )
            for weight in weights
            for control in controls
        }
    )
    beside = [name for name in ("semantics", "alignment") if name in metrics]
    for weight in weights:
        shown = {
            "unguided": measured.mean(metric, _arm(MASSIVE, 0.0)),
            "massive": measured.mean(metric, _arm(MASSIVE, weight)),
        }
        kept = [
            f"{quantity(name).title} goes from {figure(before)} to {figure(after)}"
            for name in beside
            for before, after in [[measured.mean(name, _arm(MASSIVE, w)) for w in (0.0, weight)]]
        ]
        yield joint_answer(
            [found[weight, control] for control in controls],
            name=f"{NAME}.{'cfg' if cfg else 'no_cfg'}.w-{weight:g}.{metric}",
            claim=f"guidance away from zeroed massive channels by {weight:g} "
            f"{'on top of' if cfg else 'without'} classifier-free guidance adds detail",
            metric=metric,
            direction="greater",
            alpha=measured.judging.alpha,
            sources=SOURCES,
            words=controls,
            comparisons=len(found),
            extra=[levels(quantity(metric), shown), *kept],
        )


def _arm(family: str, weight: float) -> Contrast:
    return {f"{family}.w-{weight:g}" if weight else UNGUIDED: 1.0}
