"""Commands that analyses show – at their heads, in their index, in notebook 05 – are accepted as they are.

Every command with `--set` is planned: read, overridden, and checked against its model, so that what a real
checkpoint would refuse is refused here. Names that a reader fills in become files of the kind they name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
import typer
from PIL import Image

from dit_lens import zoo
from dit_lens.analysis import open_model, plan_analysis
from dit_lens.analysis.reading import read_spec
from dit_lens.cli import app
from dit_lens.errors import BadInput
from tests.random_segmenter import save_segmenter

ROOT = Path(__file__).parent.parent.parent
ANALYSES = sorted((ROOT / "analyses").glob("*.yaml"))
INDEX, NOTEBOOK = ROOT / "analyses" / "README.md", ROOT / "notebooks" / "05_your_own_model.ipynb"
SOMEBODYS = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9._-]+")


def commands(text: str) -> list[str]:
    """Each `dit-lens run …` with overrides, as one line."""
    lines = "\n".join(re.sub(r"^# ?", "", line) for line in text.splitlines()).replace("\\\n", " ")
    return [
        line for line in re.findall(r"^ *(dit-lens run .*)$", lines, flags=re.MULTILINE) if "--set " in line
    ]


def shown() -> dict[str, list[str]]:
    """Where commands stand, and which."""
    places = {path.stem: path.read_text(encoding="utf-8").partition("\n\n")[0] for path in ANALYSES}
    places["README"] = INDEX.read_text(encoding="utf-8")
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    places["notebook 05"] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return {place: commands(text) for place, text in places.items()}


SHOWN = shown()
EACH = [
    pytest.param(
        command,
        id=f"{place}-{number}",
        marks=pytest.mark.tiny if "--set model" in command else pytest.mark.embedded,
    )
    for place, each in SHOWN.items()
    for number, command in enumerate(each)
]


def asked(command: str) -> tuple[str, list[str]]:
    """(spec, overrides), as the command line takes them."""
    run: Any = typer.main.get_command(app)
    context = run.commands["run"].make_context("run", shlex.split(command)[2:])
    return context.params["spec"], list(context.params["overrides"])


class Workplace:
    """A folder with a checkpoint, a CLIP, a segmentation model, and whatever files a command names."""

    def __init__(self, folder: Path) -> None:
        from dit_lens.zoo.random_pipelines import random_pipeline

        self.folder = folder
        random_pipeline("sd3.5").save_pretrained(folder / "model")

    def filled_in(self, overrides: Sequence[str]) -> list[str]:
        return [f"{key}={self._value(key, value)}" for key, _, value in (o.partition("=") for o in overrides)]

    def _value(self, key: str, value: str) -> str:
        last = key.rpartition(".")[2]
        if key in ("model", "model.name"):
            assert SOMEBODYS.fullmatch(value), "a hub id"
            return str(self.folder / "model")
        if key == "model.device":
            return "cpu"
        if last == "alignment":
            return str(zoo.scorer_path())
        if value.startswith("transformers:"):
            model, _, label = value.removeprefix("transformers:").partition("#")
            assert SOMEBODYS.fullmatch(model)
            place = self.folder / label
            if not place.exists():
                save_segmenter(place, {0: "wall", 1: label})
            return f"transformers:{place}#{label}"
        if value == "FILE":
            Image.new("RGB", (64, 40), "red").save(self.folder / "file.png")
            return str(self.folder / "file.png")
        if value.endswith(".txt"):
            lines = [f"{thing} {Path(value).stem}" for thing in ("a cat", "a dog", "a hat", "a pond")]
            if last.endswith("pairs"):
                lines = [f"{line} 1 -> {line} 2" for line in lines]
            (self.folder / value).write_text("\n".join(lines), encoding="utf-8")
        return value


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("command", EACH)
def test_it_is_accepted(command: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    source, overrides = asked(command)
    monkeypatch.chdir(workplace.folder)
    spec = read_spec(ROOT / source if source.endswith(".yaml") else source, workplace.filled_in(overrides))
    planned = plan_analysis(spec, lens=open_model(spec))
    assert planned.spec.sections == spec.sections
    assert planned.forwards > 0
    if "--set model" in command:
        assert planned.model not in zoo.names()
        # Another model has no scorer of its own, and a verdict on alignment would be left out without a word.
        judged = [part for part in ("effects", "transport", "guidance") if _rates(spec, part)]
        assert all(getattr(spec, part).alignment for part in judged), judged


def _rates(spec: Any, part: str) -> bool:
    sections = set(spec.sections)
    users = {
        "effects": set(spec.effect_sections),
        "transport": {"transport_text", "transport_image"},
        "guidance": {"detail_guidance"},
    }
    return bool(users[part] & sections)


@pytest.mark.pure
def test_every_analysis_says_how_to_ask_it_of_another_model() -> None:
    for place, each in SHOWN.items():
        assert any("--set model" in command for command in each), place


@pytest.mark.tiny
def test_a_command_that_forgets_the_truth_is_refused(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the main analysis showed before: the masks' default truth knows the embedded world only."""
    monkeypatch.chdir(workplace.folder)
    command = next(each for each in SHOWN["massive_activations"] if "spatial.truth" in each)
    source, overrides = asked(command)
    kept = [each for each in overrides if not each.startswith("spatial.truth")]
    spec = read_spec(ROOT / source, workplace.filled_in(kept))
    with pytest.raises(BadInput, match="48 × 48 pixels; these have 16 × 16"):
        plan_analysis(spec, lens=open_model(spec))
