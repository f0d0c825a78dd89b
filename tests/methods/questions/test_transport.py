"""The transport and guidance questions on effects whose answers are known."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from dit_lens.errors import BadInput
from dit_lens.methods.paired_effects import paired_effect
from dit_lens.methods.questions import detail_guidance
from dit_lens.methods.questions.question import Judging
from dit_lens.methods.questions.transport import Transport
from dit_lens.methods.questions.transport_claims import at_equal_change
from dit_lens.methods.transport.guidance import COLUMNS as GUIDED
from dit_lens.methods.transport.study import COLUMNS
from dit_lens.methods.verdicts import Effect, judge

pytestmark = pytest.mark.pure

QUICK = Judging(resamples=499)
METRICS = ("toward_latent", "margin", "moved", "kept", "ssim", "moved.shape", "moved.colour")
CONTROLS = ("low", "random", "random_rank_window", "energy_matched")


def rows_of(family, strength, unit, group, side, values, *, axis="", at="", draw=0):
    arm = f"{family}-{draw}.s-{strength:g}{axis}{at}"
    place = (arm, family, strength, draw, axis, at, unit, group, side, f"t {unit}", f"s {unit}", 0)
    return [(*place, metric, value) for metric, value in values.items()]


def effects(massive=0.5, control=0.1, *, pairs=16, sides=("forward", "backward"), blends=True, wobble=0.02):
    """Massive channels move every metric by `massive`, controls by `control`; colour never moves."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(pairs):
        group = ("shape", "colour", "all")[i % 3]
        for side in sides:
            for family in ("massive", *CONTROLS, "all", "all_but_massive"):
                size = {"massive": massive, "all": 0.9, "all_but_massive": 0.8}.get(family, control)
                size += wobble * rng.standard_normal()
                values = dict.fromkeys(("toward_latent", "margin", "moved"), size) | {"kept": 1.0}
                values |= {"ssim": 1 - size, "moved.shape": np.nan, "moved.colour": np.nan}
                if group in ("shape", "all"):
                    values["moved.shape"] = size
                if group in ("colour", "all"):
                    values["moved.colour"] = 0.0
                rows += rows_of(family, 1.0, f"pair-{i:03d}", group, side, values)
                if family == "massive":
                    rows += rows_of(family, 1.0, f"pair-{i:03d}", group, side, values, axis="k", at="1")
                    rows += rows_of(family, 1.0, f"pair-{i:03d}", group, side, values, axis="part", at="mean")
            for strength in (0.0, 0.5, 1.0) if blends else ():
                values = {"margin": 0.6 * strength, "ssim": 1 - strength, "moved.shape": strength}
                rows += rows_of("latent_blend", strength, f"pair-{i:03d}", group, side, values)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def answered(table, name="transport_text"):
    found = Transport(name).answer(table, metrics=METRICS, judging=QUICK)
    return found.tables, {answer.name: answer for answer in found.answers}


def test_what_moves_more_than_every_control_is_supported_and_attributes_stand_alone() -> None:
    _, answers = answered(effects())
    first = next(iter(answers.values()))
    assert first.name == "transport_text.margin" and first.primary
    assert sum(answer.primary for answer in answers.values()) == 1
    assert first.outcome == "supported" and [e.control for e in first.effects] == list(CONTROLS)
    assert first.effects[0].n == 16 and "n = 16 pairs" in first.sentence
    assert all(effect.p_adjusted >= effect.p for effect in first.effects)
    shape, colour = answers["transport_text.moved.shape"], answers["transport_text.moved.colour"]
    assert shape.outcome == "supported" and colour.outcome == "not supported"
    assert shape.effects[0].n == 11 and "Transfer rate of shape: 0.5" in shape.sentence
    assert "The unedited target reads so in 0, the source itself in 1" in shape.sentence
    assert answers["transport_text.rest.margin"].outcome == "not supported"


def test_a_null_result_is_said_plainly() -> None:
    _, answers = answered(effects(massive=0.1, control=0.3))
    assert answers["transport_text.margin"].outcome == "not supported"
    assert answers["transport_text.margin"].sentence.startswith("Not supported: carrying massive channels")


@pytest.mark.parametrize(("control", "outcome"), [(0.2, "supported"), (0.55, "not supported")])
def test_change_is_concentrated_in_the_mask_only_if_more_so_than_with_other_channels(
    control, outcome
) -> None:
    """Massive channels change the inside more than the outside in both cases; so do the controls."""
    table, outside = effects(control=control, sides=("noised", "inverted"), blends=False), 0.1
    rows = table[table["metric"] == "ssim"]
    # One picture had no subject, so that its change has no sides.
    known = rows["unit"] != "pair-000"
    both = {"change_inside": (1 - rows["value"]).where(known), "change_outside": known.map({True: outside})}
    table = pd.concat([table, *(rows.assign(metric=name, value=each) for name, each in both.items())])
    metrics = (*METRICS, *both)
    found = Transport("transport_image").answer(table, metrics=metrics, judging=QUICK)
    for side in ("noised", "inverted"):
        answer = next(a for a in found.answers if a.name == f"transport_image.{side}.inside")
        assert answer.outcome == outcome and not answer.primary and answer.effects[0].n == 15
        assert [effect.control for effect in answer.effects] == list(CONTROLS)
        for effect in answer.effects:
            assert effect.estimate == pytest.approx(0.5 - control, abs=0.03)
            assert effect.p_adjusted >= effect.p
        assert f"from {'a noised' if side == 'noised' else 'an inverted'} picture concentr" in answer.sentence
        alone = re.search(r"by (\S+) inside and 0.1 outside .* difference is (\S+), 95 % CI", answer.sentence)
        assert [float(x) for x in alone.groups()] == pytest.approx([0.5, 0.4], abs=0.02)
        assert answer.sentence.endswith("n = 15 pictures).")
    assert set(both) <= set(found.tables["transport_image"]["metric"])
    by_prompts = Transport().answer(table, metrics=metrics, judging=QUICK)
    assert not any("inside" in a.name for a in by_prompts.answers)


def test_blends_are_compared_at_the_same_change_of_the_image() -> None:
    table = effects(wobble=0.0)
    equal = at_equal_change(table, ["latent_blend"], "margin", arms=["massive-0.s-1"])
    # SSIM 0.5 is reached half-way, where the blend's margin is half of 0.6.
    assert np.allclose(equal["value"], 0.3) and len(equal) == 32
    _, answers = answered(table)
    blend = answers["transport_text.blends.margin"]
    assert blend.outcome == "supported" and blend.effects[0].estimate == pytest.approx(0.2)
    assert "latents blended to the same SSIM" in blend.sentence
    assert "measured (0, 0.5 and 1); in no pair did the edit change the picture more" in blend.sentence
    assert at_equal_change(effects(blends=False), [], "margin", arms=["massive-0.s-1"]) is None


def test_where_the_edit_changes_more_than_the_source_differs_the_source_stands_in_and_is_counted() -> None:
    table = effects(wobble=0.0)
    # In one direction of three pairs the source itself is at SSIM 0.6, and the edit at 0.5.
    near = table["unit"].isin(["pair-000", "pair-004", "pair-007"]) & (table["side"] == "backward")
    blends = near & (table["family"] == "latent_blend") & (table["metric"] == "ssim")
    table.loc[blends, "value"] = 1 - 0.4 * table.loc[blends, "strength"]
    equal = at_equal_change(table, ["latent_blend"], "margin", arms=["massive-0.s-1"])
    assert equal["beyond"].sum() == 3
    assert np.allclose(equal.loc[equal["beyond"], "value"], 0.6)
    assert np.allclose(equal.loc[~equal["beyond"], "value"], 0.3)
    _, answers = answered(table)
    assert "in 3 of 16 pairs the edit changed the picture" in answers["transport_text.blends.margin"].sentence


def test_a_rate_of_0_or_1_has_an_exact_interval_and_equal_differences_are_said_to_be_equal() -> None:
    tables, answers = answered(effects(pairs=24, blends=False))
    # 16 pairs differ in colour, which none of them moved: 1 − 0.025 ** (1 / 16) = 0.206.
    colour = answers["transport_text.moved.colour"]
    assert colour.effects[0].n == 16
    assert (
        "Transfer rate of colour: 0 (95 % CI 0 to 0.206, exact binomial as no two pairs differ, n = 16 pairs)"
    ) in colour.sentence
    # The verdict is on differences, which keep their rule.
    assert (colour.effects[0].ci_low, colour.effects[0].ci_high) == (0, 0)
    assert "95 % CI 0 to 0 as the differences do not vary, n = 16 pairs" in colour.sentence
    assert colour.outcome == "not supported"
    table = tables["transport"]
    row = table.query("metric == 'moved.colour' and family == 'massive' and pair_group == 'colour'").iloc[0]
    assert row["n"] == 8 and (row["mean"], row["ci_low"]) == (0, 0)
    assert row["ci_high"] == pytest.approx(1 - 0.025 ** (1 / 8)) and "Clopper–Pearson" in row["ci_note"]
    assert (table.query("metric == 'margin'")["ci_note"] == "").all(), "no rate, and it varies"


def test_few_pairs_of_which_none_moved_decide_nothing() -> None:
    _, answers = answered(effects(pairs=6, blends=False))
    colour = answers["transport_text.moved.colour"]
    assert colour.effects[0].n == 4 and colour.outcome == "undecided"
    assert "95 % CI 0 to 0.602" in colour.sentence


def test_the_tables_have_a_row_for_every_mark() -> None:
    tables, _ = answered(effects(pairs=6))
    transport, curves = tables["transport"], tables["transport_curves"]
    assert list(transport.columns) == [
        "pair_group", "direction", "family", "strength", "metric", "mean", "ci_low", "ci_high", "n",
        "ci_note",
    ]  # fmt: skip
    assert not transport.duplicated(list(transport.columns[:5])).any()
    assert set(transport["pair_group"]) == {"shape", "colour", "all"} and set(transport["n"]) == {0, 2}
    row = transport.query("pair_group == 'shape' and family == 'massive' and metric == 'moved.colour'")
    assert row["mean"].isna().all() and (row["n"] == 0).all()
    assert list(curves.columns) == [
        "axis", "value", "family", "metric", "mean", "ci_low", "ci_high", "n", "ci_note",
    ]  # fmt: skip
    assert set(zip(curves["axis"], curves["value"], strict=True)) == {
        ("k", "1"), ("part", "mean"), ("part", "all"),
    }  # fmt: skip
    assert set(curves.query("metric == 'margin'")["n"]) == {6}


def test_pictures_are_judged_by_origin() -> None:
    table = effects(pairs=9, sides=("noised", "inverted"))
    tables, answers = answered(table.assign(group="all"), "transport_image")
    assert set(tables) == {"transport_image"} and "origin" in tables["transport_image"]
    assert [n for n in answers if answers[n].primary] == ["transport_image.noised.margin"]
    assert answers["transport_image.inverted.moved"].outcome == "supported"
    assert "n = 9 pictures" in answers["transport_image.noised.margin"].sentence


def test_targets_of_one_picture_are_counted_as_targets() -> None:
    """Eight captions are not eight pictures."""
    table = effects(pairs=9, sides=("noised", "inverted")).assign(group="all")
    rows = table[table["metric"] == "ssim"]
    sides = {"change_inside": 1 - rows["value"], "change_outside": 0.1 + 0 * rows["value"]}
    table = pd.concat([table, *(rows.assign(metric=name, value=each) for name, each in sides.items())])
    metrics = (*METRICS, *sides)
    found = Transport("transport_image", "target").answer(table, metrics=metrics, judging=QUICK)
    assert set(found.tables["transport_image"]["unit"]) == {"target"}
    assert {answer.name.split(".")[-1] for answer in found.answers} >= {"margin", "moved", "inside"}
    for answer in found.answers:
        assert "n = 9 targets" in answer.sentence and "n = 9 pictures" not in answer.sentence
        assert f"from one {answer.name.split('.')[1]} picture " in answer.claim
        assert answer.sentence.endswith(
            "One picture was carried into 9 targets, so nothing is said about other pictures."
        )
        assert answer.sentence.lower().find(answer.claim.lower()) > 0
    several = Transport("transport_image").answer(table, metrics=metrics, judging=QUICK)
    assert set(several.tables["transport_image"]["unit"]) == {"picture"}
    assert all("n = 9 pictures" in a.sentence and "One picture" not in a.sentence for a in several.answers)
    (alone, *_) = (
        Transport("transport_image", "target")
        .answer(table[table["unit"] == "pair-000"], metrics=metrics, judging=QUICK)
        .answers
    )
    assert "n = 1 target" in alone.sentence
    assert "prompt gives" not in alone.sentence and alone.sentence.endswith(
        "1 target, so nothing is said about other pictures."
    )
    with pytest.raises(BadInput, match="transport_text counts no 'target'; it counts: pair"):
        Transport("transport_text", "target")


def test_without_alignment_latents_decide_and_without_anything_nothing() -> None:
    table = effects()
    found = Transport().answer(table, metrics=["toward_latent", "ssim"], judging=QUICK)
    assert found.answers[0].name == "transport_text.toward_latent" and found.answers[0].primary
    with pytest.raises(BadInput, match="is judged by margin"):
        Transport().answer(table, metrics=["ssim"], judging=QUICK)
    with pytest.raises(BadInput, match="needs a control"):
        Transport().answer(table[~table["family"].isin(CONTROLS)], metrics=METRICS, judging=QUICK)
    with pytest.raises(BadInput, match="no question 'transport_video'"):
        Transport("transport_video")


def test_units_are_called_by_their_name() -> None:
    alone = judge(Effect("a", 0.5, 0.1, 0.9, 1, 1.0, None, "b"))
    assert "1 prompt cannot" in alone.sentence and "n = 1 prompt," in alone.sentence
    of_a_picture = judge(Effect("a", 0.5, 0.1, 0.9, 1, 1.0, None, "b", unit="picture"))
    assert of_a_picture.sentence == alone.sentence.replace("prompt", "picture")
    paired = paired_effect("a", [1.0], [0.5], control_name="b", unit="target")
    assert paired.note == "one target gives no interval and no p-value"


# -------------------------------------------------------------------------------------------- guidance
def guided(massive=0.3, control=0.0, prompts=10):
    rng = np.random.default_rng(1)
    rows = []
    for cfg in (True, False):
        for i in range(prompts):
            base = rng.random()
            at = (cfg, f"p{i}", 0)
            rows.append(("unguided", "unguided", 0.0, *at, "detail", base))
            for weight in (0.5, 1.0):
                for family, size in (("massive", massive), ("random_rank_window", control)):
                    value = base + size * weight + 0.01 * rng.standard_normal()
                    rows.append((f"{family}.w-{weight:g}", family, weight, *at, "detail", value))
    return pd.DataFrame(rows, columns=list(GUIDED))


def test_guidance_adds_detail_where_it_does() -> None:
    found = detail_guidance.answer(guided(), metrics=["detail"], judging=QUICK)
    table = found.tables["guidance"]
    assert list(table.columns) == ["weight", "cfg", "family", "metric", "mean", "ci_low", "ci_high", "n"]
    assert sorted(set(table["weight"])) == [0.0, 0.5, 1.0] and len(table) == 2 * 3 * 2
    assert [answer.name for answer in found.answers] == [
        "detail_guidance.cfg.w-0.5.detail", "detail_guidance.cfg.w-1.detail",
        "detail_guidance.no_cfg.w-0.5.detail", "detail_guidance.no_cfg.w-1.detail",
    ]  # fmt: skip
    assert all(answer.outcome == "supported" for answer in found.answers)
    assert [answer.primary for answer in found.answers] == [True, False, False, False]


def test_guidance_that_takes_detail_away_is_said_to() -> None:
    found = detail_guidance.answer(guided(massive=-0.3), metrics=["detail"], judging=QUICK)
    assert all(answer.outcome == "not supported" for answer in found.answers)
    with pytest.raises(BadInput, match="neither was measured"):
        detail_guidance.answer(guided(), metrics=["ssim"], judging=QUICK)
    with pytest.raises(BadInput, match="there was none"):
        table = guided()
        detail_guidance.answer(table[table["family"] != "massive"], metrics=["detail"], judging=QUICK)
