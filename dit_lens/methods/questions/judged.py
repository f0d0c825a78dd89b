"""Which metrics a question judges by, and how a claim against several controls becomes an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dit_lens.errors import BadInput
from dit_lens.methods.answers import Answer, Joint, judge_all
from dit_lens.methods.arms import Arm
from dit_lens.methods.effect_tables import correct
from dit_lens.methods.metrics import quantity
from dit_lens.methods.questions.levels import Measured, only
from dit_lens.methods.questions.sentences import concluded, joint_findings, listing
from dit_lens.methods.resampling import smallest_p
from dit_lens.methods.verdicts import Direction, Effect

PRIMARY = ("alignment", "ssim", "psnr", "latent")
"""The first of these that was measured is the primary metric of "does it disrupt the image?"."""

JUDGED = ("alignment", "ssim", "semantics")
"""Metrics that get an answer of their own; others are shown."""

OPPOSITE: Mapping[Direction, Direction] = {"greater": "less", "less": "greater"}


def metrics_for(
    measured: Measured, metrics: Sequence[str], arm: Arm, *, attributes: bool = True
) -> tuple[str, ...]:
    """The metrics that have values for this arm; single attributes only if they are wanted.

    Raises:
        BadInput: none of them.
    """
    wanted = [name for name in metrics if attributes or not name.startswith("attribute.")]
    found = measured.measured(wanted, arm)
    if not found:
        raise BadInput(
            f"None of the metrics {', '.join(metrics) or '(none)'} has a value for the arm {arm.name!r}. "
            "Measure at least one of ssim, psnr, latent or alignment."
        )
    return found


def judged_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Those that get an answer, the primary one first; all where none of `PRIMARY` was measured.

    Metrics without those were chosen by whoever asks, who wants to know of each.

    >>> judged_metrics(["psnr", "semantics", "ssim"])
    ('ssim', 'semantics')
    >>> judged_metrics(["attribute.position", "attribute.colour"])
    ('attribute.position', 'attribute.colour')
    """
    primary = next((name for name in PRIMARY if name in metrics), None)
    if primary is None:
        return tuple(metrics)
    return (primary, *(name for name in JUDGED if name in metrics and name != primary))


def about_missing(metrics: Sequence[str], wanted: Sequence[str] = JUDGED) -> str:
    """What could not be measured, and what decides in its place; "" if nothing is missing."""
    missing = [quantity(name).title for name in wanted if name not in metrics]
    if not missing:
        return ""
    instead = ""
    if wanted == JUDGED and "alignment" not in metrics:
        instead = f"; {quantity(judged_metrics(metrics)[0]).title} decides in place of prompt alignment"
    return f"Not measured here: {listing(missing)}{instead}"


def against(
    measured: Measured, metric: str, treatment: Arm, controls: Mapping[str, Sequence[Arm]]
) -> dict[str, Effect]:
    """Treatment − mean of the draws of each control, corrected together; notes rank it among draws."""
    return corrected(
        {
            kind: measured.effect(metric, only(treatment), [only(draw) for draw in draws], control_name=kind)
            for kind, draws in controls.items()
        }
    )


def too_few(effects: Sequence[Effect], comparisons: int, alpha: float) -> str:
    """Why nothing can be supported, where so many comparisons are too many for the prompts; else "".

    Few prompts cannot give small p-values, and the correction multiplies them.
    """
    n, unit = max(effect.n for effect in effects), effects[0].unit
    if n < 2 or smallest_p(n) > alpha or smallest_p(n) * comparisons <= alpha:
        return ""
    return f"{n} {unit}s cannot reach p = {alpha:g} after correction over {comparisons} comparisons"


def corrected(effects: Mapping[Any, Effect]) -> dict[Any, Effect]:
    """Holm over these effects; a single one stands alone."""
    return correct(effects) if len(effects) > 1 else dict(effects)


def joint_answer(
    effects: Sequence[Effect],
    *,
    name: str,
    claim: str,
    metric: str,
    alpha: float,
    title: str | None = None,
    direction: Direction | None = None,
    sources: tuple[str, ...] = (),
    primary: bool = False,
    words: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    comparisons: int | None = None,
) -> Answer:
    """The answer to a claim that all of these effects must bear out.

    Args:
        name: question and part, joined by dots.
        title: what was compared, where it is not the metric itself.
        direction: the side that the claim names; by default that of a more disrupted image.
        words: as in `joint_findings`.
        extra: further findings.
        comparisons: over how many the effects were corrected; by default over themselves.
    """
    described = quantity(metric)
    described = described if title is None else replace(described, title=title)
    side = direction or described.disrupted
    joint: Joint = judge_all(effects, direction=side, alpha=alpha)
    few = too_few(effects, comparisons or len(effects), alpha) if joint.outcome == "undecided" else ""
    return concluded(
        name=name,
        question=name.split(".")[0],
        claim=claim,
        sources=sources,
        metric=metric,
        direction=side,
        outcome=joint.outcome,
        reason=joint.reason,
        findings=(*joint_findings(described, joint, words=words, few=few), *extra),
        effects=tuple(effects),
        primary=primary,
    )
