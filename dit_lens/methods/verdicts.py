"""An effect as a value, and the one sentence that its numbers allow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from dit_lens.errors import BadInput
from dit_lens.methods.resampling import NO_SPREAD, smallest_p
from dit_lens.words import known_words

Outcome = Literal["supported", "not supported", "undecided"]
Direction = Literal["greater", "less"]

ALPHA = 0.05
"""The p-value, after correction, at or below which a claim may be supported."""

LARGE = 0.8
"""A large effect in standard deviations of the paired differences (Cohen 1988)."""

VERDICT_RULE = (
    "A claim says that the treatment exceeds its control (or falls below it, as stated). Supported: p (after "
    "correction, where several cells were tested) is at most alpha, the whole confidence interval lies on "
    "the claimed side of 0, the treatment lies beyond every draw of a control that was drawn several times, "
    "and the estimate reaches the smallest effect that matters, where one was stated. "
    "Not supported: otherwise, if the interval reaches no further than 0 in the claimed direction, or ends "
    "short of the smallest effect that matters; where none was stated, if p exceeds alpha and the interval "
    f"contains 0 but no large effect ({LARGE} standard deviations of the paired differences). Undecided: "
    "everything else, and every study too small to reach alpha. "
    "p-values and intervals generalise over prompts. Over draws of a control the rank speaks: channels that "
    "are one more random draw lie beyond all of R draws once in R + 1 times: it takes R = 19 draws to "
    "exclude that at 0.05, and one draw excludes nothing."
)


@dataclass(frozen=True)
class Effect:
    """A paired difference, treatment − control, with all that is needed to judge it.

    `estimate`, its interval and `sd` (standard deviation of the paired differences) are in the metric's
    units; `n` counts prompts, or what else `unit` says. What is undefined is None, and `note` says why.
    `p_adjusted` is None where one test stands alone. `draw_estimates` are treatment − each draw of a control
    that involves chance; empty for other controls.
    """

    name: str
    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    p: float | None
    p_adjusted: float | None
    control: str
    note: str = ""
    sd: float | None = None
    confidence: float = 0.95
    draw_estimates: tuple[float, ...] = ()
    unit: str = "prompt"

    def to_data(self) -> dict[str, Any]:
        """Plain JSON values, one per field."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Effect:
        """The effect that `to_data` described.

        Raises:
            BadInput: a field is missing or unknown.
        """
        known = {each.name for each in fields(cls)}
        required = {"name", "estimate", "ci_low", "ci_high", "n", "p", "p_adjusted", "control"}
        wrong = sorted((set(data) - known) | (required - set(data)))
        if wrong:
            raise BadInput(
                f"This is no effect: {', '.join(wrong)} is missing or unknown. An effect has "
                f"{', '.join(sorted(known))}."
            )
        return cls(**{**data, "draw_estimates": tuple(data.get("draw_estimates", ()))})


@dataclass(frozen=True)
class Verdict:
    """What an effect says about a claim, why, and the sentence for a reader."""

    outcome: Outcome
    reason: str
    sentence: str


@known_words
def judge(
    effect: Effect,
    *,
    claim: str = "",
    direction: Direction = "greater",
    smallest: float | None = None,
    alpha: float = ALPHA,
) -> Verdict:
    """Decide by `VERDICT_RULE` whether an effect supports a claim.

    Args:
        claim: what the effect would show, as a clause ("zeroing massive channels disrupts the image more").
        direction: the side of the control that the claim names; `less` for metrics that fall, such as PSNR.
        smallest: the smallest difference that would matter, in the metric's units, positive.

    Raises:
        BadInput: no effect, a direction that does not exist, a `smallest` that is not positive, alpha outside
            (0, 1).

    >>> effect = Effect("distance, massive", 0.3, 0.2, 0.4, 24, 0.0002, None, "random", sd=0.2)
    >>> judge(effect).sentence
    'Supported: distance, massive exceeds random by 0.3 (95 % CI 0.2 to 0.4, n = 24 prompts, p = 0.0002).'
    """
    if not isinstance(effect, Effect):
        raise BadInput(
            f"What is judged is one effect, not {effect!r:.60}. Take one of those that dl.compare gave: "
            'effects["ssim", "random"].'
        )
    if direction not in ("greater", "less"):
        raise BadInput(f"There is no direction {direction!r}; there are greater and less.")
    if smallest is not None and not (math.isfinite(smallest) and smallest > 0):
        raise BadInput(f"The smallest effect that matters is {smallest}; it must be positive.")
    if not 0 < alpha < 1:
        raise BadInput(f"alpha is {alpha}; it must lie between 0 and 1, for example 0.05.")
    outcome, reason = _decide(effect, 1.0 if direction == "greater" else -1.0, smallest, alpha)
    return Verdict(outcome, reason, _sentence(effect, claim, outcome, reason))


def _decide(effect: Effect, sign: float, smallest: float | None, alpha: float) -> tuple[Outcome, str]:
    p = effect.p if effect.p_adjusted is None else effect.p_adjusted
    if p is None or effect.estimate is None or effect.ci_low is None or effect.ci_high is None:
        return "undecided", effect.note or "there is no p-value or no interval"
    estimate = sign * effect.estimate
    low, high = sorted((sign * effect.ci_low, sign * effect.ci_high))
    significant = p <= alpha and low > 0
    as_much = sum(sign * each <= 0 for each in effect.draw_estimates)
    if significant and as_much:
        return (
            "undecided",
            f"{as_much} of the control's {len(effect.draw_estimates)} draws do as much or more",
        )
    if significant and estimate >= (smallest or 0.0):
        return "supported", f"p is at most {alpha:g} and the interval excludes 0"
    if smallest_p(effect.n) > alpha:
        return (
            "undecided",
            f"{counted(effect)} cannot give a p-value of {alpha:g} or less",
        )
    if high <= 0:
        return "not supported", "the whole interval lies at 0 or on the other side of it"
    if smallest is not None:
        if high < smallest:
            return (
                "not supported",
                f"the interval ends short of {_plain(smallest)}, the smallest that matters",
            )
        if significant:
            return (
                "undecided",
                f"the effect may be smaller than {_plain(smallest)}, the smallest that matters",
            )
    elif p > alpha and low <= 0 and effect.sd is not None and high < LARGE * effect.sd:
        return (
            "not supported",
            f"p exceeds {alpha:g}; the interval contains 0 but no large effect ({_plain(LARGE * effect.sd)})",
        )
    if p > alpha:
        return "undecided", f"p exceeds {alpha:g}, yet an effect that matters is not excluded"
    return "undecided", "the interval contains 0, although p does not exceed alpha"


def _sentence(effect: Effect, claim: str, outcome: Outcome, reason: str) -> str:
    head = outcome.capitalize() + ": " + (f"{claim.rstrip('.')}. " if claim else "")
    name = effect.name if not claim else effect.name[:1].upper() + effect.name[1:]
    tail = "" if outcome == "supported" else f"; {reason}"
    if effect.estimate is None:
        return f"{head}{name} has no difference to {effect.control} (n = {effect.n} {effect.unit}s){tail}."
    if effect.estimate == 0:
        relation = f"equals {effect.control}"
    else:
        verb = "exceeds" if effect.estimate > 0 else "falls below"
        relation = f"{verb} {effect.control} by {_plain(abs(effect.estimate))}"
    return f"{head}{name} {relation} ({numbers(effect)}){tail}."


def numbers(effect: Effect) -> str:
    """Interval, n, p and draws of an effect in words; the interval is turned to the side of the estimate.

    An interval of width 0 is called what it is: the differences do not vary, so resampling them gives none.

    >>> numbers(Effect("a", -0.3, -0.4, -0.2, 24, 0.01, 0.03, "b"))
    '95 % CI 0.2 to 0.4, n = 24 prompts, p = 0.01, after correction p = 0.03'
    """
    parts = []
    if effect.ci_low is not None and effect.ci_high is not None:
        ends = (effect.ci_low, effect.ci_high)
        if effect.estimate is not None and effect.estimate < 0:
            ends = (-effect.ci_high, -effect.ci_low)
        spread = f" as {NO_SPREAD}" if NO_SPREAD in effect.note else ""
        parts.append(f"{100 * effect.confidence:g} % CI {_plain(ends[0])} to {_plain(ends[1])}{spread}")
    parts.append(f"n = {counted(effect)}")
    parts.append("no p-value" if effect.p is None else _p_text(effect.p))
    if effect.p_adjusted is not None:
        parts.append(f"after correction {_p_text(effect.p_adjusted)}")
    draws = effect.draw_estimates
    if draws and effect.estimate:
        beyond = sum(each * effect.estimate > 0 for each in draws)
        parts.append(f"beyond {beyond} of {len(draws)} draws" if len(draws) > 1 else "one draw")
    return ", ".join(parts)


def counted(effect: Effect) -> str:
    """How many units an effect rests on, in words.

    >>> counted(Effect("a", -0.3, -0.4, -0.2, 24, 0.01, 0.03, "b", unit="pair"))
    '24 pairs'
    """
    return f"{effect.n} {effect.unit}{'' if effect.n == 1 else 's'}"


def _p_text(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _plain(value: float) -> str:
    # Differences that are 0 but for rounding must not be read as effects of 1e-18.
    return f"{value:.3g}".replace("-", "−") if abs(value) > 1e-12 else "0"
