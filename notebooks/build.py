"""Execute the notebooks on the embedded model, store their outputs, and write each as one page.

    python notebooks/build.py                        # all of them
    python notebooks/build.py 01_tour 04_transport   # some
    python notebooks/build.py --pages                # pages of the stored outputs; nothing is executed
    python notebooks/build.py --to DIR               # pages elsewhere than notebooks/pages

A figure is stored twice: as plotly's data, which Jupyter draws, and as a picture, which GitHub shows. The
pictures need Chromium and playwright; without them the figures are stored as data alone, with a warning.

A page is one file that asks the network for nothing: no require.js, no MathJax, plotly.js inside it, once.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import Markup, escape
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from dit_lens.report.browser import find_browser
from dit_lens.report.theme import Mode, template

HERE = Path(__file__).parent
PAGES = HERE / "pages"
MODES: tuple[Mode, ...] = ("light", "dark")
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
TIMEOUT = 600  # seconds for one cell; all of them together take about a minute on an idle core
TITLE_ROOM = 28  # pixels of a figure's top margin that its title takes
WIDTH = 900  # pixels of a stored picture of a figure
COLOURS = 128  # of its palette: half the bytes, and no eye sees it

KERNEL = {
    # Figures as plotly's data alone: the default adds a script that loads plotly.js from a server.
    "PLOTLY_RENDERER": "plotly_mimetype",
    # What is stored was made by the embedded model, on a CPU, whoever builds it.
    "DIT_LENS_MODEL": "shapes-sd3",
    "CUDA_VISIBLE_DEVICES": "",
    # tqdm misses ipywidgets, which nobody needs here.
    "PYTHONWARNINGS": "ignore:IProgress not found",
}


def notebooks(names: Sequence[str] = ()) -> list[Path]:
    """The notebooks in order, or those of these names. Raises `SystemExit` for a name that there is not."""
    found = {path.stem: path for path in sorted(HERE.glob("[0-9]*.ipynb"))}
    wrong = next((name for name in names if Path(name).stem not in found), None)
    if wrong is not None:
        raise SystemExit(f"There is no notebook {wrong!r}; there are: {', '.join(found)}.")
    return [found[Path(name).stem] for name in names] if names else list(found.values())


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run every cell in a fresh kernel; raises `nbclient.exceptions.CellExecutionError` where one fails."""
    made = nbformat.from_dict(json.loads(json.dumps(notebook)))
    client = NotebookClient(
        made,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
    )
    with _environment(KERNEL):
        client.execute()
    return tidied(made)


def tidied(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from machine to machine or says nothing."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata = nbformat.from_dict({})
            cell.outputs = [each for each in cell.outputs if not _passing(each)]
    nbformat.validate(notebook)
    return notebook


def _passing(output: NotebookNode) -> bool:
    """Whether an output is what a progress bar left behind."""
    if output.output_type == "display_data":
        words_only = set(output.data) <= {"text/plain", "text/html"}
        return WIDGET in output.data or (words_only and not output.data.get("text/plain", "").strip())
    return output.output_type == "stream" and not output.text.strip()


# ------------------------------------------------------------------------------------------------ pictures
def with_pictures(notebook: NotebookNode) -> NotebookNode:
    """Add a PNG to every figure, for viewers that run no script."""
    figures = [output for output in _outputs(notebook) if PLOTLY in output.get("data", {})]
    for output, picture in zip(figures, _drawn([each.data[PLOTLY] for each in figures]), strict=True):
        output.data["image/png"] = picture
    return notebook


def _outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


def _drawn(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Base64 PNGs of figures, drawn by Chromium."""
    from PIL import Image
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    if not figures:
        return []
    pictures = []
    with sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = driver.chromium.launch(executable_path=find_browser(), args=flags)
        page = browser.new_page(viewport={"width": WIDTH, "height": 800})
        page.set_content("<div id=plot></div>")
        page.add_script_tag(content=get_plotlyjs())
        for figure in figures:
            uri = page.evaluate(
                """async ([figure, width]) => {
                     const layout = { ...figure.layout, width, paper_bgcolor: "white" };
                     return Plotly.toImage({ data: figure.data, layout }, { format: "png", width,
                                           height: layout.height || 420, scale: 1.25 }); }""",
                [dict(figure), WIDTH],
            )
            raw = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
            small = io.BytesIO()
            raw.quantize(COLOURS, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
            pictures.append(base64.b64encode(small.getvalue()).decode("ascii"))
        browser.close()
    return pictures


# --------------------------------------------------------------------------------------------------- pages
def page(notebook: NotebookNode, name: str) -> str:
    """The notebook with its outputs as one HTML file."""
    shown = nbformat.from_dict(json.loads(json.dumps(notebook)))
    figures = 0
    for output in _outputs(shown):
        if PLOTLY in output.get("data", {}):
            figures += 1
            output.data = nbformat.from_dict({"text/html": _figure(output.data)})
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(HERE)])
    # Every address from which the exporter would load something by itself.
    for url in ("mathjax_url", "require_js_url", "jquery_url", "jupyter_widgets_base_url",
                "widget_renderer_url", "mermaid_js_url"):  # fmt: skip
        setattr(exporter, url, "")
    resources = {
        "title": _title(shown) or name,
        "style": Markup(_asset("page.css") + _highlighting()),
        "templates": Markup(json.dumps({mode: json.loads(template(mode).to_json()) for mode in MODES})),
        "scripts": [Markup(each) for each in ((_plotly(), _asset("page.js")) if figures else ())],
        "neighbours": [(path.stem, f"{path.stem}.html") for path in notebooks()],
        "here": name,
    }
    body, _ = exporter.from_notebook_node(shown, resources=resources)
    return body


def _figure(data: Mapping[str, Any]) -> str:
    """A figure for the page, which owns its title (it wraps) and its template (it follows the mode)."""
    figure = json.loads(json.dumps({key: data[PLOTLY][key] for key in ("data", "layout")}))
    layout = figure["layout"]
    layout.pop("template", None)
    title = html.unescape(str((layout.pop("title", None) or {}).get("text", "")))
    layout["margin"] = {**layout.get("margin", {}), "t": layout.get("margin", {}).get("t", 56) - TITLE_ROOM}
    arrangements = (layout.get("meta") or {}).get("arrangements", {})
    for sized in (layout, *arrangements.values()):
        if "height" in sized:
            sized["height"] -= TITLE_ROOM
    # In a script element "<" could end it, or open another.
    text = json.dumps(figure, separators=(",", ":")).replace("<", "\\u003c")
    words = escape(title.replace("<br>", " ") or "figure")
    height = int(layout.get("height", 420))
    parts = [
        f"<figure><figcaption>{words if title else ''}</figcaption>",
        f'<div class="plot" role="group" aria-roledescription="figure" aria-label="{words}"'
        f' style="height:{height}px">',
        f'<script type="application/json">{text}</script></div>',
    ]
    if "image/png" in data:
        picture = f"data:image/png;base64,{data['image/png']}"
        parts.append(f'<noscript><img alt="{words}" src="{picture}"></noscript>')
    return "".join([*parts, "</figure>"])


def _title(notebook: NotebookNode) -> str:
    first = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    return first.splitlines()[0].lstrip("# ") if first.startswith("# ") else ""


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _highlighting() -> str:
    # The styles of pygments whose palest colour still stands out from the page's paper (4.5 to 1).
    light = HtmlFormatter(style="xcode").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _asset(name: str) -> str:
    return (HERE / "page" / name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------ the command
@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """The kernel inherits what is set here."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _can_draw() -> bool:
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return False
    return find_browser() is not None


def main(arguments: Iterable[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description="Execute the notebooks and write each as one HTML page.")
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="such as 01_tour; all by default")
    parser.add_argument("--pages", action="store_true", help="write pages of the stored outputs only")
    parser.add_argument("--to", type=Path, default=PAGES, metavar="DIR", help="where pages go")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    asked.to.mkdir(parents=True, exist_ok=True)
    say = sys.stderr.write
    if not asked.pages and not _can_draw():
        say("Neither Chromium nor playwright: figures are stored without pictures for GitHub.\n")
    for path in notebooks(asked.names):
        notebook = nbformat.read(path, as_version=4)
        if not asked.pages:
            notebook = execute(notebook)
            if _can_draw():
                notebook = with_pictures(notebook)
            path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        written = asked.to / f"{path.stem}.html"
        written.write_text(page(notebook, path.stem), encoding="utf-8")
        say(f"{written}\n")


if __name__ == "__main__":
    main()
