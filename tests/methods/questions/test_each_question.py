"""What each question tells apart, one by one: planted causes and their opposites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dit_lens.methods.arms import Arm
from dit_lens.methods.questions import QUESTIONS
from tests.methods.questions.imaginary_effects import (
    ALL_METRICS,
    BLOCKS,
    FAST,
    STRONG,
    a_setting,
    asked,
    by_name,
    effects,
    massive_disrupts,
)

pytestmark = pytest.mark.pure

STUDIES = 60


# -------------------------------------------------------------------------------------------- disruption
def test_disruption_is_found_and_names_the_control_beaten_least() -> None:
    def planted(arm: Arm) -> float:
        return {"massive": STRONG, "energy_matched": STRONG / 2}.get(arm.family, 0.0)

    found = by_name(asked(QUESTIONS["disruption"], planted))
    assert list(found) == ["disruption.alignment", "disruption.ssim", "disruption.semantics"]
    for answer in found.values():
        assert answer.outcome == "supported"
        assert [effect.control for effect in answer.effects] == [
            "low", "random", "random_rank_window", "energy_matched",
        ]  # fmt: skip
        assert "Against random channels changed by the same energy (beaten least)" in answer.sentence
        assert all(effect.p_adjusted is not None for effect in answer.effects)
    assert "unedited 0.35" in found["disruption.alignment"].sentence


def test_one_equal_control_denies_disruption() -> None:
    def planted(arm: Arm) -> float:
        return STRONG if arm.family in ("massive", "energy_matched") else 0.0

    answer = by_name(asked(QUESTIONS["disruption"], planted, prompts=24))["disruption.alignment"]
    assert answer.outcome == "not supported"
    assert "Against random channels changed by the same energy, prompt alignment is" in answer.sentence
    assert "Beaten: the weakest channels, random channels and random channels of the next" in answer.sentence


def test_the_reverse_is_denied_even_where_it_is_significant() -> None:
    answered = asked(QUESTIONS["disruption"], lambda arm: STRONG if arm.family == "random" else 0.0)
    answer = answered.answers[0]
    assert answer.outcome == "not supported" and "higher" in answer.sentence
    row = answered.tables["disruption"].set_index(["metric", "control"]).loc[("alignment", "random")]
    assert row["p_adjusted"] < 0.05 and row["outcome"] == "not supported"


def test_the_table_agrees_with_itself_and_with_the_answers() -> None:
    answered = asked(QUESTIONS["disruption"], massive_disrupts, seeds=(0, 1), metrics=ALL_METRICS)
    table = answered.tables["disruption"]
    np.testing.assert_allclose(table["treatment_mean"] - table["control_mean"], table["estimate"], atol=1e-12)
    assert set(table["draws"]) == {1, 5}
    assert table.loc[table["draws"] == 1, "rank_p"].isna().all()
    # The most extreme of six is the most that five draws can show.
    assert set(table.loc[table["draws"] == 5, "rank_p"]) == {1 / 6}
    assert set(table.loc[table["clean_mean"].notna(), "metric"]) == {"alignment", "semantics", "detail"}
    effect = by_name(answered)["disruption.alignment"].effects[1]
    row = table.set_index(["metric", "control"]).loc[("alignment", "random")]
    assert (row["estimate"], row["p"], row["n"]) == (effect.estimate, effect.p, effect.n)
    assert "rank p-value among 5 random draws" in effect.note


def test_metrics_that_were_chosen_without_a_primary_one_all_get_an_answer() -> None:
    chosen = ("attribute.shape", "detail", "semantics")
    for name, parts in (("disruption", 1), ("single_or_all", 2), ("dose", 2)):
        answered = asked(QUESTIONS[name], massive_disrupts, metrics=chosen)
        shown = chosen if name == "disruption" else chosen[1:]
        assert [each.metric for each in answered.answers] == [m for m in shown for _ in range(parts)], name
        assert [each.primary for each in answered.answers].count(True) == 1
    both = ["attribute.position", "attribute.colour"]
    answers = asked(QUESTIONS["disruption"], massive_disrupts, metrics=both).answers
    assert [each.name for each in answers] == [f"disruption.{metric}" for metric in both]


def test_prompts_that_a_draw_lacks_are_left_out_of_means_and_differences_alike() -> None:
    arms = QUESTIONS["disruption"].arms(a_setting())
    table = effects(arms, massive_disrupts, metrics=("ssim",))
    table = table[~((table["arm"] == "random-2") & (table["prompt"] == "prompt 3"))]
    rows = QUESTIONS["disruption"].answer(table, arms, metrics=["ssim"], judging=FAST)
    by_control = rows.tables["disruption"].set_index("control")
    assert by_control["n"].to_dict() == {
        "low": 16, "random": 15, "random_rank_window": 16, "energy_matched": 16,
    }  # fmt: skip
    difference = by_control["treatment_mean"] - by_control["control_mean"]
    np.testing.assert_allclose(difference, by_control["estimate"], atol=1e-12)


def test_false_positives_of_the_whole_question_are_rare() -> None:
    # One control equals the treatment, three are far weaker: the case that is hardest for the verdict.
    question, setting = QUESTIONS["disruption"], a_setting(controls={"low": 1, "energy_matched": 1})
    arms = question.arms(setting)
    wrong = 0
    for study in range(STUDIES):
        table = effects(
            arms,
            lambda arm: STRONG * (arm.family != "low"),
            metrics=("ssim",),
            random_state=study,
            prompts=12,
        )
        (answer,) = question.answer(table, arms, metrics=["ssim"], judging=FAST).answers
        wrong += answer.outcome == "supported"
    assert wrong / STUDIES <= 0.05


# ---------------------------------------------------------------------------------------- bias or carrier
@pytest.mark.parametrize(("matters", "other"), [("carrier", "bias"), ("bias", "carrier")])
def test_bias_and_carrier_are_told_apart(matters: str, other: str) -> None:
    harmful = {"carrier": "mean_only", "bias": "residual_only"}[matters]

    def planted(arm: Arm) -> float:
        return STRONG if arm.family in (harmful, "massive") else 0.0

    found = by_name(asked(QUESTIONS["bias_or_carrier"], planted))
    for metric in ("alignment", "ssim", "semantics"):
        assert found[f"bias_or_carrier.{matters}.{metric}"].outcome == "supported"
        assert found[f"bias_or_carrier.{other}.{metric}"].outcome == "not supported"
    assert next(iter(found)) == f"bias_or_carrier.{matters}.alignment"
    # What the mean alone does is 2402.17762's own test.
    spared = found["bias_or_carrier.mean_spares.alignment"]
    assert spared.outcome == ("supported" if matters == "bias" else "not supported")


def test_damage_by_rescaling_alone_is_told_from_lost_information() -> None:
    def rescaling(arm: Arm) -> float:
        return STRONG if arm.family == "massive" else 0.0

    name = "bias_or_carrier.layernorm.alignment"
    assert by_name(asked(QUESTIONS["bias_or_carrier"], rescaling))[name].outcome == "supported"

    def lost(arm: Arm) -> float:
        return STRONG if arm.family in ("massive", "ln_preserving") else 0.0

    assert by_name(asked(QUESTIONS["bias_or_carrier"], lost, prompts=24))[name].outcome == "not supported"


def test_every_edit_of_the_channels_has_its_mean_beside_the_unedited_image() -> None:
    answered = asked(QUESTIONS["bias_or_carrier"], massive_disrupts)
    table = answered.tables["bias_or_carrier"].set_index(["metric", "arm"])
    assert list(table.loc["alignment"].index) == [
        "zero", "mean_only", "residual_only", "shuffled", "ln_preserving",
    ]  # fmt: skip
    assert table.loc[("alignment", "zero"), "mean"] < table.loc[("alignment", "mean_only"), "mean"]
    assert table.loc["alignment", "clean_mean"].nunique() == 1
    assert table.loc["ssim", "clean_mean"].isna().all()


# ------------------------------------------------------------------------------------ semantics or detail
def loses(one: Mapping[str, float], all_: Mapping[str, float]) -> Any:
    """Massive channels cost this in one block and in all; every other arm and metric nothing."""

    def planted(arm: Arm) -> Mapping[str, float]:
        lost: Mapping[str, float] = {}
        if arm.family == "massive":
            lost = one if arm.protocol == "single_block" else all_
        return {**dict.fromkeys(ALL_METRICS, 0.0), **lost}

    return planted


def test_both_papers_can_hold_side_by_side() -> None:
    planted = loses({"detail": STRONG}, {"detail": STRONG, "semantics": STRONG})
    answered = asked(QUESTIONS["semantics_or_detail"], planted, metrics=ALL_METRICS, prompts=24)
    found = by_name(answered)
    assert found["semantics_or_detail.both"].outcome == "supported"
    assert found["semantics_or_detail.single_block.detail"].outcome == "supported"
    assert found["semantics_or_detail.single_block.semantics"].outcome == "not supported"
    assert found["semantics_or_detail.all_blocks.semantics"].outcome == "supported"
    sentence = found["semantics_or_detail.both"].sentence
    assert "2510.11538" in sentence and "2605.13974" in sentence
    assert sentence.index("In one block") < sentence.index("In all blocks")


def test_semantics_lost_in_one_block_contradicts_the_second_paper() -> None:
    planted = loses({"detail": STRONG, "semantics": STRONG}, {"detail": STRONG, "semantics": STRONG})
    answered = asked(QUESTIONS["semantics_or_detail"], planted, metrics=ALL_METRICS, prompts=24)
    assert answered.answers[0].outcome == "not supported"
    assert "that semantics stay is not supported" in answered.answers[0].reason


def test_semantics_do_not_stay_where_they_fall_and_the_control_only_falls_further() -> None:
    def planted(arm: Arm) -> Mapping[str, float]:
        lost = {"detail": STRONG, "semantics": STRONG} if arm.family == "massive" else {}
        if arm.family == "energy_matched" and arm.protocol == "single_block":
            lost = {"semantics": 1.5 * STRONG}
        return {**dict.fromkeys(ALL_METRICS, 0.0), **lost}

    found = by_name(asked(QUESTIONS["semantics_or_detail"], planted, metrics=ALL_METRICS, prompts=24))
    assert found["semantics_or_detail.single_block.semantics"].outcome == "not supported", (
        "no more than others"
    )
    both = found["semantics_or_detail.both"]
    assert both.outcome == "not supported"
    assert "that semantics stay is not supported" in both.reason
    # 0.06 of 0.95 is lost, and 5 % of it may be.
    assert "changes by −0.06" in both.sentence and "to stay is to lose less than 0.0477" in both.sentence


def test_what_two_questions_compare_has_one_answer() -> None:
    """Zeroing everywhere against the energy-matched draws: in `disruption` and in `single_or_all`."""
    one, other = (
        by_name(asked(QUESTIONS[name], massive_disrupts)) for name in ("disruption", "single_or_all")
    )
    here = next(e for e in one["disruption.alignment"].effects if e.control == "energy_matched")
    assert len(here.draw_estimates) == 5
    table = asked(QUESTIONS["single_or_all"], massive_disrupts).tables["single_or_all"]
    rows = table[(table["metric"] == "alignment") & table["block"].isna()].set_index("family")
    apart = rows.loc["massive", "mean"] - rows.loc["energy_matched", "mean"]
    assert apart == pytest.approx(here.estimate)
    alone = other["single_or_all.single.alignment"].effects
    assert {e.control: len(e.draw_estimates) for e in alone} == {"energy_matched": 3, "random_rank_window": 1}
    nearest = other["single_or_all.single.alignment"].sentence
    assert "beyond 3 of 3 draws" in nearest or "one draw" in nearest


def test_without_the_embedded_world_alignment_and_frequencies_stand_in() -> None:
    metrics = ("alignment", "ssim", "change_low", "change_high")
    planted = loses({"change_high": STRONG}, {"change_high": STRONG, "alignment": STRONG})
    first = asked(QUESTIONS["semantics_or_detail"], planted, metrics=metrics, prompts=24).answers[0]
    assert first.outcome == "supported"
    assert [effect.name.split(",")[0] for effect in first.effects] == [
        "change_high", "alignment", "change_high", "alignment",
    ]  # fmt: skip
    assert "Not measured here: semantic attributes as asked and surface detail as asked" in first.sentence


def test_without_any_detail_nothing_is_decided() -> None:
    answered = asked(QUESTIONS["semantics_or_detail"], massive_disrupts, metrics=("alignment", "ssim"))
    first = answered.answers[0]
    assert (first.outcome, first.reason) == ("undecided", "no metric of detail was measured")
    assert first.effects == ()


def test_changes_are_from_the_unedited_image_and_one_block_is_the_mean_of_all() -> None:
    answered = asked(QUESTIONS["semantics_or_detail"], massive_disrupts, metrics=("semantics", "change_high"))
    table = answered.tables["semantics_or_detail"].set_index(["metric", "protocol", "family"]).sort_index()
    massive = table.loc[("semantics", "single_block", "massive")]
    assert sorted(massive["block"].dropna()) == list(range(BLOCKS))
    mean, by_block = massive[massive["block"].isna()]["change"], massive[massive["block"].notna()]["change"]
    assert mean.item() == pytest.approx(by_block.mean())
    assert -0.04 < mean.item() < -0.02
    assert table.loc[("semantics", "all_blocks", "massive"), "change"].item() < -0.05
    assert table.loc[("change_high", "all_blocks", "massive"), "change"].item() > 0.05


# ------------------------------------------------------------------------------------------ single or all
def test_one_block_is_found_among_others_and_all_do_more() -> None:
    def planted(arm: Arm) -> float:
        if arm.family != "massive":
            return 0.0
        return 2 * STRONG if arm.block is None else STRONG * (arm.block == 1)

    answered = asked(QUESTIONS["single_or_all"], planted, prompts=24)
    found = by_name(answered)
    for metric in ("alignment", "ssim", "semantics"):
        single = found[f"single_or_all.single.{metric}"]
        assert single.outcome == "supported"
        assert "supported in 1 of 3 blocks (1)" in single.sentence.lower()
        assert "Most in block 1: against" in single.sentence
        assert len(single.effects) == 2 * BLOCKS
        assert found[f"single_or_all.all.{metric}"].outcome == "supported"
    rows = answered.tables["single_or_all"]
    massive = rows[(rows["family"] == "massive") & (rows["metric"] == "alignment")].set_index("block")
    assert massive.loc[1, "outcome"] == "supported" and massive.loc[0, "outcome"] != "supported"
    assert rows.loc[rows["family"] != "massive", ["difference", "outcome"]].isna().all(axis=None)
    assert massive["outcome"].notna().all()


def test_all_blocks_that_do_no_more_than_one_are_no_more() -> None:
    def planted(arm: Arm) -> float:
        return STRONG if arm.family == "massive" and arm.block in (None, 2) else 0.0

    answer = by_name(asked(QUESTIONS["single_or_all"], planted, prompts=24))["single_or_all.all.alignment"]
    assert answer.outcome == "not supported"
    assert "Against block 2 alone, " in answer.sentence
    assert "Beaten: block 0 alone and block 1 alone" in answer.sentence


def test_a_block_must_beat_each_of_its_controls() -> None:
    def planted(arm: Arm) -> float:
        return STRONG * (arm.family in ("massive", "random_rank_window"))

    answered = asked(QUESTIONS["single_or_all"], planted, prompts=24)
    answer, rows = answered.answers[0], answered.tables["single_or_all"]
    assert answer.outcome != "supported"
    assert "Nearest to it in block" in answer.sentence
    assert "against random channels of the next ranks, prompt alignment is" in answer.sentence
    massive = rows[(rows["family"] == "massive") & (rows["metric"] == "alignment")]
    assert set(massive["control"]) == {"random_rank_window"}
    beaten = [effect for effect in answer.effects if effect.control == "energy_matched"]
    assert all(effect.p_adjusted < 0.05 for effect in beaten if effect.p_adjusted is not None)


# -------------------------------------------------------------------------------------------------- dose
def test_a_growing_effect_has_a_slope() -> None:
    found = by_name(asked(QUESTIONS["dose"], massive_disrupts))
    slope = found["dose.slope.alignment"]
    assert slope.outcome == "supported"
    # 2 standard deviations of 0.01 were planted for each doubling.
    assert [effect.estimate for effect in slope.effects] == [pytest.approx(-0.02, abs=0.003)] * 2
    assert "the slope of prompt alignment per doubling is" in slope.sentence
    assert "massive k = 1 0.3" in slope.sentence and "massive k = 16 0.2" in slope.sentence


def test_one_channel_that_does_it_all_has_no_slope_but_is_found() -> None:
    found = by_name(asked(QUESTIONS["dose"], lambda arm: STRONG * (arm.family == "massive"), prompts=24))
    assert found["dose.slope.alignment"].outcome != "supported"
    assert found["dose.fewest.alignment"].outcome == "supported"
    assert "1 in each block, already disrupts" in found["dose.fewest.alignment"].sentence


def test_the_curve_is_in_the_table() -> None:
    table = asked(QUESTIONS["dose"], massive_disrupts).tables["dose"]
    curve = table[(table["metric"] == "alignment") & (table["family"] == "massive")]
    assert list(curve["k"]) == [1, 2, 4, 8, 16]
    assert curve["mean"].is_monotonic_decreasing
    assert ((table["ci_low"] <= table["mean"]) & (table["mean"] <= table["ci_high"])).all()
