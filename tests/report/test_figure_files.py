"""A figure gives back the rows it shows, and becomes the file that its name says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from PIL import Image

from dit_lens.errors import BadInput, RunFailure
from dit_lens.report import plots
from dit_lens.report.browser import NAMES, VARIABLE, find_browser
from dit_lens.report.plots import files
from dit_lens.report.theme import INK, PAPER
from tests.report.conftest import HOSTILE

pytestmark = pytest.mark.pure


# ------------------------------------------------------------------------------------------------------- rows
def test_lines_give_their_marks_with_intervals_and_n(effects) -> None:
    table = effects["dose"].query("metric == 'ssim'")
    found = plots.rows(plots.dose(table))
    for family, words in (("massive", "massive channels"), ("energy_matched", "energy matched")):
        given = table[table["family"] == family].sort_values("k")
        own = found[found["series"] == words]
        for shown, column in (
            ("x", "k"),
            ("y", "mean"),
            *((each, each) for each in ("ci_low", "ci_high", "n")),
        ):
            np.testing.assert_allclose(own[shown].to_numpy(dtype=float), given[column].to_numpy(dtype=float))
    assert set(found["x_axis"]) == {"edited channels in each block (k)"}
    assert len(found) == len(table), "a band is no row of its own"


def test_maps_give_every_cell_by_name(effects) -> None:
    table = effects["step_map"].query("family == 'massive'")
    metric = table["metric"].iloc[0]
    found = plots.rows(plots.effect_map(effects["step_map"], metric=metric))
    cells = found[found["panel"] == "massive − control"].set_index(["y", "x"])
    for row in table[table["metric"] == metric].itertuples():
        cell = cells.loc[(row.block, row.step)]
        assert cell["difference"] == pytest.approx(row.difference, rel=1e-5)
        assert cell["p_adjusted"] == pytest.approx(row.p_adjusted, rel=1e-5)


def test_names_on_an_axis_stand_in_the_rows(effects) -> None:
    found = plots.rows(plots.disruption(effects["disruption"], metric="ssim"))
    assert {"weakest", "energy matched"} <= {str(y).split(" (")[0] for y in found["y"]}
    both = plots.rows(plots.semantics_or_detail(effects["semantics_or_detail"], metrics=["ssim"]))
    assert {"all", "0", "1"} <= set(both["x"])


def test_a_figure_of_any_origin_has_rows() -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3.0, np.nan], customdata=[[5], [6]], name="<b>mine</b>"))
    found = plots.rows(figure)
    assert found.to_dict("records") == [{"series": "mine", "x": 1, "y": 3.0, "custom_0": 5}]
    assert plots.rows(go.Figure()).empty


# ------------------------------------------------------------------------------------------------------ files
def test_rows_survive_json_and_csv(tables, tmp_path) -> None:
    figure = plots.ratio_map(tables["ratio_map"])
    before = figure.to_json()
    plots.save(figure, tmp_path / "map.json")
    again = plots.rows(pio.read_json(tmp_path / "map.json"))
    pd.testing.assert_frame_equal(again, plots.rows(figure), check_dtype=False)
    plots.save(figure, tmp_path / "map.CSV")
    read = pd.read_csv(tmp_path / "map.CSV")
    np.testing.assert_allclose(read["ratio"], plots.rows(figure)["ratio"])
    assert figure.to_json() == before


def test_a_page_needs_nothing_else_and_holds_prompts_as_text(tables, tmp_path) -> None:
    figure = plots.token_maps(tables["token_maps"], prompt_index=1)
    figure.data[0].name = HOSTILE
    page = plots.save(figure, tmp_path / 'a "quoted" <name>.html', mode="dark").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "<img src=x" not in page
    assert "alert(1)" in page, "the name is there, as text"
    assert 'src="http' not in page and "src='http" not in page
    assert f"background: {PAPER['dark']}" in page and INK["dark"] in page


def test_what_cannot_be_written_is_refused(tables, tmp_path) -> None:
    figure = plots.agreement(tables["agreement"])
    with pytest.raises(BadInput, match=r"'figure.jpg'; the suffix is one of .html, .json, .csv, .png"):
        plots.save(figure, tmp_path / "figure.jpg")
    with pytest.raises(BadInput, match="A dict is no figure"):
        plots.save({"data": []}, tmp_path / "figure.html")
    with pytest.raises(BadInput, match="it is light or dark"):
        plots.save(figure, tmp_path / "figure.html", mode="grey")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="shows no numbers"):
        plots.save(plots.images(Image.new("RGB", (8, 8))), tmp_path / "figure.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_without_kaleido_names_the_extra(tables, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r'pip install "dit-lens\[export\]"'):
        plots.save(plots.agreement(tables["agreement"]), tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (type("ChromeNotFoundError", (Exception,), {})("none here"), BadInput, "apt-get install chromium"),
        (OSError("the pipe broke"), RunFailure, "Cannot draw figure.svg: the pipe broke"),
    ],
)
def test_a_browser_that_fails_is_said_plainly(error, kind, message, tables, tmp_path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(files, "find_spec", lambda name: object())
    monkeypatch.setattr(go.Figure, "to_image", fail)
    with pytest.raises(kind, match=message):
        plots.save(plots.agreement(tables["agreement"]), tmp_path / "figure.svg")
    assert list(tmp_path.iterdir()) == []


def program(place: Path) -> str:
    place.write_text("#!/bin/sh\n", encoding="utf-8")
    place.chmod(0o755)
    return str(place)


def test_the_browser_is_the_one_that_is_named_else_the_first_on_the_path(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser() is None
    for name in reversed(NAMES):
        assert find_browser() != (made := program(tmp_path / name))
        assert find_browser() == made
    monkeypatch.setenv(VARIABLE, own := program(tmp_path / "my browser"))
    assert find_browser() == own
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent"))
    assert find_browser() is None, "another one would be used in silence"


def test_kaleido_starts_that_browser_and_one_of_its_own_variable_stays(tables, tmp_path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(files, "find_spec", lambda name: object())
    monkeypatch.setattr(
        go.Figure, "to_image", lambda *_, **__: seen.append(os.environ["BROWSER_PATH"]) or b""
    )
    monkeypatch.setenv(VARIABLE, own := program(tmp_path / "mine"))
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    plots.save(plots.agreement(tables["agreement"]), tmp_path / "figure.svg")
    assert "BROWSER_PATH" not in os.environ
    monkeypatch.setenv("BROWSER_PATH", "/elsewhere")
    plots.save(plots.agreement(tables["agreement"]), tmp_path / "figure.svg")
    assert seen == [own, "/elsewhere"]


def test_json_is_what_plotly_reads(tables, tmp_path) -> None:
    path = plots.save(plots.life(tables["life"]), tmp_path / "figure.json")
    assert set(json.loads(path.read_text(encoding="utf-8"))) == {"data", "layout"}
