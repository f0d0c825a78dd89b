"""Do massive channels outline the subject, and do they do so better than other channels?

arXiv 2605.13974 (claim 2): image tokens restricted to massive channels cluster into masks that follow the
main subject; as many low or random channels do not. A mask made of the image tokens' values in some channels
is compared with the subject's true mask (IoU); nothing is edited, so this question has channel families in
place of arms, and its table comes from `methods.spatial.spatial_study`.

Where to look is chosen on calibration prompts (`places`): the block and step at which the massive channels'
IoU is largest, and the block at which it is largest at the last step, the paper's. Judged on held-out
prompts, by the paired difference over prompts with Holm's correction over the controls of a claim:

- `spatial.outline` (primary): massive above low, random, rank-window channels and a shuffled mask.
- `spatial.last_step`: the same at the last step.
- `spatial.everywhere`: at the last step after *every* block, against other channels. The places above were
  chosen where massive channels do best; this says how far from there it holds.
- `spatial.exclusive`: massive above all *other* channels together. The paper does not ask this. Where it is
  denied, the outline is no privilege of the massive channels.

Tables: `spatial_blocks`, mean IoU of each family by block and step, with interval and the chance level of its
masks; `spatial_k`, the same over the number of channels, at the chosen places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.methods.answers import Answer, all_of, judge_all
from dit_lens.methods.controls import serving
from dit_lens.methods.effect_tables import compare
from dit_lens.methods.metrics import quantity
from dit_lens.methods.questions.judged import joint_answer
from dit_lens.methods.questions.question import Answered, Judging, Setting
from dit_lens.methods.questions.sentences import concluded, control_words, difference, figure, spans
from dit_lens.methods.resampling import mean_interval
from dit_lens.methods.spatial.families import ChannelFamily, channel_families, families_over_k
from dit_lens.methods.spatial.study import best_place

NAME = "spatial"
TITLE = "Where is it written?"
SOURCES = ("2605.13974",)

MASSIVE, ALL, OTHERS, SHUFFLED = "massive", "all", "all_but_massive", "shuffled"
BEST, LAST = "outline", "last_step"
STEPS: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where along the run masks are made, as fractions of it; see `steps_of`."""

_METRIC = "iou"
_TITLE = "IoU with the subject's mask"
_WORDS = {SHUFFLED: "a shuffled mask", ALL: "all channels", OTHERS: "all other channels together"}
_CLAIM = {
    BEST: "where they do best on other prompts (block {block}, step {step}), massive channels outline the "
    "subject better than as many other channels and a shuffled mask",
    LAST: "at the last step, where they do best on other prompts (block {block}), massive channels outline "
    "the subject better than as many other channels and a shuffled mask",
}


@dataclass(frozen=True)
class ChosenPlace:
    """A block and step at which a claim is judged, and the massive channels' calibration IoU there."""

    name: str
    block: int
    step: int
    calibration_iou: float


def families(setting: Setting) -> tuple[ChannelFamily, ...]:
    """The massive channels, the setting's controls that are other channels, all, and all but the massive."""
    return channel_families(setting.massive, setting.stats, controls_drawn=_drawn(setting), seed=setting.seed)


def k_families(setting: Setting, ks: Iterable[int] | None = None) -> tuple[ChannelFamily, ...]:
    """The k strongest channels and their controls, for the setting's doses, doubled up to all channels."""
    if ks is None:
        wide = setting.stats.num_channels
        more = [2**i for i in range(wide.bit_length()) if max(setting.doses) < 2**i < wide]
        ks = [*setting.doses, *more, wide]
    return families_over_k(
        setting.massive, setting.stats, ks, controls_drawn=_drawn(setting), seed=setting.seed
    )


def steps_of(num_steps: int, fractions: Sequence[float] = STEPS) -> tuple[int, ...]:
    """Step numbers at fractions of a run, 0 the first and 1 the last.

    >>> steps_of(20)
    (0, 5, 10, 14, 19)
    """
    return tuple(sorted({round(each * (num_steps - 1)) for each in fractions}))


def places(calibration: pd.DataFrame) -> tuple[ChosenPlace, ...]:
    """Where to judge, from a study of the massive channels on calibration prompts.

    One place, where the best step is the last.

    Raises:
        BadInput: the study has no finite IoU of the massive channels.
    """
    last = calibration[calibration["step"] == calibration["step"].max()]
    found: list[ChosenPlace] = []
    for name, table in ((BEST, calibration), (LAST, last)):
        block, step = best_place(table, MASSIVE)
        here = _at(table[table["family"] == MASSIVE], block, step)
        if (block, step) not in [(each.block, each.step) for each in found]:
            found.append(ChosenPlace(name, block, step, float(here["iou"].mean())))
    return tuple(found)


def answer(
    table: pd.DataFrame,
    where: Sequence[ChosenPlace],
    *,
    over_k: pd.DataFrame | None = None,
    judging: Judging | None = None,
) -> Answered:
    """Tables and answers from a study on held-out prompts.

    Args:
        table: `spatial_study` of `families(setting)`, one branch, with the chosen places among its cells.
        where: from `places`, on calibration prompts.
        over_k: `spatial_study` of `k_families(setting)`.

    Raises:
        BadInput: a chosen place is not in the table, several branches, or no massive channels.
    """
    judging = judging or Judging()
    for each in (table, over_k):
        if each is not None and each["branch"].nunique() > 1:
            raise BadInput("The spatial table holds several branches; judge one at a time.")
    answers: list[Answer] = []
    for place in where:
        here = _at(table, place.block, place.step)
        if MASSIVE not in set(here["family"]):
            raise BadInput(
                f"The spatial table has no massive channels after block {place.block} at step {place.step}, "
                "where they are to be judged. Run the study there, too."
            )
    everywhere, told = _everywhere(table[table["step"] == where[-1].step], where[-1].step, judging)
    for place in where:
        # How far the best place is from the rule belongs beside what holds there.
        elsewhere = told if place.name == BEST else ""
        answers += _answers(_at(table, place.block, place.step), place, judging, elsewhere)
    answers.append(everywhere)
    tables = {"spatial_blocks": _levels(table, ["family", "block", "step"], judging)}
    if over_k is not None:
        tables["spatial_k"] = _levels(over_k, ["family", "k", "block", "step"], judging)
    return Answered(tables, tuple(answers))


def _answers(here: pd.DataFrame, place: ChosenPlace, judging: Judging, elsewhere: str) -> list[Answer]:
    kinds = [kind for kind in serving("spatial") if kind in set(here["family"])]
    tidy = _tidy(here)
    claimed = _CLAIM[place.name].format(block=place.block, step=place.step)
    claims: list[tuple[str, str, list[str]]] = [(place.name, claimed, [*kinds, SHUFFLED])]
    if place.name == BEST and OTHERS in set(here["family"]):
        claim = "massive channels outline the subject better than all other channels together"
        claims.append(("exclusive", claim, [OTHERS]))
    found = []
    for name, claim, controls in claims:
        effects = compare(
            tidy,
            treatment=_arm(MASSIVE, 0),
            controls={kind: _draws(here, kind) for kind in controls},
            metrics=[_METRIC],
            correction="holm" if len(controls) > 1 else "none",
            confidence=judging.confidence,
            resamples=judging.resamples,
            seed=judging.seed,
        )
        found.append(
            joint_answer(
                list(effects.values()),
                name=f"{NAME}.{name}",
                claim=claim,
                metric=_METRIC,
                title=_TITLE,
                direction="greater",
                alpha=judging.alpha,
                sources=SOURCES if name != "exclusive" else (),
                primary=name == BEST,
                words=_WORDS,
                extra=[elsewhere, _means(here), _chosen(place)] if name == place.name else (),
            )
        )
    return found


def _everywhere(there: pd.DataFrame, step: int, judging: Judging) -> tuple[Answer, str]:
    """Massive channels against other channels after every block, corrected over blocks and controls; and
    after which of them it holds."""
    kinds = [kind for kind in serving("spatial") if kind in set(there["family"])]
    found = compare(
        {**_tidy(there), "block": [*there["block"], *there.loc[there["family"] == MASSIVE, "block"]]},
        treatment=_arm(MASSIVE, 0),
        controls={kind: _draws(there, kind) for kind in kinds},
        metrics=[_METRIC],
        by=("block",),
        confidence=judging.confidence,
        resamples=judging.resamples,
        seed=judging.seed,
    )
    blocks = sorted({key[2] for key in found})
    joints = {
        block: judge_all(
            [effect for key, effect in found.items() if key[2] == block],
            direction="greater",
            alpha=judging.alpha,
        )
        for block in blocks
    }
    outcome = all_of(joint.outcome for joint in joints.values())
    told = [
        f"{kind} after {len(those)} of {len(blocks)} blocks ({spans(those)})"
        for kind in ("supported", "not supported", "undecided")
        if (those := [block for block, joint in joints.items() if joint.outcome == kind])
    ]
    worst = min(
        (block for block in blocks if joints[block].outcome == outcome),
        key=lambda block: joints[block].weakest.estimate or 0.0,
    )
    weakest = joints[worst].weakest
    claim = "after every block, massive channels outline the subject better than as many other channels"
    metric = replace(quantity(_METRIC), title=_TITLE)
    answer = concluded(
        name=f"{NAME}.everywhere",
        question=NAME,
        claim=claim,
        sources=SOURCES,
        metric=_METRIC,
        direction="greater",
        outcome=outcome,
        reason=joints[worst].reason,
        findings=(
            f"At step {step}: {'; '.join(told)}",
            f"Least after block {worst}: against {control_words(weakest.control)}, "
            f"{difference(metric, weakest)}",
        ),
        effects=tuple(found.values()),
    )
    return answer, f"Against other channels at the last step: {'; '.join(told)}"


def _means(here: pd.DataFrame) -> str:
    shown = [kind for kind in (MASSIVE, *serving("spatial"), ALL, OTHERS) if kind in set(here["family"])]
    means = {kind: here.loc[here["family"] == kind, "iou"].mean() for kind in shown}
    means[SHUFFLED] = here.loc[here["family"] == MASSIVE, "chance"].mean()
    named = {MASSIVE: MASSIVE, **_WORDS}
    listed = ", ".join(f"{named.get(k) or control_words(k)} {figure(v)}" for k, v in means.items())
    return f"Mean IoU: {listed}"


def _chosen(place: ChosenPlace) -> str:
    what = "Block" if place.name == LAST else "Block and step"
    return (
        f"Measured after block {place.block} at step {place.step}. {what} where massive channels did best on "
        f"calibration prompts (IoU {figure(place.calibration_iou)})"
    )


def _tidy(here: pd.DataFrame) -> dict[str, list[Any]]:
    """One cell of the study as arms; the massive masks' chance levels are an arm of their own."""
    arms = [_arm(family, draw) for family, draw in zip(here["family"], here["draw"], strict=True)]
    massive = here[here["family"] == MASSIVE]
    count = len(here) + len(massive)
    return {
        "arm": arms + [_arm(SHUFFLED, 0)] * len(massive),
        "prompt": [*here["prompt"], *massive["prompt"]],
        "seed": [*here["seed"], *massive["seed"]],
        "metric": [_METRIC] * count,
        "value": [*here["iou"], *massive["chance"]],
    }


def _draws(here: pd.DataFrame, kind: str) -> list[str]:
    if kind == SHUFFLED:
        return [_arm(SHUFFLED, 0)]
    return [_arm(kind, draw) for draw in sorted(set(here.loc[here["family"] == kind, "draw"]))]


def _arm(family: str, draw: int) -> str:
    return f"{family}-{draw}"


def _levels(table: pd.DataFrame, by: Sequence[str], judging: Judging) -> pd.DataFrame:
    """Mean IoU per cell with its interval over prompts; draws and seeds are averaged within a prompt."""
    rows = []
    for key, cell in table.groupby(list(by), sort=False):
        per_prompt = cell.groupby("prompt")[["iou", "chance"]].mean().dropna()
        low = high = mean = chance = np.nan
        if len(per_prompt):
            interval = mean_interval(
                per_prompt["iou"],
                confidence=judging.confidence,
                resamples=judging.resamples,
                seed=judging.seed,
            )
            low, high = (np.nan if end is None else end for end in (interval.low, interval.high))
            mean, chance = per_prompt["iou"].mean(), per_prompt["chance"].mean()
        at: Mapping[str, Any] = dict(zip(by, key, strict=True))
        rows.append(
            {**at, "mean": mean, "ci_low": low, "ci_high": high, "n": len(per_prompt), "chance": chance}
        )
    columns = [*by, "mean", "ci_low", "ci_high", "n", "chance"]
    return pd.DataFrame(rows, columns=columns)


def _at(table: pd.DataFrame, block: int, step: int) -> pd.DataFrame:
    return table[(table["block"] == block) & (table["step"] == step)]


def _drawn(setting: Setting) -> dict[str, int]:
    """Those of the setting's controls that are other channels.

    Raises:
        BadInput: none of them.
    """
    kinds = serving("spatial")
    drawn = {kind: setting.controls[kind] for kind in kinds if setting.controls.get(kind)}
    if not drawn:
        raise BadInput(
            f"The controls are {', '.join(setting.controls) or 'none'}; this question compares massive "
            f"channels with others and needs at least one of {', '.join(kinds)}."
        )
    return drawn
