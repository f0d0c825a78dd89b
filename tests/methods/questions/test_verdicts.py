"""Every question finds what is planted, denies what is absent, and says when it cannot tell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import Scale
from dit_lens.methods.answers import Answer
from dit_lens.methods.arms import CLEAN, Arm
from dit_lens.methods.questions import QUESTIONS, Answered
from tests.methods.questions.imaginary_effects import (
    ALL_METRICS,
    FAST,
    a_setting,
    asked,
    effects,
    massive_disrupts,
)

pytestmark = pytest.mark.pure

ABLATIONS = ("disruption", "bias_or_carrier", "semantics_or_detail", "single_or_all", "dose")

COLUMNS = {
    "disruption": (
        "metric", "control", "draws", "treatment_mean", "control_mean", "clean_mean", "estimate", "ci_low",
        "ci_high", "n", "p", "p_adjusted", "rank_p", "direction", "outcome",
    ),
    "bias_or_carrier": ("metric", "arm", "label", "mean", "ci_low", "ci_high", "n", "clean_mean"),
    "semantics_or_detail": ("protocol", "family", "block", "metric", "change", "ci_low", "ci_high", "n"),
    "single_or_all": (
        "metric", "family", "block", "mean", "ci_low", "ci_high", "difference", "difference_low",
        "difference_high", "p_adjusted", "outcome", "control", "n",
    ),
    "dose": ("metric", "family", "k", "mean", "ci_low", "ci_high", "n"),
}  # fmt: skip


def nothing(arm: Arm) -> float:
    return 0.0


def tables_equal(first: Answered, second: Answered) -> None:
    assert first.tables.keys() == second.tables.keys()
    for name, table in first.tables.items():
        pd.testing.assert_frame_equal(table, second.tables[name])
    assert first.answers == second.answers


# --------------------------------------------------------------------------------------------- all of them
@pytest.mark.parametrize("name", ABLATIONS)
def test_table_and_answers_are_complete(name: str) -> None:
    answered = asked(QUESTIONS[name], massive_disrupts, metrics=ALL_METRICS)
    (table,) = answered.tables.values()
    assert tuple(table.columns) == COLUMNS[name] and list(answered.tables) == [name]
    assert not table.empty
    assert [answer.primary for answer in answered.answers] == [True] + [False] * (len(answered.answers) - 1)
    for answer in answered.answers:
        assert answer.question == name and answer.name.startswith(f"{name}.")
        assert answer.sentence.startswith(answer.outcome.capitalize() + ": ")
        assert answer.claim.lower() in answer.sentence.lower()
        assert f"n = {answer.effects[0].n} prompts" in answer.sentence
        assert answer.sentence.endswith(".") and ".." not in answer.sentence
        assert set(answer.sources) <= set(QUESTIONS[name].sources)
        Answer.model_validate(answer.to_data())


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_no_effect_supports_nothing(name: str, seed: int) -> None:
    answered = asked(QUESTIONS[name], nothing, metrics=ALL_METRICS, prompts=20, random_state=seed + 10)
    primary = [answer for answer in answered.answers if answer.primary]
    assert {answer.outcome for answer in primary} <= {"not supported", "undecided"}


@pytest.mark.parametrize("name", ABLATIONS)
def test_differences_of_exactly_zero_support_nothing(name: str) -> None:
    # 0.1 + … five times over five is not 0.1 in floating point; a control of five draws must not differ.
    answered = asked(QUESTIONS[name], nothing, metrics=ALL_METRICS, noise=0.0)
    for answer in answered.answers:
        assert answer.outcome == "not supported"
        assert {effect.estimate for effect in answer.effects} == {0.0}
        assert {effect.p for effect in answer.effects} == {1.0}
        assert " the same (" in answer.sentence


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize(("prompts", "reason"), [(1, "one prompt"), (4, "4 prompts cannot give")])
def test_too_few_prompts_decide_nothing_and_say_so(name: str, prompts: int, reason: str) -> None:
    answered = asked(QUESTIONS[name], massive_disrupts, prompts=prompts, metrics=ALL_METRICS)
    for answer in answered.answers:
        assert answer.outcome == "undecided"
    told = answered.answers[1 if name == "semantics_or_detail" else 0]
    assert reason in told.reason and reason in told.sentence


@pytest.mark.parametrize("name", ABLATIONS)
def test_more_arms_prompts_of_others_and_the_order_of_rows_change_nothing(name: str) -> None:
    arms = QUESTIONS[name].arms(a_setting())
    table = effects(arms, massive_disrupts, seeds=(0, 1))
    alone = QUESTIONS[name].answer(table, arms, metrics=["alignment", "ssim", "semantics"], judging=FAST)
    everything = list(
        {arm.name: arm for each in ABLATIONS for arm in QUESTIONS[each].arms(a_setting())}.values()
    )
    cell = Arm("massive.at-1-2", "massive", (), protocol="single_cell", block=1, step=2)
    read = Arm("massive.step", "massive", (), block=1, step=2, readout="step")
    more = effects([*everything, cell, read], massive_disrupts, seeds=(0, 1))
    elsewhere = effects([cell, read], nothing).assign(prompt=lambda rows: rows["prompt"] + " of a map")
    shuffled = pd.concat([more, elsewhere]).sample(frac=1, random_state=0)
    together = QUESTIONS[name].answer(
        shuffled, [read, cell, *everything[::-1]], metrics=["alignment", "ssim", "semantics"], judging=FAST
    )
    if name == "semantics_or_detail":
        # There all draws of the control are averaged, and other questions run no more of them.
        assert len([arm for arm in arms if arm.family == "energy_matched" and arm.block is None]) == 5
    tables_equal(alone, together)


@pytest.mark.parametrize("name", ABLATIONS)
def test_what_cannot_be_measured_is_said_and_the_rest_is_judged(name: str) -> None:
    answered = asked(QUESTIONS[name], massive_disrupts, metrics=("change_low", "change_high", "ssim"))
    first = answered.answers[0]
    assert "Not measured here: " in first.sentence and "semantic attributes as asked" in first.sentence
    assert {answer.metric for answer in answered.answers} <= {"", "change_low", "change_high", "ssim"}
    if name != "semantics_or_detail":
        assert first.metric == "ssim"
        assert "SSIM with the clean image decides in place of prompt alignment" in first.sentence
        assert not any("Not measured" in answer.sentence for answer in answered.answers[1:])


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_metric_without_a_value_is_no_metric(name: str) -> None:
    arms = QUESTIONS[name].arms(a_setting())
    table = effects(arms, massive_disrupts)
    table.loc[table["metric"] == "alignment", "value"] = np.nan
    answered = QUESTIONS[name].answer(table, arms, metrics=["alignment", "ssim", "velocity"], judging=FAST)
    assert set(answered.tables[name]["metric"]) == {"ssim"}
    with pytest.raises(BadInput, match="None of the metrics alignment, velocity has a value"):
        QUESTIONS[name].answer(table, arms, metrics=["alignment", "velocity"], judging=FAST)


@pytest.mark.parametrize("name", ABLATIONS)
def test_arms_and_effects_must_be_there(name: str) -> None:
    arms = QUESTIONS[name].arms(a_setting())
    table = effects(arms, nothing)
    with pytest.raises(BadInput, match=r"its arms\(\) declares"):
        QUESTIONS[name].answer(table, [CLEAN], metrics=["ssim"], judging=FAST)
    with pytest.raises(BadInput, match="no column 'value'"):
        QUESTIONS[name].answer(table.drop(columns="value"), arms, metrics=["ssim"], judging=FAST)
    with pytest.raises(BadInput, match="counted twice"):
        QUESTIONS[name].answer(pd.concat([table, table]), arms, metrics=["ssim"], judging=FAST)
    gone = arms[-1].name
    with pytest.raises(BadInput, match=f"no arm '{gone}'"):
        QUESTIONS[name].answer(table[table["arm"] != gone], arms, metrics=["ssim"], judging=FAST)


@pytest.mark.parametrize("name", ["single_or_all", "dose"])
def test_attributes_alone_are_no_measure_of_disruption_by_block_or_dose(name: str) -> None:
    with pytest.raises(BadInput, match="None of the metrics"):
        asked(QUESTIONS[name], massive_disrupts, metrics=("attribute.shape",))


def test_another_edit_is_called_what_it_is() -> None:
    question, setting = QUESTIONS["disruption"], a_setting(op=Scale(0.5, part="mean"), controls={"low": 1})
    arms = question.arms(setting)
    (answer,) = question.answer(
        effects(arms, massive_disrupts, metrics=("my_score",)), arms, metrics=["my_score"], judging=FAST
    ).answers
    assert answer.claim.startswith("scaling the mean part of massive channels disrupts the image")
    # An outside score is better the larger it is, so disruption lowers it.
    assert (answer.direction, answer.outcome) == ("less", "supported")
    assert "Against the weakest channels, my score is 0.0" in answer.sentence


def test_too_many_comparisons_for_the_prompts_are_named() -> None:
    # Seven prompts reach p = 0.016 and no less: enough for one comparison, too few for six.
    single, together = asked(QUESTIONS["single_or_all"], massive_disrupts, prompts=7).answers[:2]
    assert (single.outcome, together.outcome) == ("undecided", "supported")
    assert "7 prompts cannot reach p = 0.05 after correction over 6 comparisons" in single.sentence
    assert "cannot reach" not in together.sentence
    dose = asked(QUESTIONS["dose"], massive_disrupts, prompts=6, metrics=("semantics", "latent")).answers
    assert [answer.outcome for answer in dose] == ["undecided"] * 4
    assert "6 prompts cannot reach p = 0.05 after correction over 2 comparisons" in dose[0].sentence
    assert "the slope of semantic attributes as asked per doubling is" in dose[2].sentence
