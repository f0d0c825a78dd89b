"""What is handed out: the wheel holds all that runs and nothing else; every extra that is named exists."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import yaml
from hatchling import build as backend
from hatchling.builders.sdist import SdistBuilder
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import dit_lens

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parent.parent
PROJECT = ProjectMetadata(str(ROOT), PluginManager())


def tracked(folder: str) -> set[str]:
    """Files that belong to the package: what a checkout holds below a folder, without what Python leaves."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        place = tmp_path_factory.mktemp("dist")
        return zipfile.ZipFile(place / backend.build_wheel(str(place)))


def test_the_wheel_holds_the_package_and_its_analyses_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    analyses = {name for name in tracked("analyses") if PurePosixPath(name).suffix in (".yaml", ".txt")}
    assert {"analyses/massive_activations.yaml", "analyses/prompts/shapes.txt"} <= analyses
    assert found == tracked("dit_lens") | {f"dit_lens/{name}" for name in analyses}
    for needed in (
        "py.typed", "report/templates/report.html.j2", "zoo/shapes-clip/model.safetensors",
        "zoo/shapes-sd3/transformer/diffusion_pytorch_model.safetensors",
    ):  # fmt: skip
        assert f"dit_lens/{needed}" in found


def test_every_file_that_a_packaged_analysis_names_comes_with_it(wheel: zipfile.ZipFile) -> None:
    names = [name for name in wheel.namelist() if name.startswith("dit_lens/analyses/")]
    specs = {name: yaml.safe_load(wheel.read(name)) for name in names if name.endswith(".yaml")}
    wanted = {
        f"dit_lens/analyses/{value}"
        for spec in specs.values()
        for part in (spec, *(each for each in spec.values() if isinstance(each, dict)))
        for value in part.values()
        if isinstance(value, str) and value.endswith(".txt")
    }
    assert len(specs) >= 7
    assert len(wanted) >= 4
    assert wanted <= set(names)


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA"))
    head, _, description = metadata.partition("\n\n")
    assert f"Version: {dit_lens.__version__}" in head
    assert "License-Expression: Apache-2.0" in head
    assert {line.split(": ")[1] for line in head.splitlines() if line.startswith("Provides-Extra")} == set(
        PROJECT.core.optional_dependencies
    )
    assert description.strip().startswith("# dit_lens")
    assert not re.search(r"\]\((?!https?://)", description), "beside an index's page lies no file of ours"
    assert re.findall(r"dit-lens run (\w+)", description) == ["massive_activations"]
    (commands,) = (
        wheel.read(name).decode() for name in wheel.namelist() if name.endswith("entry_points.txt")
    )
    assert "dit-lens = dit_lens.cli:main" in commands


def test_the_wheel_stays_small_enough_to_hand_out(wheel: zipfile.ZipFile) -> None:
    assert wheel.filename is not None
    size = Path(wheel.filename).stat().st_size
    # The embedded model is 24 MB of it; an index such as PyPI takes 100 MB at most.
    assert 20e6 < size < 35e6


def test_the_sdist_holds_what_builds_the_wheel_and_runs_the_tests() -> None:
    names = {file.distribution_path for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    wanted = {*tracked("dit_lens"), *tracked("analyses"), *tracked("tests")}
    # pyproject.toml and LICENSE go in by hatchling's own rule.
    wanted |= {
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "THIRD_PARTY.md",
        "README.md",
        "constraints.txt",
        "Makefile",
        ".ci/run",
    }
    assert wanted <= names
    assert not {name for name in names if name.startswith(("reports/shapes-sd3/", ".venv/", "dist/"))}


def test_every_file_that_others_wrote_is_named_with_its_licence() -> None:
    notice = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    scripts = {
        name
        for folder in ("dit_lens", "tests", "notebooks")
        for name in tracked(folder)
        if name.endswith(".js")
    }
    foreign = {name for name in scripts if "opyright (c)" in (ROOT / name).read_text(encoding="utf-8")[:2000]}
    assert foreign == {"tests/report/axe.min.js"}
    for name in foreign:
        (version,) = re.findall(r"axe v([\d.]+)", (ROOT / name).read_text(encoding="utf-8")[:200])
        assert f"`{name}` | axe-core {version}" in notice
        assert "MPL-2.0" in notice


def test_every_extra_that_is_named_anywhere_exists() -> None:
    texts = [*ROOT.glob("*.md"), *ROOT.glob("*.txt"), ROOT / "Makefile"]
    for folder in ("dit_lens", "analyses", "notebooks", "tests", ".github"):
        texts += [
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".md", ".ipynb", ".yaml", ".yml", ".j2")
        ]
    pattern = re.compile(r"(?:dit[-_]lens|-e \\?\"?\.)\[([a-z,\s]+)\]")
    named = {
        extra.strip(): path
        for path in texts
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
        for extra in match[1].split(",")
    }
    assert "export" in named
    assert "dev" in named
    missing = {extra: str(path) for extra, path in named.items() if extra not in declared()}
    assert not missing


def declared() -> set[str]:
    return set(PROJECT.core.optional_dependencies)


def test_every_dependency_has_a_lower_bound_and_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert any(each.startswith("torch") for each in PROJECT.core.dependencies)
    groups = [PROJECT.core.dependencies, *PROJECT.core.optional_dependencies.values()]
    for requirement in (each for group in groups for each in group):
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)
        assert name is not None
        lines = [line for line in text.splitlines() if re.match(rf'  "{name[0]}[\[><=]', line, re.IGNORECASE)]
        assert lines, requirement
        assert ">=" in requirement
        assert all(" # " in line for line in lines), lines


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dit_lens.__version__
    assert f"## [{dit_lens.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
