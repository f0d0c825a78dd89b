"""Effect sections on the page: verdicts first and in words, the sham beside them, and what is not there."""

from __future__ import annotations

import json
import re

import pytest

from dit_lens.methods.answers import CLAIM_RULE, RESULTS
from dit_lens.methods.stats import VERDICT_RULE
from dit_lens.report import build_report, effect_findings
from dit_lens.report.effect_sections import EFFECT_SECTIONS, sham_words
from dit_lens.report.page import SECTIONS, render
from dit_lens.report.section import RunView, Section
from dit_lens.report.summary import verdicts
from dit_lens.run.records import RunFolder
from tests.report.synthetic_effects import effect_tables, results, write_arms
from tests.report.test_page import Page

pytestmark = pytest.mark.pure


def part(html: str, section: str) -> str:
    """The text of one section."""
    found = re.search(rf'<section id="{section}".*?</section>', html, flags=re.S)
    assert found is not None
    return Page(found.group()).text


def test_the_default_page_asks_what_channels_are_and_then_what_they_do() -> None:
    names = [builder.__name__ for builder in SECTIONS]
    assert names[:2] == ["channel_set", "spectrum"]
    assert names[-13:] == [
        "disruption", "gallery", "bias_or_carrier", "semantics_or_detail", "single_or_all", "dose",
        "step_map", "final_map", "patch_map", "transport_text", "transport_image", "detail_guidance",
        "verdict_rule",
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------- verdicts
def test_the_first_card_begins_with_every_primary_verdict(html) -> None:
    card = part(html, "summary")
    primary = [answer for answer in results().answers if answer.primary]
    assert {answer.outcome for answer in primary} == {"supported", "not supported", "undecided"}
    for answer in primary:
        rest = answer.sentence.partition(": ")[2]
        assert rest[:1].upper() + rest[1:] in card
        assert card.index(answer.claim[1:]) < card.index("What the numbers say")
    secondary = next(answer for answer in results().answers if not answer.primary)
    assert secondary.claim[1:] not in card
    assert "The sections judge 1 more claim." in card


def test_a_section_ends_in_its_verdicts_the_primary_one_first(html) -> None:
    text = part(html, "disruption")
    first, second = (answer.claim[1:] for answer in results().of("disruption"))
    assert text.index("How to read it.") < text.index(first) < text.index(second)
    assert "? Undecided" in text and "✓ Supported" in text
    assert "arXiv 2605.13974" in text
    assert "Undecided: " not in text, "the badge says it"


def test_a_verdict_is_its_claim_and_then_its_numbers(html) -> None:
    found = re.findall(r'<span class="claim">(.*?)</span> <span class="numbers">(.*?)</span>', html)
    answers = results().answers
    # Every answer stands in its section, and the primary ones on the first card as well.
    assert len(found) == len(answers) + sum(answer.primary for answer in answers)
    for claim, numbers in found:
        assert any(claim.rstrip(".").lower() == answer.claim.lower() for answer in answers)
        assert "95 % CI" in numbers and "n = 24 prompts" in numbers


def test_a_map_says_that_it_explores_and_keeps_saying_it() -> None:
    section = Section(id="a-map", title="", lead="", answers=(results().answers[0].model_copy(
        update={"sentence": "Undecided (exploratory map): it may. 0 of 160 cells pass.", "claim": "it may"}
    ),))  # fmt: skip
    (verdict,) = verdicts(section)
    assert (verdict.claim, verdict.numbers) == ("Exploratory map: it may.", "0 of 160 cells pass.")


def test_many_claims_on_one_question_are_folded(make_run) -> None:
    folder = make_run({"disruption": effect_tables()["disruption"]})
    found = results()
    more = tuple(
        found.answers[1].model_copy(update={"name": f"disruption.{index}", "claim": f"claim {index}"})
        for index in range(6)
    )
    found.model_copy(update={"answers": (*found.answers, *more)}).save(folder / RESULTS)
    html = build_report(folder).read_text(encoding="utf-8")
    assert "More claims on this question (4)" in part(html, "disruption")


def test_the_sham_stands_beside_the_effects(html, make_run) -> None:
    for section in ("summary", "disruption", "dose", "single-or-all"):
        assert "bit for bit (largest difference 0)" in part(html, section)
    assert "at most 3.1\xa0×\xa010⁻⁵; effects of that size are numerical" in sham_words(3.1e-5)
    folder = make_run({"disruption": effect_tables()["disruption"]})
    results(sham=2.5e-3).save(folder / RESULTS)
    text = part(build_report(folder).read_text(encoding="utf-8"), "disruption")
    assert "moves the final latents by at most 0.0025" in text


def test_the_rule_is_quoted_once(html) -> None:
    text = Page(html).text
    assert text.count(VERDICT_RULE) == 1
    assert text.count(CLAIM_RULE) == 1
    assert VERDICT_RULE in part(html, "verdict-rule")


def test_maps_are_marked_exploratory_and_nothing_else_is(html) -> None:
    marked = [
        name
        for name in ("step-map", "final-map", "patch-map")
        if "none was named beforehand" in part(html, name)
    ]
    assert len(marked) == 3
    assert html.count("badge exploratory") == 3


def test_the_primary_metric_leads_its_section(html) -> None:
    first = {
        name: re.search(rf'id="{name}-view".*?<option value="0">(.*?)</option>', html, flags=re.S)
        for name in ("disruption", "dose")
    }
    for found in first.values():
        assert found is not None
        assert found.group(1) == "SSIM with the clean image", "alignment and semantics would come before it"


# ----------------------------------------------------------------------------------------- what is not there
def test_a_run_without_effects_says_so_and_keeps_the_rest(make_run, tables) -> None:
    html = build_report(make_run({"agreement": tables["agreement"]})).read_text(encoding="utf-8")
    assert "This run wrote no table “disruption”. Its analysis does not ask for it." in part(
        html, "disruption"
    )
    assert "This run kept no images of edited runs." in part(html, "gallery")
    assert "This run judged no claim" in part(html, "verdict-rule")
    assert "Verdicts" not in re.findall(r"<h2>(.*?)</h2>", html)
    assert "Nothing to show here." not in part(html, "images")


def test_a_run_without_verdicts_ends_its_sections_in_numbers(make_run) -> None:
    every = effect_tables()
    tables = {name: every[name] for name in ("single_or_all", "bias_or_carrier", "dose")}
    html = build_report(make_run(tables)).read_text(encoding="utf-8")
    assert "SSIM with the clean image" in part(html, "single-or-all")
    for name in ("bias-or-carrier", "dose"):
        assert "badge" not in re.search(rf'<section id="{name}".*?</section>', html, flags=re.S).group()
    assert effect_findings.dose(tables["dose"]) in part(html, "dose")
    assert effect_findings.dose(tables["dose"]) in part(html, "summary")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema_version": 99}', "reads up to 1"),
        ("{", "is not JSON"),
        ('{"schema_version": 1}', "is damaged"),
    ],
)
def test_damaged_or_newer_results_cost_the_verdicts_and_nothing_else(make_run, text, said) -> None:
    folder = make_run({"disruption": effect_tables()["disruption"]})
    (folder / RESULTS).write_text(text)
    with pytest.warns(UserWarning, match=said) as warned:
        html = build_report(folder).read_text(encoding="utf-8")
    assert [warning.filename for warning in warned] == [__file__]
    assert said in part(html, "summary")
    assert said in part(html, "verdict-rule")
    assert "Rows." in part(html, "disruption")


def test_hostile_sentences_are_text(make_run) -> None:
    folder = make_run({"disruption": effect_tables()["disruption"]})
    data = json.loads(results().to_json())
    hostile = "Supported: <script>alert(1)</script> {{ 1 }}"
    data["answers"][0] |= {
        "sentence": hostile,
        "outcome": "supported",
        "sources": ["<img src=x onerror=alert(2)>"],
    }
    (folder / RESULTS).write_text(json.dumps(data))
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    assert "<script>alert(1)</script> {{ 1 }}" in page.text
    assert not [a for a in page.all("img") if a.get("src") == "x"]
    assert not [text for attributes, text in page.scripts if "alert(1)" in text]


# ---------------------------------------------------------------------------------------------------- gallery
def test_the_gallery_holds_every_arm_once_clean_first_and_massive_before_its_controls(html) -> None:
    section = re.search(r'<section id="gallery".*?</section>', html, flags=re.S).group()
    group = re.search(r"data-group='0'.*?(?=data-group='1')", section, flags=re.S).group()
    assert re.findall(r"<figcaption>(.*?)</figcaption>", group) == ["clean"]
    assert re.findall(r"<span class='arm'>(.*?)</span>", group.replace("<wbr>", "")) == [
        "massive", "low", "random-2", "random-10", "random_rank_window-0", "energy_matched-0",
        "massive.block-2", "massive.block-11",
    ]  # fmt: skip
    assert group.index("<figcaption>clean") < group.index("class='arm'")


def test_arms_stay_out_of_the_plain_samples(html, run_dir) -> None:
    run = RunView(RunFolder(run_dir))
    assert len(run.samples) == 2 and len(run.arm_images) == 19
    section = re.search(r'<section id="images".*?</section>', html, flags=re.S).group()
    assert section.count("<img") == 2
    assert "2 images from 2 prompts and 1 seed." in part(html, "images")


def test_a_prompt_without_a_clean_arm_takes_the_plain_sample(make_run) -> None:
    folder = RunFolder(make_run({}))
    write_arms(folder, ("a large red circle on a blue background", "another prompt"))
    for entry in folder.images():
        if entry.caption == "clean":
            folder.image_path(entry).unlink()
    html = render(RunView(folder), EFFECT_SECTIONS)
    assert len(re.findall(r"<figcaption>clean</figcaption>", html)) == 1
    assert html.count("class='stage'") == 1, "nothing to compare the other prompt with"
    assert html.count("class='arm'") == 16


def test_a_flood_of_images_is_cut_and_counted(make_run) -> None:
    folder = RunFolder(make_run({}))
    write_arms(folder, ("a prompt",), tuple(f"massive.block-{block}" for block in range(45)))
    html = render(RunView(folder), EFFECT_SECTIONS)
    assert html.count("class='arm'") == 40
    assert "The first 40 of 45 edits are shown; the others lie in images/." in html
