"""The guides of CONTRIBUTING.md run as they stand, and name what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dit_lens import zoo
from dit_lens.graph.interventions import OPERATIONS
from dit_lens.methods.controls import CONTROLS
from dit_lens.model import adapters

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
GUIDES = dict(
    re.findall(r"^## (Add [a-z ]+)$.*?^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
)


@pytest.mark.pure
def test_every_guide_has_one_program_and_fits_a_page() -> None:
    assert set(GUIDES) == {"Add an op", "Add a metric", "Add a control", "Add a question", "Add an adapter"}
    assert TEXT.count("```python") == len(GUIDES)
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    assert max(section.count("\n") for section in sections) <= 100


@pytest.mark.pure
def test_files_and_names_of_the_guides_exist() -> None:
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    guides = prose[prose.index("## Layers") :]
    files = set(re.findall(r"`([a-z_/]+(?:/[a-z_]+)?\.py)`", guides))
    assert len(files) >= 20
    modules = [path for room in ("dit_lens", "tests") for path in ROOT.glob(f"{room}/**/*.py")]
    for name in files:
        assert any(path.as_posix().endswith(f"/{name}") for path in modules), name
    sources = "\n".join(path.read_text(encoding="utf-8") for path in modules)
    for name in set(re.findall(r"`(_?[A-Z][A-Z_]{3,})`", guides)):
        assert re.search(rf"^\s*{name}\b.*=", sources, flags=re.MULTILINE), name
    for name in re.findall(r"^   `pytest (.*)`$", guides, flags=re.MULTILINE):
        assert all((ROOT / each).exists() for each in name.split()), name


@pytest.mark.embedded
@pytest.mark.skipif("shapes-sd3" not in zoo.names(), reason="shapes-sd3 is not in this checkout: train it")
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_runs(guide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a guide registers must not outlive it.
    monkeypatch.setitem(OPERATIONS, "round", OPERATIONS["zero"])
    monkeypatch.setattr(adapters, "_FAMILIES", dict(adapters._FAMILIES))
    monkeypatch.setattr(CONTROLS, "_loaded", dict(CONTROLS._loaded))
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(GUIDES[guide], f"CONTRIBUTING.md, {guide}", "exec", dont_inherit=True), names)
    if guide == "Add an op":
        assert names["image"].size == (48, 48)
    if guide == "Add a question":
        assert names["verdict"].outcome == "undecided"
