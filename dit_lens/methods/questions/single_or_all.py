"""Is one block enough, or does it take all of them?

arXiv 2510.11538 zeroes massive channels at one layer and finds an effect on detail; arXiv 2605.13974 zeroes
them in all and says nothing of one. Two claims, each on every judged metric:

- `single`: in at least one block, zeroing them there alone disrupts the image more than every control there
  (an intersection over controls, a union over blocks; Holm over all of these comparisons);
- `all`: zeroing them everywhere disrupts the image more than in each single block.

Table `single_or_all`, one row per metric, family and block (absent: all blocks): mean and interval; on rows
of the massive channels also their difference to the control that is beaten least there (`control`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from dit_lens.methods.answers import Answer, Joint, any_of, judge_all
from dit_lens.methods.arms import CLEAN, Arm
from dit_lens.methods.controls import fairest_first
from dit_lens.methods.metrics import quantity
from dit_lens.methods.questions.arm_sets import (
    MASSIVE,
    block_arms,
    blocks_of,
    control_arms,
    declared,
    families,
    massive_arm,
    one,
    some,
)
from dit_lens.methods.questions.judged import (
    about_missing,
    corrected,
    joint_answer,
    judged_metrics,
    metrics_for,
    too_few,
)
from dit_lens.methods.questions.levels import Measured, mean_of, only
from dit_lens.methods.questions.question import Answered, Judging, Question, Setting
from dit_lens.methods.questions.sentences import (
    BEATEN_LEAST,
    concluded,
    control_words,
    difference,
    levels,
    spans,
    treatment_words,
)
from dit_lens.methods.verdicts import Effect

SOURCES = ("2510.11538", "2605.13974")

CONTROLS = 2
"""Families of control per block: the fairest of those that the setting declares."""

ByBlock = Mapping[int | None, Mapping[str, tuple[Arm, ...]]]
"""{block, None for all of them: {family: draws}}; the treatment is one of one."""


def arms(setting: Setting) -> tuple[Arm, ...]:
    """The unedited run; treatment and two controls, in all blocks (every draw) and in each alone (few)."""
    kinds = declared(setting, fairest_first("effects"))[:CONTROLS]
    together = (massive_arm(setting), *control_arms(setting, kinds))
    return (CLEAN, *together, *block_arms(setting, kinds))


def answer(
    effects: pd.DataFrame, arms: Sequence[Arm], *, metrics: Sequence[str], judging: Judging | None = None
) -> Answered:
    """The table, and for every judged metric whether one block is enough and whether all do more."""
    judging = judging or Judging()
    measured = Measured(effects, judging)
    places = _places(arms)
    massive = places[None][MASSIVE][0]
    metrics = metrics_for(measured, metrics, massive, attributes=False)
    judged = judged_metrics(metrics)
    rows: list[dict[str, object]] = []
    single, together = {}, {}
    for metric in metrics:
        joints = _joints(measured, metric, places)
        rows += _rows(measured, metric, places, joints)
        if metric in judged:
            primary = metric == judged[0]
            note = about_missing(metrics) if primary else ""
            single[metric] = _single(measured, metric, places, joints, primary, note)
            together[metric] = _together(measured, metric, places)
    answers = tuple(each[metric] for metric in judged for each in (single, together))
    return Answered({"single_or_all": _typed(rows)}, answers)


def _places(arms: Sequence[Arm]) -> dict[int | None, dict[str, tuple[Arm, ...]]]:
    blocks = blocks_of(arms, MASSIVE)
    alone = families(arms, fairest_first("effects"), protocol="single_block", block=blocks[0])
    kinds = [kind for kind in families(arms, fairest_first("effects")) if kind in alone]
    one(arms, MASSIVE)
    everyone = (MASSIVE, *kinds)
    places: dict[int | None, dict[str, tuple[Arm, ...]]] = {None: {f: some(arms, f) for f in everyone}}
    for block in blocks:
        places[block] = {f: some(arms, f, protocol="single_block", block=block) for f in everyone}
    return places


def _joints(measured: Measured, metric: str, places: ByBlock) -> dict[int | None, Joint]:
    """The verdict at every place. Blocks are corrected together; all of them at once is another claim."""
    found: dict[tuple[int | None, str], Effect] = {
        (block, kind): measured.effect(
            metric,
            mean_of(here[MASSIVE]),
            [only(draw) for draw in draws],
            control_name=kind,
            name=f"{metric}, {'all blocks' if block is None else f'block {block}'}",
        )
        for block, here in places.items()
        for kind, draws in here.items()
        if kind != MASSIVE
    }
    claims = [
        corrected({at: e for at, e in found.items() if (at[0] is None) == whole}) for whole in (True, False)
    ]
    judged = {**claims[0], **claims[1]}
    return {
        block: judge_all(
            [effect for at, effect in judged.items() if at[0] == block],
            direction=quantity(metric).disrupted,
            alpha=measured.judging.alpha,
        )
        for block in places
    }


def _rows(
    measured: Measured, metric: str, places: ByBlock, joints: Mapping[int | None, Joint]
) -> list[dict[str, object]]:
    rows = []
    for block, here in places.items():
        for family, draws in here.items():
            row = {
                "metric": metric,
                "family": family,
                "block": block,
                **measured.level(metric, mean_of(draws)).columns(),
            }
            if family == MASSIVE:
                weakest = joints[block].weakest
                row |= {
                    "difference": weakest.estimate,
                    "difference_low": weakest.ci_low,
                    "difference_high": weakest.ci_high,
                    "p_adjusted": weakest.p_adjusted,
                    "outcome": joints[block].outcome,
                    "control": weakest.control,
                }
            rows.append(row)
    return rows


def _single(
    measured: Measured,
    metric: str,
    places: ByBlock,
    joints: Mapping[int | None, Joint],
    primary: bool,
    note: str,
) -> Answer:
    """Whether one block is enough."""
    described = quantity(metric)
    side = described.disrupted
    blocks = {block: joint for block, joint in joints.items() if block is not None}
    outcome = any_of(joint.outcome for joint in blocks.values())
    sign = 1.0 if side == "greater" else -1.0

    def strength(block: int) -> float:
        estimate = blocks[block].weakest.estimate
        return float("-inf") if estimate is None else sign * estimate

    best = max((b for b, joint in blocks.items() if joint.outcome == outcome), key=strength)
    weakest, massive = blocks[best].weakest, places[None][MASSIVE][0]
    claim = f"{treatment_words(massive)} in one block alone disrupts the image more than every control"
    by_outcome = {
        kind: [block for block, joint in blocks.items() if joint.outcome == kind]
        for kind in ("supported", "not supported", "undecided")
    }
    counted = "; ".join(
        f"{kind} in {len(those)} of {len(blocks)} blocks ({spans(those)})"
        for kind, those in by_outcome.items()
        if those
    )
    nearest = "Most" if outcome == "supported" else "Nearest to it"
    least = BEATEN_LEAST if outcome == "supported" and len(places[best]) > 2 else ""
    told = f"{nearest} in block {best}: against {control_words(weakest.control)}{least}, "
    told += difference(described, weakest)
    if outcome != "supported":
        told += f": {blocks[best].reason}"
    every = tuple(effect for joint in blocks.values() for effect in joint.effects)
    few = too_few(every, len(every), measured.judging.alpha) if outcome == "undecided" else ""
    shown = {
        "unedited": measured.clean(metric),
        f"block {best} alone": measured.mean(metric, mean_of(places[best][MASSIVE])),
        "all blocks": measured.mean(metric, only(massive)),
    }
    return concluded(
        name=f"single_or_all.single.{metric}",
        question="single_or_all",
        claim=claim,
        sources=SOURCES,
        metric=metric,
        direction=side,
        outcome=outcome,
        reason=blocks[best].reason,
        findings=(counted, told, few, levels(described, shown), note),
        effects=every,
        primary=primary,
    )


def _together(measured: Measured, metric: str, places: ByBlock) -> Answer:
    massive = places[None][MASSIVE][0]
    words = {f"block {block}": f"block {block} alone" for block in places if block is not None}
    found = {
        block: measured.effect(
            metric,
            only(massive),
            mean_of(here[MASSIVE]),
            control_name=f"block {block}",
            name=f"{metric}, all blocks",
        )
        for block, here in places.items()
        if block is not None
    }
    return joint_answer(
        list(corrected(found).values()),
        name=f"single_or_all.all.{metric}",
        claim=f"{treatment_words(massive)} in all blocks disrupts the image more than in any one block",
        metric=metric,
        alpha=measured.judging.alpha,
        sources=SOURCES,
        words=words,
    )


def _typed(rows: list[dict[str, object]]) -> pd.DataFrame:
    numbers = ["difference", "difference_low", "difference_high", "p_adjusted"]
    order = ["metric", "family", "block", "mean", "ci_low", "ci_high", *numbers, "outcome", "control", "n"]
    table = pd.DataFrame(rows, columns=order)
    return table.astype({"block": "Int64", **dict.fromkeys(numbers, "float64")})


QUESTION = Question("single_or_all", "One block, or all of them?", SOURCES, arms, answer)
