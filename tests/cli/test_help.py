"""Every help text ends with an example that works, and text of any kind comes out as it went in.

Examples are taken from the help itself and carried out as they stand, in a folder that holds the files they
name. Only where that would take long is the work made smaller, by options added behind the example.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from dit_lens import cli
from tests.report.conftest import synthetic_tables, write_run
from tests.report.synthetic_effects import effect_tables, results


def commands(found: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words behind `dit-lens` of everything that has a help text."""
    yield path
    for name, command in getattr(found, "commands", {}).items():
        yield from commands(command, (*path, name))


PATHS = list(commands(typer.main.get_command(cli.app)))

# A declared analysis, cut down to seconds.
SMALLER = [
    f"--set={each}"
    for each in (
        'prompts=["a large red plain star in the centre on a white background"]',
        "seeds=[0]",
        "sampling.steps=2",
        "sections=[spectrum]",
        "effects=null",
        "spatial=null",
        "transport=null",
    )
]


def example_of(dit, path: tuple[str, ...]) -> str:
    """The command line at the end of a help text."""
    shown = dit(*path, "--help")
    assert shown.exit_code == 0
    (example,) = re.findall(r"Example:\n +(dit-lens .+)\n*\Z", shown.stdout)
    return example


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a file of prompts."""
    monkeypatch.chdir(tmp_path)
    prompts = "# two captions\na small blue plain circle on the left on a white background\na red star\n"
    Path("prompts.txt").write_text(prompts, encoding="utf-8")
    return tmp_path


@pytest.mark.embedded
@pytest.mark.parametrize("path", PATHS, ids=lambda path: " ".join(path) or "dit-lens")
def test_the_example_in_the_help_works(dit, workplace: Path, path: tuple[str, ...]) -> None:
    line, _, redirected = example_of(dit, path).partition(" > ")
    words = shlex.split(line)[1:]
    assert tuple(words[: len(path)]) == path
    if words[0] in ("report", "compare"):
        for folder in words[1:]:
            if folder.startswith("reports/"):
                made = write_run(Path(folder), effect_tables())
                results().save(made / "results.json")
    before = {file for file in workplace.rglob("*") if file.is_file()}
    done = dit(*words, *(SMALLER if words[0] == "run" else []))
    assert done.exit_code == 0, done.output
    assert done.stdout.strip()
    if redirected:
        json.loads(done.stdout)
    written = {file for file in workplace.rglob("*") if file.is_file()} - before
    if "--out" in words:
        place = Path(words[words.index("--out") + 1])
        assert place.is_file() or (place / "report.html").is_file()
    else:
        assert words[0] in ("report",) or not written
    if "--json" in words:
        json.loads(done.stdout)


# ------------------------------------------------------------------------------------------------ any text
HOSTILE = '[red]it\'s[/red] <script>alert(1)</script> "quoted" [link=x]a[/link] %s {x} $HOME'
COMMANDING = "a circle\x1b[31m\x9b2J\x07"


def inert(output: str) -> bool:
    """Whether nothing in it commands a terminal."""
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", output)


@pytest.mark.tiny
def test_prompts_and_paths_are_printed_as_they_are(dit, model: Path, workplace: Path) -> None:
    """Neither markup nor quotes nor format signs in a prompt or a path mean anything."""
    prompts = Path(HOSTILE.replace("/", "_") + ".txt")
    prompts.write_text(f"{HOSTILE}\n", encoding="utf-8")
    channels = prompts.with_suffix(".json")
    found = dit("discover", model, "--prompts", prompts, "--out", channels, "--steps", 2, "--top-k", 2)
    assert found.exit_code == 0, found.output
    assert channels.name in found.stderr
    picture = prompts.with_suffix(".png")
    options = ("--model", model, "--steps", 2, "--out", picture, "--channels", channels)
    looked = dit("segment", HOSTILE, *options)
    assert looked.exit_code == 0, looked.output
    assert picture.name in looked.stderr
    as_json = dit("segment", HOSTILE, *options, "--json")
    assert json.loads(as_json.stdout)["prompt"] == HOSTILE
    assert all(inert(done.output) for done in (found, looked, as_json))


@pytest.mark.tiny
def test_a_prompt_cannot_command_the_terminal(dit, model: Path, workplace: Path) -> None:
    options = ("--model", model, "--steps", 2, "--top-k", 2, "--out", "mask.png")
    for arguments in (("segment", COMMANDING, *options), ("segment", COMMANDING, *options, "--json")):
        done = dit(*arguments)
        assert done.exit_code == 0, done.output
        assert inert(done.output)
    assert json.loads(done.stdout)["prompt"] == COMMANDING


@pytest.mark.pure
@pytest.mark.parametrize("text", [HOSTILE, COMMANDING])
@pytest.mark.parametrize(
    "words",
    [
        ("run", "{}"),
        ("run", "massive_activations", "--set", "{}"),
        ("run", "massive_activations", "--set", "model={}"),
        ("plan", "{}"),
        ("report", "{}"),
        ("compare", "{}", "{}"),
        ("discover", "shapes-sd3", "--prompts", "{}"),
        ("discover", "{}", "--prompts", "prompts.txt"),
        ("segment", "a star", "--rule", "{}"),
        ("transport", "a star", "a circle", "--strength", "{}"),
    ],
    ids=" ".join,
)
def test_a_refusal_quotes_what_was_asked_and_nothing_more(
    dit, workplace: Path, words: tuple[str, ...], text: str
) -> None:
    done = dit(*(word.replace("{}", text) for word in words))
    assert done.exit_code == 2, done.output
    assert inert(done.output)
    assert "Traceback" not in done.output
    assert "a circle" in done.stderr or "<script>" in done.stderr


@pytest.mark.pure
def test_a_report_of_a_folder_with_any_name(dit, workplace: Path) -> None:
    folder = Path(HOSTILE.replace("/", "_"))
    write_run(folder, synthetic_tables())
    done = dit("report", folder)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(folder / "report.html")
    shutil.rmtree(folder)
