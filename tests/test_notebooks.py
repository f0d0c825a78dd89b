"""The notebooks: outputs and code belong together, they still run, and their pages need nothing else."""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

import dit_lens as dl
from tests.report.axe import scan, serious
from tests.report.browser import chromium, visits

FOLDER = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9]*.ipynb"))
NAMES = [path.stem for path in PATHS]
MOST, MOST_OF_ALL = 1_500_000, 6_000_000
"""Bytes of one notebook and of all: history keeps every copy."""


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_build", FOLDER / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = _builder()
each_notebook = pytest.mark.parametrize("path", PATHS, ids=NAMES)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> list[Any]:
    """What a cell gave, without its content: last digits differ from machine to machine."""
    stored_only = {"image/png"}
    return [
        (each.output_type, each.get("name") or sorted(set(each.get("data", ())) - stored_only))
        for each in cell.outputs
    ]


def in_few_steps(source: str) -> str:
    """Fewer denoising steps than a reader takes: that the code runs does not depend on their number."""
    return re.sub(r"^STEPS = .*$", "STEPS = 3", source, flags=re.MULTILINE)


def names_used(source: str) -> tuple[set[str], set[str]]:
    """(`dl.…`, `dl.plots.…`) that some code asks for."""
    top, plots = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dl":
            top.add(node.attr)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "dl.plots":
            plots.add(node.attr)
    return top, plots


@pytest.mark.pure
def test_there_are_six_of_them_and_they_stay_light() -> None:
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05", "06"]
    sizes = [path.stat().st_size for path in PATHS]
    assert max(sizes) <= MOST and sum(sizes) <= MOST_OF_ALL


@pytest.mark.pure
@each_notebook
def test_only_public_names_are_used(path: Path) -> None:
    source = "\n".join(cell.source for cell in code(nbformat.read(path, as_version=4)))
    top, plots = names_used(source)
    assert "load" in top and plots
    assert top <= set(dl.__all__)
    assert plots <= set(dl.plots.__all__)
    assert not re.search(r"^\s*(from|import) dit_lens(?! as dl)", source, flags=re.MULTILINE)


@pytest.mark.pure
@each_notebook
def test_what_is_stored_is_one_clean_run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", f"{path.name}: {output.get('text')}"
    text = json.dumps([cell.outputs for cell in cells])
    for place in (str(Path.home()), str(FOLDER.parent), "site-packages", "/tmp/", "/home/", "/root/"):
        assert place not in text, f"{path.name} shows {place}"


@pytest.mark.pure
@each_notebook
def test_figures_are_stored_without_scripts_and_with_a_picture(path: Path) -> None:
    outputs = [each for cell in code(nbformat.read(path, as_version=4)) for each in cell.outputs]
    figures = [each.data for each in outputs if BUILD.PLOTLY in each.get("data", {})]
    assert len(figures) >= 3
    for data in figures:
        assert "image/png" in data, "GitHub shows no figure without its picture"
    for each in outputs:
        assert "<script" not in str(each.get("data", {}).get("text/html", ""))


@pytest.mark.embedded
@pytest.mark.timeout(900)
@each_notebook
def test_it_runs_from_clean_and_gives_what_is_stored(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    quick = copy.deepcopy(stored)
    for cell in code(quick):
        cell.source = in_few_steps(cell.source)
    fresh = BUILD.execute(quick)
    for before, after in zip(code(stored), code(fresh), strict=True):
        assert kinds(after) == kinds(before), f"{path.name}: {after.source}"


@pytest.mark.tiny
def test_your_own_model_runs_on_a_small_folder_as_it_stands(
    tiny_sd3_pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_sd3_pipeline.save_pretrained(tmp_path / "tiny-sd3")
    monkeypatch.setenv("DIT_LENS_MODEL", str(tmp_path / "tiny-sd3"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left: dict[str, Any] = {}
    for cell in code(nbformat.read(FOLDER / "05_your_own_model.ipynb", as_version=4)):
        exec(in_few_steps(cell.source), left)
    assert not left["EMBEDDED"] and left["lens"].name == "tiny-sd3"
    assert left["sampling"] == {"steps": 3, "height": 16, "width": 16}
    assert set(left["pictures"]) == {f"{arm} {n}" for arm in ("clean", "massive", "control") for n in (0, 1)}
    assert {picture.size for picture in left["pictures"].values()} == {(16, 16)}
    assert list(left["scores"]) == left["Colourfulness"]().score(list(left["pictures"].values()), [])


@pytest.fixture(scope="module")
def browser() -> Any:
    with chromium() as started:
        yield started


@pytest.mark.browser
@each_notebook
def test_its_page_opens_quietly_draws_every_figure_and_fits(path: Path, browser: Any, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    figures = [o for cell in code(notebook) for o in cell.outputs if BUILD.PLOTLY in o.get("data", {})]
    page = tmp_path / f"{path.stem}.html"
    page.write_text(BUILD.page(notebook, path.stem), encoding="utf-8")
    # Axe takes seconds: every page once, half of them at each width and in each mode.
    scanned = (1280, 390)[PATHS.index(path) % 2]
    with visits(browser) as visit:
        for width, mode in ((1280, "light"), (390, "dark")):
            seen = visit(page, width, mode)
            if width == scanned:
                assert serious(scan(seen)) == []
            assert seen.is_quiet()
            assert seen.page.locator(".plot svg.main-svg").first.is_visible()
            assert seen.page.locator(".plot .drawn.js-plotly-plot").count() == len(figures)
            assert seen.overflow() == 0


@pytest.mark.browser
def test_a_figure_takes_the_arrangement_of_its_width_and_changes_it_with_the_window(
    browser: Any, tmp_path: Path
) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", execution_count=1)])
    arrangements = {
        "wide": {"height": 328, "xaxis.title.text": "wide"},
        "narrow": {"height": 528, "xaxis.title.text": "narrow"},
        "wide_traces": {"texttemplate": "%{z}"},
        "narrow_traces": {"texttemplate": ""},
    }
    heatmap = {"type": "heatmap", "z": [[1, 2]], "texttemplate": "%{z}"}
    figure = {"data": [heatmap], "layout": {"height": 328, "meta": {"arrangements": arrangements}}}
    output = nbformat.v4.new_output("display_data", data={BUILD.PLOTLY: figure})
    notebook.cells[0].outputs = [output]
    page = tmp_path / "page.html"
    page.write_text(BUILD.page(notebook, NAMES[0]), encoding="utf-8")
    shown = """() => { const [plot] = document.querySelectorAll(".plot .drawn");
                       return [plot._fullLayout.height, plot._fullLayout.xaxis.title.text,
                               plot._fullData[0].texttemplate ?? "",
                               document.querySelectorAll(".plot .drawn").length]; }"""
    wide, narrow = [300, "wide", "%{z}", 1], [500, "narrow", "", 1]
    with visits(browser) as visit:
        for first, then, width in ((wide, narrow, 1280), (narrow, wide, 390)):
            seen = visit(page, width)
            assert seen.page.evaluate(shown) == first
            seen.page.set_viewport_size({"width": 1670 - width, "height": 900})
            seen.page.wait_for_function(f"({shown})()[1] === {json.dumps(then[1])}")
            assert seen.page.evaluate(shown) == then
            assert seen.is_quiet()
            assert seen.overflow() == 0


@pytest.mark.pure
def test_the_page_of_hostile_output_runs_none_of_it() -> None:
    """A prompt in a figure's title reaches the page as text."""
    hostile = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(2)>"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", execution_count=1)])
    layout = {"title": {"text": hostile}, "height": 200}
    data = {BUILD.PLOTLY: {"data": [], "layout": layout}, "image/png": ""}
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", data=data)]
    html = BUILD.page(notebook, NAMES[0])
    assert "<script>alert(1)" not in html
    assert "<img src=x" not in html


@pytest.mark.pure
def test_an_unknown_notebook_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"no notebook '07_more'; there are: 01_tour"):
        BUILD.main(["07_more"])


@pytest.mark.pure
def test_the_walk_sees_names() -> None:
    assert names_used("dl.plots.images(dl.load('x'))") == ({"load", "plots"}, {"images"})
