"""Pictures of a map's cells: every tile of a sheet is the picture of its cell, and a missing one is grey."""

from __future__ import annotations

import base64
import html as entities
import io
import json
import re

import pytest
from PIL import Image

from dit_lens.report.cell_pictures import NO_PICTURES, cell_pictures
from dit_lens.report.section import RunView
from dit_lens.run.records import RunFolder
from tests.report.conftest import HOSTILE, PROMPTS
from tests.report.synthetic_cells import CELL_BLOCKS, CELL_STEPS, FAMILIES, arms, cell_colour, write_cells

pytestmark = pytest.mark.pure

SHEET = re.compile(r"data-name='([^']+)' style='background-image:url\(data:image/webp;base64,([^)]+)\)")


@pytest.fixture(scope="module")
def panel(run_dir) -> str:
    view = RunView(RunFolder(run_dir))
    return str(cell_pictures(view, "final_map", view.table("final_map")))


def sheets(panel: str) -> list[tuple[str, Image.Image]]:
    return [
        (name, Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        for name, data in SHEET.findall(panel)
    ]


def test_every_tile_is_the_picture_of_its_cell(panel) -> None:
    found = [each for each in sheets(panel) if each[0] != "unedited"]
    assert [name for name, _ in found] == ["massive channels", "energy matched"] * len(PROMPTS)
    for index, (_, sheet) in enumerate(found):
        prompt, family = divmod(index, 2)
        assert sheet.size == (20 * 16, 8 * 16)
        for block in CELL_BLOCKS:
            for step in CELL_STEPS:
                there = sheet.getpixel((step * 16 + 8, block * 16 + 8))
                wanted = cell_colour(FAMILIES[family], block, step, prompt)
                assert max(abs(a - b) for a, b in zip(there, wanted, strict=True)) < 12, (block, step)
        missing = sheet.getpixel((1 * 16 + 8, 5 * 16 + 8))
        assert max(abs(value - 128) for value in missing) < 6


def test_the_panel_names_the_cells_and_begins_where_the_difference_is_largest(panel, run_dir) -> None:
    data = json.loads(entities.unescape(re.search(r"data-cells='([^']+)'", panel)[1]))  # type: ignore[index]
    assert data == {"blocks": list(range(8)), "steps": list(range(20))}
    rows = RunFolder(run_dir).table("final_map").query("family == 'massive'")
    first = rows[rows["metric"] == rows["metric"].iloc[0]]
    peak = first.loc[first["difference"].abs().idxmax()]
    starts = dict(re.findall(r"class='cells-(block|step)'[^>]* value='(\d+)'", panel))
    assert starts == {"block": str(peak["block"]), "step": str(peak["step"])}


def test_the_unedited_picture_stands_beside_them(panel) -> None:
    assert [name for name, _ in sheets(panel)].count("unedited") == len(PROMPTS)


def test_prompts_are_only_shown(panel) -> None:
    assert "<script>" not in panel
    assert entities.unescape(panel).count(HOSTILE) == 2, "in the chooser, and in what a screen reader says"


def test_a_map_of_velocities_says_that_it_has_no_pictures(run_dir) -> None:
    view = RunView(RunFolder(run_dir))
    assert NO_PICTURES in str(cell_pictures(view, "step_map", view.table("step_map")))


def test_an_older_run_says_that_it_kept_none(make_run, effects) -> None:
    view = RunView(RunFolder(make_run({"final_map": effects["final_map"], "arms": arms()})))
    assert "kept no pictures" in str(cell_pictures(view, "final_map", view.table("final_map")))
    write_cells(view.folder, PROMPTS[:1])
    fresh = RunView(view.folder)
    assert len(sheets(str(cell_pictures(fresh, "final_map", fresh.table("final_map"))))) == 2 + 1
