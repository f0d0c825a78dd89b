"""Sentences made of numbers: what was found, against which control, and why it is no more than that.

An answer's findings are made here, and `concluded` makes its sentence of them; nobody reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dit_lens.graph.interventions import Intervention
from dit_lens.methods.answers import Answer, Joint
from dit_lens.methods.arms import Arm
from dit_lens.methods.controls import CONTROLS
from dit_lens.methods.metric import Quantity
from dit_lens.methods.verdicts import Effect, Outcome, numbers

BEATEN_LEAST = " (beaten least)"


def treatment_words(arm: Arm) -> str:
    """What an arm does to the massive channels, to begin a clause: "zeroing massive channels"."""
    op: Intervention = arm.edits[0].op
    part = "" if op.part == "all" else f"the {op.part} part of "
    kept = " (LayerNorm statistics kept)" if op.ln_preserving else ""
    return f"{op.verb or f'the edit {op.op} of'} {part}massive channels{kept}"


def control_words(control: str) -> str:
    """A kind of control as words.

    >>> control_words("random_rank_window"), control_words("my_control")
    ('random channels of the next ranks', 'my control')
    """
    return CONTROLS[control].words if control in CONTROLS else control.replace("_", " ")


def concluded(
    *, claim: str, outcome: Outcome, findings: Sequence[str], qualifier: str = "", **fields: Any
) -> Answer:
    """An answer and its sentence: verdict, claim, findings.

    Args:
        claim: a clause.
        findings: what the verdict rests on, what decides first; empty ones are left out.
        qualifier: what kind of verdict it is, where it is no plain one.
        fields: the other fields of `Answer`.
    """
    head = f"{outcome} ({qualifier})" if qualifier else outcome
    return Answer(
        claim=claim,
        outcome=outcome,
        qualifier=qualifier,
        findings=tuple(sentences(each) for each in findings if each),
        sentence=sentences(f"{head}: {claim}", *findings),
        **fields,
    )


def joint_findings(
    metric: Quantity, joint: Joint, *, words: Mapping[str, str] | None = None, few: str = ""
) -> tuple[str, ...]:
    """The effect that decides, with the control that was beaten least, and which controls were beaten.

    Args:
        words: control → what it is called; `control_words` by default.
        few: why nothing could be supported, where there are too few prompts.
    """
    named = {e.control: (words or {}).get(e.control, control_words(e.control)) for e in joint.effects}
    weakest = joint.weakest
    supported, several = joint.outcome == "supported", len(joint.effects) > 1
    least = BEATEN_LEAST if supported and several else ""
    found = f"Against {named[weakest.control]}{least}, {difference(metric, weakest)}"
    if not supported:
        found += f": {joint.reason}"
        if not several:
            return (sentences(found, few),)  # by itself, one comparison does not tell why it decides nothing
        beaten = [named[effect.control] for effect in joint.beaten]
        return found, f"Beaten: {listing(beaten)}" if beaten else "No control is beaten", few
    if several:
        found += f"; against {rest(metric, [e for e in joint.effects if e is not weakest], named)}"
    return (found,)


def difference(metric: Quantity, effect: Effect) -> str:
    """One paired difference with its numbers, without its control.

    >>> from dit_lens.methods.metrics import METRICS
    >>> difference(METRICS["psnr"], Effect("psnr", -3.0, -4.0, -2.0, 24, 0.01, None, "random"))
    'PSNR to the clean image is 3 dB lower (95 % CI 2 to 4, n = 24 prompts, p = 0.01)'
    """
    if effect.estimate is None:
        return f"there is no value of {metric.title} to compare (n = {effect.n} {effect.unit}s)"
    several = "attributes" in metric.title.split() and not metric.title.startswith("the ")
    is_or_are = "are" if several else "is"
    if effect.estimate == 0:
        return f"{metric.title} {is_or_are} the same ({numbers(effect)})"
    side = "higher" if effect.estimate > 0 else "lower"
    return f"{metric.title} {is_or_are} {amount(metric, effect.estimate)} {side} ({numbers(effect)})"


def rest(metric: Quantity, effects: Sequence[Effect], named: Mapping[str, str]) -> str:
    """The range of further differences, all to one side."""
    sizes = sorted(abs(effect.estimate or 0.0) for effect in effects)
    side = "higher" if (effects[0].estimate or 0.0) > 0 else "lower"
    low, high = figure(sizes[0]), figure(sizes[-1])
    span = low if low == high else f"{low} to {high}"
    return f"{listing([named[effect.control] for effect in effects])} by {span}{_unit(metric)} {side}"


def levels(metric: Quantity, named: Mapping[str, float]) -> str:
    """Mean values side by side, those that there are; "" for none.

    >>> from dit_lens.methods.metrics import METRICS
    >>> levels(METRICS["ssim"], {"massive": 0.5, "random": 0.91, "unedited": float("nan")})
    'Mean SSIM with the clean image: massive 0.5; random 0.91'
    """
    known = [f"{name} {figure(mean)}" for name, mean in named.items() if np.isfinite(mean)]
    return f"Mean {metric.title}: {'; '.join(known)}" if known else ""


def amount(metric: Quantity, value: float) -> str:
    """Size of a value with its unit, where the title does not imply it."""
    return f"{figure(abs(value))}{_unit(metric)}"


ROUNDING = 1e-12
"""Sums of a hundred float64 shares differ by less from what they should be."""


def figure(value: float) -> str:
    """A number for a reader: three significant digits; what only rounding keeps from 0 is 0.

    >>> figure(-0.12345), figure(0.0), figure(-3.9e-18)
    ('−0.123', '0', '0')
    """
    return f"{value:.3g}".replace("-", "−") if abs(value) > ROUNDING else "0"


def listing(items: Sequence[object], conjunction: str = "and") -> str:
    """Items as a list in a sentence.

    >>> listing([1, 2, 3])
    '1, 2 and 3'
    """
    words = [str(item) for item in items]
    return (
        "".join(words) if len(words) < 2 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
    )  # fmt: skip


def spans(blocks: Sequence[int]) -> str:
    """Blocks as a list; three and more in a row as a range.

    >>> spans([0, 2, 3, 4, 7])
    '0, 2–4 and 7'
    """
    runs: list[list[int]] = []
    for block in sorted(blocks):
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    words = [[f"{run[0]}–{run[-1]}"] if len(run) > 2 else list(map(str, run)) for run in runs]
    return listing([word for run in words for word in run])


def sentences(*parts: str) -> str:
    """Parts as sentences: each begins with a capital and ends in a full stop; empty ones are left out.

    >>> sentences("supported: it is", "", "SSIM is lower")
    'Supported: it is. SSIM is lower.'
    """
    whole = (part.strip().rstrip(".") for part in parts)
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in whole if part)


def _unit(metric: Quantity) -> str:
    return f" {metric.unit}" if metric.unit == "dB" else ""
