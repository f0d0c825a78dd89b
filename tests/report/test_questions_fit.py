"""What questions answer is what the report draws: each table has its figure, each sentence its claim."""

from __future__ import annotations

from functools import cache

import pytest

from dit_lens.methods.questions import QUESTIONS, Answered
from dit_lens.methods.questions.maps import TITLES, Maps
from dit_lens.report import effect_findings, plots
from dit_lens.report.old_answers import findings_of_old
from dit_lens.report.section import Section
from dit_lens.report.summary import verdicts
from tests.methods.questions.imaginary_effects import FAST, a_setting, effects

pytestmark = pytest.mark.pure

ABLATIONS = ("disruption", "bias_or_carrier", "semantics_or_detail", "single_or_all", "dose")
METRICS = {"step_map": ("velocity",), "final_map": ("ssim", "latent"), "patch_map": ("toward",)}
PAIRS = tuple((f"prompt {2 * index}", f"prompt {2 * index + 1}") for index in range(8))


@cache
def answered(name: str) -> Answered:
    maps = Maps(pairs=PAIRS, sigmas=(1.0, 0.6, 0.3))
    question = maps.question(name) if name in TITLES else QUESTIONS[name]
    arms = question.arms(a_setting())
    metrics = METRICS.get(name, ("alignment", "ssim", "semantics", "detail", "change_high"))
    table = effects(arms, lambda arm: {"massive": 4.0}.get(arm.family, 1.0), metrics=metrics)
    return question.answer(table, arms, metrics=metrics, judging=FAST)


@pytest.mark.parametrize("name", (*ABLATIONS, *TITLES))
def test_the_table_of_a_question_has_its_figure_and_its_sentence(name) -> None:
    table = answered(name).tables[name]
    figure = plots.effect_map if name in TITLES else getattr(plots, name)
    finding = effect_findings.effect_map if name in TITLES else getattr(effect_findings, name)
    assert len(figure(table).data) >= 1
    assert "not defined" not in finding(table)
    assert finding(table).endswith(".")


@pytest.mark.parametrize("name", (*ABLATIONS, *TITLES))
def test_every_answer_parts_into_claim_and_numbers(name) -> None:
    answers = answered(name).answers
    shown = verdicts(Section(id=name, title="", lead="", answers=answers))
    assert sum(verdict.primary for verdict in shown) == 1
    for verdict, answer in zip(shown, answers, strict=True):
        assert answer.claim.lower().rstrip(".") in verdict.claim.lower()
        assert verdict.numbers, answer.sentence
        assert not verdict.claim.lower().startswith(answer.outcome)
        # An older record had the sentence alone, and shows the same.
        claim, findings = findings_of_old(answer)
        assert verdict.claim == claim
        assert (verdict.first, verdict.numbers) == (findings[0], " ".join(findings))
