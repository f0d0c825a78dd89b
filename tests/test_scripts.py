"""The analyses written in Python ask what their YAML asks, run from any folder, and end in numbers."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml
from typer.testing import CliRunner

FOLDER = Path(__file__).parent.parent / "analyses"
SCRIPTS = ("disruption", "transport_text")
MOST_LINES = 60


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"analysis_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def command(name: str) -> typer.Typer:
    app = typer.Typer()
    app.command()(module(name).main)
    return app


def declared(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.pure
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_short_and_its_help_has_an_example(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    shown = CliRunner().invoke(command(name), ["--help"])
    assert shown.exit_code == 0
    assert f"python analyses/{name}.py" in re.sub(r"\s+", " ", shown.output)


@pytest.mark.pure
def test_disruption_asks_what_its_yaml_asks() -> None:
    assert declared("disruption")["effects"]["controls"] == module("disruption").CONTROLS


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("name", "controls"),
    [("disruption", ["all of them at once"]), ("transport_text", ["low", "random", "energy_matched"])],
)
def test_it_ends_in_verdicts_with_numbers_and_a_figure(name, controls, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command(name), ["--prompts", "2", "--steps", "2"], catch_exceptions=False)
    *sentences, figure = done.stdout.splitlines()
    assert len(sentences) == len(controls)
    for sentence in sentences:
        # Two prompts cannot decide anything, and the sentence has to say so.
        assert re.match(r"Undecided: .*\d\.\d.*n = 2 prompts", sentence), sentence
    page = (tmp_path / figure).read_text(encoding="utf-8")
    assert figure == f"{name}.html" and "Plotly.newPlot" in page


@pytest.mark.embedded
def test_what_identities_cost_is_measured_side_by_side() -> None:
    done = CliRunner().invoke(command("identity"), ["--turns", "1", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["random, 38 blocks"]["tensors"] > 1000
    for row in found.values():
        assert row["check"] < row["opening"], (
            "asking whether something changed costs less than reading it again"
        )
