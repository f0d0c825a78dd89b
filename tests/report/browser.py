"""Headless Chromium for the tests of pages: a page, what it said and what it asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dit_lens.report.browser import VARIABLE, find_browser

PATIENCE = 120_000  # milliseconds: a busy machine draws slowly, and slowness is no defect of the page
REQUIRED = os.environ.get("DIT_LENS_REQUIRE_BROWSER") == "1"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def absent(what: str) -> None:
    if REQUIRED:
        pytest.fail(f"{what} (DIT_LENS_REQUIRE_BROWSER=1 asks for it)")
    pytest.skip(reason=what)


def found_browser() -> str:
    program = find_browser()
    if program is None:
        asked = os.environ.get(VARIABLE)
        where = f"{VARIABLE} names {asked!r}, which cannot be started" if asked else "no Chromium on the path"
        absent(f"{where}: apt-get install chromium")
    assert program is not None
    return program


def require_pictures() -> None:
    """Skip the test, or fail it where a browser is asked for, if figures cannot be drawn as pictures."""
    found_browser()
    if find_spec("kaleido") is None:
        absent('kaleido is not installed: pip install "dit-lens[export]"')


@contextmanager
def chromium() -> Iterator[Any]:
    program = found_browser()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed: pip install playwright")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@dataclass
class Visit:
    """One opened page, and what it said and asked for."""

    page: Any
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def wait_until_drawn(self) -> None:
        self.page.wait_for_selector("html[data-figures=drawn]", state="attached", timeout=PATIENCE)

    def figures(self) -> list[dict[str, Any]]:
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

    def is_quiet(self) -> bool:
        """Whether the page was one file that asked for nothing and said nothing."""
        outside = [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]
        assert outside == []
        assert sum(url.startswith("file:") for url in self.requests) == 1, "the page is one file"
        assert self.console == []
        return True


@contextmanager
def visits(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Open pages at a width and in a mode; all are closed again."""
    contexts = []

    def open_page(path: Path, width: int = 1280, mode: str = "light", **options: Any) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=mode, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        seen = Visit(context.new_page())
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("console", lambda message: seen.console.append(f"{message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: seen.console.append(f"error: {error}"))
        seen.page.on("dialog", lambda dialog: (seen.console.append("dialog"), dialog.dismiss()))
        seen.page.goto(path.absolute().as_uri())
        seen.wait_until_drawn()
        return seen

    yield open_page
    for context in contexts:
        context.close()
