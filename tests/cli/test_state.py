"""A model's state on the command line: an edited schedule, cut prompts, runs of before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from dit_lens.run.records import RunFolder

pytestmark = pytest.mark.tiny

LONG = "a large red plain star on the left on a white background and a small blue circle too and"
CUT = [f"{LONG} {x}" for x in ("a cat", "a dog", "a house", "a tree", "a boat", "a cup")]
JUDGED = ["a red star", "a blue star", "a green star", "a pink star", "a white circle", "a black circle"]


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "model")


@pytest.fixture
def spec(folder: Path, tmp_path: Path) -> Path:
    return written(tmp_path / "quick.yaml", folder)


def written(place: Path, folder: Path, **more: object) -> Path:
    data = {
        "model": str(folder), "prompts": ["a star", "a square"], "seeds": [0],
        "sampling": {"steps": 2, "max_sequence_length": 0}, "channels": {"top_k": 2},
        "sections": ["spectrum", "disruption"], "samples": {"count": 0},
        "effects": {"prompts": JUDGED, "metrics": ["latent"], "controls": {"low": 1}, "gallery": 0},
    }  # fmt: skip
    effects = {**data["effects"], **more.pop("effects", {})}  # type: ignore[arg-type]
    place.write_text(yaml.safe_dump({**data, **more, "effects": effects}))
    return place


def edit_schedule(folder: Path) -> None:
    place = folder / "scheduler" / "scheduler_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "shift": 1.0}))


def test_an_edited_schedule_is_refused_in_the_folder_recorded_and_named_by_compare(
    dit, spec: Path, folder: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert dit("run", spec, "--out", first).exit_code == 0
    before = (first / "results.json").read_bytes()
    edit_schedule(folder)
    refused = dit("run", spec, "--out", first)
    assert refused.exit_code == 2 and "Traceback" not in refused.stderr
    message = refused.stderr.splitlines()[-1]
    assert "schedule was 2 steps" in message and "shift 3.0" in message and "shift 1.0" in message
    assert "--fresh" in message and (first / "results.json").read_bytes() == before
    assert dit("run", spec, "--out", second).exit_code == 0
    recorded = [RunFolder.read(each).record.identity for each in (first, second)]
    assert set(recorded[0].differences(recorded[1])) == {"schedule", "scheduler settings"}
    done = dit("compare", first, second, "--out", tmp_path / "page.html", "--json")
    data = json.loads(done.stdout)
    assert [each["key"] for each in data["model"]] == ["schedule", "scheduler settings"]
    assert data["same_weights"] and "The models differ in schedule: 2 steps" in done.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "scheduler settings" in page and "shift 1.0" in page
    assert "schedule" in (second / "report.html").read_text(encoding="utf-8")


def test_an_edited_schedule_gives_new_results_in_a_store_that_knows_the_old_ones(
    dit, spec: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert dit("run", spec, "--out", out).exit_code == 0
    edit_schedule(folder)
    shutil.copytree(out / "cells", tmp_path / "cells")
    assert dit("run", spec, "--out", out, "--fresh").exit_code == 0
    shutil.copytree(tmp_path / "cells", out / "cells", dirs_exist_ok=True)
    again = dit("run", spec, "--out", out)
    fresh = tmp_path / "fresh"
    assert dit("run", spec, "--out", fresh).exit_code == 0
    assert (out / "results.json").read_bytes() == (fresh / "results.json").read_bytes()
    assert "are known and are not computed again" in again.stderr


def test_a_run_of_before_identities_is_measured_anew_and_says_so_once(
    dit, spec: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert dit("run", spec, "--out", out).exit_code == 0
    results = (out / "results.json").read_bytes()
    record = json.loads((out / "run.json").read_text())
    record.pop("identity")
    (out / "run.json").write_text(json.dumps(record))
    labels = out / "statistics" / "statistics.json"
    data = json.loads(labels.read_text())
    data["provenance"].pop("identity")
    labels.write_text(json.dumps(data))
    assert dit("report", out).exit_code == 0, "it still opens"
    again = dit("run", spec, "--out", out)
    assert again.exit_code == 0
    said = [line for line in again.stderr.splitlines() if "earlier version of dit_lens" in line]
    assert len(said) == 1 and "measured anew" in said[0]
    assert "Discovery: kept" not in again.stderr
    assert (out / "results.json").read_bytes() == results
    assert RunFolder.read(out).record.identity is not None


def test_versions_that_changed_under_a_run_are_said(dit, spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert dit("run", spec, "--out", out).exit_code == 0
    record = json.loads((out / "run.json").read_text())
    record["packages"]["nnsight"] = "0.8.0"
    (out / "run.json").write_text(json.dumps(record))
    again = dit("run", spec, "--out", out)
    assert again.exit_code == 0
    assert any("nnsight 0.8.0 → " in line for line in again.stderr.splitlines())


def test_prompts_that_are_cut_to_one_are_too_few_and_the_words_are_named(
    dit, folder: Path, tmp_path: Path
) -> None:
    spec = written(tmp_path / "cut.yaml", folder, effects={"prompts": CUT})
    for command in (("plan", spec), ("run", spec, "--out", tmp_path / "run")):
        refused = dit(*command)
        assert refused.exit_code == 2, refused.stderr
        message = refused.stderr.splitlines()[-1]
        assert message.startswith("Error: effects.prompts: 6 prompts were given, and 1 of them differs")
        assert "cat'" in message and "cup'" in message
    assert not (tmp_path / "run").exists()


def test_n_counts_what_reaches_the_model_and_the_command_line_says_what_was_cut(
    dit, folder: Path, tmp_path: Path
) -> None:
    spec = written(tmp_path / "cut.yaml", folder, effects={"prompts": [*JUDGED, *CUT[:2]]})
    done = dit("run", spec, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if line.startswith("Note: ")]
    assert any("is cut: text_encoder reads 20 tokens" in line for line in notes)
    assert any("7 of 8 are used, and n counts these" in line for line in notes)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {effect["n"] for answer in results["answers"] for effect in answer["effects"]} == {7}
    assert yaml.safe_load((tmp_path / "run" / "spec.yaml").read_text())["effects"]["prompts"] == [
        *JUDGED, CUT[0]
    ]  # fmt: skip


def test_a_prompt_that_reaches_the_model_as_one_that_chooses_is_not_held_out(
    dit, folder: Path, tmp_path: Path
) -> None:
    spec = written(
        tmp_path / "cut.yaml", folder, prompts=["a star", CUT[0]], effects={"prompts": [*JUDGED, CUT[1]]}
    )
    refused = dit("plan", spec)
    assert refused.exit_code == 2
    assert "is not held out" in refused.stderr and "dog'" in refused.stderr


def test_a_pair_that_reaches_the_model_as_one_is_refused(dit, folder: Path, tmp_path: Path) -> None:
    spec = written(
        tmp_path / "cut.yaml",
        folder,
        sections=["disruption", "patch_map"],
        effects={"pairs": [CUT[:2]]},
    )
    refused = dit("plan", spec)
    assert refused.exit_code == 2 and "effects.pairs: 2 prompts reach the model as one" in refused.stderr


def test_a_negative_prompt_that_is_ignored_is_said_to_be(dit, folder: Path, tmp_path: Path) -> None:
    sampling = {"steps": 2, "max_sequence_length": 0, "guidance_scale": 1, "negative_prompt": "blurred"}
    spec = written(tmp_path / "one.yaml", folder, sampling=sampling)
    done = dit("plan", spec)
    assert done.exit_code == 0 and "Note: The negative prompt 'blurred' is ignored" in done.stderr
