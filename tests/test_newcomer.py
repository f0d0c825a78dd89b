"""A package outside the repository extends the product by its entry points, and no file of ours names it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dit_lens.errors import BadInput
from dit_lens.methods.answers import Results
from dit_lens.registry import Registry
from dit_lens.run.records import RunFolder

pytestmark = pytest.mark.tiny

NEWCOMER = Path(__file__).parent / "newcomer"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip would leave it: the package, and its metadata with the entry points."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(NEWCOMER / "newcomer", site / "newcomer")
    about = site / "newcomer-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: newcomer\nVersion: 1.0\n")
    shutil.copy(NEWCOMER / "entry_points.txt", about)
    return site


def run(site: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """`dit-lens` in a process that has the newcomer installed."""
    path = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "dit_lens.cli", *map(str, words)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_metric_and_its_control_are_run_judged_and_shown_in_their_own_words(
    installed: Path, tiny_sd3_pipeline, tmp_path: Path
) -> None:
    tiny_sd3_pipeline.save_pretrained(tmp_path / "model")
    spec = {
        "model": str(tmp_path / "model"), "prompts": ["a star", "a square"], "seeds": [0],
        "sampling": {"steps": 2, "max_sequence_length": 0}, "channels": {"top_k": 2},
        "sections": ["disruption"], "samples": {"count": 0},
        "effects": {
            "prompts": [f"a {colour} star" for colour in ("red", "blue", "green", "pink", "white", "black")],
            "metrics": ["redness", "latent"], "controls": {"low": 1, "first_ones": 1},
            "gallery": 0,
        },
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
    done = run(installed, "run", tmp_path / "mine.yaml", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    folder = RunFolder.read(tmp_path / "run")
    for table in ("effects", "disruption"):
        assert set(folder.table(table)["metric"]) == {"redness", "latent"}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "red that was gained" in page and "first in line" in page
    (latent,) = (each for each in Results.load(folder.results_path).answers if each.metric == "latent")
    assert {effect.control for effect in latent.effects} == {"low", "first_ones"}
    assert "the first channels" in latent.sentence or "the weakest channels" in latent.sentence
    unknown = subprocess.run(
        [sys.executable, "-m", "dit_lens.cli", "plan", tmp_path / "mine.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert unknown.returncode == 2 and "first_ones" in unknown.stderr


def test_a_registry_refuses_two_of_one_name_and_says_who_brings_what_cannot_be_loaded(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def registry(text: str) -> Registry:
        about = tmp_path / "broken-1.0.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[dit_lens.tried]\n{text}\n")
        return Registry("metric", "dit_lens.methods.metrics", "METRIC", "dit_lens.tried")

    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadInput, match="Two metrics are called 'psnr'"):
        list(registry("psnr = nowhere:METRIC"))
    broken = registry("mine = nowhere:METRIC")
    assert "mine" in broken, "what is not asked for is not imported"
    with pytest.raises(BadInput, match="'mine' of broken cannot be loaded from nowhere:METRIC"):
        broken["mine"]
    with pytest.raises(BadInput, match=r"no metric 'psnrr'\. Did you mean 'psnr'"):
        broken["psnrr"]
