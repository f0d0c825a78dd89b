"""The page in headless Chromium: opens from disk, asks for nothing, draws everything, fits a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

CHROMIUM = Path(os.environ.get("DIT_LENS_CHROMIUM", "/usr/bin/chromium"))
PATIENCE = 120_000  # milliseconds: a busy machine draws slowly, and slowness is no defect of the page
REQUIRED = os.environ.get("DIT_LENS_REQUIRE_BROWSER") == "1"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def _absent(what: str) -> None:
    if REQUIRED:
        pytest.fail(f"{what} (DIT_LENS_REQUIRE_BROWSER=1 asks for it)")
    pytest.skip(reason=what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        _absent(f"no Chromium at {CHROMIUM}: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("playwright is not installed: pip install playwright")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """One opened page, and what it said and asked for."""

    page: Any
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def drawn(self) -> list[dict[str, Any]]:
        """Return each shown figure's section, size, number of traces and overflow."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll(".plot-figure:not([hidden]) .plot")].map((plot) => {
                 const svg = plot.querySelector("svg.main-svg");
                 const box = svg ? svg.getBoundingClientRect() : { width: 0, height: 0 };
                 return { section: plot.closest("section").id, width: box.width, height: box.height,
                          room: plot.clientWidth, traces: plot.data?.length ?? 0,
                          marks: plot.querySelectorAll(".trace, .hm, image, path").length };
               })"""
        )

    def overflow(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Any]:
    """Open the report at a width and in a mode; every visit is closed again."""
    contexts = []

    def open_page(width: int = 1280, mode: str = "light") -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        seen = Visit(context.new_page())
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("console", lambda message: seen.console.append(f"{message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: seen.console.append(f"error: {error}"))
        seen.page.on("dialog", lambda dialog: (seen.console.append("dialog"), dialog.dismiss()))
        seen.page.goto(report.absolute().as_uri())
        drawn(seen)
        return seen

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_it_opens_quietly_draws_every_figure_and_fits(visit, width, mode) -> None:
    seen = visit(width, mode)
    assert [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert sum(url.startswith("file:") for url in seen.requests) == 1, "the page is one file"
    assert seen.console == []
    figures = seen.drawn()
    assert len(figures) == 24
    for figure in figures:
        assert figure["traces"] > 0 and figure["marks"] > 0, figure
        assert figure["height"] > 100, figure
        assert 0 < figure["width"] <= figure["room"] + 1, figure
    assert seen.overflow() == 0


def test_hostile_text_does_nothing(visit) -> None:
    seen = visit()
    chooser = seen.page.locator("#token-maps-view")
    chooser.select_option(index=1)  # the hostile prompt's own figure
    assert "<script>alert(1)</script>" in seen.page.locator("#token-maps figcaption:visible").inner_text()
    seen.page.hover("#token-maps .plot-figure:not([hidden]) .plot", position={"x": 60, "y": 90})
    seen.page.wait_for_timeout(200)
    assert seen.console == []
    assert seen.page.locator("img[src=x]").count() == 0


def test_contents_links_lead_to_their_sections(visit) -> None:
    seen = visit()
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


def test_another_view_is_drawn_when_it_is_chosen(visit) -> None:
    seen = visit()
    first = seen.page.locator("#spectrum figcaption:visible").inner_text()
    seen.page.select_option("#spectrum-view", index=2)
    seen.page.wait_for_selector("#spectrum .plot-figure[data-view='2'] svg.main-svg")
    assert seen.page.locator("#spectrum figcaption:visible").inner_text() != first
    assert seen.page.locator("#spectrum .plot-figure:visible").count() == 1
    assert seen.console == []


def drawn(seen: Visit) -> None:
    seen.page.wait_for_selector("html[data-figures=drawn]", state="attached", timeout=PATIENCE)


def colours(seen: Visit) -> tuple[str, str]:
    return tuple(
        seen.page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                      document.querySelector("#ratio-map .xtitle").style.fill]"""
        )
    )


def test_dark_mode_follows_the_system_and_the_button(visit) -> None:
    light, dark = visit(mode="light"), visit(mode="dark")
    assert colours(light)[0] != colours(dark)[0]
    assert colours(light)[1] != colours(dark)[1], "figures change their ink as well"
    light.page.click("#theme")
    drawn(light)
    assert colours(light) == colours(dark)
    assert light.page.get_attribute("#theme", "aria-pressed") == "true"
    light.page.reload()
    drawn(light)
    assert colours(light) == colours(dark), "the choice is remembered"
    light.page.click("#theme")
    assert colours(light)[0] != colours(dark)[0]


def over(seen: Visit, group: int) -> str:
    return seen.page.get_attribute(f"#gallery .compare[data-group='{group}'] .over", "src")


def test_the_gallery_compares_an_edit_with_the_clean_image(visit) -> None:
    seen = visit()
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


def test_the_gallery_is_used_by_keyboard_alone(visit) -> None:
    seen = visit()
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


def test_the_gallery_shows_one_prompt_at_a_time(visit) -> None:
    seen = visit(390)
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


def test_carried_pictures_are_compared_with_the_target_by_keyboard(visit) -> None:
    seen = visit(390)
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


def test_verdicts_are_told_apart_without_colour(visit) -> None:
    seen = visit()
    badges = seen.page.locator("#summary .badge")
    assert set(badges.all_inner_texts()) == {"✓ Supported", "✗ Not supported", "? Undecided"}
    first = badges.first.bounding_box()
    assert first["y"] < seen.page.locator("#summary .tiles").bounding_box()["y"], "verdicts come first"


def test_every_map_and_metric_can_be_chosen(visit) -> None:
    seen = visit(390)
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


def test_a_figure_rearranges_itself_when_the_window_narrows(visit) -> None:
    seen = visit()
    columns = """() => new Set(
                   [...document.querySelectorAll("#spectrum .plot-figure:not([hidden]) .annotation")]
                   .map((title) => Math.round(title.getBoundingClientRect().left))).size"""
    assert seen.page.evaluate(columns) == 4
    seen.page.set_viewport_size({"width": 390, "height": 800})
    seen.page.wait_for_function(f"({columns})() === 2")
    assert seen.overflow() == 0
    seen.page.set_viewport_size({"width": 1280, "height": 800})
    seen.page.wait_for_function(f"({columns})() === 4")


def test_it_prints_light_and_within_the_paper(visit, tmp_path) -> None:
    seen = visit(mode="dark")
    printed = tmp_path / "report.pdf"
    seen.page.pdf(path=str(printed), format="A4")
    assert printed.stat().st_size > 50_000
    seen.page.emulate_media(media="print")
    assert colours(seen)[0] == "rgb(255, 255, 255)"
    assert not seen.page.locator("#theme").is_visible()


def test_the_keyboard_reaches_the_content_first_and_every_control(visit) -> None:
    seen = visit()
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.id") == "theme"
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"
