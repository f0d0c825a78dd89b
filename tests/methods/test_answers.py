"""Joint verdicts hold their error rate and find what is there; results survive the disk, or say why not."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from dit_lens.errors import BadInput
from dit_lens.methods.answers import (
    SCHEMA_VERSION,
    Answer,
    Results,
    all_of,
    any_of,
    judge_all,
    results_schema,
)
from dit_lens.methods.stats import Effect, correct, judge, paired_effect

pytestmark = pytest.mark.pure

OUTCOMES = ("supported", "not supported", "undecided")


def effect(estimate: float, half: float = 0.1, p: float = 0.001, **fields: Any) -> Effect:
    low, high = estimate - half, estimate + half
    return Effect("distance", estimate, low, high, 24, p, None, fields.pop("control", "c"), sd=1.0, **fields)


# ------------------------------------------------------------------------------------------ joint verdicts
def test_every_control_must_be_beaten_and_the_one_beaten_least_is_named() -> None:
    large, small = effect(0.5, control="low"), effect(0.2, control="random")
    joint = judge_all([large, small], direction="greater")
    assert (joint.outcome, joint.weakest, joint.beaten) == ("supported", small, (large, small))
    below = judge_all([effect(-0.5), effect(-0.2, control="random")], direction="less")
    assert (below.outcome, below.weakest.control) == ("supported", "random")


def test_one_control_that_is_not_beaten_denies_the_claim() -> None:
    won, lost, unclear = effect(0.5), effect(-0.3, control="lost"), effect(0.3, half=0.9, p=0.3)
    joint = judge_all([won, unclear, lost], direction="greater")
    assert (joint.outcome, joint.weakest, joint.beaten) == ("not supported", lost, (won,))
    assert joint.reason == judge(lost).reason
    assert judge_all([won, unclear], direction="greater").outcome == "undecided"


def test_what_could_not_be_measured_decides_nothing_but_is_named() -> None:
    nothing = Effect("distance", None, None, None, 0, None, None, "gone", "no prompt is left")
    joint = judge_all([effect(0.5), nothing], direction="greater")
    assert (joint.outcome, joint.weakest, joint.reason) == ("undecided", nothing, "no prompt is left")


def test_a_claim_without_effects_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one effect"):
        judge_all([], direction="greater")


effects = st.builds(
    effect,
    st.floats(-1, 1, allow_nan=False),
    st.floats(0.01, 1),
    st.sampled_from([0.0001, 0.04, 0.06, 0.9]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(effects, min_size=1, max_size=4), effects, st.sampled_from(["greater", "less"]))
def test_a_further_control_never_helps_and_order_never_matters(
    given_: list[Effect], more: Effect, direction: Any
) -> None:
    rank = {"supported": 2, "undecided": 1, "not supported": 0}
    before = judge_all(given_, direction=direction)
    after = judge_all([*given_, more], direction=direction)
    assert rank[after.outcome] <= rank[before.outcome]
    assert judge_all(given_[::-1], direction=direction).outcome == before.outcome
    assert before.outcome == all_of(judge(each, direction=direction).outcome for each in given_)


def test_all_and_any_are_each_others_denial() -> None:
    deny = {"supported": "not supported", "not supported": "supported", "undecided": "undecided"}
    for several in itertools.product(OUTCOMES, repeat=3):
        assert any_of(several) == deny[all_of([deny[each] for each in several])]  # type: ignore[index, misc]


# --------------------------------------------------------------------------------- error rates by simulation
def verdicts(shifts: tuple[float, ...], *, n: int, studies: int, seed: int) -> list[str]:
    """Verdicts of studies whose treatment exceeds each control by these shifts; all noise is N(0, 1)."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(studies):
        treatment = rng.normal(size=n)
        each = {
            i: paired_effect("m", treatment, rng.normal(size=n) - shift, control_name=str(i), resamples=499)
            for i, shift in enumerate(shifts)
        }
        found.append(judge_all(list(correct(each).values()), direction="greater").outcome)
    return found


def test_one_control_as_strong_as_the_treatment_keeps_false_positives_rare() -> None:
    # The worst case: all other controls are beaten by far, so only the equal one protects the claim.
    found = verdicts((0.0, 6.0, 6.0), n=16, studies=600, seed=1)
    rate = found.count("supported") / len(found)
    # Half of the two-sided 0.05 lies on the claimed side; above 0, or the test would see nothing.
    assert 0.005 <= rate <= 0.05
    assert found.count("not supported") / len(found) > 0.8


def test_with_no_effect_at_all_the_claim_is_denied() -> None:
    found = verdicts((0.0, 0.0, 0.0), n=16, studies=300, seed=2)
    # Beating three equal controls by chance is rarer than beating one.
    assert found.count("supported") / len(found) <= 0.01
    assert found.count("not supported") / len(found) > 0.9


def test_a_planted_effect_is_found_with_the_power_of_theory() -> None:
    n, shift, controls = 16, 1.2, 3
    found = verdicts((shift,) * controls, n=n, studies=400, seed=3)
    # Paired t-tests with Holm's correction, which sign flipping equals to first order on normal data; the
    # effects share their treatment, so there is no closed form.
    rng = np.random.default_rng(4)
    differences = rng.normal(size=(20_000, 1, n)) - rng.normal(size=(20_000, controls, n)) + shift
    p = np.sort(scipy_stats.ttest_1samp(differences, 0, axis=-1).pvalue, axis=-1)
    right = (differences.mean(axis=-1) > 0).all(axis=-1)
    theory = np.mean((p * np.arange(controls, 0, -1) <= 0.05).all(axis=-1) & right)
    assert 0.5 < theory < 0.8
    assert abs(found.count("supported") / len(found) - theory) <= 0.06


# --------------------------------------------------------------------------------------------- the results
def an_answer(name: str = "disruption.ssim", **fields: Any) -> Answer:
    values: dict[str, Any] = {
        "question": "disruption",
        "claim": "it disrupts",
        "sources": ("2605.13974",),
        "metric": "ssim",
        "direction": "less",
        "outcome": "supported",
        "reason": "p is small",
        "sentence": "Supported: it disrupts.",
        "effects": (effect(-0.5), Effect("ssim", None, None, None, 0, None, None, "gone")),
    }
    return Answer(name=name, **{**values, **fields})


def some_results(*answers: Answer) -> Results:
    return Results(
        model="m", fingerprint="0f", dtype="float32", prompts=24, seeds=(0, 1), sham_difference=0.0,
        answers=answers,
    )  # fmt: skip


def test_results_return_from_disk_as_they_were(tmp_path: Path) -> None:
    results = some_results(an_answer(), an_answer("disruption.psnr", primary=True), an_answer("dose.ssim"))
    path = results.save(tmp_path / "results.json")
    assert Results.load(path) == results == Results.load(tmp_path)
    assert path.read_text() == results.to_json()
    assert json.loads(path.read_text())["answers"][0] == an_answer().to_data()
    assert results["dose.ssim"].metric == "ssim"
    # The fixed question of all three is disruption; its primary answer leads.
    assert results.of("disruption")[0].name == "disruption.psnr"
    with pytest.raises(KeyError):
        results["dose.psnr"]


def test_two_answers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two answers are called 'disruption\.ssim'"):
        some_results(an_answer(), an_answer())


def test_a_missing_file_says_what_would_write_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="asks for effects"):
        Results.load(tmp_path / "nothing.json")


def damaged(change: Any) -> str:
    data = some_results(an_answer()).to_data()
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 1, "mod', "not JSON"),
        ("[]", "no schema_version"),
        (damaged(lambda d: d.pop("schema_version")), "no schema_version"),
        (damaged(lambda d: d.update(schema_version=True)), "no schema_version"),
        (damaged(lambda d: d.update(schema_version=SCHEMA_VERSION + 1)), "pip install --upgrade"),
        (damaged(lambda d: d.pop("model")), "model: Field required"),
        (damaged(lambda d: d.update(extra=1)), "extra: Extra inputs"),
        (damaged(lambda d: d["answers"][0].update(outcome="perhaps")), r"answers\.0\.outcome"),
        (damaged(lambda d: d["answers"][0]["effects"][0].pop("n")), r"effects\.0\.n"),
        (damaged(lambda d: d["answers"][0]["effects"][0].update(q=1)), r"effects\.0\.q"),
        (damaged(lambda d: d["answers"].append(d["answers"][0])), "two answers"),
    ],
)
def test_damage_is_named(text: str, message: str, tmp_path: Path) -> None:
    place = tmp_path / "results.json"
    place.write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        Results.load(place)
    assert str(place) in str(caught.value)


def test_the_schema_describes_every_field() -> None:
    schema = results_schema()
    json.dumps(schema)
    for name, part in {"results": schema, **schema["$defs"]}.items():
        assert part["description"], name
        for field, value in part["properties"].items():
            assert value.get("description"), f"{name}.{field} is not documented"
    assert set(schema["$defs"]["Answer"]["properties"]) == set(Answer.model_fields)
    assert set(schema["$defs"]["Effect"]["properties"]) == set(effect(0.1).to_data())


def test_reading_results_needs_no_model_code() -> None:
    code = "import dit_lens.methods.answers, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "diffusers", "nnsight", "pandas", "xarray"}
