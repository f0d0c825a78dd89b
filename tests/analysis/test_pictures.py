"""Which pictures a run keeps, and the spec that repeats one of its questions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

import dit_lens
from dit_lens.analysis import run_analysis, write_report
from dit_lens.analysis.pictures import CELL_SIDE, CellPictures
from dit_lens.analysis.run import _spec_of_one
from dit_lens.graph.interventions import Zero
from dit_lens.methods.arms import CLEAN
from dit_lens.methods.map_arms import cell_edits, map_arms
from dit_lens.run.records import RunFolder

pytestmark = pytest.mark.tiny

SPEC = {
    "name": "cells",
    "model": "a lens that is open already",
    "prompts": ["a star", "a circle", "a square", "a diamond"],
    "seeds": [0],
    "sampling": {"steps": 2, "guidance_scale": 3.0, "max_sequence_length": 0},
    "channels": {"top_k": 2},
    "samples": {"count": 0},
    "sections": ["spectrum", "final_map"],
    "effects": {"gallery": 1, "maps": {"final_prompts": 2, "final_steps": [0, 1], "blocks": "1-2"}},
}


@pytest.fixture(scope="module")
def run(tiny_sd3_lens: dit_lens.DiTLens, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "cells"
    return RunFolder.read(run_analysis(SPEC, out, lens=tiny_sd3_lens, progress=False))


def test_a_map_keeps_every_cell_of_its_first_prompt_and_the_unedited_picture(run: RunFolder) -> None:
    kept = [entry for entry in run.images() if entry.kind == "cell"]
    arms = run.table("arms")
    assert {entry.caption for entry in kept} == set(arms["arm"])
    assert len(kept) == len(arms) == 2 * 2 * 2 + 1
    prompts = run.table("effects")["prompt"].unique()
    assert {entry.prompt for entry in kept} == {prompts[0]}
    for entry in kept:
        with Image.open(run.image_path(entry)) as picture:
            assert max(picture.size) <= CELL_SIDE


def test_the_report_shows_them(run: RunFolder) -> None:
    page = run.report_path.read_text(encoding="utf-8")
    assert "Pictures of one cell" in page
    assert page.count("class='cell-picture") == 3, "unedited, massive and control"


def test_no_picture_is_worth_a_forward(
    run: RunFolder, tiny_sd3_lens: dit_lens.DiTLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in run.images():
        run.image_path(entry).unlink()
    (run.path / "images" / "index.json").unlink()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the transformer ran")

    forbidden.lens_identity = ""  # type: ignore[attr-defined]
    monkeypatch.setattr(tiny_sd3_lens.pipeline.transformer, "forward", forbidden)
    run_analysis(SPEC, run.path, lens=tiny_sd3_lens, progress=False)
    assert run.images() == ()
    assert "This run kept no pictures of single cells." in write_report(run.path).read_text(encoding="utf-8")


def test_large_maps_keep_fewer_prompts_and_velocities_none(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "seeds: [0]")
    edits = cell_edits([3], Zero())
    many = map_arms(edits, blocks=range(40), steps=range(40), readout="final")
    few, at_steps = many[:10], map_arms(edits, blocks=[1], steps=[0], readout="step")
    prompts = ("a", "b", "c")
    assert CellPictures(folder, "final_map", prompts, few, most=3).prompts == ("a", "b")
    assert CellPictures(folder, "final_map", prompts, many, most=3).prompts == ("a",)
    assert CellPictures(folder, "final_map", prompts, few, most=0).prompts == ()
    assert CellPictures(folder, "step_map", prompts, at_steps, most=3).prompts == ()


def test_only_what_belongs_to_the_map_is_written_and_small(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "seeds: [0]")
    arms = map_arms(cell_edits([3], Zero()), blocks=[1], steps=[0], readout="final")
    pictures = CellPictures(folder, "final_map", ("a",), arms, most=1)
    large = Image.new("RGB", (200, 100))
    with pictures:
        for prompt in ("a", "b"):
            for arm in (CLEAN, *arms):
                pictures.keep(arm, prompt, 0, large)
    assert [(entry.prompt, entry.caption) for entry in folder.images()] == [
        ("a", "clean"),
        ("a", "massive.at-1-0"),
    ]
    with Image.open(folder.image_path(folder.images()[0])) as small:
        assert small.size == (96, 48)
    assert large.size == (200, 100), "the study's own picture stays as it is"


def test_the_index_is_written_once_per_prompt_and_after_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(tmp_path / "run", "seeds: [0]")
    arms = map_arms(cell_edits([3], Zero()), blocks=range(4), steps=range(4), readout="final")
    small, entered = Image.new("RGB", (2, 2)), []
    index = RunFolder.index_images
    monkeypatch.setattr(
        RunFolder, "index_images", lambda self, new: entered.append(len(new)) or index(self, new)
    )
    with pytest.raises(KeyboardInterrupt), CellPictures(folder, "m", ("a", "b"), arms, most=2) as pictures:
        for prompt, taken in (("a", arms), ("b", arms[:3])):
            for arm in taken:
                pictures.keep(arm, prompt, 0, small)
        raise KeyboardInterrupt
    assert entered == [len(arms), 3]
    assert [entry.prompt for entry in folder.images()] == ["a"] * len(arms) + ["b"] * 3
    assert all(folder.image_path(entry).is_file() for entry in folder.images())


def test_pictures_are_offered_where_an_arm_has_a_metric_of_pictures(
    tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dit_lens.methods import study

    offered, real = {}, study.run_study

    def spy(lens, arms, *given, **how):  # type: ignore[no-untyped-def]
        offered["step" if any(arm.readout == "step" for arm in arms) else "final"] = "on_image" in how
        return real(lens, arms, *given, **how)

    monkeypatch.setattr(study, "run_study", spy)
    maps = {"prompts": 1, "steps": [0], "final_prompts": 1, "final_steps": [0], "blocks": "1"}
    both = {"sections": ["step_map", "final_map"], "effects": {"metrics": ["ssim", "velocity"], "maps": maps}}
    run_analysis({**SPEC, **both}, tmp_path / "run", lens=tiny_sd3_lens, progress=False)
    assert offered == {"step": False, "final": True}


@pytest.mark.parametrize("question", ["spectrum", "final_map"])
def test_the_spec_of_one_question_gives_its_numbers_again(
    run: RunFolder, tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path, question: str
) -> None:
    spec = yaml.safe_load(_spec_of_one(run, question))
    assert spec["sections"] == [question]
    # Half of the prompts judge, and must not choose the channels of a question that judges nothing.
    assert len(spec["prompts"]) == (4 if question == "final_map" else 2)
    again = RunFolder.read(run_analysis(spec, tmp_path / "again", lens=tiny_sd3_lens, progress=False))
    pd.testing.assert_frame_equal(again.table(question), run.table(question), rtol=1e-4, atol=1e-6)


def test_a_spec_of_another_version_repeats_nothing_by_itself(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "sections: [spectrum]\nunknown: 1\n")
    assert _spec_of_one(folder, "spectrum") == ""
