"""What the README shows has to work as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from dit_lens import zoo
from dit_lens.analysis.files import packaged_folder
from dit_lens.analysis.reading import read_spec
from dit_lens.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
BLOCKS = {kind: [text for language, text in FENCED if language == kind] for kind in ("python", "yaml", "")}


@pytest.mark.pure
def test_its_analysis_is_valid() -> None:
    (text,) = BLOCKS["yaml"]
    data = yaml.safe_load(text)
    data["prompts"] = str(packaged_folder() / data["prompts"])
    data["effects"]["prompts"] = str(packaged_folder() / data["effects"]["prompts"])
    spec = read_spec(data)
    assert len(spec.prompts) > 1
    assert spec.effect_sections


@pytest.mark.pure
def test_its_commands_parse() -> None:
    text = "\n".join(BLOCKS[""])
    lines = [line for line in text.splitlines() if line.startswith("dit-lens ")]
    assert len(lines) >= 9
    for line in lines:
        words = shlex.split(line.split(" > ")[0], comments=True)[1:]
        found = typer.main.get_command(app)
        while hasattr(found, "commands"):
            found = found.commands[words.pop(0)]
        found.make_context("dit-lens", words)


@pytest.mark.pure
def test_its_make_targets_exist() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
    assert targets == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.embedded
@pytest.mark.skipif("shapes-sd3" not in zoo.names(), reason="shapes-sd3 is not in this checkout: train it")
def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = BLOCKS["python"]
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["images"]) == 2  # type: ignore[arg-type]
    assert (tmp_path / "massive.json").is_file()
