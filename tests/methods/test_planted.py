"""Models whose answer is known: the whole chain from discovery to verdict must give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.methods.measures import Measures
from dit_lens.methods.questions import QUESTIONS, Setting
from dit_lens.methods.questions.arm_sets import control_arms
from dit_lens.methods.stats import compare, judge
from dit_lens.methods.study import StudyResult, run_study
from tests.planted import (
    COLOUR,
    HUGE,
    KINDS,
    REDNESS,
    SAMPLING,
    planted_pipeline,
    prompts,
    redness_of_latents,
    redness_of_picture,
)

pytestmark = pytest.mark.tiny

CALIBRATION, HELD_OUT = prompts(8), prompts(12, skip=8)
CONTROLS = {"low": 1, "random": 5, "random_rank_window": 5, "energy_matched": 5}
METRICS = ("latent", "psnr", "ssim", "change_low")
FALLING = ("psnr", "ssim")


@dataclass
class Studied:
    """A planted model after the whole chain; `redness` is {arm: [one per held-out prompt]}."""

    lens: Any
    massive: Any
    study: StudyResult
    redness: dict[str, np.ndarray]

    def effects(self, controls: dict[str, list[str]]) -> dict[tuple[str, str], Any]:
        return compare(self.study.effects, treatment="massive", controls=controls, metrics=METRICS)

    def draws(self, kind: str) -> list[str]:
        return [arm.name for arm in self.study.arms if arm.family == kind]


def study(kind: str) -> Studied:
    lens = dl.load(planted_pipeline(kind))
    sampling = lens.sampling(**SAMPLING)
    stats = dl.discover(lens, CALIBRATION, sampling=sampling, progress=False)
    # The bystander is gone after the last block, as massive activations of trained models are.
    massive = stats.select(top_k=1, blocks="0-2" if kind == "bystander" else "all")
    setting = Setting(
        massive=massive,
        stats=stats,
        num_blocks=lens.num_blocks,
        num_steps=sampling.steps,
        controls=CONTROLS,
    )
    arms = (*QUESTIONS["disruption"].arms(setting), *control_arms(setting, ["ln_preserving"]))
    seen: dict[str, dict[str, float]] = {}
    found = run_study(
        lens,
        arms,
        HELD_OUT,
        [0],
        sampling=sampling,
        measures=Measures(METRICS),
        on_image=lambda arm, prompt, seed, image: seen.setdefault(arm.name, {}).update(
            {prompt: redness_of_picture(image)}
        ),
        progress=False,
    )
    redness = {name: np.array([values[prompt] for prompt in HELD_OUT]) for name, values in seen.items()}
    return Studied(lens, massive, found, redness)


@pytest.fixture(scope="module")
def carrier() -> Studied:
    return study("carrier")


@pytest.fixture(scope="module")
def bystander() -> Studied:
    return study("bystander")


@pytest.fixture(scope="module")
def anchor() -> Studied:
    return study("anchor")


def side(metric: str) -> Any:
    return "less" if metric in FALLING else "greater"


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_draw_the_colour_that_the_prompt_names(kind: str) -> None:
    lens = dl.load(planted_pipeline(kind))
    asked = tuple(f"a {colour} star" for colour in REDNESS)
    trajectory = lens.generate([*asked, "a star"], seeds=[0], steps=3, guidance_scale=2.0, progress=False)
    latents = np.array([redness_of_latents(each[-1]) for each in trajectory.latents])
    pictures = np.array([redness_of_picture(image) for image in trajectory.images])
    # Same noise, so that against the prompt without a colour nothing but the colour is left.
    wanted = np.array(list(REDNESS.values()))
    assert np.corrcoef(latents[:-1] - latents[-1], wanted)[0, 1] > 0.999
    assert np.corrcoef(pictures[:-1] - pictures[-1], wanted)[0, 1] > 0.995
    assert np.ptp(pictures) > 0.8


# ---------------------------------------------------------------------------------------------- carrier
def test_the_carrier_is_found_in_every_block(carrier: Studied) -> None:
    assert carrier.massive.blocks == dict.fromkeys(range(4), (COLOUR,))


def test_zeroing_the_carrier_takes_the_colour_away_and_no_control_does(carrier: Studied) -> None:
    clean = carrier.redness["clean"]
    assert np.ptp(clean) > 0.8
    # What is left is the noise that all prompts share, up to rounding to 8 bits.
    assert np.ptp(carrier.redness["massive"]) < 0.02
    for kind in CONTROLS:
        for arm in carrier.draws(kind):
            kept = np.polyfit(clean, carrier.redness[arm], 1)[0]
            assert 0.9 < kept < 1.1, arm


def test_the_planted_carrier_is_supported(carrier: Studied) -> None:
    effects = carrier.effects({kind: carrier.draws(kind) for kind in CONTROLS})
    assert len(effects) == len(METRICS) * len(CONTROLS)
    for (metric, control), effect in effects.items():
        assert judge(effect, direction=side(metric)).outcome == "supported", (metric, control)
        assert effect.p_adjusted < 0.01, (metric, control)


def test_the_disruption_question_says_so_in_words(carrier: Studied) -> None:
    answer = (
        QUESTIONS["disruption"].answer(carrier.study.effects, carrier.study.arms, metrics=METRICS).answers[0]
    )
    assert answer.outcome == "supported" and answer.primary
    assert all(effect.p_adjusted < 0.01 for effect in answer.effects)
    assert answer.sentence.startswith("Supported")


def test_the_carrier_needs_no_layernorm_to_matter(carrier: Studied) -> None:
    # With the statistics kept, zeroing still takes the colour: information, not scale. A 32nd of it stays in
    # the mean over channels, which the LayerNorm keeps, too.
    assert np.ptp(carrier.redness["ln_preserving"]) < 0.05 * np.ptp(carrier.redness["clean"])


# -------------------------------------------------------------------------------------------- bystander
def test_the_bystander_is_by_far_the_largest_channel(bystander: Studied) -> None:
    assert bystander.massive.blocks == dict.fromkeys(range(3), (HUGE,))


def test_the_planted_bystander_is_not_supported(bystander: Studied) -> None:
    effects = bystander.effects({kind: bystander.draws(kind) for kind in CONTROLS})
    for (metric, control), effect in effects.items():
        assert judge(effect, direction=side(metric)).outcome == "not supported", (metric, control)


def test_the_disruption_question_denies_the_bystander(bystander: Studied) -> None:
    answer = (
        QUESTIONS["disruption"]
        .answer(bystander.study.effects, bystander.study.arms, metrics=METRICS)
        .answers[0]
    )
    assert answer.outcome == "not supported"


def test_zeroing_the_bystander_changes_nothing_while_other_channels_matter(bystander: Studied) -> None:
    values = bystander.study.effects.query("metric == 'latent'").groupby("arm")["value"].max()
    assert values["massive"] < 1e-5
    # The same energy elsewhere does: the test above could fail.
    assert values[bystander.draws("energy_matched")].min() > 0.05


# ----------------------------------------------------------------------------------------------- anchor
def test_the_anchor_disrupts_through_layernorm_alone(anchor: Studied) -> None:
    assert anchor.massive.blocks == dict.fromkeys(range(4), (HUGE,))
    values = anchor.study.effects.query("metric == 'latent'").groupby("arm")["value"]
    assert values.min()["massive"] > 0.5
    # The constant itself is read by nobody: with its statistics kept, nothing is left of the effect.
    assert values.max()["ln_preserving"] < 1e-5
    assert np.array_equal(anchor.redness["ln_preserving"], anchor.redness["clean"])


def test_zeroing_the_anchor_amplifies_the_colour(anchor: Studied) -> None:
    clean, zeroed = anchor.redness["clean"], anchor.redness["massive"]
    assert (np.abs(zeroed - zeroed.mean()) >= np.abs(clean - clean.mean()) - 0.01).all()
    assert np.ptp(zeroed) > 1.3 * np.ptp(clean)


@pytest.mark.parametrize("metric", METRICS)
def test_the_planted_anchor_is_told_from_lost_information(anchor: Studied, metric: str) -> None:
    effects = anchor.effects({"ln_preserving": ["ln_preserving"]})
    found = effects[metric, "ln_preserving"]
    assert judge(found, direction=side(metric)).outcome == "supported"
    assert found.p_adjusted < 0.01
