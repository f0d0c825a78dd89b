"""The main job on the embedded model, shortened: what `make demo` relies on."""

from __future__ import annotations

from pathlib import Path

import pytest

import dit_lens
from dit_lens import zoo
from dit_lens.analysis import run_analysis
from dit_lens.analysis_spec import SECTIONS
from dit_lens.run.records import RunFolder

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        "shapes-sd3" not in zoo.names(), reason="shapes-sd3 is not in this checkout: train it"
    ),
]


@pytest.fixture(scope="module")
def lens() -> dit_lens.DiTLens:
    return dit_lens.load("shapes-sd3")


def test_the_main_job_runs_by_name_from_any_folder(
    lens: dit_lens.DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["sampling.steps=4", "seeds=[0]", "samples.count=2"]
    place = run_analysis("massive_activations", overrides=short, lens=lens, progress=False)
    assert place == Path("reports/massive_activations")
    folder = RunFolder.read(place)
    assert folder.record.model == "shapes-sd3"
    assert set(folder.table_names) == set(SECTIONS)
    assert len(folder.images()) == 2
    channels = folder.channels()
    assert channels is not None
    assert len(channels["blocks"]) == lens.num_blocks


def test_the_embedded_model_has_massive_channels(lens: dit_lens.DiTLens) -> None:
    """A trained model differs from a random one of its own shape; how far is measured, not assumed."""
    import torch

    from dit_lens.analysis_files import read_spec

    prompts = read_spec("massive_activations").prompts[:8]
    stats = dit_lens.discover(lens, prompts, seeds=[0], sampling={"steps": 4}, progress=False)
    spectrum = stats.profile("abs_mean").values
    ratios = spectrum.max(axis=1) / torch.from_numpy(spectrum).median(dim=1).values.numpy()
    assert ratios[1:-1].max() > 4
