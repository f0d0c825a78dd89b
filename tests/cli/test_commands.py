"""The command line without a model: help, listings, and how it takes bad input."""

from __future__ import annotations

import errno
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import dit_lens
from dit_lens.errors import RunFailure

pytestmark = pytest.mark.pure


def test_help_comes_at_once_and_loads_no_library() -> None:
    code = (
        "import sys, time; from dit_lens.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'nnsight', 'numpy', 'pandas', 'plotly'} & set(sys.modules)\n"
        "print(time.process_time(), sorted(heavy), file=sys.stderr)"
    )
    # Processor time of the whole process, the best of several: a busy machine must not fail this test.
    outcomes = []
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, heavy = done.stderr.split(maxsplit=1)
        outcomes.append(float(seconds))
        assert heavy.strip() == "[]"
    assert min(outcomes) <= 0.5


def test_the_installed_command_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dit_lens.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"dit-lens {dit_lens.__version__}\n"


def test_no_arguments_show_the_help(dit) -> None:
    shown = dit()
    assert shown.exit_code == 2
    assert "Commands:" in shown.output


def test_schema_is_json_schema(dit) -> None:
    schema = json.loads(dit("schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize(("of", "field"), [("graph", "trajectories"), ("results", "answers")])
def test_graphs_and_results_have_schemas_too(dit, of: str, field: str) -> None:
    assert field in json.loads(dit("schema", of).stdout)["properties"]


def test_a_graph_takes_no_overrides(dit, tmp_path: Path) -> None:
    graph = tmp_path / "graph.yaml"
    graph.write_text("trajectories: [{id: a, prompt: a red circle, seed: 0}]\n", encoding="utf-8")
    refused = dit("plan", graph, "--set", "seeds=[0]")
    assert refused.exit_code == 2
    assert "is an intervention graph; change the file itself" in refused.stderr


def test_analyses_are_listed(dit) -> None:
    lines = dit("list", "analyses").stdout.splitlines()
    listed = json.loads(dit("list", "analyses", "--json").stdout)
    assert [line.split()[0] for line in lines] == [each["name"] for each in listed]
    assert {"massive_activations", "disruption", "detail_vs_semantics"} <= {each["name"] for each in listed}


def test_models_are_listed(dit) -> None:
    from dit_lens import zoo

    assert [each["name"] for each in json.loads(dit("list", "models", "--json").stdout)] == list(zoo.names())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nope"], "massive_activations"),
        (["run", "massive_activations", "--set", "sampling.stesp=3"], "Did you mean 'steps'?"),
        (["plan", "massive_activations", "--set", "seeds"], "key.path=value"),
        (["discover", "m", "--prompts", "nope.txt"], "no prompts file nope.txt"),
        (["discover", "m", "--prompts", "{prompts}", "--seeds", "x"], "separated by commas"),
        (["discover", "m", "--prompts", "{prompts}", "--statistic", "abs_maen"], "Did you mean 'abs_mean'?"),
        (["discover", "m", "--prompts", "{prompts}", "--stream", "text"], "image, context"),
        (["discover", "m", "--prompts", "{prompts}", "--out", "{folder}"], "this is a folder"),
        (["report", "{folder}"], "no run folder"),
        (["report", "{folder}/nope"], "no run folder"),
        (["run"], "SPEC"),
        (["nope"], "nope"),
        (["discover", "m", "--prompts", "{prompts}", "--top-k", "four"], "--top-k"),
    ],
)
def test_bad_input_is_a_message_and_status_2(
    dit, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("a star\n")
    done = dit(*(word.format(prompts=prompts, folder=tmp_path) for word in arguments))
    assert done.exit_code == 2
    assert expected in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (RunFailure("NaN at step 3"), 1, "Error: NaN at step 3"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (OSError(28, "No space left on device", "/full/report.html"), 1, "/full/report.html: No space left"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero"),
    ],
)
def test_every_failure_has_a_message_and_a_status(
    dit, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, expected: str
) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr("dit_lens.analysis.spec.json_schema", failing)
    done = dit("schema")
    assert done.exit_code == status
    assert expected in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.output


NEEDED = {
    "discover": ("shapes-sd3", "--prompts", "p.txt"),
    "segment": ("a star", "--model", "shapes-sd3"),
    "transport": ("a star", "a circle"),
    "check": ("shapes-sd3",),
    "run": ("massive_activations",),
    "plan": ("massive_activations",),
    "report": ("somewhere",),
    "compare": ("one", "another"),
}
"""Words with which each command begins its work."""

WORK = (
    "dit_lens.model.loading.load",
    "dit_lens.analysis.run_analysis",
    "dit_lens.analysis.open_model",
    "dit_lens.analysis.write_report",
    "dit_lens.report.comparison.Comparison.of",
)
RESUME = "What was finished is kept; the same command goes on from there."
OUT = "--out chooses another place."


def failing_with(dit, monkeypatch: pytest.MonkeyPatch, place: Path, name: str, error: BaseException) -> str:
    """What a command says where its work fails; every option that it names must be its own."""

    def failing(*_: object, **__: object) -> None:
        raise error

    (place / "p.txt").write_text("a star\n", encoding="utf-8")
    monkeypatch.chdir(place)
    for work in WORK:
        monkeypatch.setattr(work, failing)
    done = dit(name, *NEEDED[name])
    assert done.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 1), done.output
    options = dit(name, "--help").stdout
    assert all(each in options for each in re.findall(r"(?<!\w)--[a-z-]+", done.stderr))
    message: str = done.stderr.strip()
    return message


@pytest.mark.parametrize("name", NEEDED)
def test_advice_holds_for_the_command_that_gives_it(
    dit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    def said(error: BaseException) -> str:
        return failing_with(dit, monkeypatch, tmp_path, name, error)

    kept = f" {RESUME}" if name == "run" else ""
    out = (f" {OUT}" if name not in ("plan", "report", "check") else "") + kept
    assert said(KeyboardInterrupt()) == f"Interrupted.{kept}"
    assert ("batch_size=1" in said(MemoryError())) is (name in ("run", "plan"))
    assert ("--batch-size 1" in said(MemoryError())) is (name == "discover")
    assert said(OSError(errno.ENOSPC, "full", "a/b")) == f"Error: a/b: full. Free some space.{out}"
    assert said(PermissionError(errno.EACCES, "denied", "a")) == f"Error: a: denied.{out}"
    # Neither space nor another place would mend these.
    assert said(ConnectionResetError(errno.ECONNRESET, "reset")) == "Error: reset."
    assert said(FileNotFoundError(errno.ENOENT, "none", "a")) == "Error: a: none."


def test_a_disk_that_fills_up_during_a_run_names_the_way_on(
    dit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dit_lens.atomic import atomic_write

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFailure) as caught:
        atomic_write(tmp_path / "a", b"123")
    monkeypatch.undo()
    said = failing_with(dit, monkeypatch, tmp_path, "run", caught.value)
    assert said == f"Error: {caught.value} {OUT} {RESUME}"
    assert failing_with(dit, monkeypatch, tmp_path, "report", caught.value) == f"Error: {caught.value}"


@pytest.mark.parametrize("how", [["--debug", "schema"], ["schema"]])
def test_debugging_shows_the_traceback(dit, monkeypatch: pytest.MonkeyPatch, how: list[str]) -> None:
    def failing() -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("dit_lens.analysis.spec.json_schema", failing)
    monkeypatch.setenv("DIT_LENS_DEBUG", "1")
    assert isinstance(dit(*how).exception, ZeroDivisionError)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m dit_lens.cli schema | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "{\n0\n"
    assert done.stderr == ""


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_closed_stdout_is_no_defect(closed: str) -> None:
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m dit_lens.cli list models {closed}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_interrupt_within_a_finalizer_is_not_dropped() -> None:
    program = """
import time
from dit_lens.cli.frame import app, command

class Finalised:
    def __del__(self):
        raise KeyboardInterrupt  # what Ctrl-C does there

@command(app, "wait", "dit-lens wait")
def wait() -> None:
    Finalised()
    time.sleep(60)

app(["wait"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == 130, done.stderr
    assert "Interrupted." in done.stderr and "Traceback" not in done.stderr


def test_an_interrupt_within_a_finalizer_is_not_repeated_after_its_command() -> None:
    program = """
import time
from dit_lens.cli.frame import app, command

class Finalised:
    def __del__(self):
        raise KeyboardInterrupt

@command(app, "end", "dit-lens end")
def end() -> None:
    Finalised()

app(["end"], standalone_mode=False)
time.sleep(0.5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
