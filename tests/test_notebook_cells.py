"""What values show in a notebook's cell: sound HTML, the key facts, foreign text as text, not too much."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dit_lens as dl
from dit_lens.inline_html import card, data_uri, facts, grid, heat, table, thumbnails
from dit_lens.methods.answers import Answer, Results
from dit_lens.methods.stats import Effect
from dit_lens.methods.study import plan_study
from dit_lens.model.check import CheckEntry, CheckReport
from dit_lens.summary import Fold, Grid, Heat, Images, Summary, Table

pytestmark = pytest.mark.tiny

HOSTILE = "<script>alert(1)</script> \"quoted\" 'and' <img src=x onerror=alert(2)> & 50 %"
STEPS = 2
VOID = {"img", "br", "meta", "hr", "input", "col", "path", "rect"}


class Page(HTMLParser):
    """A fragment taken apart: its text, its tags; raises where they do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.styles, self._open = "", [], [], []
        self.alts: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.styles += [str(value) for name, value in attrs if name == "style"]
        self.alts += [str(value) for name, value in attrs if name == "alt"]
        assert not any(name.startswith("on") for name, _ in attrs), f"{tag} runs something"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def held(tiny_sd3_lens) -> dict[str, tuple[Any, list[str]]]:
    """Every kind of value that a user holds, and what its cell must say."""
    lens, prompts = tiny_sd3_lens, [HOSTILE, "a red circle"]
    sampling = {"steps": STEPS}
    trajectory = lens.generate(prompts, seeds=[3], steps=STEPS, progress=False)
    stats = dl.discover(lens, prompts, seeds=[0], sampling=sampling, progress=False)
    massive = stats.select(top_k=2)
    graph = dl.InterventionGraph(sampling=sampling)
    source = graph.trajectory(prompt=HOSTILE, seed=0, id="source")
    target = graph.trajectory(prompt="a red circle", seed=0, id=HOSTILE[:25])
    graph.edit(source, at="blocks.*.resid_post.image", channels=massive, op=dl.Zero())
    graph.patch(source, into=target, at="blocks.1.resid_post.image", strength=0.5)
    graph.read(target, at="velocity", reduce="norm")
    result = dl.run(lens, graph, progress=False)
    arms = [dl.CLEAN, dl.ablation_arm("massive", "massive", massive, dl.Zero())]
    measures = dl.default_measures(lens)
    how: dict[str, Any] = {"measures": measures, "sampling": sampling}
    study = dl.run_study(lens, arms, prompts, [0], progress=False, **how)
    effect = Effect("ssim", -0.2, -0.3, -0.1, 12, 0.001, 0.002, HOSTILE, "", 0.1, 0.95)
    answer = Answer(
        name="disruption.ssim", question="disruption", claim=HOSTILE, metric="ssim", direction="less",
        outcome="supported", reason="p is small", sentence="Supported: it is so.", effects=(effect,),
    )  # fmt: skip
    results = Results(
        model=HOSTILE, fingerprint="00", dtype="float32", prompts=12, seeds=(0,), answers=(answer,)
    )
    checks = CheckReport(
        HOSTILE, (CheckEntry("fine", True, "ok", 0.1), CheckEntry("bad", False, HOSTILE, 2.0))
    )
    edge = dl.Mask(np.eye(4, dtype=bool), about=HOSTILE)
    found = dl.effect_map(lens, massive, prompts, sampling=lens.sampling(**sampling), progress=False)
    return {
        "lens": (lens, ["SD3Transformer2DModel", f"{lens.num_blocks} blocks", "blocks.0.resid_post.image"]),
        "trajectory": (trajectory, ["2 rows", "2 steps", "a red circle · seed 3"]),
        "statistics": (stats, ["2 samples", "top channel", "image stream"]),
        "channel set": (massive, ["top_k = 2", ", ".join(map(str, massive.blocks[0]))]),
        "graph": (graph, [graph.hash, "2 trajectories", "patch strength=0.5", "read-1"]),
        "plan": (graph.plan(lens), ["forwards", "block passes", "held for reuse"]),
        "result": (result, ["block passes", "read-1", "velocity"]),
        "edited trajectory": (result["source"], ["edited", "from step 0"]),
        "study": (study, [f"{len(arms)} arms", "clean", "computed"]),
        "study plan": (plan_study(lens, arms, prompts, [0], **how), ["to run", "block passes"]),
        "effect map": (found, ["exploratory", "peak"]),
        "mask": (edge, ["4 of 16 tokens", "4 × 4"]),
        "results": (results, ["● supported", "disruption.ssim", "12 held-out prompts", "it is so"]),
        "answer": (answer, ["-0.3 to -0.1", "12", "p is small"]),
        "checks": (checks, ["1 of 2 checks failed", "✗ FAILED", "✓ ok"]),
    }  # fmt: skip


NAMES = (
    "lens", "trajectory", "statistics", "channel set", "graph", "plan", "result", "edited trajectory",
    "study", "study plan", "effect map", "mask", "results", "answer", "checks",
)  # fmt: skip
WITHOUT_FOREIGN_TEXT = {"lens", "channel set", "plan", "study", "study plan", "effect map"}


def test_every_kind_is_looked_at(held) -> None:
    assert set(held) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_sound_says_what_matters_and_stays_small(name, held) -> None:
    value, said = held[name]
    html = value._repr_html_()
    page = Page(html)
    assert isinstance(html, str) and len(html) < 300_000
    shown = " ".join(page.text.split())
    for fact in said:
        assert " ".join(fact.split()) in shown
    assert not {"script", "style", "link", "iframe", "object"} & set(page.tags)
    assert len(page.alts) == page.tags.count("img")


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_a_summary_says_the_same(name, held) -> None:
    value, said = held[name]
    shown = " ".join(str(value.summary()).split())
    for fact in said:
        assert " ".join(fact.split()) in shown
    assert " object at 0x" not in shown and "PIL." not in shown and "<details" not in shown


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_FOREIGN_TEXT])
def test_foreign_text_is_text(name, held) -> None:
    html = held[name][0]._repr_html_()
    assert "<script>alert(1)" in Page(html).text, "it is shown as it stands"
    assert "<script" not in html and "<img src=x" not in html


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_sets_a_colour(name, held) -> None:
    html = held[name][0]._repr_html_()
    for style in Page(html).styles:
        assert not re.search(r"#[0-9a-f]{3}|rgb|white|black", style)
        assert not re.search(r"(?:^|;)\s*(?:color|background)\s*:\s*(?!inherit|none)", style)
    assert not re.search(r"(?:fill|stroke)='(?!currentColor|none)", html)


@pytest.mark.parametrize("name", NAMES)
def test_plain_text_says_what_it_is_in_a_screenful(name, held) -> None:
    text = repr(held[name][0])
    assert len(text) < 6_000 and " object at 0x" not in text and "PIL." not in text


# ------------------------------------------------------------------------------------------------------ parts
def test_tables_and_pictures_beyond_the_most_are_counted() -> None:
    assert "… and 3 more rows" in table(["n"], [[i] for i in range(13)], most=10)
    pictures = [(f"p {i}", Image.new("RGB", (8, 8), "red")) for i in range(15)]
    html = thumbnails(pictures)
    assert html.count("<img") == 12 and "… and 3 more pictures" in html


def test_a_large_picture_becomes_a_small_one() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    assert len(thumbnails([("noise", Image.fromarray(noise))] * 12)) < 300_000
    assert len(data_uri(Image.fromarray(noise), 64)) < 8_000


def test_a_mask_is_drawn_as_runs() -> None:
    html = grid([[True, True, False], [False, True, True]], "mask")
    assert "d='M0 0h2v1h-2zM1 1h2v1h-2z'" in html
    assert "d=''" in grid([[False]], "empty")


def test_a_map_is_more_opaque_where_it_is_larger_and_blank_where_it_is_unknown() -> None:
    html = heat([[0.0, 1.0], [np.nan, 0.5]], "map")
    assert re.findall(r"fill-opacity='([\d.]+)'", html) == ["0.06", "1.00", "0.53"]
    assert heat(np.zeros((50, 50)), "large") == "" == heat([[np.nan]], "nothing")


def test_facts_without_a_value_are_left_out() -> None:
    html = card("<b>", facts({"shown": 0, "empty": "", "none": None}), note="<i>")
    assert "shown" in html and "empty" not in html and "none<" not in html
    assert Page(html).text.startswith("<b>") and Page(html).text.endswith("<i>")


def test_text_counts_what_is_beyond_the_most_and_draws_what_has_a_form() -> None:
    image = Image.new("RGB", (8, 8))
    parts = (
        Table(["n"], [[i] for i in range(43)]),
        Images([(f"p {i}", image) for i in range(15)]),
        Heat([[0.0, 1.0], [np.nan, 0.5]], "map"),
        Fold("more", Grid([[True, False]], "mask")),
    )
    text = str(Summary("title", parts, "note"))
    assert "… and 3 more rows" in text and "… and 3 more pictures" in text
    assert "\n  map\n  ·█\n   ▒\n" in text and text.endswith("\n  more\n    #.\n  note")


def test_a_long_graph_is_cut_and_counted() -> None:
    graph = dl.InterventionGraph()
    for seed in range(80):
        graph.trajectory(prompt="a" * 400, seed=seed)
    html = graph._repr_html_()
    assert "… and 20 more lines" in Page(html).text and len(html) < 60_000
