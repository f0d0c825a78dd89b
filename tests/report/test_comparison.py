"""Two runs side by side: what is matched, what differs, what is refused, and that nothing escapes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dit_lens.errors import BadInput
from dit_lens.methods.answers import RESULTS, Answer, Results
from dit_lens.methods.stats import Effect
from dit_lens.report import build_comparison
from dit_lens.report.comparison import Comparison, SharedClaim
from dit_lens.report.comparison_page import render_comparison
from dit_lens.run.records import RunFolder
from tests.report.conftest import HOSTILE
from tests.report.test_page import Page

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def found(run_dir, other_dir) -> Comparison:
    return Comparison.of(run_dir, other_dir)


@pytest.fixture(scope="module")
def page(comparison) -> Page:
    return Page(comparison.read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------------------- matching
def test_claims_are_matched_by_name_and_changes_come_first(found, run_dir) -> None:
    names = [claim.a.name for claim in found.claims]
    assert set(names) == {answer.name for answer in Results.load(run_dir).answers[:-1]}
    assert all(claim.a.name == claim.b.name for claim in found.claims)
    flags = [claim.changed for claim in found.claims]
    assert any(flags) and flags == sorted(flags, reverse=True)
    assert found.changed == tuple(claim for claim in found.claims if claim.a.outcome != claim.b.outcome)


def test_a_claim_of_one_run_alone_is_told_apart(found) -> None:
    only_a, only_b = found.alone
    assert [answer.name for answer in only_b] == [f"only here {HOSTILE}"]
    assert len(only_a) == 1


def effect(control: str, estimate: float, name: str = "ssim") -> Effect:
    return Effect(name, estimate, estimate - 0.1, estimate + 0.1, 12, 0.01, 0.01, control, sd=1.0)


def answer(outcome: str, *effects: Effect) -> Answer:
    return Answer(
        name="q.ssim", question="q", claim="it does", metric="ssim", direction="greater", outcome=outcome,
        reason="", sentence="", effects=effects,
    )  # fmt: skip


def test_both_runs_are_held_against_the_control_that_is_worst_for_the_claim() -> None:
    first = answer("supported", effect("low", 0.9), effect("random", 0.5))
    second = answer("supported", effect("low", 0.3), effect("random", 0.6))
    chosen = SharedClaim(first, second).deciding
    assert [one.control for one in chosen] == ["low", "low"]
    assert [one.estimate for one in chosen] == [0.9, 0.3]


def test_a_claim_about_some_place_rests_on_the_best_place_and_its_worst_control() -> None:
    places = [
        effect("low", 0.9, "ssim, block 1"), effect("random", 0.4, "ssim, block 1"),
        effect("low", 0.3, "ssim, block 2"), effect("random", -0.4, "ssim, block 2"),
    ]  # fmt: skip
    one = answer("supported", *places)
    first, second = SharedClaim(one, one).deciding
    assert (first.name, first.control, first.estimate) == ("ssim, block 1", "random", 0.4)
    assert second == first


def test_without_a_shared_control_each_run_keeps_its_own() -> None:
    chosen = SharedClaim(
        answer("supported", effect("low", 0.5)), answer("supported", effect("random", 0.4))
    ).deciding
    assert [one.control for one in chosen] == ["low", "random"]


def test_channels_overlap_block_by_block(found) -> None:
    by_block = {one.block: one for one in found.overlaps}
    assert by_block[3].shared == (81, 17, 40) and by_block[3].only_a == (5,) and by_block[3].only_b == (6,)
    assert by_block[3].jaccard == pytest.approx(3 / 5)
    assert {one.jaccard for block, one in by_block.items() if block != 3} == {1.0}


def test_sets_of_other_blocks_are_not_compared(run_dir, other_dir, tmp_path) -> None:
    copy = RunFolder(shutil.copytree(other_dir, tmp_path / "copy"))
    channels = copy.channels()
    assert channels is not None
    copy.write_channels({**channels, "blocks": {"0": [1]}})
    found = Comparison.of(run_dir, copy.path)
    assert found.overlaps == ()
    assert "there is no block-by-block comparison" in Page(render_comparison(found)).text


def test_specs_and_versions_say_only_what_differs(found) -> None:
    assert {(one.what, one.a, one.b) for one in found.of_specs} == {
        ("seeds", "[0, 1]", "[0, 2]"),
        ("sampling.steps", "absent", "8"),
    }
    versions = {one.what: (one.a, one.b) for one in found.of_versions}
    assert versions["package: torch"] == ("2.13.0", "2.14.0")
    assert versions["seeds"] == ("0, 1", "0, 2")
    assert "Python" not in versions
    assert not found.same_weights


def test_pictures_are_matched_by_prompt_seed_and_edit(found) -> None:
    pairs = [pair for group in found.pictures.values() for pair in group]
    assert len(pairs) > 10
    assert all((a.prompt, a.seed, a.caption) == (b.prompt, b.seed, b.caption) for a, b in pairs)


# --------------------------------------------------------------------------------------------------- refusals
def test_what_is_no_run_is_refused(run_dir, tmp_path) -> None:
    with pytest.raises(BadInput, match=r"is no run folder: it has no run\.json"):
        build_comparison(run_dir, tmp_path, tmp_path / "page.html")
    with pytest.raises(BadInput, match="There is no run folder"):
        build_comparison(tmp_path / "absent", run_dir, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_one_folder_twice_is_refused_by_whatever_path(run_dir) -> None:
    with pytest.raises(BadInput, match="are the same folder"):
        Comparison.of(run_dir, run_dir / ".." / run_dir.name)


@pytest.mark.parametrize("file", ["run.json", RESULTS])
def test_a_newer_version_is_refused(run_dir, other_dir, tmp_path, file) -> None:
    copy = shutil.copytree(other_dir, tmp_path / "copy")
    value = json.loads((copy / file).read_text(encoding="utf-8"))
    (copy / file).write_text(json.dumps({**value, "schema_version": 99}), encoding="utf-8")
    with pytest.raises(BadInput, match="schema_version 99"):
        Comparison.of(run_dir, copy)


def test_runs_without_a_shared_question_are_refused(make_run, tables, run_dir, tmp_path) -> None:
    one = make_run({"agreement": tables["agreement"]})
    (one / "spec.yaml").write_text("sections: [agreement]\n", encoding="utf-8")
    two = shutil.copytree(one, tmp_path / "two")
    (two / "spec.yaml").write_text("sections: [life, births]\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"share no question: .* asks agreement; .* asks life and births"):
        Comparison.of(one, two)


def test_runs_that_judged_nothing_are_compared_by_their_channels(make_run, tables, tmp_path) -> None:
    one = make_run({"agreement": tables["agreement"]})
    two = shutil.copytree(one, tmp_path / "two")
    text = Page(render_comparison(Comparison.of(one, two))).text
    assert "No claim was judged by both runs. Neither judged any." in text
    assert "The sets are equal in 8 of 8 blocks" in text
    assert "The resolved specs are the same." in text


def test_what_a_run_lost_is_not_taken_for_what_it_never_had(run_dir, other_dir, tmp_path) -> None:
    copies = [
        Path(shutil.copytree(place, tmp_path / name)) for place, name in ((run_dir, "a"), (other_dir, "b"))
    ]
    for copy in copies:
        (copy / "spec.yaml").write_text("sections: [life, disruption, spatial]\n", encoding="utf-8")
    (copies[0] / RESULTS).unlink()
    (copies[0] / "tables/spatial_blocks.parquet").unlink()
    (copies[1] / "tables/life.parquet").write_bytes(b"PAR1 cut off")
    said: list[str] = []
    html = build_comparison(*copies, tmp_path / "page.html", say=said.append).read_text(encoding="utf-8")
    assert [each.partition(": ")[2].split(" is ")[0] for each in said] == [
        "tables/spatial_blocks.parquet", RESULTS, "tables/life.parquet"
    ]  # fmt: skip
    text = Page(html).text
    assert "No claim can be compared. The verdicts of run A are lost." in text and "judged none" not in text
    for letter, each in zip("AAB", said, strict=True):
        assert f"Lost of run {letter}. {each.partition(': ')[2]}" in text
    assert Comparison.of(*copies).as_data()["lost"]["b"] == [said[2].partition(": ")[2]]
    with pytest.warns(UserWarning) as warned:
        build_comparison(*copies, tmp_path / "page.html")
    assert [str(each.message) for each in warned] == said


@pytest.mark.parametrize(
    ("failure", "says"), [("interrupted", "interrupted"), ("NaN", "ended with an error")]
)
def test_a_run_that_someone_ended_met_no_error(make_run, tables, tmp_path, failure: str, says: str) -> None:
    one = make_run({"agreement": tables["agreement"]}, status="failed", failure=failure, finished=None)
    two = shutil.copytree(one, tmp_path / "two")
    text = Page(render_comparison(Comparison.of(one, two))).text
    assert f", {says}" in text
    assert ("ended with an error" in text) == (failure == "NaN")


# --------------------------------------------------------------------------------------------------- the page
def in_page_links(page: Page) -> set[str]:
    return {a["href"][1:] for a in page.all("a") if a.get("href", "").startswith("#")}


def test_every_link_leads_somewhere(run_dir, other_dir, page, tmp_path) -> None:
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert "effects" in in_page_links(page) <= ids
    # Verdicts that differ, on claims of which no figure shows effects.
    copies = []
    for place in (run_dir, other_dir):
        copies.append(shutil.copytree(place, tmp_path / str(len(copies))))
        answers = [
            each.model_copy(update={"primary": False, "metric": ""}) for each in Results.load(place).answers
        ]
        Results.load(place).model_copy(update={"answers": tuple(answers)}).save(copies[-1] / RESULTS)
    bare = Page(render_comparison(Comparison.of(*copies)))
    assert "Verdicts that differ" in bare.text
    assert in_page_links(bare) <= {attributes.get("id") for _, attributes in bare.elements}
    assert "effects" not in in_page_links(bare)


def test_the_page_says_how_many_verdicts_agree(found, page) -> None:
    changed, total = len(found.changed), len(found.claims)
    assert f"Of {total} shared claims, {total - changed}" in page.text
    assert "Verdicts that differ" in page.text


def test_every_shared_claim_has_both_verdicts_and_their_numbers(found, comparison) -> None:
    html = comparison.read_text(encoding="utf-8")
    lines = re.findall(r"<li><p class=\"claim\">.*?</li>", html, flags=re.S)
    assert len(lines) == len(found.claims)
    for line in lines:
        assert line.count('class="badge') == 2
        assert line.count("95 % CI") == 2
        assert len(re.findall(r"n\xa0=\xa0\d+", line)) == 2


def test_nothing_is_loaded_and_hostile_text_is_only_shown(page) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "base"}
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "srcset", "action", "data", "poster"):
            value = attributes.get(name, "")
            assert not value or value.startswith("data:"), f"{tag} {name}={value[:60]}"
    assert page.text.count("<script>alert(1)</script>") >= 4, "title, claims, prompt, edit"
    assert not [a for a in page.all("img") if a.get("src") == "x"]
    for attributes, text in page.scripts:
        if attributes.get("type") == "application/json":
            assert "<" not in text


def test_the_page_is_sound_for_a_screen_reader(page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(attributes.get("alt") for attributes in page.all("img"))


def test_the_data_is_json(found) -> None:
    data = json.loads(json.dumps(found.as_data(), allow_nan=False))
    assert [one["changed"] for one in data["claims"]].count(True) == len(found.changed)
    assert data["channels"][3]["jaccard"] == pytest.approx(3 / 5)


WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "diffusers", "transformers", "nnsight", "sklearn", "xarray"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from dit_lens.cli import app
app(["compare", *sys.argv[1:]])
"""


def test_the_command_needs_no_torch(run_dir: Path, other_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(run_dir), str(other_dir), "--out", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert out.stat().st_size > 1_000_000
