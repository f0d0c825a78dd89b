"""The page as a file: whole, self-contained, escaped, and rebuilt without torch."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from dit_lens.errors import BadInput
from dit_lens.report import build_report, downloads
from dit_lens.report.damage import TABLE_OF
from dit_lens.report.downloads import MOST_BYTES
from dit_lens.report.page import SECTIONS, render
from dit_lens.report.section import RunView, Section
from dit_lens.run.records import RunFolder
from tests.report.conftest import HOSTILE
from tests.report.synthetic_effects import results

pytestmark = pytest.mark.pure


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, scripts, and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.words: list[str] = []
        self._inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag in {"script", "style"}:
            self._inside = tag
            if tag == "script":
                self.scripts.append((attributes, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        elif self._inside is None:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


# ----------------------------------------------------------------------------------------------- contents
def test_every_section_is_linked_has_a_figure_and_says_what_its_numbers_say(page, html) -> None:
    ids = {attributes["id"] for tag, attributes in page.elements if tag == "section"}
    assert ids == {
        "summary", "channels", "spectrum", "ratio-map", "life", "stability", "agreement", "variance",
        "births", "adaln", "token-maps", "images", "spatial", "disruption", "gallery", "bias-or-carrier",
        "semantics-or-detail", "single-or-all", "dose", "step-map", "final-map", "patch-map", "verdict-rule",
        "transport-text", "transport-text-attributes", "transport-curves", "transport-image",
        "transport-image-attributes", "detail-guidance",
        "provenance",
    }  # fmt: skip
    links = {attributes["href"] for attributes in page.all("a") if attributes["href"].startswith("#")}
    assert {f"#{name}" for name in ids} <= links
    described = [
        attributes["id"] for _, attributes in page.elements if "conclusion" in attributes.get("class", "")
    ]
    assert len(described) == len(set(described)) == len(ids) - 3, "all but summary, rule and provenance"
    assert "Nothing to show" not in page.text


def test_the_summary_repeats_each_sections_sentence(page, html) -> None:
    summary = html[html.index('id="summary"') : html.index('id="channels"')]
    rest = html[html.index('id="channels"') :]
    sentences = re.findall(r'<p class="conclusion"[^>]*>(.*?)</p>', rest, flags=re.S)
    assert len(sentences) == 22, "the others end in verdicts"
    for sentence in sentences:
        assert sentence in summary


def test_the_first_card_agrees_with_the_sections(page, run_dir) -> None:
    rows = RunFolder(run_dir).table("ratio_map").query("stream == 'image' and branch == 'cond'")
    peak = rows.loc[rows["ratio"].idxmax()]
    assert f"the highest ratio, of channel {peak['channel']} in block {peak['block']}" in page.text
    assert page.text.count(f"{peak['ratio']:.3g}") >= 3, "tile, card and section say the same number"


def test_figures_hold_their_data_their_title_and_a_place_to_be_drawn(page) -> None:
    data = [text for attributes, text in page.scripts if attributes.get("type") == "application/json"]
    figures = [figure for figure in map(json.loads, data) if "data" in figure]
    places = [attributes for attributes in page.all("div") if attributes.get("class") == "plot"]
    assert len(figures) == len(places) > 20
    for figure in figures:
        assert figure["data"]
        assert "template" not in figure["layout"], "the page has one template for each mode"
        assert "title" not in figure["layout"], "a title is text of the page"
    captions = Counter(attributes["id"] for attributes in page.all("figcaption") if "id" in attributes)
    assert all(captions[place["aria-labelledby"]] == 1 for place in places)


def test_the_rows_behind_a_figure_can_be_had(page, run_dir) -> None:
    links = {a["download"]: a["href"] for a in page.all("a") if "download" in a}
    text = base64.b64decode(links["agreement.csv"].partition(",")[2]).decode()
    rows = RunFolder(run_dir).table("agreement")
    assert text == rows.to_csv(index=False)
    assert (run_dir / "tables" / "spectrum.parquet").exists()
    assert "tables/spectrum.parquet" in {a["href"] for a in page.all("a")}


def test_every_section_offers_its_rows_and_how_to_repeat_it(html) -> None:
    for name, part in re.findall(r'<section id="([^"]+)"(.*?)</section>', html, flags=re.S):
        if name in {"summary", "verdict-rule", "provenance"}:
            continue
        assert "download=" in part or "too many to be carried" in part, name
        assert "Repeat it" in part and "dit-lens run" in part, name
    assert "too many to be carried" not in html


def test_long_tables_are_carried_compressed_to_the_digits_that_were_measured(page, run_dir) -> None:
    links = {a["download"]: a["href"] for a in page.all("a") if "download" in a}
    packed = links["spectrum.csv.gz"]
    assert packed.startswith("data:application/gzip;base64,") and len(packed) <= MOST_BYTES
    assert "carried in this page, compressed by gzip, with numbers to 7 digits" in page.text
    found = pd.read_csv(io.BytesIO(base64.b64decode(packed.partition(",")[2])), compression="gzip")
    rows = RunFolder(run_dir).table("spectrum")
    pd.testing.assert_frame_equal(found, rows, check_dtype=False, rtol=1e-6, atol=0)


def test_what_would_burden_the_page_stays_beside_it(tables, make_run, monkeypatch) -> None:
    monkeypatch.setattr(downloads, "MOST_CSV", 100)
    monkeypatch.setattr(downloads, "MOST_BYTES", 100)
    text = said(make_run({"agreement": tables["agreement"]}))
    assert "tables/agreement.parquet beside this page. They are too many to be carried in it." in text
    monkeypatch.setattr(downloads, "MOST_BYTES", 100_000)
    assert downloads.of_table("agreement", tables["agreement"]).name == "agreement.csv.gz"
    monkeypatch.setattr(downloads, "MOST_VALUES", 10)
    assert downloads.of_table("agreement", tables["agreement"]) is None


def test_the_set_and_the_lists_of_pictures_can_be_had(page, run_dir) -> None:
    links = {
        a["download"]: base64.b64decode(a["href"].partition(",")[2]) for a in page.all("a") if "download" in a
    }
    folder = RunFolder(run_dir)
    assert json.loads(links["channels.json"]) == folder.channels()
    samples = pd.read_csv(io.BytesIO(links["images.csv"]))
    assert list(samples["file"]) == [entry.file for entry in folder.images() if entry.kind == "sample"]
    assert HOSTILE in set(samples["prompt"])
    arms = {entry.file for entry in folder.images() if entry.kind == "arm"}
    assert arms <= set(pd.read_csv(io.BytesIO(links["gallery.csv"]))["file"])


def test_provenance_and_the_commands_that_repeat_it_are_there(page) -> None:
    for fact in ("ab" * 32, "c" * 40, "with uncommitted changes", "3.11.7 on Linux", "160 s", "2.13.0"):
        assert fact in page.text
    assert "dit-lens run spec.yaml --out ../again" in page.text
    assert "plots.ratio_map(table, stream='image', branch='cond', statistic='abs_mean').show()" in page.text


def test_the_repeat_snippet_of_a_section_runs_and_its_table_is_the_questions(run_dir, monkeypatch) -> None:
    import plotly.graph_objects as go

    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    monkeypatch.chdir(run_dir)
    view = RunView(RunFolder(run_dir))
    sections = {build.__name__: build(view) for build in SECTIONS}
    for section in filter(lambda section: section.repeat, sections.values()):
        exec(section.repeat, {})
    assert len(shown) == 23
    # What a question lost is known from its table, without making its section.
    for name, section in sections.items():
        assert section.table in ("", TABLE_OF.get(name, name)), name


# -------------------------------------------------------------------------------------------- self-contained
def test_nothing_is_loaded_from_elsewhere(page) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "base"}
        for name in ("src", "srcset", "href", "action", "data", "poster"):
            value = attributes.get(name, "")
            assert not re.match(r"(https?:)?//", value), f"{tag} {name}={value[:60]}"
            assert tag == "a" or not value or value.startswith("data:"), f"{tag} {name}={value[:60]}"


def test_no_picture_waits_to_be_near_the_reader(html) -> None:
    """Pictures that get their height while a reader jumps past them push the section aside that was meant."""
    assert "<img" in html and not re.search(r"loading=.?lazy", html)


def test_the_page_forbids_every_script_but_its_own(page) -> None:
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    script_rule = policy.partition("script-src ")[2].partition(";")[0]
    assert "unsafe" not in script_rule
    own = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    assert len(own) == 4
    assert "plotly.js" in own[0][:200]
    for text in own:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in script_rule


def test_hostile_text_is_shown_and_nothing_more(page, html) -> None:
    assert page.text.count("<script>alert(1)</script>") >= 5, "shown as text: prompt, caption, command, spec"
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert not [a for a in page.all("img") if a.get("src") == "x"]
    assert "alert(1)</script>" not in html.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")
    for attributes, text in page.scripts:
        if attributes.get("type") == "application/json":
            assert "<" not in text


def test_the_same_run_makes_the_same_bytes(run_dir, html) -> None:
    assert build_report(run_dir).read_text(encoding="utf-8") == html


WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "diffusers", "transformers", "nnsight", "sklearn", "xarray"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from dit_lens.report import build_report
print(build_report(sys.argv[1]).stat().st_size)
try:
    import torch
except ImportError:
    print("torch was blocked")
"""


def test_a_report_is_rebuilt_where_torch_cannot_be_imported(make_run, tables) -> None:
    folder = make_run({"agreement": tables["agreement"]})
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("torch was blocked\n")


# ------------------------------------------------------------------------------------------ what is not there
def said(folder: Path) -> str:
    return Page(build_report(folder).read_text(encoding="utf-8")).text


def test_an_absent_table_is_explained_in_its_place(make_run, tables) -> None:
    text = said(make_run({"agreement": tables["agreement"], "life": tables["life"]}))
    assert "This run wrote no table “spectrum”. Its analysis does not ask for it. It has 2 tables:" in text
    assert "Nothing to show for:" in text


def test_a_run_that_failed_says_so(make_run, tables) -> None:
    folder = make_run(
        {"agreement": tables["agreement"]}, status="failed", failure="NaN <b>in</b> block 3", finished=None
    )
    text = said(folder)
    assert "It ended with an error: NaN <b>in</b> block 3" in text
    assert "failed: NaN <b>in</b> block 3" in text
    assert "This run ended with an error." in text


def test_a_rule_that_no_channel_passes_is_named(make_run, tables) -> None:
    folder = make_run({"variance": tables["variance"].head(0), "spectrum": tables["spectrum"]})
    RunFolder(folder).write_channels(
        {"schema_version": 1, "statistic": "max_abs", "stream": "image", "blocks": {"0": []},
         "selection": {"rule": "2402.17762"}}
    )  # fmt: skip
    text = said(folder)
    assert (
        "No channel passes the rule of this run (rule = 2402.17762, statistic max_abs, image stream)" in text
    )
    assert "No channel passes the rule of this run in any block." in text


def test_a_lost_table_is_said_to_be_lost_and_keeps_its_verdicts(run_dir, html, tmp_path) -> None:
    path = shutil.copytree(run_dir, tmp_path / "run")
    asked = "sections: [spectrum, life, token_maps, disruption, dose]\n"
    (path / "spec.yaml").write_text(asked, encoding="utf-8")
    for name in ("life", "token_maps", "disruption", "births"):
        (path / f"tables/{name}.parquet").unlink()
    (path / "tables/dose.parquet").write_bytes(b"PAR1 cut off")
    shown = {"births", "life", "token_maps", "disruption", "dose"}
    few = [build for build in SECTIONS if build.__name__ in shown]
    lost: list[str] = []
    page = Page(build_report(path, few, say=lost.append).read_text(encoding="utf-8"))
    assert [each.removeprefix(f"{path}: ").split(" is ")[0] for each in lost] == [
        "tables/life.parquet",
        "tables/disruption.parquet",
        "tables/dose.parquet",
    ]
    assert "tables/disruption.parquet is missing, although the analysis asked for this table" in page.text
    assert "dose.parquet is no parquet file that can be read" in page.text
    assert "“births”. Its analysis does not ask for it." in page.text
    assert "“token_maps”. None of the blocks that it looked at holds a massive channel." in page.text
    whole = Page(html)
    claims = [answer.claim.lower() for answer in results().answers if answer.question == "disruption"]
    assert claims and all(claim in page.text.lower() and claim in whole.text.lower() for claim in claims)
    with pytest.warns(UserWarning) as warned:
        build_report(path, few)
    assert [str(each.message) for each in warned] == lost


@pytest.mark.parametrize(("left", "says"), [(None, "is missing, although"), ("{", "is not JSON")])
def test_lost_verdicts_are_said_to_be_lost(run_dir, tmp_path, left, says) -> None:
    path = shutil.copytree(run_dir, tmp_path / "run")
    (path / "spec.yaml").write_text("sections: [spectrum, disruption]\n", encoding="utf-8")
    (path / "results.json").unlink()
    if left is not None:
        (path / "results.json").write_text(left, encoding="utf-8")
    lost: list[str] = []
    page = Page(build_report(path, SECTIONS[:1], say=lost.append).read_text(encoding="utf-8"))
    assert len(lost) == 1 and f"results.json {says}" in lost[0]
    assert "No verdicts." in page.text and f"results.json {says}" in page.text


def test_what_no_channel_was_found_for_is_not_lost(make_run, tables) -> None:
    folder = make_run({"spectrum": tables["spectrum"]})
    (folder / "spec.yaml").write_text("sections: [spectrum, disruption]\n", encoding="utf-8")
    channels = RunFolder(folder).channels()
    largest = {"ratio": 37.114, "value": 17.1234, "block": 7, "channel": 0}
    RunFolder(folder).write_channels(
        {**channels, "blocks": {"0": []}, "selection": {"ratio": 5000}, "provenance": {"largest": largest}}
    )
    lost: list[str] = []
    text = Page(build_report(folder, say=lost.append).read_text(encoding="utf-8")).text
    assert not lost
    assert "so there was nothing to edit or to follow" in text
    nearest = "The largest ratio is 37.11 times the median: abs_mean 17.12 in block 7, channel 0."
    assert f"No channel passes the rule of this run in any block. {nearest}" in text


def test_an_empty_table_of_a_run_with_channels_is_no_fault_of_the_rule(make_run, tables) -> None:
    assert "The table “births” has no rows" in said(make_run({"births": tables["births"].head(0)}))


def test_a_table_with_other_columns_costs_its_own_section_only(make_run, tables) -> None:
    text = said(make_run({"life": tables["life"].drop(columns="sigma"), "agreement": tables["agreement"]}))
    assert "needs the column(s) sigma" in text
    assert "The sets by |mean| and by mean |value| overlap" in text


def test_a_damaged_image_is_named(make_run, tables) -> None:
    folder = make_run({"agreement": tables["agreement"]})
    (folder / "images" / "sample_0.png").write_bytes(b"no picture")
    assert "The image sample_0.png cannot be read" in said(folder)


def test_an_image_that_was_deleted_is_left_out(make_run, tables) -> None:
    folder = make_run({"token_maps": tables["token_maps"]})
    for picture in (folder / "images").glob("*.png"):
        picture.unlink()
    text = said(folder)
    assert "This run kept no plain samples." in text
    assert "massive channels over the image tokens" in text


def test_no_run_folder_no_report(tmp_path) -> None:
    with pytest.raises(BadInput, match="no run folder"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- extending
def test_a_section_is_one_function(run_dir) -> None:
    def verdict(run: RunView) -> Section:
        """A later part's question."""
        return Section(id="verdict", title="Detail or semantics?", lead="<b>", conclusion="Not supported.")

    page = Page(render(RunView(RunFolder(run_dir)), (verdict,)))
    assert "Not supported." in page.text
    assert "#verdict" in {attributes["href"] for attributes in page.all("a")}
    with pytest.raises(BadInput, match="share an id"):
        render(RunView(RunFolder(run_dir)), (verdict, verdict))


# --------------------------------------------------------------------------------------------- accessibility
def test_structure_that_a_screen_reader_walks(page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "aria-describedby", "for"):
        for _, attributes in page.elements:
            assert set(attributes.get(name, "").split()) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == len(page.all("nav")) == 1
    chosen = [a for a in page.all("input") if a["type"] == "radio"]
    named = {attributes["for"] for attributes in page.all("label") if "for" in attributes}
    assert {attributes["id"] for attributes in page.all("select")} <= named
    assert len(page.all("label")) - len(named) == len(chosen) > 0, "a picture's label holds its button"
    ranges = [a for a in page.all("input") if a["type"] != "radio"]
    assert all(a.get("aria-label") or a.get("id") in named for a in ranges)
