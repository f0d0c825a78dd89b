"""What a study measured, as tables for figures: every arm's level, and the tables of the questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dit_lens.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from dit_lens.methods.arms import Arm

OWN = ("effects", "sham", "levels")
"""Tables that every study has."""

LEVEL_COLUMNS = ("metric", "place", "arm", "label", "family", "mean", "ci_low", "ci_high", "n", "clean_mean")


class Studied(Protocol):
    """What a study measured, as its tables need it; `methods.study.StudyResult` says what the columns are."""

    @property
    def effects(self) -> pd.DataFrame: ...

    @property
    def sham(self) -> pd.DataFrame: ...

    @property
    def arms(self) -> tuple[Arm, ...]: ...


def study_table(result: Studied, name: str) -> pd.DataFrame:
    """One table of a study: `effects`, `sham`, `levels`, or the table of a question that its arms answer.

    `levels` has one row per metric and arm: mean over prompts, 95 % interval, n, and that of clean images.

    Raises:
        BadInput: no such table, or a question for which the study lacks arms or metrics.
    """
    from dit_lens.methods.questions import QUESTIONS

    if name == "effects":
        return result.effects
    if name == "sham":
        return result.sham
    if name == "levels":
        return _levels(result)
    if name not in QUESTIONS:
        there = (*OWN, *QUESTIONS)
        raise BadInput(
            f"A study has no table {name!r}; there are: {', '.join(there)}.{did_you_mean(name, there)}"
        )
    metrics = list(dict.fromkeys(result.effects["metric"]))
    return QUESTIONS[name].answer(result.effects, result.arms, metrics=metrics).tables[name]


def _levels(result: Studied) -> pd.DataFrame:
    import pandas as pd

    from dit_lens.methods.arms import CLEAN
    from dit_lens.methods.questions.levels import Measured, only

    measured = Measured(result.effects)
    arms = [arm for arm in result.arms if arm.name != CLEAN.name]
    rows = [
        {
            "metric": metric,
            "place": place,
            "arm": arm.name,
            "label": arm.name,
            "family": arm.family,
            **measured.level(metric, only(arm)).columns(),
            "clean_mean": measured.clean(metric),
        }
        for metric in dict.fromkeys(result.effects["metric"])
        for place, arm in enumerate(arms)
        if measured.has(metric, arm.name)
    ]
    return pd.DataFrame(rows, columns=list(LEVEL_COLUMNS))
