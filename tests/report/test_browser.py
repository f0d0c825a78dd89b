"""The page in headless Chromium: opens from disk, asks for nothing, draws everything, fits a phone."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.browser import Visit, visits
from tests.report.synthetic_cells import CELL_BLOCKS, CELL_STEPS

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def wide(browser: Any, report: Any) -> Iterator[Visit]:
    """The page at 1280 px, opened once: each test that asks for it looks at another part."""
    with visits(browser) as opening:
        # Links lead to their places at once, as for readers who have asked for no motion.
        yield opening(report, reduced_motion="reduce")


@pytest.fixture(scope="module")
def dark(browser: Any, report: Any) -> Iterator[Visit]:
    """The page at 1280 px in dark mode, opened once."""
    with visits(browser) as opening:
        yield opening(report, mode="dark")


@pytest.fixture(scope="module")
def phone(browser: Any, report: Any) -> Iterator[Visit]:
    """The page at 390 px, opened once: each test that asks for it looks at another part."""
    with visits(browser) as opening:
        yield opening(report, 390, "dark")


@pytest.mark.parametrize("page", ["wide", "phone"])
def test_it_opens_quietly_draws_every_figure_and_fits(page, request) -> None:
    seen = request.getfixturevalue(page)
    assert seen.is_quiet()
    figures = seen.figures()
    assert len(figures) == 24
    for figure in figures:
        assert figure["traces"] > 0 and figure["marks"] > 0, figure
        assert figure["height"] > 100, figure
        assert 0 < figure["width"] <= figure["room"] + 1, figure
    assert seen.overflow() == 0


def test_hostile_text_does_nothing(wide) -> None:
    seen = wide
    chooser = seen.page.locator("#token-maps-view")
    chooser.select_option(index=1)  # the hostile prompt's own figure
    assert "<script>alert(1)</script>" in seen.page.locator("#token-maps figcaption:visible").inner_text()
    seen.page.hover("#token-maps .plot-figure:not([hidden]) .plot", position={"x": 60, "y": 90})
    seen.page.wait_for_timeout(200)
    assert seen.console == []
    assert seen.page.locator("img[src=x]").count() == 0


def test_contents_links_lead_to_their_sections(wide) -> None:
    seen = wide
    links = seen.page.locator(".contents a")
    assert links.count() == 30
    for index in range(links.count()):
        target = links.nth(index).get_attribute("href")
        links.nth(index).click()
        seen.page.wait_for_function(
            """(hash) => {
                 const { top } = document.querySelector(hash).getBoundingClientRect();
                 const end = scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
                 return location.hash === hash && top < innerHeight && (top >= -1 || end); }""",
            arg=target,
        )


def test_another_view_is_drawn_when_it_is_chosen(wide) -> None:
    seen = wide
    first = seen.page.locator("#spectrum figcaption:visible").inner_text()
    seen.page.select_option("#spectrum-view", index=2)
    seen.page.wait_for_selector("#spectrum .plot-figure[data-view='2'] svg.main-svg")
    assert seen.page.locator("#spectrum figcaption:visible").inner_text() != first
    assert seen.page.locator("#spectrum .plot-figure:visible").count() == 1
    assert seen.console == []


def colours(seen: Visit) -> tuple[str, str]:
    return tuple(
        seen.page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                      document.querySelector("#ratio-map .xtitle").style.fill]"""
        )
    )


def test_dark_mode_follows_the_system_and_the_button(wide, dark) -> None:
    before = colours(wide)
    assert before[0] != colours(dark)[0]
    assert before[1] != colours(dark)[1], "figures change their ink as well"
    wide.page.click("#theme")
    wide.wait_until_drawn()
    assert colours(wide) == colours(dark)
    assert wide.page.get_attribute("#theme", "aria-pressed") == "true"
    wide.page.click("#theme")
    wide.wait_until_drawn()
    assert colours(wide) == before


def over(seen: Visit, group: int) -> str:
    return seen.page.get_attribute(f"#gallery .compare[data-group='{group}'] .over", "src")


def test_the_gallery_compares_an_edit_with_the_clean_image(wide) -> None:
    seen = wide
    stage = seen.page.locator("#gallery .compare[data-group='0'] .stage")
    assert stage.locator(".edited").inner_text() == "massive"
    first = over(seen, 0)
    assert first != stage.locator(".under").get_attribute("src")
    seen.page.locator("#gallery .thumb:visible", has_text="random-10").click()
    assert stage.locator(".edited").inner_text() == "random-10"
    assert over(seen, 0) != first
    cut = "document.querySelector('#gallery .pair').style.getPropertyValue('--cut')"
    box = stage.locator(".pair").bounding_box()
    seen.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    assert seen.page.evaluate(cut) == "25%"
    assert stage.locator("input").input_value() == "25"
    assert seen.console == []


def test_the_gallery_is_used_by_keyboard_alone(dark) -> None:
    seen = dark
    group = seen.page.locator("#gallery .compare[data-group='0']")
    slider = group.locator("input[type=range]")
    slider.focus()
    seen.page.keyboard.press("ArrowRight")
    seen.page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "52 % clean"
    before = over(seen, 0)
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.type") == "radio"
    seen.page.keyboard.press("ArrowDown")
    assert group.locator(".edited").inner_text() == "low"
    assert over(seen, 0) != before


def test_the_gallery_shows_one_prompt_at_a_time(phone) -> None:
    seen = phone
    assert seen.page.locator("#gallery .compare:visible").count() == 1
    seen.page.select_option("#gallery-group", index=1)
    assert seen.page.locator("#gallery .compare:visible").get_attribute("data-group") == "1"
    assert "<script>alert(1)</script>" in seen.page.locator("#gallery .who:visible").inner_text()
    hostile = seen.page.locator("#gallery .thumb:visible", has_text="alert(1)")
    hostile.click()
    assert "<script>alert(1)</script>" in seen.page.locator("#gallery .edited:visible").inner_text()
    assert seen.overflow() == 0
    assert seen.console == []
    assert seen.page.locator("img[src=x]").count() == 0


def test_carried_pictures_are_compared_with_the_target_by_keyboard(phone) -> None:
    seen = phone
    group = seen.page.locator("#transport-text .compare[data-group='0']")
    assert group.locator(".edited").inner_text() == "massive · 1", "the strongest comes first"
    slider = group.locator("input[type=range]")
    slider.focus()
    seen.page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "51 % target"
    before = group.locator(".over").get_attribute("src")
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("ArrowUp")
    assert group.locator(".edited").inner_text() == "massive · 0.75"
    assert group.locator(".over").get_attribute("src") != before
    seen.page.keyboard.press("ArrowDown")
    seen.page.keyboard.press("ArrowDown")
    assert group.locator(".edited").inner_text() == "weakest", "controls follow in the same round"
    style = "getComputedStyle(document.querySelector('#transport-text .over')).imageRendering"
    assert seen.page.evaluate(style) == "pixelated"
    seen.page.select_option("#transport-text-pair", index=1)
    assert "<script>alert(1)</script>" in seen.page.locator("#transport-text .who:visible").inner_text()
    assert seen.page.locator("#transport-text .compare:visible").count() == 1
    assert seen.overflow() == 0
    assert seen.console == []


def test_verdicts_are_told_apart_without_colour(wide) -> None:
    seen = wide
    badges = seen.page.locator("#summary .badge")
    assert set(badges.all_inner_texts()) == {"✓ Supported", "✗ Not supported", "? Undecided"}
    first = badges.first.bounding_box()
    assert first["y"] < seen.page.locator("#summary .tiles").bounding_box()["y"], "verdicts come first"


def test_every_map_and_metric_can_be_chosen(phone) -> None:
    seen = phone
    for select in (
        "disruption",
        "semantics-or-detail",
        "single-or-all",
        "dose",
        "final-map",
        "patch-map",
        "transport-text",
        "transport-text-attributes",
        "transport-curves",
        "detail-guidance",
    ):
        options = seen.page.locator(f"#{select}-view option").count()
        assert options > 1
        seen.page.select_option(f"#{select}-view", index=options - 1)
        shown = f"#{select} .plot-figure[data-view='{options - 1}'] svg.main-svg"
        seen.page.wait_for_selector(shown)
    assert seen.overflow() == 0
    assert seen.console == []


def test_a_figure_rearranges_itself_when_the_window_narrows(wide) -> None:
    seen = wide
    columns = """() => new Set(
                   [...document.querySelectorAll("#spectrum .plot-figure:not([hidden]) .annotation")]
                   .map((title) => Math.round(title.getBoundingClientRect().left))).size"""
    assert seen.page.evaluate(columns) == 4
    seen.page.set_viewport_size({"width": 390, "height": 800})
    seen.page.wait_for_function(f"({columns})() === 2")
    assert seen.overflow() == 0
    seen.page.set_viewport_size({"width": 1280, "height": 900})
    seen.page.wait_for_function(f"({columns})() === 4")


def test_it_prints_light_and_within_the_paper(dark, tmp_path) -> None:
    seen = dark
    printed = tmp_path / "report.pdf"
    seen.page.pdf(path=str(printed), format="A4")
    assert printed.stat().st_size > 50_000
    seen.page.emulate_media(media="print")
    assert colours(seen)[0] == "rgb(255, 255, 255)"
    assert not seen.page.locator("#theme").is_visible()
    seen.page.emulate_media(media="screen")


def test_the_keyboard_reaches_the_content_first_and_every_control(visit) -> None:
    seen = visit()
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.id") == "theme"
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"


# ------------------------------------------------------------------------------------------ pictures of cells
AT = "#final-map .cells"
PLACE = """([block, step]) => {
    const plot = document.querySelector("#final-map .plot-figure:not([hidden]) .plot");
    const { xaxis, yaxis } = plot._fullLayout;
    const box = plot.getBoundingClientRect();
    return [box.left + xaxis._offset + xaxis.d2p(step), box.top + yaxis._offset + yaxis.d2p(block)]; }"""
TILE = """(family) => getComputedStyle(document.querySelector(
    `#final-map .cell-row:not([hidden]) .cell-picture[data-name='${family}']`)).backgroundPosition"""


def tile(seen: Visit, block: int, step: int) -> str:
    """Where the sheet has to lie for a cell to be seen."""
    return f"{100 * step / 19:.4g}% {100 * block / 7:.4g}%"


def rounded(position: str) -> str:
    return re.sub(r"[\d.]+", lambda found: f"{float(found[0]):.4g}", position)


def test_pointing_at_a_cell_shows_its_pictures(wide) -> None:
    seen = wide
    panel = seen.page.locator(AT)
    seen.page.evaluate(
        "document.querySelector('#final-map .plot').scrollIntoView({ block: 'center', behavior: 'instant' })"
    )
    for block, step in ((CELL_BLOCKS[1], CELL_STEPS[1]), (CELL_BLOCKS[2], CELL_STEPS[0])):
        x, y = seen.page.evaluate(PLACE, [block, step])
        seen.page.mouse.move(x - 3, y - 3)
        seen.page.mouse.move(x, y)
        seen.page.wait_for_selector(f"{AT}[data-at='block {block}, step {step}']")
        assert rounded(seen.page.evaluate(TILE, "massive channels")) == tile(seen, block, step)
        assert rounded(seen.page.evaluate(TILE, "energy matched")) == tile(seen, block, step)
    label = panel.locator(".cell-picture[data-name='massive channels']").first.get_attribute("aria-label")
    who = "a large red circle on a blue background, seed 0"
    assert label == f"massive channels edited in block 7, step 0: {who}"
    assert seen.console == []


def test_pictures_of_cells_are_reached_by_keyboard_and_by_finger(phone) -> None:
    seen = phone
    slider = seen.page.locator(f"{AT} .cells-block")
    slider.focus()
    before = int(slider.input_value())
    seen.page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == f"block {before + 1}"
    assert f"block {before + 1}, " in seen.page.get_attribute(AT, "data-at")
    assert seen.page.locator("#final-map .hoverlayer .hovertext").count() == 1, "the map says its numbers"
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "cells-step"
    assert seen.page.locator(f"{AT} [role=status]").inner_text().startswith("Pictures of block")
    assert seen.page.locator(f"{AT} .cell-row:visible").count() == 1
    seen.page.select_option(f"{AT} .cells-prompt", index=1)
    row = seen.page.locator(f"{AT} .cell-row:visible")
    assert row.get_attribute("data-group") == "1"
    assert "<script>alert(1)</script>" in row.locator(".cell-picture").first.get_attribute("aria-label")
    assert seen.overflow() == 0
    assert seen.console == []


# ------------------------------------------------------------------------------------------ links and copying
def test_links_and_specs_can_be_copied_from_a_file(wide, report) -> None:
    seen = wide
    seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    seen.page.locator("#dose .anchor").focus()
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_function("() => document.getElementById('said').textContent.startsWith('Link')")
    copied = seen.page.evaluate("navigator.clipboard.readText()")
    assert copied == f"{report.absolute().as_uri()}#dose"
    seen.page.locator("#dose .repeat summary").click()
    button = seen.page.locator("#dose .repeat .copy").first
    button.click()
    seen.page.wait_for_selector("#dose .repeat .copy:has-text('Copied')")
    assert seen.page.evaluate("navigator.clipboard.readText()") == "dit-lens run spec.yaml --out ../again"
    assert seen.console == []


def test_rows_are_saved_out_of_the_page(wide) -> None:
    link = wide.page.locator("#spectrum a[download]")
    with wide.page.expect_download() as saving:
        link.click()
    assert saving.value.suggested_filename == "spectrum.csv.gz"
    saved = gzip.decompress(Path(saving.value.path()).read_bytes())
    assert saved.startswith(b"stream,branch,block,")
    assert wide.is_quiet()


def test_the_contents_mark_the_section_and_fold_on_a_phone(wide, phone) -> None:
    wide.page.evaluate("document.getElementById('dose').scrollIntoView({ behavior: 'instant' })")
    wide.page.wait_for_selector(".contents a[href='#dose'][aria-current=true]")
    assert wide.page.locator(".contents [aria-current]").count() == 1
    assert not phone.page.locator(".contents a").first.is_visible()
    phone.page.locator(".contents summary").click()
    phone.page.locator(".contents a[href='#dose']").click()
    assert not phone.page.locator(".contents a").first.is_visible(), "folded again, to show where it led"
    assert phone.page.evaluate("location.hash") == "#dose"


def test_print_unfolds_what_is_read_and_drops_what_is_clicked(wide) -> None:
    seen = wide
    seen.page.emulate_media(media="print")
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    hidden = ".top, .contents, .chooser, .anchor, .stage, .copy, .cells, .repeat"
    assert not seen.page.evaluate(
        "(hidden) => [...document.querySelectorAll(hidden)].some((each) => each.checkVisibility())", hidden
    )
    assert seen.page.locator("details.printed:not([open])").count() == 0
    widest = "Math.max(...[...document.querySelectorAll('.plot svg.main-svg')].map((one) => one.clientWidth))"
    # Two frames later the observer of sizes has had its say.
    seen.page.evaluate("new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)))")
    assert seen.page.evaluate(widest) <= 680
    seen.page.evaluate("dispatchEvent(new Event('afterprint'))")
    seen.page.emulate_media(media="screen")
    assert seen.page.locator("details.printed[open]").count() == 0
    assert seen.console == []
