"""Block × step maps as questions: their arms, tables, and the sentence that the numbers allow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.methods.arms import Arm
from dit_lens.methods.map_cells import COLUMNS
from dit_lens.methods.measures import Measures
from dit_lens.methods.questions import Judging, Setting
from dit_lens.methods.questions.maps import FINAL_MAP, PATCH_MAP, STEP_MAP, Maps
from dit_lens.methods.study import run_study
from tests.methods.questions.imaginary_effects import FAST, a_setting
from tests.planted import COLOUR, planted_pipeline, prompts
from tests.planted import SAMPLING as PLANTED

PAIRS = tuple((f"source {i}", f"target {i}") for i in range(8))
NAMES = ("step_map", "final_map", "patch_map")


def effects(
    arms: tuple[Arm, ...],
    mean: Callable[[Arm, str], float],
    *,
    metrics: tuple[str, ...] = ("velocity",),
    prompts: int = 12,
    noise: float = 0.1,
    names: tuple[str, ...] | None = None,
) -> pd.DataFrame:
    """A study that never ran: each value is `mean(arm, prompt)` and noise."""
    rng = np.random.default_rng(1)
    rows = [
        (arm.name, prompt, 0, metric, mean(arm, prompt) + noise * rng.normal())
        for arm in arms
        for prompt in names or [f"prompt {i}" for i in range(prompts)]
        for metric in metrics
    ]
    return pd.DataFrame(rows, columns=["arm", "prompt", "seed", "metric", "value"])


def strong_in_one_cell(arm: Arm, prompt: str) -> float:
    return 1.0 + 2.0 * (arm.family == "massive" and (arm.block, arm.step) == (2, 1))


# ------------------------------------------------------------------------------------------------- arms
@pytest.mark.pure
@pytest.mark.parametrize("question", [STEP_MAP, FINAL_MAP, PATCH_MAP], ids=NAMES)
def test_every_cell_has_the_massive_channels_and_one_control(question) -> None:
    arms = question.arms(a_setting())
    control = "random_rank_window" if question.name == "patch_map" else "energy_matched"
    cells = {(arm.family, arm.block, arm.step) for arm in arms}
    assert cells == {(f, b, s) for f in ("massive", control) for b in range(3) for s in range(3)}
    assert len(arms) == len(cells) and {arm.protocol for arm in arms} == {"single_cell"}
    assert {arm.readout for arm in arms} == {"final" if question.name == "final_map" else "step"}
    assert {arm.draws_on_donor for arm in arms} == {question.name == "patch_map"}


@pytest.mark.pure
def test_the_three_maps_fit_into_one_study() -> None:
    arms = [arm for question in (STEP_MAP, FINAL_MAP, PATCH_MAP) for arm in question.arms(a_setting())]
    assert len({arm.name for arm in arms}) == len(arms) == 54


@pytest.mark.pure
def test_a_map_has_the_cells_and_the_control_that_are_asked_for() -> None:
    maps = Maps(blocks="1-2", steps={"fraction": [0.5, 1]}, control="random", sigmas=(1, 0.7, 0.3))
    arms = maps.question("final_map").arms(a_setting())
    assert {(arm.block, arm.step) for arm in arms} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert {arm.family for arm in arms} == {"massive", "random"}
    patches = maps.question("patch_map").arms(a_setting())
    assert {arm.family for arm in patches} == {"massive", "random"}
    by_sigma = Maps(steps={"sigma": [0.5, 0.8]}, sigmas=(1, 0.7, 0.3)).question("step_map")
    assert {arm.step for arm in by_sigma.arms(a_setting())} == {1}


# ---------------------------------------------------------------------------------------------- answers
@pytest.mark.pure
def test_a_cell_in_which_massive_exceeds_is_named_and_the_map_is_called_exploratory() -> None:
    question = Maps(sigmas=(1, 0.7, 0.3)).question("step_map")
    arms = question.arms(a_setting())
    found = question.answer(
        effects(arms, strong_in_one_cell), arms, metrics=["velocity", "latent"], judging=FAST
    )
    (answer,) = found.answers
    assert (answer.name, answer.outcome, answer.primary) == ("step_map.velocity", "supported", True)
    assert answer.sentence.startswith("Supported (exploratory map): in some block and step, zeroing massive")
    assert "1 of 9 cells pass Benjamini–Hochberg at 0.05; the control does more in 0." in answer.sentence
    most = "massive channels does most in block 2 at step 1 (sigma 0.7), where mean velocity distance is 3.0"
    assert most in answer.sentence
    assert answer.sentence.endswith("massive channels exceed their control in this cell.")
    (peak,) = answer.effects
    assert peak.estimate == pytest.approx(2.0, abs=0.2) and peak.control == "energy_matched"
    # The best of nine cells: its p counts nine times.
    assert peak.p <= 0.005 and peak.p_adjusted == pytest.approx(9 * peak.p)


@pytest.mark.pure
def test_cells_in_which_the_control_does_more_are_counted_too() -> None:
    arms = STEP_MAP.arms(a_setting())

    def both_ways(arm: Arm, prompt: str) -> float:
        massive = arm.family == "massive"
        return 3.0 + massive * (2.0 * ((arm.block, arm.step) == (2, 1)) - 2.0 * (arm.block == 0))

    (answer,) = STEP_MAP.answer(effects(arms, both_ways), arms, metrics=["velocity"], judging=FAST).answers
    assert answer.outcome == "supported"
    assert "1 of 9 cells pass Benjamini–Hochberg at 0.05; the control does more in 3." in answer.sentence
    assert answer.reason == "1 of 9 cells pass; the control does more in 3"


@pytest.mark.pure
def test_a_map_without_any_effect_is_not_supported() -> None:
    arms = STEP_MAP.arms(a_setting())
    weaker = effects(arms, lambda arm, prompt: 1.0 - 0.5 * (arm.family == "massive"))
    (answer,) = STEP_MAP.answer(weaker, arms, metrics=["velocity"], judging=FAST).answers
    assert answer.outcome == "not supported"
    assert "0 of 9 cells pass" in answer.sentence
    assert answer.sentence.endswith("massive channels do not exceed their control in this cell.")


@pytest.mark.pure
def test_a_map_of_too_few_prompts_says_so() -> None:
    arms = STEP_MAP.arms(a_setting())
    for number, said in (
        (4, "4 prompts cannot give a p-value of 0.05 or less"),
        (8, "with 8 prompts no cell can pass unless 2 of the 9 reach the smallest p-value (0.0078) at once"),
    ):
        table = effects(arms, strong_in_one_cell, prompts=number, noise=0.2)
        (answer,) = STEP_MAP.answer(table, arms, metrics=["velocity"], judging=FAST).answers
        assert answer.outcome == "undecided" and said in answer.sentence
        assert answer.sentence.endswith("are not told from their control in this cell.")


@pytest.mark.pure
def test_the_table_has_every_metric_and_the_verdict_rests_on_one_alone() -> None:
    arms = FINAL_MAP.arms(a_setting())
    metrics = ("latent", "alignment", "ssim")
    table = effects(arms, lambda arm, prompt: -strong_in_one_cell(arm, prompt), metrics=metrics)
    found = (
        Maps(sigmas=(1, 0.7, 0.3)).question("final_map").answer(table, arms, metrics=metrics, judging=FAST)
    )
    frame = found.tables["final_map"]
    assert tuple(frame.columns) == COLUMNS and list(dict.fromkeys(frame["metric"])) == list(metrics)
    assert len(frame) == 3 * 2 * 9 and set(frame["sigma"]) == {1.0, 0.7, 0.3}
    (answer,) = found.answers
    # SSIM falls where the image is disrupted.
    assert (answer.metric, answer.direction, answer.outcome) == ("ssim", "less", "supported")
    assert "block 2 at step 1" in answer.sentence
    # Benjamini–Hochberg over the cells of one map.
    massive = frame[(frame["metric"] == "ssim") & (frame["family"] == "massive")]
    assert (massive["p_adjusted"] <= 0.05).sum() == 1


@pytest.mark.pure
def test_both_directions_of_a_patch_map_are_judged_on_their_own_prompts() -> None:
    question = Maps(pairs=PAIRS).question("patch_map")
    arms = question.arms(a_setting())

    def towards(arm: Arm, prompt: str) -> float:
        return 0.8 if arm.family == "massive" and prompt.startswith("target") else 0.0

    table = effects(arms, towards, metrics=("velocity", "toward"), names=tuple(Maps(pairs=PAIRS).donors))
    found = question.answer(table, arms, metrics=("velocity", "toward"), judging=FAST)
    assert [(a.name, a.outcome, a.primary) for a in found.answers] == [
        ("patch_map.denoising.toward", "supported", True),
        ("patch_map.noising.toward", "undecided", False),
    ]
    assert "9 of 9 cells pass" in found.answers[0].sentence
    assert "patching the source's massive channels into the target's run" in found.answers[0].claim
    frame = found.tables["patch_map"]
    massive = frame[frame["family"] == "massive"].groupby("direction")["mean"].mean()
    assert massive["denoising"] == pytest.approx(0.8, abs=0.05) and abs(massive["noising"]) < 0.05
    assert set(frame["metric"]) == {"toward"} and set(frame["n"]) == {8}


@pytest.mark.pure
def test_more_arms_do_no_harm_and_fewer_are_named() -> None:
    arms = tuple(arm for q in (STEP_MAP, FINAL_MAP) for arm in q.arms(a_setting()))
    table = effects(arms, strong_in_one_cell)
    alone = STEP_MAP.arms(a_setting())
    assert (
        STEP_MAP.answer(table, arms, metrics=["velocity"], judging=FAST).answers
        == STEP_MAP.answer(table, alone, metrics=["velocity"], judging=FAST).answers
    )
    with pytest.raises(BadInput, match="needs the arms"):
        PATCH_MAP.answer(table, arms, metrics=["velocity"])
    with pytest.raises(BadInput, match=r"arms have velocity\. Measure ssim"):
        FINAL_MAP.answer(table, arms, metrics=["psnr"])
    patches = PATCH_MAP.arms(a_setting())
    with pytest.raises(BadInput, match="needs its pairs"):
        PATCH_MAP.answer(effects(patches, strong_in_one_cell), patches, metrics=["toward"])
    with pytest.raises(BadInput, match="None of the pairs' prompts was run"):
        Maps(pairs=PAIRS).question("patch_map").answer(
            effects(patches, strong_in_one_cell, metrics=("toward",)), patches, metrics=["toward"]
        )


@pytest.mark.pure
def test_what_makes_no_map_is_refused() -> None:
    with pytest.raises(BadInput, match="Did you mean 'step_map'"):
        Maps().question("step_maps")
    with pytest.raises(BadInput, match="'target 1' stands in two places"):
        Maps(pairs=(("source 1", "target 1"), ("target 1", "target 2")))
    with pytest.raises(BadInput, match="nothing to map"):
        STEP_MAP.arms(a_setting(massive=a_setting().stats.select(ratio=1e6)))
    with pytest.raises(BadInput, match="block"):
        Maps(blocks="7").question("step_map").arms(a_setting())


# ------------------------------------------------------------------------------------------ a real model
@pytest.mark.tiny
def test_the_planted_carrier_carries_colour_in_every_cell_and_both_directions() -> None:
    lens = dl.load(planted_pipeline("carrier"))
    sampling = lens.sampling(**PLANTED)
    stats = dl.discover(lens, prompts(8), sampling=sampling, progress=False)
    setting = Setting(
        massive=stats.select(top_k=1), stats=stats, num_blocks=lens.num_blocks, num_steps=sampling.steps
    )
    assert setting.massive.channels == (COLOUR,)
    reds, blues = ("red", "orange", "pink", "yellow"), ("blue", "purple", "green", "cyan")
    pairs = [
        (f"a {a} {s}", f"a {b} {s}") for s in ("star", "cross") for a, b in zip(reds, blues, strict=True)
    ]
    maps = Maps(blocks="0-1", pairs=tuple(pairs), sigmas=tuple(stats.data["sigma"].values))
    for name, metric in (("step_map", "velocity"), ("patch_map", "toward")):
        question = maps.question(name)
        arms = question.arms(setting)
        donors = maps.donors if name == "patch_map" else None
        measures = Measures((metric,))
        done = run_study(
            lens, arms, list(maps.donors), [0], sampling=sampling, measures=measures, donors=donors,
            progress=False,
        )  # fmt: skip
        found = question.answer(done.effects, arms, metrics=[metric], judging=Judging(resamples=999))
        for answer in found.answers:
            assert answer.outcome == "supported" and "6 of 6 cells pass" in answer.sentence
        massive = found.tables[name].query("family == 'massive'")
        assert (massive["difference"] > 0.7).all() and (massive["p_adjusted"] < 0.01).all()
        assert set(massive["direction"]) == ({"denoising", "noising"} if donors else {""})
