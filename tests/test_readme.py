"""What the README shows has to work as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from dit_lens import zoo
from dit_lens.analysis.reading import read_spec
from dit_lens.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
BLOCKS = {kind: [text for language, text in FENCED if language == kind] for kind in ("python", "yaml", "")}


@pytest.mark.pure
def test_its_analysis_is_valid_in_any_folder(tmp_path: Path) -> None:
    (text,) = BLOCKS["yaml"]
    saved = tmp_path / "mine.yaml"
    saved.write_text(text, encoding="utf-8")
    spec = read_spec(saved)
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
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
    assert targets == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.embedded
@pytest.mark.skipif("shapes-sd3" not in zoo.names(), reason="shapes-sd3 is not in this checkout: train it")
def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = BLOCKS["python"]
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    plain = names["lens"].generate(names["prompts"], seeds=[0]).images[0]
    assert names["edited"].size == plain.size
    assert names["edited"].tobytes() != plain.tobytes()
    assert all(f"{name}" in dir(names["dl"]) for name in re.findall(r"`dl\.(\w+)", README))
    assert not list(tmp_path.iterdir())


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.pure
@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "analyses/README.md", "reports/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    for link in links:
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.pure
def test_it_is_read_in_ten_minutes() -> None:
    lines = README.splitlines()
    assert len(lines) <= 220
    assert len([line for line in BLOCKS["python"][0].splitlines() if line.strip()]) <= 10
    assert len(BLOCKS["yaml"][0].splitlines()) <= 10


@pytest.mark.pure
def test_the_index_of_analyses_is_complete() -> None:
    index = (ROOT / "analyses" / "README.md").read_text(encoding="utf-8")
    for path in [*(ROOT / "analyses").glob("*.yaml"), *(ROOT / "analyses").glob("*.py")]:
        assert path.name in index or path.name == "benchmark_programs.py", path.name
    pictures = [ROOT / "analyses" / name for name in re.findall(r"\]\((images/[^)]+)\)", index)]
    assert {path.stem for path in pictures} == {path.stem for path in (ROOT / "analyses").glob("*.yaml")}
    assert all(1_000 < path.stat().st_size <= 60_000 for path in pictures)


@pytest.mark.pure
@pytest.mark.parametrize("path", sorted((ROOT / "analyses").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_analysis_begins_with_its_question_and_its_command(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert head.splitlines()[0].endswith(("?", ".")) and "?" in head.splitlines()[0]
    assert f"dit-lens run analyses/{path.name}" in head
