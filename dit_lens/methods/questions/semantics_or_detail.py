"""What do massive channels hold: semantics or detail? Both papers' protocols, side by side.

arXiv 2605.13974 zeroes massive channels in all blocks and sees the image collapse. arXiv 2510.11538 zeroes
them at one layer and sees semantics kept and detail destroyed. Here both are done, against a control that is
changed by as much (`energy_matched`). "One block" is the mean over all blocks, so that no block is picked.
A loss is a fall below that control; that semantics *stay* is more than no such loss: their fall from the
unedited image has to be shown to be smaller than `STAYS` of its level, by the whole interval, and it must not
be a loss.

Semantics: attribute read-out and prompt alignment, and change at low spatial frequencies. Detail: surface
attributes, and change at high frequencies. Attributes exist on the embedded world alone; on another model
the pair is alignment (or low frequencies) and high frequencies.

Table `semantics_or_detail`, one row per protocol, family, block (absent: all blocks, or the mean over them)
and metric: the change from the unedited image for scores, the distance itself for distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dit_lens.methods.answers import Answer, all_of
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
from dit_lens.methods.questions.judged import about_missing, corrected, joint_answer, metrics_for
from dit_lens.methods.questions.levels import Contrast, Measured, change, mean_of, only
from dit_lens.methods.questions.question import Answered, Judging, Question, Setting
from dit_lens.methods.questions.sentences import (
    concluded,
    control_words,
    difference,
    figure,
    treatment_words,
)
from dit_lens.methods.verdicts import Effect, Outcome

SOURCES = ("2605.13974", "2510.11538")

SEMANTICS = ("semantics", "alignment", "change_low")
DETAIL = ("detail", "change_high", "detail_ratio")
"""The first of each that was measured makes the pair that decides."""

JUDGED = ("semantics", "detail", "alignment", "change_low", "change_high")

STAYS = 0.05
"""Semantics stay where they fall by less than this share of the unedited image's level."""

PROTOCOLS = {"all_blocks": "in all blocks at once", "single_block": "in one block (mean over blocks)"}


def arms(setting: Setting) -> tuple[Arm, ...]:
    """The unedited run; the treatment and its fairest declared control, in all blocks and in each alone."""
    kind = declared(setting, fairest_first("effects"))[0]
    return (CLEAN, massive_arm(setting), *control_arms(setting, [kind]), *block_arms(setting, [kind]))


@dataclass(frozen=True)
class _Protocols:
    """The arms by protocol and family: {protocol: {family: draws}}, a draw being its arms in every block."""

    control: str
    arms: dict[str, dict[str, tuple[tuple[Arm, ...], ...]]]

    @classmethod
    def of(cls, arms: Sequence[Arm]) -> _Protocols:
        massive = one(arms, MASSIVE)
        blocks = blocks_of(arms, MASSIVE)
        kinds = families(arms, fairest_first("effects"), protocol="single_block", block=blocks[0])
        control = (*kinds, fairest_first("effects")[0])[0]
        single = {
            # [block][draw] → [draw][block]
            family: tuple(
                zip(*(some(arms, family, protocol="single_block", block=b) for b in blocks), strict=True)
            )
            for family in (MASSIVE, control)
        }
        together: dict[str, tuple[tuple[Arm, ...], ...]] = {
            MASSIVE: ((massive,),),
            control: tuple((draw,) for draw in some(arms, control)),
        }
        return cls(control, {"all_blocks": together, "single_block": single})

    def contrasts(self, protocol: str, family: str) -> list[Contrast]:
        """Every draw of a family in a protocol, the mean over its arms."""
        return [mean_of(draw) for draw in self.arms[protocol][family]]

    def contrast(self, protocol: str, family: str) -> Contrast:
        """The mean over a family's draws and arms in a protocol."""
        return mean_of([arm for draw in self.arms[protocol][family] for arm in draw])


def answer(
    effects: pd.DataFrame, arms: Sequence[Arm], *, metrics: Sequence[str], judging: Judging | None = None
) -> Answered:
    """The table, one answer that puts both papers side by side, and one per protocol and judged metric."""
    judging = judging or Judging()
    measured = Measured(effects, judging)
    protocols = _Protocols.of(arms)
    ((massive,),) = protocols.arms["all_blocks"][MASSIVE]
    metrics = metrics_for(measured, metrics, massive)
    pair = _pair(metrics)
    judged = [metric for metric in (*JUDGED, *DETAIL) if metric in metrics and metric in (*JUDGED, *pair)]
    parts = {
        (protocol, metric): _part(metric, protocol, effect, massive, judging.alpha)
        for metric in dict.fromkeys(judged)
        for protocol, effect in _effects(measured, protocols, metric).items()
    }
    first = _side_by_side(measured, protocols, parts, pair, metrics, massive)
    return Answered({"semantics_or_detail": _table(measured, protocols, metrics)}, (first, *parts.values()))


def _pair(metrics: Sequence[str]) -> tuple[str | None, str | None]:
    """The metric of semantics and that of detail; None where there is none."""
    semantics, detail = (
        next((name for name in names if name in metrics), None) for names in (SEMANTICS, DETAIL)
    )
    return semantics, detail


def _effects(measured: Measured, protocols: _Protocols, metric: str) -> dict[str, Effect]:
    return corrected(
        {
            protocol: measured.effect(
                metric,
                protocols.contrast(protocol, MASSIVE),
                protocols.contrasts(protocol, protocols.control),
                control_name=protocols.control,
                name=f"{metric}, {PROTOCOLS[protocol]}",
            )
            for protocol in protocols.arms
        }
    )


def _part(metric: str, protocol: str, effect: Effect, massive: Arm, alpha: float) -> Answer:
    described = quantity(metric)
    verb = "lowers" if described.disrupted == "less" else "raises"
    return joint_answer(
        [effect],
        name=f"semantics_or_detail.{protocol}.{metric}",
        claim=f"{treatment_words(massive)} {PROTOCOLS[protocol]} {verb} the metric “{described.title}” more "
        f"than {control_words(effect.control)}",
        metric=metric,
        alpha=alpha,
        sources=SOURCES,
        comparisons=len(PROTOCOLS),
    )


def _stay(measured: Measured, protocols: _Protocols, metric: str) -> tuple[Outcome, str]:
    """Whether a score stays near the unedited image's when one block is edited, and the numbers for it."""
    title = quantity(metric).title
    clean = measured.clean(metric)
    if not clean > 0:
        return "undecided", f"{title} has no level of the unedited image that a loss could be a share of"
    found = measured.level(metric, change(protocols.contrast("single_block", MASSIVE), only(CLEAN)))
    floor = -STAYS * clean
    outcome: Outcome = "undecided"
    if found.low > floor:
        outcome = "supported"
    elif found.high < floor:
        outcome = "not supported"
    return outcome, (
        f"in one block {title} changes by {figure(found.mean)} (95 % CI {figure(found.low)} to "
        f"{figure(found.high)}) from the unedited {figure(clean)}; to stay is to lose less than "
        f"{figure(-floor)}"
    )


def _side_by_side(
    measured: Measured,
    protocols: _Protocols,
    parts: Mapping[tuple[str, str], Answer],
    pair: tuple[str | None, str | None],
    metrics: Sequence[str],
    massive: Arm,
) -> Answer:
    """Do both papers hold: one block costs detail and no semantics, all blocks cost semantics?"""
    semantics, detail = pair
    claim = (
        f"{treatment_words(massive)} in one block costs detail and leaves semantics (2510.11538), and in all "
        "blocks costs semantics (2605.13974)"
    )
    shared: dict[str, Any] = {
        "name": "semantics_or_detail.both",
        "question": "semantics_or_detail",
        "claim": claim,
        "sources": SOURCES,
        "metric": "",
        "direction": "less",
        "primary": True,
    }
    if semantics is None or detail is None:
        lacking = "semantics" if semantics is None else "detail"
        reason = f"no metric of {lacking} was measured"
        return concluded(**shared, outcome="undecided", reason=reason, findings=[reason], effects=())
    one_detail, one_semantics = parts["single_block", detail], parts["single_block", semantics]
    all_semantics, all_detail = parts["all_blocks", semantics], parts["all_blocks", detail]
    stay, staying = _stay(measured, protocols, semantics)
    if one_semantics.outcome == "supported":
        stay = "not supported"
    needed = (one_detail.outcome, stay, all_semantics.outcome)
    outcome = all_of(needed)
    told = [
        f"{PROTOCOLS[protocol]}, against {control_words(both[0].effects[0].control)}: "
        + "; ".join(
            f"{difference(quantity(each.metric), each.effects[0])}, a loss that is {each.outcome}"
            for each in both
        )
        for protocol, both in (
            ("single_block", (one_detail, one_semantics)),
            ("all_blocks", (all_detail, all_semantics)),
        )
    ]
    reason = (
        f"in one block, that detail falls is {needed[0]} and that semantics stay is {needed[1]}; in all "
        f"blocks, that semantics fall is {needed[2]}"
    )
    found = (*told, staying, about_missing(metrics, ("semantics", "detail")))
    effects = tuple(each.effects[0] for each in (one_detail, one_semantics, all_detail, all_semantics))
    return concluded(**shared, outcome=outcome, reason=reason, findings=found, effects=effects)


def _table(measured: Measured, protocols: _Protocols, metrics: Sequence[str]) -> pd.DataFrame:
    rows = []
    for metric in metrics:
        clean: Contrast = only(CLEAN) if measured.has(metric, CLEAN.name) else {}
        for protocol, by_family in protocols.arms.items():
            for family, draws in by_family.items():
                groups: list[tuple[int | None, Contrast]] = [(None, protocols.contrast(protocol, family))]
                if protocol == "single_block":
                    groups += [(same[0].block, mean_of(same)) for same in zip(*draws, strict=True)]
                for block, contrast in groups:
                    level = measured.level(metric, change(contrast, clean))
                    rows.append(
                        {
                            "protocol": protocol,
                            "family": family,
                            "block": block,
                            "metric": metric,
                            **level.columns("change"),
                        }
                    )
    return pd.DataFrame(rows).astype({"block": "Int64"})


QUESTION = Question("semantics_or_detail", "Semantics or detail?", SOURCES, arms, answer)
