"""A figure as a file: a page, a picture, its data or its rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from dit_lens.atomic import atomic_write
from dit_lens.errors import BadInput, RunFailure, did_you_mean
from dit_lens.report.browser import VARIABLE, find_browser
from dit_lens.report.plots.rows import rows
from dit_lens.report.theme import PAPER, Mode, template
from dit_lens.summary import shortened

KALEIDO_VARIABLE = "BROWSER_PATH"
PICTURES = (".png", ".svg", ".pdf")
SUFFIXES = (".html", ".json", ".csv", *PICTURES)


def save(
    figure: go.Figure,
    path: str | os.PathLike[str],
    *,
    mode: Mode = "light",
    width: int = 900,
    height: int | None = None,
    scale: float = 2.0,
) -> Path:
    """Write a figure, whole or not at all, as what the path's suffix says, and return the path.

    - `.html`: a page that needs nothing else, plotly.js included (about 5 MB);
    - `.json`: the figure as plotly reads it back (`plotly.io.read_json`);
    - `.csv`: the rows that it shows, see `rows`;
    - `.png`, `.svg`, `.pdf`: a picture, drawn by Chrome or Chromium through kaleido (`pip install
      "dit-lens[export]"`); some seconds each.

    `mode` is `light` or `dark`; pages and pictures get its background. `width` and `height` are pixels of a
    picture (the figure's own height by default), `scale` multiplies those of a PNG. The figure is left as it
    was.

    Raises `BadInput` for another suffix, for what is no figure, and where kaleido or a browser is missing;
    `RunFailure` where the place cannot be written or the browser fails.

    >>> dl.plots.save(dl.plots.spectrum(stats), "spectrum.csv").read_text().splitlines()[0]
    'panel,series,x_axis,x,y_axis,y,channel,value'
    """
    path = Path(path)
    if not isinstance(figure, go.Figure):
        raise BadInput(f"A {type(figure).__name__} is no figure; give what a function of dl.plots returned.")
    writers: dict[str, Callable[[], str | bytes]] = {
        ".html": lambda: _page(dressed(figure, mode), mode),
        ".json": lambda: str(dressed(figure, mode, paper=False).to_json()),
        ".csv": lambda: _rows(figure, path),
        **dict.fromkeys(PICTURES, lambda: _picture(dressed(figure, mode), path, width, height, scale)),
    }
    suffix = path.suffix.lower()
    if suffix not in writers:
        raise BadInput(
            f"Cannot write a figure as {path.name!r}; the suffix is one of {', '.join(SUFFIXES)}."
            f"{did_you_mean(suffix, SUFFIXES)}"
        )
    return atomic_write(path, writers[suffix]())


def _rows(figure: go.Figure, path: Path) -> str:
    found = rows(figure)
    if found.empty:
        raise BadInput(
            f"Cannot write {path.name}: this figure shows no numbers. Save it as a picture or .html."
        )
    return str(found.to_csv(index=False))


def dressed(figure: go.Figure, mode: Mode, *, paper: bool = True) -> go.Figure:
    """Return a copy of a figure in one mode of the theme, on its background where it stands by itself."""
    if mode not in PAPER:
        raise BadInput(f"mode is {mode!r}; it is light or dark.")
    copy = go.Figure(figure)
    copy.update_layout(template=template(mode))
    if paper:
        copy.update_layout(paper_bgcolor=PAPER[mode])
    return copy


def _page(figure: go.Figure, mode: Mode) -> str:
    page: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False})
    look = f"<style>:root {{ color-scheme: {mode}; }} body {{ background: {PAPER[mode]}; }}</style>"
    return page.replace("<head>", f"<head>{look}", 1)


def _picture(figure: go.Figure, path: Path, width: int, height: int | None, scale: float) -> bytes:
    if find_spec("kaleido") is None:
        raise BadInput(
            f"Cannot draw {path.name}: pictures need kaleido, which is not installed. "
            'pip install "dit-lens[export]", or save the figure as .html, .json or .csv.'
        )
    options: dict[str, Any] = {"format": path.suffix.lower()[1:], "width": width, "scale": scale}
    options["height"] = height or figure.layout.height or 480
    try:
        with _kaleido_told():
            drawn: bytes = figure.to_image(**options)
    except Exception as error:  # kaleido, choreographer and the browser each fail in ways of their own
        reason = shortened(str(error) or type(error).__name__, 300)
        if "chrome" in type(error).__name__.lower() or "chrome" in reason.lower():
            raise BadInput(
                f"Cannot draw {path.name}: kaleido found no Chrome or Chromium it can start ({reason}). "
                "Install one (Debian: apt-get install chromium) or name it in the environment variable "
                f"{VARIABLE}; .html, .json and .csv need none."
            ) from error
        raise RunFailure(f"Cannot draw {path.name}: {reason}") from error
    return drawn


@contextmanager
def _kaleido_told() -> Iterator[None]:
    """Kaleido takes its browser from a variable of its own; one that is set already stays."""
    browser = None if KALEIDO_VARIABLE in os.environ else find_browser()
    if browser is None:
        yield
        return
    os.environ[KALEIDO_VARIABLE] = browser
    try:
        yield
    finally:
        del os.environ[KALEIDO_VARIABLE]
