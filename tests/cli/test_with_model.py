"""The command line on a random model saved to a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.tiny


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "p.txt"
    path.write_text("# two\na star\na red circle\n")
    return path


@pytest.fixture
def spec(tmp_path: Path, model: Path, prompts: Path) -> Path:
    path = tmp_path / "quick.yaml"
    path.write_text(
        f"model: {model}\nprompts: p.txt\nseeds: [0]\n"
        "sampling: {steps: 2, max_sequence_length: 0}\nsamples: {count: 1}\n"
    )
    return path


def test_discovery_writes_the_same_bytes_twice(dit, model: Path, prompts: Path, tmp_path: Path) -> None:
    results = []
    for name in ("one.json", "two.json"):
        out = tmp_path / name
        done = dit("discover", model, "--prompts", prompts, "--top-k", 3, "--steps", 2, "--out", out)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("ChannelSet(")
        results.append(out.read_bytes())
    assert results[0] == results[1]
    value = json.loads(results[0])
    assert list(value) == [
        "schema_version", "model", "statistic", "stream", "selection", "provenance", "blocks",
    ]  # fmt: skip
    assert list(value["blocks"]) == ["0", "1", "2", "3"]
    assert all(len(chosen) == 3 for chosen in value["blocks"].values())


def test_json_output_is_json_alone(dit, model: Path, prompts: Path, spec: Path, tmp_path: Path) -> None:
    found = dit("discover", model, "--prompts", prompts, "--steps", 1, "--json")
    assert json.loads(found.stdout)["selection"]["top_k"] == 4
    checked = json.loads(dit("check", model, "--json").stdout)
    assert checked["ok"] is True
    assert len(checked["checks"]) > 5
    planned = json.loads(dit("plan", spec, "--json").stdout)
    assert planned["forwards"]["discovery"] == 2
    points = json.loads(dit("list", "hook-points", model, "--json").stdout)
    assert {"hook_point": "blocks.0.resid_post.image", "shape": ["rows", 16, 32]} in points
    ran = json.loads(dit("run", spec, "--out", tmp_path / "run", "--json").stdout)
    assert ran["status"] == "finished"
    spectrum = tmp_path / "run/tables/spectrum.parquet"
    rows = spectrum.read_bytes()
    spectrum.unlink()
    damaged = dit("report", tmp_path / "run")
    assert damaged.exit_code == 1
    assert "Warning: " in damaged.stderr and "tables/spectrum.parquet is missing" in damaged.stderr
    assert damaged.stdout == f"{ran['report']}\n"
    assert dit("run", tmp_path / "run/spec.yaml", "--out", tmp_path / "run").exit_code == 0
    assert spectrum.read_bytes() == rows
    rebuilt = json.loads(dit("report", tmp_path / "run", "--json").stdout)
    assert rebuilt["lost"] == []
    assert rebuilt["report"] == ran["report"]


def test_a_run_ends_with_the_path_of_its_report(
    dit, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = dit("run", spec)
    assert done.exit_code == 0, done.output
    assert done.stdout == "reports/quick/report.html\n"
    assert Path("reports/quick/report.html").is_file()
    assert "1 forwards" not in done.stderr
    assert "2 prompts × 1 seed = 2 samples" in done.stderr


def test_hook_points_are_listed_with_their_shapes(dit, model: Path) -> None:
    lines = dit("list", "hook-points", model).stdout.splitlines()
    assert any(line.split() == ["blocks.3.resid_post.image", "[rows,", "16,", "32]"] for line in lines)
    assert not any("blocks.3.resid_post.context" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["discover", "{model}", "--prompts", "{prompts}", "--top-k", "33"], "32"),
        (["discover", "{model}", "--prompts", "{prompts}", "--steps", "0"], "steps"),
        (["discover", "{model}", "--prompts", "{prompts}", "--seeds", "1,1"], "seeds"),
        (["discover", "{model}", "--prompts", "{prompts}", "--batch-size", "0"], "batch_size"),
        (["check", "{model}", "--dtype", "float31"], "float31"),
        (["check", "{model}x"], "tinyx"),
        (["check", "{folder}"], "no model_index.json"),
        (["run", "{spec}", "--set", "channels.top_k=99", "--out", "{folder}/run"], "channels.top_k"),
    ],
)
def test_what_the_model_cannot_do_is_status_2(
    dit, model: Path, prompts: Path, spec: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    places = {"model": model, "prompts": prompts, "spec": spec, "folder": tmp_path}
    done = dit(*(word.format(**places) for word in arguments))
    assert done.exit_code == 2, done.output
    # In this process the libraries are loaded already and their bars cannot be silenced,
    # so look at the last line.
    assert "Traceback" not in done.stderr
    message = done.stderr.splitlines()[-1]
    assert message.startswith("Error: ")
    assert expected in message
    assert not (tmp_path / "run").exists()


def test_a_foreign_folder_is_not_overwritten(dit, spec: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / "thesis.txt").write_text("dear")
    done = dit("run", spec, "--out", place)
    assert done.exit_code == 2
    assert "thesis.txt" in done.stderr
    assert [entry.name for entry in place.iterdir()] == ["thesis.txt"]


def interrupted(spec: Path, out: Path) -> tuple[int, str, str]:
    """Start a long run, press Ctrl-C once it is under way, and return (status, stdout, stderr)."""
    # `python -m` would end by the signal itself where it met source text that a library executes.
    program = [shutil.which("dit-lens", path=sysconfig.get_path("scripts")), "run", spec, "--out", out]
    started = subprocess.Popen(
        [*program, "--set", "sampling.steps=5000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (out / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    started.send_signal(signal.SIGINT)
    try:
        stdout, stderr = started.communicate(timeout=60)
    finally:
        started.kill()
    return started.returncode, stdout, stderr


def test_the_installed_program_says_little_and_can_be_interrupted(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    status, stdout, stderr = interrupted(spec, out)
    assert status == 130
    assert stdout == ""
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr
    assert "torchvision" not in stderr, "notes of the libraries reached the user"
    assert json.loads((out / "run.json").read_text())["failure"] == "interrupted"
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def test_a_graph_is_drawn_checked_and_priced(dit, model: Path, tmp_path: Path) -> None:
    graph = tmp_path / "graph.yaml"
    graph.write_text(
        "sampling: {steps: 2, max_sequence_length: 0}\n"
        "trajectories:\n"
        "  - {id: source, prompt: a star, seed: 0}\n"
        "  - {id: target, prompt: a circle, seed: 0}\n"
        "edits:\n"
        "  - {into: target, at: blocks.1-2.resid_post.image, op: patch, source: source, channels: [3]}\n"
    )
    shown = dit("plan", graph, "--model", model)
    assert shown.exit_code == 0, shown.output
    for part in ("● target", "patch", "◄── source", "block passes", " s on cpu"):
        assert part in shown.stdout
    not_run = dit("run", graph)
    assert not_run.exit_code == 2
    assert f"{graph} is an intervention graph, not an analysis. `dit-lens plan {graph}` prices it" in (
        not_run.stderr
    )
    priced = json.loads(dit("plan", graph, "--model", model, "--no-timing", "--json").stdout)
    assert priced["minutes"] is None
    assert priced["trajectories"] == 2
    graph.write_text(graph.read_text().replace("blocks.1-2", "blocks.12"))
    refused = dit("plan", graph, "--model", model)
    assert refused.exit_code == 2
    assert "edits.0.at" in refused.stderr
    assert "0-3" in refused.stderr or "0 to 3" in refused.stderr or "0–3" in refused.stderr
