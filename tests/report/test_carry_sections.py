"""Sections about carrying: figures hold their rows, pictures find their pair, hostile text stays text."""

from __future__ import annotations

import base64
import io
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.methods.answers import RESULTS
from dit_lens.methods.questions.question import Judging
from dit_lens.methods.questions.transport import Transport
from dit_lens.methods.stats import EXACT
from dit_lens.methods.transport.study import COLUMNS
from dit_lens.report import build_report, plots
from dit_lens.report.carry_findings import attribute_sentence, curve_sentence
from dit_lens.report.carry_pictures import Carried, light_uri, pairs_of
from dit_lens.report.carry_sections import (
    CARRY_SECTIONS,
    _places,
    detail_guidance,
    transport_image,
    transport_text,
)
from dit_lens.report.carry_words import OTHER_WAYS
from dit_lens.report.inversions import inversions_said
from dit_lens.report.page import render
from dit_lens.report.section import RunView, Section
from dit_lens.run.records import RunFolder
from dit_lens.run.run_record import ImageEntry
from tests.report.conftest import HOSTILE
from tests.report.synthetic_carry import (
    REACH,
    STRENGTHS,
    carried_picture,
    carry_answers,
    carry_tables,
    write_carried,
)
from tests.report.synthetic_effects import results
from tests.report.test_page import Page

pytestmark = pytest.mark.pure

TABLES = carry_tables()
FIGURES = {
    "transport": plots.transport,
    "transport_image": plots.transport,
    "transport_curves": plots.transport_curves,
    "guidance": plots.detail_guidance,
}


def part(html: str, section: str) -> str:
    """One section's HTML."""
    found = re.search(rf'<section id="{section}".*?</section>', html, flags=re.S)
    assert found is not None
    return found.group()


# ---------------------------------------------------------------------------------------------------- figures
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_title_and_axes_and_does_not_hang_on_the_order_of_rows(name) -> None:
    table, before = TABLES[name], TABLES[name].copy()
    figure = FIGURES[name](table)
    pd.testing.assert_frame_equal(table, before)
    assert FIGURES[name](table.sample(frac=1, random_state=1)).to_json() == figure.to_json()
    assert len(figure.layout.title.text) > 20
    axes = [axis for axis in figure.layout if axis.startswith(("xaxis", "yaxis"))]
    assert {figure.layout[axis].title.text for axis in axes} - {"", None}


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_not_there_is_refused_by_name(name) -> None:
    with pytest.raises(BadInput, match="No row has metric = 'zeal'; there are: "):
        FIGURES[name](TABLES[name], metric="zeal")
    with pytest.raises(BadInput, match=r"needs the column\(s\) ci_low"):
        FIGURES[name](TABLES[name].drop(columns="ci_low"))
    with pytest.raises(BadInput, match="no rows"):
        FIGURES[name](TABLES[name].head(0))


def test_attributes_that_nobody_read_are_no_figure() -> None:
    with pytest.raises(BadInput, match="No attribute was read"):
        plots.transport_attributes(TABLES["transport"].query("metric == 'kept'"))
    with pytest.raises(BadInput, match="No row has direction = 'sideways'; there are: backward, forward"):
        plots.transport_attributes(TABLES["transport"], way="sideways")


@pytest.mark.parametrize(("name", "column"), [("transport", "direction"), ("transport_image", "origin")])
def test_every_family_is_drawn_in_both_directions_with_its_interval(name, column) -> None:
    table = TABLES[name]
    figure = plots.transport(table, metric="moved", pair_group="colour")
    ways = list(dict.fromkeys(table[column]))
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert len(titles) == 4
    for position, way in enumerate(ways):
        for side, families in ((0, set(REACH) - set(OTHER_WAYS)), (1, {"massive", *OTHER_WAYS})):
            axis = "x" if position == side == 0 else f"x{2 * position + side + 1}"
            lines = {t.legendgroup: t for t in figure.data if t.xaxis == axis and t.hoverinfo != "skip"}
            assert set(lines) == families
            rows = table[(table["metric"] == "moved") & (table["pair_group"] == "colour")]
            rows = rows[(rows[column] == way) & (rows["family"] == "massive")].sort_values("strength")
            np.testing.assert_allclose(lines["massive"].x, rows["strength"])
            np.testing.assert_allclose(lines["massive"].y, rows["mean"])
            bands = {t.legendgroup: t for t in figure.data if t.xaxis == axis and t.hoverinfo == "skip"}
            np.testing.assert_allclose(bands["massive"].y[: len(rows)], rows["ci_high"])
            intervals = rows[["ci_low", "ci_high", "n"]].to_numpy(dtype=float)
            np.testing.assert_allclose(lines["massive"].customdata, intervals)
            assert "95 % CI" in lines["massive"].hovertemplate
    legend = [trace.name for trace in figure.data if trace.showlegend is True]
    assert len(legend) == len(set(legend)) == len(REACH)


@pytest.mark.parametrize(
    ("asked", "question", "said"),
    [
        ({}, "transport_text", ()),
        ({"tokens": "all", "branch": "both"}, "transport_text", ()),
        ({"tokens": "union"}, "transport_text", ("tokens of the subject in either run alone",)),
        ({"tokens": "source", "branch": "cond"}, "transport_text", ("the source's run", "the conditional")),
        ({"tokens": "target", "branch": "uncond"}, "transport_image", ("the unconditional branch",)),
    ],
)
def test_a_section_says_where_channels_were_carried_if_that_is_not_everywhere(asked, question, said) -> None:
    found = _places(SimpleNamespace(spec={"transport": asked}), question)  # type: ignore[arg-type]
    assert all(each in found for each in said) and bool(found) == bool(said)
    assert ("subject" in found) == (asked.get("tokens", "all") != "all" and question == "transport_text")


def test_a_family_of_one_strength_is_a_mark_with_its_interval() -> None:
    figure = plots.transport(TABLES["transport"], metric="moved")
    (mark,) = [trace for trace in figure.data if trace.legendgroup == "low" and trace.xaxis == "x"]
    row = TABLES["transport"].query(
        "metric == 'moved' and pair_group == 'all' and direction == 'forward' and family == 'low'"
    )
    assert mark.mode == "markers" and mark.x[0] == pytest.approx(1.0, abs=0.04)
    assert "strength 1:" in mark.text[0], "beside its place for the eye alone"
    np.testing.assert_allclose(mark.y + mark.error_y.array, row["ci_high"])
    np.testing.assert_allclose(mark.y - mark.error_y.arrayminus, row["ci_low"])


def test_massive_alone_is_drawn_in_one_panel_per_direction() -> None:
    table = TABLES["transport"].query("family == 'massive'")
    assert len(plots.transport(table).layout.annotations) == 2


def test_the_title_says_what_massive_channels_and_as_many_others_reach() -> None:
    title = plots.transport(TABLES["transport"], metric="toward_latent").layout.title.text
    assert title == (
        "Final latent's way to the source's at strength 1, first prompt into second: massive channels 0.45, "
        "as many other channels 0.01 to 0.12"
    )


def test_every_attribute_has_a_dot_for_every_family_where_its_pairs_differ() -> None:
    table = TABLES["transport"]
    figure = plots.transport_attributes(table, way="backward")
    names = list(figure.layout.yaxis.ticktext)
    assert names == ["shape", "colour", "size", "position", "background", "detail"]
    assert [a.text for a in figure.layout.annotations] == [
        "pairs that differ in it alone", "pairs that differ in several",
    ]  # fmt: skip
    for axis, expected in (("x", ["colour"]), ("x2", names)):
        dots = {t.legendgroup: t for t in figure.data if t.xaxis == axis}
        assert set(dots) == set(REACH)
        assert [names[round(y)] for y in dots["massive"].y] == expected
    rows = table.query("direction == 'backward' and family == 'massive' and strength == 1")
    shape = rows.query("metric == 'moved.shape' and pair_group == 'all'")["mean"].iloc[0]
    (dots,) = [t for t in figure.data if t.xaxis == "x2" and t.legendgroup == "massive"]
    assert dots.x[0] == pytest.approx(shape)
    places = [t.y[0] for t in figure.data if t.xaxis == "x2"]
    assert len(set(places)) == len(REACH), "no two families share a line"
    assert "massive channels move shape most" in figure.layout.title.text
    assert "background least" in figure.layout.title.text


def attributes_moved(**means: float) -> pd.DataFrame:
    """Rows of `attribute_rows`: pairs that differ in one attribute, 16 of each and 12 of detail."""
    rows = [
        ("massive", name, name, mean, 12 if name == "detail" else 16, "forward")
        for name, mean in means.items()
    ]
    return pd.DataFrame(rows, columns=["family", "pair_group", "attribute", "mean", "n", "direction"])


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (
            {"position": 1.0, "detail": 0.0, "size": 0.5, "colour": 0.0, "background": 0.0},
            "position most (100\xa0%, n = 16 pairs), "
            "colour, background and detail least (0\xa0%, n = 12 to 16 pairs)",
        ),
        (
            {"size": 0.5, "shape": 0.5, "detail": 0.25},
            "shape and size most (50\xa0%, n = 16 pairs), detail least (25\xa0%, n = 12 pairs)",
        ),
        ({"colour": 0.0, "shape": 0.0}, "shape and colour alike (0\xa0%, n = 16 pairs)"),
        ({"detail": 0.75}, "detail (75\xa0%, n = 12 pairs)"),
    ],
)
def test_attributes_that_move_as_much_are_named_together(means, said) -> None:
    sentence = attribute_sentence(attributes_moved(**means), 1.0)
    assert sentence == f"at strength 1, massive channels move {said}"


def test_the_best_of_a_curve_is_exploratory_and_says_n_and_where_controls_stand() -> None:
    curves = TABLES["transport_curves"].query("metric == 'moved'").assign(n=3)
    alone = curves[(curves["family"] == "massive") | (curves["axis"] == "k")]
    end = "; exploratory, n = 3 pairs"
    assert curve_sentence(curves).endswith(f"and the part residual (0.158){end}")
    assert curve_sentence(alone).endswith(f"{end}, no control beside it except over k")
    massive = curves[curves["family"].isin(["massive", "all"])]
    assert curve_sentence(massive).endswith(f"{end}, no control beside it")


def test_sections_say_that_curves_are_exploratory_and_what_strength_and_controls_are(make_run) -> None:
    curves = TABLES["transport_curves"].assign(n=3)
    curves = curves[(curves["family"] == "massive") | (curves["axis"] == "k")]
    noted = TABLES["transport"].assign(ci_note="")
    noted.loc[noted["metric"] == "moved.size", "ci_note"] = EXACT
    run = RunView(RunFolder(make_run({"transport": noted, "transport_curves": curves})))
    section = transport_text(run)
    attributes, along = section.parts
    assert "exploratory: 3 pairs, and no verdict rests on them. Only over k do controls stand" in along.lead
    assert "moves other channels toward the source by as much" in section.reading
    assert "compounds over blocks" in section.reading and "not its scale" in section.reading
    assert all("exact binomial interval" in part.reading for part in (section, attributes))
    assert "exact binomial" not in along.reading, "the curves' table has no such interval"
    figure = plots.transport_attributes(noted)
    hover = [text for trace in figure.data if trace.text is not None for text in trace.text]
    assert {text.startswith("size,") for text in hover if "Clopper" in text} == {True}


def test_curves_keep_the_order_of_blocks_steps_and_doses() -> None:
    figure = plots.transport_curves(TABLES["transport_curves"], metric="ssim")
    assert list(figure.layout.xaxis.ticktext) == ["0-1", "2-3", "4-5", "6-7", "all"]
    assert list(figure.layout.xaxis2.ticktext) == ["0:5", "5:10", "10:15", "15:20", "all"]
    assert list(figure.layout.xaxis3.ticktext) == ["1", "2", "4", "8", "16"]
    assert list(figure.layout.xaxis4.ticktext) == ["mean", "residual", "all"]
    modes = {trace.xaxis: trace.mode for trace in figure.data}
    assert modes == {"x": "lines+markers", "x2": "lines+markers", "x3": "lines+markers", "x4": "markers"}
    (line,) = [t for t in figure.data if t.xaxis == "x3" and t.legendgroup == "random"]
    rows = TABLES["transport_curves"].query("axis == 'k' and metric == 'ssim' and family == 'random'")
    np.testing.assert_allclose(line.y, rows["mean"])


@pytest.mark.parametrize("as_text", [False, True])
def test_guidance_is_drawn_with_and_without_cfg(as_text) -> None:
    table = TABLES["guidance"]
    given = table.assign(cfg=table["cfg"].map({True: "true", False: "false"})) if as_text else table
    figure = plots.detail_guidance(given, metric="detail")
    assert [a.text for a in figure.layout.annotations] == [
        "with classifier-free guidance", "without classifier-free guidance",
    ]  # fmt: skip
    for axis, cfg in (("x", True), ("x2", False)):
        (line,) = [
            t for t in figure.data if t.xaxis == axis and t.legendgroup == "massive" and t.hoverinfo != "skip"
        ]
        rows = table[(table["cfg"] == cfg) & (table["family"] == "massive") & (table["metric"] == "detail")]
        np.testing.assert_allclose(line.x, rows.sort_values("weight")["weight"])
        np.testing.assert_allclose(line.y, rows.sort_values("weight")["mean"])


def test_hostile_names_are_labels() -> None:
    renamed = TABLES["transport"].replace({"direction": {"forward": HOSTILE}, "family": {"low": HOSTILE}})
    curves = TABLES["transport_curves"].replace({"value": {"0-1": HOSTILE}, "axis": {"k": HOSTILE}})
    for figure in (
        plots.transport(renamed), plots.transport_attributes(renamed), plots.transport_curves(curves),
    ):  # fmt: skip
        # Groups of the legend are compared and never drawn.
        drawn = figure.update_traces(legendgroup="").to_json()
        assert "<script" not in drawn and "%{x}<" not in drawn
        assert "&#60;script" in drawn


# --------------------------------------------------------------------------------------------------- sections
def test_each_section_asks_shows_explains_and_can_be_repeated(run_dir, monkeypatch) -> None:
    import plotly.graph_objects as go

    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    monkeypatch.chdir(run_dir)
    run = RunView(RunFolder(run_dir))
    sections = [one for build in CARRY_SECTIONS for made in [build(run)] for one in (made, *made.parts)]
    assert [section.id for section in sections] == [
        "transport-text", "transport-text-attributes", "transport-curves", "transport-image",
        "transport-image-attributes", "detail-guidance",
    ]  # fmt: skip
    for section in sections:
        assert section.table in TABLES
        assert section.reading.endswith(".") and "BCa" in section.reading
        assert section.conclusion.endswith(".") and "not defined" not in section.conclusion
        exec(section.repeat, {})
        assert shown[-1].to_json() == section.views[0].figure.to_json()


def test_verdicts_end_their_sections_and_begin_the_page(make_run) -> None:
    folder = make_run(TABLES)
    results().model_copy(update={"answers": carry_answers()}).save(folder / RESULTS)
    html = build_report(folder, CARRY_SECTIONS).read_text(encoding="utf-8")
    card = Page(part(html, "summary")).text
    for anchor, said in (
        ("transport-text", "✓ Supported"), ("transport-image", "✗ Not supported"),
        ("detail-guidance", "✓ Supported"),
    ):  # fmt: skip
        assert said in Page(part(html, anchor)).text
        assert f'href="#{anchor}"' in part(html, "summary")
    assert "✗ Not supported" in Page(part(html, "transport-text")).text, "blending prompts does better"
    assert card.index("Carrying massive channels moves the image") < card.index("What the numbers say")
    # The primary answer is about the attributes that moved, so their curve leads.
    first = re.search(r'<option value="0">(.*?)</option>', part(html, "transport-image"))
    assert first is not None and first.group(1).startswith("differing attributes")


def test_what_the_question_answers_is_what_the_sections_show(make_run) -> None:
    """Tables and answers as the question makes them, from a made-up study of pairs."""
    metrics = ("toward_latent", "margin", "ssim", "moved", "moved.shape", "moved.size")
    answered = Transport().answer(imaginary_transport(), metrics=metrics, judging=Judging(resamples=499))
    folder = make_run(answered.tables)
    results().model_copy(update={"answers": answered.answers}).save(folder / RESULTS)
    section = transport_text(RunView(RunFolder(folder)))
    attributes, along = section.parts
    assert {answer.metric for answer in attributes.answers} == {"moved.shape", "moved.size"}
    assert set(section.answers) | set(attributes.answers) == set(answered.answers)
    assert not set(section.answers) & set(attributes.answers)
    assert section.views[0].label.startswith("alignment with the source's prompt"), "the primary metric leads"
    assert "move shape most" in attributes.conclusion
    assert "k = 4 (" in along.conclusion
    html = build_report(folder, CARRY_SECTIONS).read_text(encoding="utf-8")
    card = Page(part(html, "summary")).text
    assert card.count("Carrying massive channels over") == 1, "one primary verdict"
    assert f"The sections judge {len(answered.answers) - 1} more claims." in card
    assert "massive channels move shape most" in card
    assert "Transfer rate of size" in Page(part(html, "transport-text-attributes")).text
    for said in ("margin", "toward_latent", "transport_text"):
        assert said not in Page(part(html, "transport-text")).text.split("Rows.")[0]


def imaginary_transport(pairs: int = 12) -> pd.DataFrame:
    """Effects of a study in which shape rides on massive channels and size does not."""
    rng, rows = np.random.default_rng(0), []
    once = [(family, 1.0, "", "", reach) for family, reach in REACH.items() if "blend" not in family]
    blends = [
        (family, share, "", "", share) for family in REACH if "blend" in family for share in (0.0, 0.5, 1.0)
    ]
    points = [("massive", 1.0, "k", k, 0.1 * k) for k in (1, 2, 4)]
    points += [("random", 1.0, "blocks", at, 0.02) for at in ("0-1", "2-3")]
    for unit, side in itertools.product(range(pairs), ("forward", "backward")):
        group = "shape" if unit % 2 else "all"
        for family, strength, axis, at, reach in (*once, *blends, *points):
            values = {
                "toward_latent": reach, "margin": reach / 2, "ssim": 1 - reach / 2, "moved": reach,
                "moved.shape": float(rng.random() < 1.5 * reach),
                "moved.size": float(rng.random() < 0.02) if group == "all" else np.nan,
            }  # fmt: skip
            arm = ".".join(filter(None, (family, f"s-{strength}", axis, str(at))))
            for metric, value in values.items():
                noise = 0 if metric.startswith("moved") else rng.normal(0, 0.02)
                rows.append(
                    (arm, family, strength, 0, axis, str(at), f"pair-{unit}", group, side, f"target {unit}",
                     f"source {unit}", 0, metric, value + noise)
                )  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_what_was_not_run_is_said_or_left_out(make_run) -> None:
    html = build_report(make_run({"transport": TABLES["transport"].query("metric == 'ssim'")})).read_text()
    section = Page(part(html, "transport-text")).text
    assert "SSIM with the unedited target at strength 1" in section
    assert 'id="transport-text-attributes"' not in html, "no attribute was read off these pictures"
    assert 'id="transport-curves"' not in html
    for name, table in (("transport-image", "transport_image"), ("detail-guidance", "guidance")):
        assert f"This run wrote no table “{table}”" in Page(part(html, name)).text


def test_pictures_and_targets_are_called_so(make_run) -> None:
    table = TABLES["transport_image"]
    whole = " ".join(
        said_of_pictures(transport_image(RunView(RunFolder(make_run({"transport_image": table})))))
    )
    assert "intervals over pictures" in whole and "in every picture" in whole
    assert "blending latents or pixels" in whole and "carried into" not in whole
    inside = table.query("metric == 'ssim'").assign(metric="change_inside")
    targets = pd.concat([table, inside]).assign(unit="target")
    whole = " ".join(
        said_of_pictures(transport_image(RunView(RunFolder(make_run({"transport_image": targets})))))
    )
    assert "intervals over targets" in whole and "in every target" in whole
    assert "One picture was carried into 12 targets, so nothing is said about other pictures." in whole
    assert "The mask covers every token, so nothing lies outside of it" in whole
    both = pd.concat([targets, inside.assign(metric="change_outside", unit="target")])
    section = transport_image(RunView(RunFolder(make_run({"transport_image": both}))))
    assert "covers every token" not in section.reading


def said_of_pictures(section: Section) -> list[str]:
    """What a section about pictures says; pairs and prompts belong to others."""
    figures = [view.figure.to_json() for one in (section, *section.parts) for view in one.views]
    said = [text for one in (section, *section.parts) for text in (one.lead, one.reading, one.conclusion)]
    for text in (*said, *figures):
        assert not re.search(r"\b[Pp]airs?\b|blending prompts", text)
    return said


def test_inversions_are_said_with_what_is_enough_and_their_rows_are_text(make_run) -> None:
    found = pd.DataFrame(
        [("a1", HOSTILE, 1, 6, 8, 41.5), ("b2", "a star", 1, 6, 8, 28.0), ("c3", "a dog", 1, 6, 8, 35.0)],
        columns=["picture", "shows", "targets", "steps", "iterations", "psnr"],
    )
    folder = make_run({"transport_image": TABLES["transport_image"], "inversions": found})
    page = Page(part(render(RunView(RunFolder(folder)), (transport_image,)), "transport-image-inversions"))
    assert "leads back to 3 pictures with 35 dB in the median and 28 dB at worst" in page.text
    assert "6 steps, each undone by at most 8 iterations" in page.text
    assert "From 30 dB up it can be called a reconstruction: 1 of 3 are not" in page.text
    assert "<script>alert(1)</script>" in page.text and "First rows" in page.text and not page.all("script")
    one = inversions_said(found.iloc[:1])
    assert "leads back to the picture with 41.5 dB" in one and one.endswith("it is one.")
    assert "it is none, and what is carried" in inversions_said(found.iloc[1:2])
    none = make_run({"transport_image": TABLES["transport_image"], "inversions": found.head(0)})
    assert transport_image(RunView(RunFolder(none))).parts[-1].id == "transport-image-attributes"


def test_a_flood_of_figures_is_cut_and_counted(make_run) -> None:
    massive = TABLES["transport"].query("family == 'massive' and direction == 'forward'")
    groups = [massive.replace({"pair_group": {"colour": f"group {i}"}}) for i in range(9)]
    section = transport_text(RunView(RunFolder(make_run({"transport": pd.concat(groups)}))))
    assert len(section.views) == 24
    assert "26 more figures can be drawn from the table." in section.reading


# --------------------------------------------------------------------------------------------------- pictures
def test_pictures_find_their_pair_whatever_order_they_were_written_in(run_dir) -> None:
    entries = [e for e in RunView(RunFolder(run_dir)).images_of("carry") if "image" not in e.file]
    for given in (entries, entries[::-1]):
        pairs = sorted(pairs_of(given), key=lambda pair: pair.source.file)
        assert [pair.source.caption for pair in pairs] == ["source", "source"]
        assert pairs[0].title.endswith(f" → {HOSTILE}")
        assert [one.strength for one in pairs[0].massive] == ["0.25", "0.5", "0.75", "1"]
        assert [one.family for one in pairs[0].others] == list(REACH)[1:]


def test_captions_without_strength_and_names_without_a_seed_still_make_a_pair() -> None:
    entries = [
        ImageEntry(file=f"{index}.png", prompt="a star", seed=3, caption=caption, kind="carry")
        for index, caption in enumerate(["target", "massive", "my 2nd way", "random-10 1", "random-2 1"])
    ]
    (pair,) = pairs_of(entries)
    assert (pair.title, pair.seed, pair.source) == ("a star", 3, None)
    assert [one.full_name for one in pair.massive] == ["massive"]
    assert [one.full_name for one in pair.others] == ["random · 1", "random · 1", "my 2nd way"]
    assert Carried.of(entries[2]).strength == ""
    assert pairs_of(entries[:1]) == (), "a target alone shows nothing"


def test_each_section_holds_its_own_pictures_and_the_plain_samples_none_of_them(run_dir, html) -> None:
    run = RunView(RunFolder(run_dir))
    per_pair = 2 + len(STRENGTHS) + len(REACH) - 1
    for anchor, pairs in (("transport-text", 2), ("transport-image", 1), ("detail-guidance", 1)):
        section = part(html, anchor)
        assert section.count("decoding='async'") == pairs * per_pair
        assert section.count(" checked") == pairs
        assert section.count("class='stage'") == pairs
    assert {entry.kind for entry in run.samples} == {"sample"}
    assert len(run.samples) == 2


def test_an_unknown_kind_of_picture_is_no_plain_sample(make_run) -> None:
    folder = RunFolder(make_run({}))
    folder.write_image("x", carried_picture(0, 0), prompt="a star", seed=0, kind="of-another-version")
    assert [entry.kind for entry in RunView(folder).samples] == ["sample", "sample"]


def test_one_kind_of_transport_takes_all_its_pictures_whatever_they_are_called(make_run) -> None:
    table = TABLES["transport_image"].query("metric == 'ssim'")
    folder = RunFolder(make_run({"transport_image": table}))
    write_carried(folder, (("", "a star"),), begin="anything")
    html = render(RunView(folder), (transport_image,))
    assert "the source picture → a star" in Page(part(html, "transport-image")).text


def test_hostile_captions_are_text(make_run) -> None:
    folder = RunFolder(make_run({"guidance": TABLES["guidance"]}))
    for name, caption in (("t", "target"), ("h", f"{HOSTILE} 0.5"), ("o", "' onload='alert(3)")):
        folder.write_image(name, carried_picture(0, 0), prompt=HOSTILE, seed=0, caption=caption, kind="guide")
    page = Page(part(render(RunView(folder), (detail_guidance,)), "detail-guidance"))
    assert page.text.count("<script>alert(1)</script>") >= 2
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert not [a for a in page.all("img") if a.get("src") == "x"]


@pytest.mark.parametrize(("side", "shown"), [(16, 16), (96, 96), (128, 128), (300, 300), (1024, 384)])
def test_small_pictures_are_kept_exactly_and_large_ones_lightly(side, shown) -> None:
    given = carried_picture(0, 0.5, noise=0.5, size=side)
    address = light_uri(given)
    assert address.startswith("data:image/webp;base64,")
    data = base64.b64decode(address.partition(",")[2])
    with Image.open(io.BytesIO(data)) as read:
        pixels = np.asarray(read.convert("RGB"))
    assert pixels.shape == (shown, shown, 3), "enlarging is left to the browser"
    if side <= 128:
        np.testing.assert_array_equal(pixels, np.asarray(given))
    assert len(data) < 120_000


def test_pictures_beyond_the_room_of_a_page_are_counted(make_run, monkeypatch) -> None:
    monkeypatch.setattr("dit_lens.report.carry_pictures.MOST_BYTES", 1)
    folder = RunFolder(make_run({"transport": TABLES["transport"].query("metric == 'ssim'")}))
    write_carried(folder, (("one", "two"), ("three", "four"), ("five", "six")))
    section = transport_text(RunView(folder))
    assert section.extra.count("data-group=") == 1
    assert "Pictures of 2 more pairs lie in images/." in section.reading


def test_a_damaged_picture_costs_its_section_and_nothing_else(make_run) -> None:
    folder = RunFolder(make_run({"transport": TABLES["transport"], "guidance": TABLES["guidance"]}))
    write_carried(folder, (("one", "two"),))
    folder.image_path(folder.images()[-1]).write_bytes(b"no picture")
    html = render(RunView(folder), CARRY_SECTIONS)
    assert "cannot be read" in Page(part(html, "transport-text")).text
    assert "How to read it." in Page(part(html, "detail-guidance")).text
