"""The section about where massive channels point: figures, masks over pictures, and its sentence."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dit_lens.errors import BadInput
from dit_lens.methods.answers import RESULTS
from dit_lens.methods.questions.question import Judging
from dit_lens.methods.questions.spatial import ChosenPlace, answer
from dit_lens.report import build_report, plots
from dit_lens.report.section import MissingTable, RunView
from dit_lens.report.spatial_sections import finding, spatial
from dit_lens.report.summary import verdicts
from dit_lens.run.records import RunFolder
from tests.methods.questions.test_spatial import outlined, planted
from tests.report.conftest import HOSTILE, PROMPTS
from tests.report.synthetic_effects import results
from tests.report.synthetic_spatial import BLOCKS, LEVELS, PLACES, STEPS, iou, spatial_tables, write_masks
from tests.report.test_page import Page

pytestmark = pytest.mark.pure


def section_of(html: str, name: str = "spatial") -> str:
    found = re.search(rf'<section id="{name}".*?</section>', html, flags=re.S)
    assert found is not None
    return found.group()


@pytest.fixture(scope="module")
def blocks():
    return spatial_tables()["spatial_blocks"]


@pytest.fixture(scope="module")
def over_k():
    return spatial_tables()["spatial_k"]


# --------------------------------------------------------------------------------------------------- figures
def test_a_curve_and_an_interval_per_family_and_the_chance_level(blocks) -> None:
    figure = plots.spatial_blocks(blocks, step=5)
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert list(lines) == [
        "massive channels", "weakest", "random", "random, next ranks", "all channels", "all other channels",
        "chance (shuffled mask)",
    ]  # fmt: skip
    assert list(lines["massive channels"].y) == [iou("massive", block, 5) for block in range(BLOCKS)]
    assert set(lines["chance (shuffled mask)"].y) == {0.07}
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == len(LEVELS)
    assert max(bands[0].y) == pytest.approx(iou("massive", 6, 5) + 0.05)
    assert figure.layout.title.text == "At step 5, massive channels reach 0.65 after block 6 (chance 0.07)"
    assert "step 19" in plots.spatial_blocks(blocks).layout.title.text, "the last that has controls"


def test_the_map_is_the_massive_channels_and_marks_the_judged_places(blocks) -> None:
    figure = plots.spatial_map(blocks, places=PLACES)
    (heat,) = figure.data
    assert np.asarray(heat.z).shape == (BLOCKS, len(STEPS))
    assert heat.z[6][1] == pytest.approx(iou("massive", 6, 5))
    assert heat.zmin == 0, "colours compare across reports only from a common start"
    marks = [(shape.y0 + 0.5, STEPS[int(shape.x0 + 0.5)]) for shape in figure.layout.shapes]
    assert marks == [(block, step) for block, step in PLACES]
    other = plots.spatial_map(blocks, family="low")
    assert other.data[0].zmax == heat.zmax, "one scale of colours for all families"
    assert other.layout.title.text.startswith("Weakest: IoU from ")
    with pytest.raises(BadInput, match="No row has family = 'massive'"):
        plots.spatial_map(blocks[blocks.family != "massive"])


def test_the_curve_over_k_is_of_one_place(over_k) -> None:
    block, step = PLACES[1]
    figure = plots.spatial_k(over_k, block=block, step=step)
    massive = next(trace for trace in figure.data if trace.name == "massive channels")
    assert list(massive.x) == [1, 4, 16, 128]
    assert massive.y[1] == pytest.approx(iou("massive", block, step))
    assert "by the strongest channel, " in figure.layout.title.text
    assert figure.layout.xaxis.type == "log"
    first = plots.spatial_k(over_k).layout.title.text
    assert first.startswith("After block 6 at step 5")


def test_what_is_not_there_is_named(blocks, over_k) -> None:
    for call, said in (
        (lambda: plots.spatial_blocks(blocks, step=7), "No row has step = 7; there are: 0"),
        (lambda: plots.spatial_k(over_k, block=6, step=19), "No row has step = 19"),
        (lambda: plots.spatial_blocks(blocks.drop(columns="chance")), r"needs the column\(s\) chance"),
        (lambda: plots.spatial_map(blocks.iloc[:0]), "No row has family"),
    ):
        with pytest.raises(BadInput, match=said):
            call()


def test_tables_with_gaps_are_drawn(blocks) -> None:
    """A rule may find no channel in some blocks, and a truth no subject: NaN without an interval."""
    gaps = blocks[(blocks.block != 3) | (blocks.step != 5)].copy()
    empty = gaps.step == 0
    gaps.loc[empty, ["mean", "ci_low", "ci_high", "chance"]] = np.nan
    gaps.loc[empty, "n"] = 0
    heat = plots.spatial_map(gaps).data[0]
    assert np.isnan(heat.z[3][1]) and np.isnan(heat.z[0][0])
    figure = plots.spatial_blocks(gaps, step=0)
    assert figure.layout.title.text == "At step 0, no massive channels"
    assert not [trace for trace in figure.data if trace.fill == "toself"]
    assert finding(gaps).startswith("After block 6 at step 5")
    assert finding(gaps[empty]) == "No mask by the massive channels could be compared with a truth."


# --------------------------------------------------------------------------------------------------- section
def test_the_section_on_the_page(html) -> None:
    text = Page(section_of(html)).text
    for part in (
        "Where is it written?",
        "How to read it.",
        "masks by the massive channels have a mean IoU of 0.65 with the subject, as many other channels at "
        "most 0.45, all other channels together 0.7, and a shuffled mask 0.07 (n = 48 prompts).",
        "tables/spatial_blocks.parquet",
        "plots.spatial_blocks(table, step=5).show()",
        "true mask",
        "after block 7, step 5, IoU 0.5",
    ):
        assert part in text
    options = re.findall(r"<option value=\"\d\">(.*?)</option>", section_of(html))
    assert options == [
        "by block, step 5", "by block, step 19",
        "block × step, massive channels", "block × step, weakest", "block × step, random",
        "block × step, random, next ranks", "block × step, all channels", "block × step, all other channels",
        "over k, block 6, step 5", "over k, block 4, step 19",
    ]  # fmt: skip


def test_masks_are_escaped_sharp_small_and_no_samples(html, run_dir) -> None:
    section = section_of(html)
    assert "<script>alert" not in section and "onerror=alert(2)>" not in section
    assert Page(section).text.count(HOSTILE[:20]) == 1
    images = Page(section).all("img")
    assert len(images) == len(PROMPTS) * (2 + BLOCKS)
    assert all(at["style"] == "image-rendering:pixelated" for at in images)
    assert all(at["src"].startswith("data:image/png;base64,") and at["alt"] for at in images)
    assert sum(len(at["src"]) for at in images) < 100_000
    assert len(RunView(RunFolder(run_dir)).samples) == len(PROMPTS)
    assert "true mask" not in Page(section_of(html, "images")).text
    assert "true mask" not in Page(section_of(html, "gallery")).text


def test_more_prompts_unfold_and_large_pictures_are_compressed(make_run, monkeypatch) -> None:
    folder = RunFolder(make_run(spatial_tables()))
    write_masks(folder, tuple(f"prompt {i}" for i in range(5)), size=192, blocks=3)
    extra = spatial(RunView(folder)).extra
    assert "Masks of other prompts <span>(3)</span>" in extra
    assert extra.index("prompt 1") < extra.index("<details>") < extra.index("prompt 2")
    assert "pixelated" not in extra and "data:image/webp" in extra
    monkeypatch.setattr("dit_lens.report.spatial_sections.MOST_BYTES", 1)
    less = spatial(RunView(RunFolder(folder.path))).extra
    assert "prompt 0" in less and "prompt 1" not in less
    assert "4 more prompts can be found in images/." in less


def test_tables_and_pictures_may_be_absent(make_run) -> None:
    tables = spatial_tables()
    folder = RunFolder(make_run({"spatial_blocks": tables["spatial_blocks"]}))
    section = spatial(RunView(folder))
    assert [view.label for view in section.views if "×" not in view.label] == [
        f"by block, step {step}" for step in STEPS
    ]
    assert (section.extra, section.tiles) == ("", ())
    assert section.conclusion.startswith("After block 6 at step 5")
    (folder.path / "tables" / "spatial_blocks.parquet").unlink()
    with pytest.raises(MissingTable, match="spatial_blocks"):
        spatial(RunView(RunFolder(folder.path)))


def test_what_the_question_answers_is_what_the_section_shows(make_run) -> None:
    """Tables and answers as the question makes them, from a planted study of masks."""
    study = planted(outlined)
    places = (ChosenPlace("outline", 1, 5, 0.8), ChosenPlace("last_step", 0, 9, 0.6))
    over_k = study[[at in ((1, 5), (0, 9)) for at in zip(study.block, study.step, strict=True)]]
    answered = answer(study, places, over_k=over_k.assign(k=8), judging=Judging(resamples=499))
    folder = make_run(answered.tables)
    results().model_copy(update={"answers": answered.answers}).save(folder / RESULTS)
    section = spatial(RunView(RunFolder(folder)))
    assert section.answers == answered.answers
    shown = verdicts(section)
    assert [verdict.outcome for verdict in shown] == [each.outcome for each in answered.answers]
    assert all(verdict.numbers for verdict in shown)
    assert section.views[0].label == "by block, step 5"
    text = Page(section_of(build_report(folder).read_text(encoding="utf-8"))).text
    assert answered.answers[0].claim[1:] in text
    assert "Nothing to show" not in text
