"""Prompts that chose the channels judge nothing, in pairs neither; controls that nobody compares with are
refused, not left out in silence."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dit_lens.analysis.fairness import used
from dit_lens.analysis.reading import read_spec
from dit_lens.analysis.run import _spec_of_one, spec_text
from dit_lens.analysis.spec import EFFECT_SECTIONS, EffectsSpec, SpatialSpec, TransportSpec
from dit_lens.errors import BadInput
from dit_lens.methods.controls import control_kinds, is_drawn, serving
from dit_lens.methods.questions import QUESTIONS
from tests.methods.questions.imaginary_effects import a_setting

pytestmark = pytest.mark.pure

SPEC: dict[str, Any] = {"model": "m", "prompts": ["a", "b", "c", "d"], "seeds": [0]}
JUDGES = {"prompts": ["x", "y"]}


def refused(expected: str, **parts: Any) -> None:
    with pytest.raises(BadInput, match=expected):
        read_spec({**SPEC, **parts})


@pytest.mark.parametrize("pair", [["a", "z"], ["z", "a"]])
def test_a_pair_with_a_prompt_that_chose_channels_is_refused(pair: list[str]) -> None:
    fine = ["v", "w"]
    refused(
        "effects.pairs holds 'a', which stands in prompts too.*must be held out",
        sections=["patch_map"],
        effects={**JUDGES, "pairs": [fine, pair]},
    )
    for key in ("pairs", "far_pairs"):
        refused(
            f"transport.{key} holds 'a', which stands in prompts too.*must be held out",
            sections=["transport_text"],
            effects=JUDGES,
            transport={"pairs": [fine], key: [pair]},
        )


def test_pairs_may_judge_whom_they_judge_already_and_unused_ones_are_left_alone() -> None:
    both = {**JUDGES, "pairs": [["x", "y"]]}
    assert read_spec({**SPEC, "sections": ["patch_map"], "effects": both}).effects.pairs == (("x", "y"),)
    among = {**JUDGES, "pairs": [["a", "b"]]}
    assert read_spec({**SPEC, "sections": ["disruption"], "effects": among}).effects.pairs == (("a", "b"),)


def test_where_prompts_are_split_the_half_that_judges_may_stand_in_pairs() -> None:
    from dit_lens.methods.stats import split_prompts

    halves = split_prompts(SPEC["prompts"])
    fine, wrong = halves.held_out, halves.calibration
    read_spec({**SPEC, "sections": ["patch_map"], "effects": {"pairs": [list(fine)]}})
    refused(
        f"effects.pairs holds {wrong[0]!r}, which is in that half of prompts which chooses",
        sections=["patch_map"],
        effects={"pairs": [[wrong[0], "z"]]},
    )


@pytest.mark.parametrize(
    ("sections", "controls", "expected"),
    [
        (["disruption"], {"low": 1, "mean_set": 1}, "holds mean_set.*no section does; bias_or_carrier sets"),
        (["disruption"], {"low": 1, "ln_preserving": 1}, "holds ln_preserving.*leave ln_preserving out"),
        (["dose"], {"low": 1, "token_shuffle": 4}, "holds token_shuffle.*only bias_or_carrier would"),
        (["bias_or_carrier"], {"token_shuffle": 2, "random": 2}, "only disruption, semantics_or_detail, "),
        (["step_map"], {"low": 1}, "--set effects.controls=null.*effects.maps.control"),
        (["disruption"], {"low": 2}, "effects.controls: 2 draws of low.*there is one"),
        (["disruption"], {"low": 1, "ln_preserving": 7}, "7 draws of ln_preserving"),
    ],
)
def test_controls_that_would_be_ignored_are_refused(
    sections: list[str], controls: dict[str, int], expected: str
) -> None:
    refused(expected, sections=sections, effects={**JUDGES, "controls": controls})


def test_other_sections_refuse_draws_of_what_is_not_drawn_too() -> None:
    refused("spatial.controls: 3 draws of low", sections=["spatial"], spatial={"controls": {"low": 3}})
    asked = {"pairs": [["v", "w"]], "controls": {"low": 3}}
    refused("transport.controls: 3 draws of low", sections=["transport_text"], transport=asked)
    assert SpatialSpec(controls={"low": 1}).controls == TransportSpec(controls={"low": 1}).controls


@pytest.mark.parametrize("section", EFFECT_SECTIONS)
def test_the_defaults_fit_every_section(section: str) -> None:
    pairs = {"pairs": [["v", "w"]]}
    spec = read_spec({**SPEC, "sections": [section], "effects": {**JUDGES, **pairs}})
    assert spec.effects.controls == EffectsSpec().controls


def test_what_sections_are_said_to_use_is_what_they_use() -> None:
    without_chance = ("low", "mean_set", "ln_preserving")
    assert set(without_chance) == {kind for kind in control_kinds() if not is_drawn(kind)} - {"sham"}
    assert set(serving("effects")) == set(control_kinds()) - {"sham"}
    for section, compared in used().items():
        base = {"random": 1} if "random" in compared else {}
        plain = QUESTIONS[section].arms(a_setting(controls=base))
        for kind in serving("effects"):
            draws = 1 if kind in without_chance else 2
            alone = {kind: draws} if kind in compared else {**base, kind: draws}
            arms = QUESTIONS[section].arms(a_setting(controls=alone))
            families = [arm.family for arm in arms]
            assert (kind in families) if kind in compared else (arms == plain), (section, kind)


class Folder:
    def __init__(self, text: str) -> None:
        self.spec_text = text


def test_a_reports_spec_of_one_question_leaves_out_controls_of_the_others() -> None:
    sections = ["disruption", "step_map", "bias_or_carrier"]
    controls = {"low": 1, "random": 2, "token_shuffle": 2}
    spec = read_spec({**SPEC, "sections": sections, "effects": {**JUDGES, "controls": controls}})
    kept = {
        section: yaml.safe_load(_spec_of_one(Folder(spec_text(spec)), section))["effects"]["controls"]  # type: ignore[arg-type]
        for section in sections
    }
    assert kept["disruption"] == {"low": 1, "random": 2}
    assert kept["bias_or_carrier"] == {"token_shuffle": 2}
    assert kept["step_map"] == EffectsSpec().controls
