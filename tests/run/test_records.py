"""The run folder: whole files, refusals that say how to go on, and provenance."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dit_lens.atomic import atomic_write
from dit_lens.errors import BadInput, RunFailure
from dit_lens.run.provenance import git_state, package_versions
from dit_lens.run.records import RunFolder
from dit_lens.run.run_record import RunRecord

pytestmark = pytest.mark.pure

SPEC = "model: shapes-sd3\nseeds: [0, 1]\n"


def a_record(**fields: object) -> RunRecord:
    known: dict[str, object] = {
        "name": "demo",
        "title": "Demo",
        "model": "shapes-sd3",
        "fingerprint": "ab",
        "device": "cpu",
        "dtype": "float32",
    }
    return RunRecord.start(**{**known, **fields})  # type: ignore[arg-type]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------------- writing
def full_disk(number: int):  # type: ignore[no-untyped-def]
    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    return fails


def test_a_full_disk_leaves_the_old_file_and_says_how_much_is_missing(tmp_path, monkeypatch) -> None:
    target = tmp_path / "table.parquet"
    atomic_write(target, b"old")
    monkeypatch.setattr(os, "fsync", full_disk(errno.ENOSPC))
    with pytest.raises(RunFailure, match=r"disk is full.*12,345 bytes.*free.*another disk") as caught:
        atomic_write(target, b"x" * 12_345)
    assert caught.value.exit_status == 1
    assert everything_in(tmp_path) == {"table.parquet": b"old"}


def test_a_full_disk_in_a_new_folder_leaves_no_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk(errno.ENOSPC))
    folder = RunFolder(tmp_path / "new")
    with pytest.raises(RunFailure, match="disk is full"):
        folder.write_table("spectrum", pd.DataFrame({"a": [1]}))
    assert everything_in(tmp_path) == {}


def test_an_interrupt_leaves_no_half_file(tmp_path, monkeypatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "run.json", "{}")
    assert everything_in(tmp_path) == {}


def test_a_place_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFailure, match=r"Cannot write .*file.*Choose a place"):
        atomic_write(tmp_path / "file" / "run.json", "{}")


def test_files_are_as_readable_as_any_other_file_of_the_user(tmp_path) -> None:
    (tmp_path / "plain").write_text("")
    written = atomic_write(tmp_path / "atomic", "")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


# -------------------------------------------------------------------------------------------------- folder
def test_everything_written_is_read_back(tmp_path) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    table = pd.DataFrame({"block": [0, 1], "prompt": ["=1+1", '"<b>'], "value": [0.5, float("nan")]})
    record = a_record(prompts=("ein Kreis – 圆",), seeds=(0, 1)).finish({"discover": 1.5})
    folder.write_record(record)
    folder.write_table("spectrum", table)
    folder.write_channels({"schema_version": 1, "blocks": {"0": [3]}})
    entry = folder.write_image("sample_0", Image.new("RGB", (4, 4), "red"), prompt="a", seed=1, caption="c")

    again = RunFolder.read(tmp_path / "run")
    assert again.record == record
    assert again.record.status == "finished"
    assert again.spec_text == SPEC
    assert again.table_names == ("spectrum",)
    pd.testing.assert_frame_equal(again.table("spectrum"), table)
    assert again.channels() == {"schema_version": 1, "blocks": {"0": [3]}}
    assert again.images() == (entry,)
    with Image.open(again.image_path(entry)) as picture:
        assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_an_image_of_the_same_name_replaces_the_first(tmp_path) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    for prompt in ("first", "second"):
        folder.write_image("one", Image.new("RGB", (2, 2)), prompt=prompt, seed=0)
    assert [entry.prompt for entry in folder.images()] == ["second"]


def test_many_pictures_enter_the_index_at_once(tmp_path) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    red = Image.new("RGB", (2, 2), "red")
    for name in ("one", "two"):
        folder.write_image(name, red, prompt="first", seed=0)
    new = [folder.write_picture(name, red, prompt="second", seed=0) for name in ("two", "three", "two")]
    assert [entry.prompt for entry in folder.images()] == ["first", "first"], "written, and not yet entered"
    folder.index_images(new)
    folder.index_images([])
    assert [(entry.file, entry.prompt) for entry in folder.images()] == [
        ("one.png", "first"), ("two.png", "second"), ("three.png", "second"),
    ]  # fmt: skip


def test_another_specs_run_is_never_overwritten(tmp_path) -> None:
    RunFolder.create(tmp_path / "run", SPEC).write_record(a_record())
    before = everything_in(tmp_path)
    for resume in (False, True):
        with pytest.raises(BadInput, match=r"another spec.*--out") as caught:
            RunFolder.create(tmp_path / "run", "model: other\n", resume=resume)
        assert caught.value.exit_status == 2
    assert everything_in(tmp_path) == before


def test_the_same_spec_with_another_comment_is_the_same_spec(tmp_path) -> None:
    RunFolder.create(tmp_path / "run", SPEC)
    again = RunFolder.create(tmp_path / "run", "# a remark\nseeds:\n- 0\n- 1\nmodel: shapes-sd3\n")
    assert again.path == tmp_path / "run"
    assert "a remark" in again.spec_text


def test_a_fresh_run_removes_the_earlier_results_and_nothing_of_the_readers(tmp_path) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    folder.write_record(a_record())
    folder.write_table("spectrum", pd.DataFrame({"a": [1]}))
    folder.write_image("one", Image.new("RGB", (2, 2)), prompt="p", seed=0)
    (folder.path / "my notes.txt").write_text("mine")
    RunFolder.create(tmp_path / "run", SPEC)
    assert sorted(everything_in(folder.path)) == [".lock", "my notes.txt", "spec.yaml"]


def test_two_processes_never_write_to_one_folder(tmp_path) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    folder.write_table("spectrum", pd.DataFrame({"a": [1]}))
    program = (
        "import sys; from dit_lens.run.records import RunFolder; "
        "RunFolder.create(sys.argv[1], sys.argv[2], resume=sys.argv[3] == 'yes')"
    )

    def another(resume: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", program, str(folder.path), SPEC, resume]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    with folder.held():
        for resume in ("yes", "no"):
            assert f"Another process is writing a run to {folder.path}" in another(resume).stderr
        assert folder.table_names == ("spectrum",)
    assert another("no").returncode == 0
    assert folder.table_names == ()


def test_resume_keeps_what_was_finished(tmp_path) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    folder.write_table("spectrum", pd.DataFrame({"a": [1]}))
    assert RunFolder.create(tmp_path / "run", SPEC, resume=True).table_names == ("spectrum",)


@pytest.mark.parametrize("name", ["run.json", "channels.json", "results.json"])
@pytest.mark.parametrize("resume", [True, False])
def test_what_a_newer_version_wrote_is_neither_continued_nor_destroyed(tmp_path, name, resume) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    folder.write_table("spectrum", pd.DataFrame({"a": [1]}))
    atomic_write(folder.path / name, '{"schema_version": 99, "new": [1]}')
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    for spec in (SPEC, "another: spec"):
        with pytest.raises(BadInput, match=rf"{name} has schema_version 99.*--out DIR"):
            RunFolder.create(folder.path, spec, resume=resume)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(BadInput, match=r"thesis\.tex.*--out"):
        RunFolder.create(tmp_path, SPEC)


def test_a_file_is_no_folder(tmp_path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(BadInput, match=r"is a file.*--out"):
        RunFolder.create(tmp_path / "run", SPEC)


# ------------------------------------------------------------------------------------------------- reading
def test_a_missing_folder_gets_a_suggestion(tmp_path) -> None:
    RunFolder.create(tmp_path / "massive", SPEC)
    with pytest.raises(BadInput, match=r"no run folder.*Did you mean 'massive'"):
        RunFolder.read(tmp_path / "masive")


def test_a_folder_without_a_record_is_no_run(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"no run folder.*run\.json"):
        RunFolder.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list"),
        ("{}", "schema_version is None"),
        ('{"schema_version": true}', "schema_version is True"),
        ('{"schema_version": 2}', r"schema_version 2.*reads up to 1.*pip install"),
        ('{"schema_version": 1}', "damaged: name"),
    ],
)
def test_a_damaged_or_newer_record_is_explained(tmp_path, text: str, said: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BadInput, match=said):
        RunFolder.read(tmp_path)


def test_an_unknown_table_names_those_there_are(tmp_path) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    folder.write_table("spectrum", pd.DataFrame({"a": [1]}))
    with pytest.raises(BadInput, match=r"no table 'spectrom'; there are: spectrum.*Did you mean"):
        folder.table("spectrom")
    folder.table_path("spectrum").write_bytes(b"not parquet")
    with pytest.raises(BadInput, match="no parquet file"):
        folder.table("spectrum")


@pytest.mark.parametrize("file", ["../run.json", "/etc/passwd", "", "..", "a/b.png"])
def test_an_image_index_cannot_lead_out_of_its_folder(tmp_path, file: str) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    atomic_write(folder.path / "images" / "index.json", json.dumps([{"file": file, "prompt": "", "seed": 0}]))
    with pytest.raises(BadInput, match="no plain file name"):
        folder.images()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", 'a"b', "a b"])
def test_names_that_could_leave_the_folder_are_refused(tmp_path, name: str) -> None:
    folder = RunFolder.create(tmp_path / "run", SPEC)
    with pytest.raises(BadInput, match="cannot name a file"):
        folder.write_table(name, pd.DataFrame({"a": [1]}))
    with pytest.raises(BadInput, match="cannot name a file"):
        folder.write_image(name, Image.new("RGB", (1, 1)), prompt="", seed=0)


# -------------------------------------------------------------------------------------------------- record
@given(
    title=st.text(),
    prompts=st.lists(st.text()).map(tuple),
    seeds=st.lists(st.integers(0, 2**63 - 1)).map(tuple),
    timings=st.dictionaries(st.text(), st.floats(0, 1e6)),
    sampling=st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.text())),
)
def test_a_record_survives_json(title, prompts, seeds, timings, sampling) -> None:
    record = RunRecord(
        name="n",
        title=title,
        command="c",
        started=datetime(2026, 1, 2, tzinfo=timezone.utc),
        model="m",
        fingerprint="f",
        device="cpu",
        dtype="float32",
        prompts=prompts,
        seeds=seeds,
        timings=timings,
        sampling=sampling,
    )
    assert RunRecord.model_validate(json.loads(json.dumps(record.model_dump(mode="json")))) == record


def test_a_failed_run_says_why_and_keeps_its_timings() -> None:
    record = a_record(timings={"load": 1.0}).fail("NaN in block 3", {"discover": 2.0})
    assert (record.status, record.failure) == ("failed", "NaN in block 3")
    assert record.timings == {"load": 1.0, "discover": 2.0}
    assert record.finished is not None and record.finished >= record.started


def test_a_record_knows_its_process() -> None:
    record = a_record()
    assert record.python == ".".join(map(str, sys.version_info[:3]))
    assert record.packages["pandas"] == pd.__version__
    assert record.command
    assert record.started.tzinfo is not None


def test_absent_packages_have_no_version() -> None:
    assert package_versions(["surely-no-such-distribution"]) == {}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_git_state_sees_the_commit_and_changes_to_tracked_files(tmp_path) -> None:
    code = tmp_path / "code.py"
    code.write_text("a = 1\n")
    assert git_state(code) is None
    git(tmp_path, "init", "--initial-branch", "trunk")
    assert git_state(code) is None, "an untracked file has no commit"
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--message", "first")
    clean = git_state(code)
    assert clean is not None
    assert (clean.commit, clean.branch, clean.dirty) == (git(tmp_path, "rev-parse", "HEAD"), "trunk", False)
    (tmp_path / "notes.txt").write_text("untracked")
    assert git_state(code) == clean
    code.write_text("a = 2\n")
    dirty = git_state(code)
    assert dirty is not None and dirty.dirty


def test_records_need_no_torch() -> None:
    code = (
        "import sys, dit_lens.run.records; "
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_place_where_no_folder_can_be_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"Cannot make the folder .*file/run: Not a directory.*--out"):
        RunFolder.create(tmp_path / "file" / "run", "seeds: [0]")
