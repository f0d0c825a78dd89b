"""Figures take what a reader holds: a table, a run folder, a value with tables; and pictures likewise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.report import plots
from dit_lens.report.plots.runs import FIGURES
from dit_lens.run.records import RunFolder
from tests.report.conftest import HOSTILE

pytestmark = pytest.mark.pure


class Shelf:
    """Somebody's own holder of tables."""

    def __init__(self, **tables: pd.DataFrame) -> None:
        self._tables = tables

    @property
    def table_names(self) -> tuple[str, ...]:
        return tuple(self._tables)

    def table(self, name: str) -> pd.DataFrame:
        if name not in self._tables:
            raise BadInput(f"no {name} on this shelf")
        return self._tables[name]


def test_a_table_a_path_a_folder_and_a_holder_give_the_same_figure(run_dir, tables) -> None:
    from_table = plots.spectrum(tables["spectrum"]).to_json()
    for source in (run_dir, str(run_dir), RunFolder.read(run_dir), Shelf(spectrum=tables["spectrum"])):
        assert plots.spectrum(source).to_json() == from_table


def test_what_holds_no_table_is_refused(tables, tmp_path) -> None:
    with pytest.raises(BadInput, match="A list holds no tables"):
        plots.spectrum([1, 2])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no spectrum on this shelf"):
        plots.spectrum(Shelf(life=tables["life"]))
    with pytest.raises(BadInput, match="There is no run folder"):
        plots.spectrum(tmp_path / "nowhere")


def test_a_run_with_several_maps_gives_the_one_asked_for(run_dir, effects) -> None:
    def drawn(**asked: str) -> str:
        return str(plots.effect_map(run_dir, **asked).to_json())

    assert drawn() == plots.effect_map(effects["step_map"]).to_json()
    assert drawn(name="patch_map") == plots.effect_map(effects["patch_map"]).to_json() != drawn()


def test_every_table_of_a_run_comes_back(run_dir, tables) -> None:
    found = plots.tables(run_dir)
    assert set(found) == set(RunFolder.read(run_dir).table_names)
    pd.testing.assert_frame_equal(found["life"], tables["life"], check_dtype=False)


@pytest.fixture(scope="module")
def figures(run_dir) -> dict[str, go.Figure]:
    return plots.from_run(run_dir)


def test_no_figure_hides_what_its_columns_are(figures) -> None:
    for name, figure in figures.items():
        found = plots.rows(figure)
        assert len(found), name
        assert not [column for column in found if str(column).startswith("custom")], name


def test_every_figure_of_a_run_is_drawn(run_dir, figures) -> None:
    assert set(figures) == set(FIGURES) & set(RunFolder.read(run_dir).table_names)
    assert len(figures) >= 20
    assert all(isinstance(figure, go.Figure) and len(figure.data) for figure in figures.values())


def test_a_table_without_rows_has_no_figure(tables) -> None:
    assert plots.from_run(Shelf(spectrum=tables["spectrum"].head(0), mine=tables["life"])) == {}


def test_every_arm_of_a_study_is_a_mark_in_the_studys_order() -> None:
    rows = pd.DataFrame(
        {"metric": "ssim", "place": [1, 0], "arm": ["random-0", "x"], "label": ["random-0", "<b>massive"],
         "family": ["random", "massive"], "mean": [0.8, 0.4], "ci_low": [0.7, 0.3], "ci_high": [0.9, 0.5],
         "n": 4, "clean_mean": np.nan}
    )  # fmt: skip
    figure = plots.levels(rows)
    assert figure.layout.yaxis.ticktext == ("&#60;b&#62;massive", "random-0")
    assert {trace.name: (trace.x[0], trace.y[0]) for trace in figure.data} == {
        "massive channels": (0.4, 0), "random": (0.8, 1),
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- pictures
def square(colour: str, side: int = 24) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def test_pictures_stand_under_their_labels_as_text() -> None:
    figure = plots.images({"clean": square("red"), HOSTILE: square("blue", 300)})
    assert len(figure.layout.images) == 2
    assert all(each.source.startswith("data:image/webp;base64,") for each in figure.layout.images)
    titles = [note.text for note in figure.layout.annotations]
    assert titles[0] == "clean" and "&#60;script&#62;" in titles[1]
    assert not any("<script" in text for text in titles)
    assert figure.layout.yaxis.range == (24, 0), "row 0 of the pixels is at the top"


def test_pictures_come_from_lists_runs_and_values_that_have_them(run_dir) -> None:
    class Made:
        labelled_images = (("one", square("red")), ("two", square("blue")))

    assert len(plots.images(square("red")).layout.images) == 1
    assert [note.text for note in plots.images(Made()).layout.annotations] == ["one", "two"]
    named = plots.images([square("red"), square("blue")], labels=["a", "b"])
    assert [note.text for note in named.layout.annotations] == ["a", "b"]
    entries = RunFolder.read(run_dir).images()
    samples = [entry for entry in entries if entry.kind == "sample"]
    assert len(plots.images(run_dir).layout.images) == len(samples)
    arms = [entry for entry in entries if entry.kind == "arm" and entry.seed == 0]
    assert len(plots.images(run_dir, kind="arm", seed=0).layout.images) == len(arms) > 1


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda run: plots.images([]), "no pictures"),
        (lambda run: plots.images([square("red")] * 49), "49 pictures were given"),
        (lambda run: plots.images([square("red")], labels=["a", "b"]), "2 labels for 1 pictures"),
        (lambda run: plots.images({"a": "a.png"}), "A str is no picture"),
        (lambda run: plots.images({"a": square("red")}, kind="arm"), "choose pictures of a run folder"),
        (lambda run: plots.images(run, kind="zeal"), "no pictures of kind 'zeal'; it has the kinds arm"),
        (lambda run: plots.images(run, seed=77), "and seed 77; it has the kinds"),
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused(draw, message, run_dir) -> None:
    with pytest.raises(BadInput, match=message):
        draw(run_dir)
