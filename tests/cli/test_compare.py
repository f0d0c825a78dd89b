"""`dit-lens compare` and `report` with bad input and names that a terminal or a page could obey."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dit_lens.run.records import RunFolder
from tests.report.conftest import synthetic_tables, write_run

pytestmark = pytest.mark.pure

MARKUP = "[red]it's[/] \"<b>\x1b[31m"
"""A folder's name: rich's markup, quotes, HTML, and a terminal's own command."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("runs")
    first = write_run(place / MARKUP, {"agreement": synthetic_tables()["agreement"]})
    return first, shutil.copytree(first, place / "second [/]")


def test_it_writes_one_page_and_prints_its_path(dit, runs, tmp_path) -> None:
    out = tmp_path / "[bold] 'page'.html"
    done = dit("compare", *runs, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert "Two runs side by side" in out.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == [out.name]


def test_by_default_the_page_is_named_after_the_runs_so_that_no_other_pair_replaces_it(
    dit, runs, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    second = shutil.copytree(runs[1], tmp_path / "[bold] 'second'")
    third, fourth = (shutil.copytree(runs[1], tmp_path / name / "run") for name in ("third", "fourth"))
    for pair, name in (
        ((second, third), "comparison-[bold] 'second'-run.html"),
        ((third, second), "comparison-run-[bold] 'second'.html"),
        ((third, fourth), "comparison-third-run-fourth-run.html"),
        ((third, fourth), "comparison-third-run-fourth-run.html"),
    ):
        assert dit("compare", *pair).stdout == f"{name}\n"
    assert len(list(tmp_path.glob("*.html"))) == 3


def test_lost_verdicts_are_said_and_end_with_status_1_after_the_page_is_written(dit, runs, tmp_path) -> None:
    copy = shutil.copytree(runs[1], tmp_path / "a copy")
    (copy / "spec.yaml").write_text("sections: [agreement, disruption]\n", encoding="utf-8")
    done = dit("compare", runs[0], copy, "--out", tmp_path / "page.html")
    assert done.exit_code == 1 and done.stdout == f"{tmp_path / 'page.html'}\n"
    assert f"Warning: {copy}: results.json is missing, although" in done.stderr
    assert f"`dit-lens run '{copy / 'spec.yaml'}' --out '{copy}'` then writes it again" in done.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The verdicts of run B are lost; run A judged none." in page


def test_json_says_what_was_compared_and_nothing_else(dit, runs, tmp_path) -> None:
    done = dit("compare", *runs, "--out", tmp_path / "page.html", "--json")
    data = json.loads(done.stdout)
    assert data["a"] == str(runs[0])
    assert data["questions"] == ["agreement"]
    assert data["claims"] == []
    assert {each["jaccard"] for each in data["channels"]} == {1.0}


def test_json_escapes_what_turns_text_around(dit, runs, tmp_path) -> None:
    out = tmp_path / "\u202egnp.html"
    done = dit("compare", *runs, "--out", out, "--json")
    assert json.loads(done.stdout)["comparison"] == str(out)
    assert "\u202e" not in done.stdout and "\\u202e" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals.")
def test_a_path_is_inert_on_a_terminal_and_exact_in_a_pipe(runs) -> None:
    import pty

    command = [sys.executable, "-m", "dit_lens.cli", "report", str(runs[0])]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert piped.stdout == f"{runs[0] / 'report.html'}\n"
    ours, theirs = pty.openpty()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, check=True)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # Linux ends a terminal whose other side is closed so.
        pass
    os.close(ours)
    assert b"\x1b" not in shown
    assert b"\\x1b[31m" in shown and shown.endswith(b"report.html\r\n")


def refused(done: object) -> str:
    assert done.exit_code == 2, done.output  # type: ignore[attr-defined]
    assert done.stdout == ""  # type: ignore[attr-defined]
    error: str = done.stderr  # type: ignore[attr-defined]
    assert error.startswith("Error: ")
    assert "Traceback" not in error
    return error


def test_bad_folders_are_refused_in_words(dit, runs, tmp_path) -> None:
    page = tmp_path / "page.html"
    assert "There is no run folder" in refused(dit("compare", runs[0], tmp_path / "absent", "--out", page))
    assert "is no run folder" in refused(dit("compare", runs[0], tmp_path, "--out", page))
    assert "are the same folder" in refused(dit("compare", runs[1], runs[1], "--out", page))
    assert "is a folder; name a file" in refused(dit("compare", *runs, "--out", tmp_path))
    assert not page.exists()


def test_a_newer_version_and_other_questions_are_refused(dit, runs, tmp_path) -> None:
    copy = shutil.copytree(runs[1], tmp_path / "copy")
    (copy / "spec.yaml").write_text("sections: [life]\n", encoding="utf-8")
    assert "share no question" in refused(dit("compare", runs[0], copy, "--out", tmp_path / "page.html"))
    value = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    (copy / "run.json").write_text(json.dumps({**value, "schema_version": 99}), encoding="utf-8")
    error = refused(dit("compare", runs[0], copy, "--out", tmp_path / "page.html"))
    assert "schema_version 99" in error and "Update it" in error


def test_names_come_out_as_they_are_and_command_no_terminal(dit, runs, tmp_path) -> None:
    error = refused(dit("compare", runs[0], runs[0], "--out", tmp_path / "page.html"))
    assert "[red]it's[/] \"<b>" in error, "no markup is read"
    assert "\x1b" not in error
    assert r"\x1b[31m" in error, "what would command a terminal is spelled out"
    absent = refused(dit("report", tmp_path / "[/] \x1b]0;title\x07"))
    assert "\x1b" not in absent and "\x07" not in absent
    assert r"[/] \x1b]0;title\x07" in absent


def test_a_report_of_a_folder_with_such_a_name_is_rebuilt(dit, runs) -> None:
    done = dit("report", runs[0])
    assert done.exit_code == 0, done.stderr
    page = RunFolder.read(runs[0]).report_path.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
