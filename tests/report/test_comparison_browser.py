"""The comparison in headless Chromium: quiet, inert, usable by keyboard, and as wide as its window."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "mode"), [(1280, "light"), (390, "dark")])
def test_it_opens_quietly_and_fits(open_page, comparison, width, mode) -> None:
    seen = open_page(comparison, width, mode)
    assert seen.is_quiet()
    figures = seen.figures()
    assert [figure["section"] for figure in figures] == ["effects", "channels"]
    for figure in figures:
        assert figure["traces"] > 0 and figure["marks"] > 0 and figure["width"] <= figure["room"] + 1, figure
    assert seen.overflow() == 0


def test_hostile_text_does_nothing(open_page, comparison) -> None:
    seen = open_page(comparison)
    options = seen.page.locator("#effects-view option").count()
    for index in range(options):
        seen.page.select_option("#effects-view", index=index)
        seen.page.wait_for_selector(f"#effects .plot-figure[data-view='{index}'] svg.main-svg")
    labels = seen.page.locator("#effects .plot-figure:visible .ytick").all_inner_texts()
    shown = seen.page.evaluate(
        """() => [...document.querySelectorAll("#effects .ytick text")].map((label) => label.textContent)"""
    )
    assert any("<script>alert(1)</script>" in label for label in shown), labels
    mark = seen.page.locator("#effects .plot-figure:visible .point").first
    mark.hover(force=True)
    assert "<script>alert(1)</script>" in seen.page.locator("#summary").inner_text()
    assert seen.page.locator("img[src=x]").count() == 0
    assert seen.console == []


def test_pictures_of_both_runs_are_compared(open_page, comparison) -> None:
    seen = open_page(comparison)
    stage = seen.page.locator("#pictures .compare:visible .stage")
    assert stage.locator(".under").get_attribute("alt").startswith("A, ")
    assert stage.locator(".over").get_attribute("alt").startswith("B, ")
    slider = stage.locator("input")
    slider.focus()
    seen.page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "51 % A"
    before = stage.locator(".over").get_attribute("src")
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("ArrowDown")
    assert stage.locator(".over").get_attribute("src") != before
    assert seen.console == []


def test_contents_lead_to_sections_and_dark_mode_follows_the_button(open_page, comparison) -> None:
    seen = open_page(comparison)
    for link in seen.page.locator(".contents a").all():
        target = link.get_attribute("href")
        link.click()
        assert seen.page.evaluate("location.hash") == target
        assert seen.page.locator(target).count() == 1
    paper = "getComputedStyle(document.body).backgroundColor"
    before = seen.page.evaluate(paper)
    seen.page.click("#theme")
    seen.wait_until_drawn()
    chosen = seen.page.evaluate(paper)
    assert chosen != before
    seen.page.reload()
    seen.wait_until_drawn()
    assert seen.page.evaluate(paper) == chosen, "the choice is remembered"
    assert seen.console == []
