"""The main job on the embedded model, shortened: what `make demo` relies on."""

from __future__ import annotations

from pathlib import Path

import pytest

import dit_lens
from dit_lens import zoo
from dit_lens.analysis import run_analysis
from dit_lens.analysis.spec import CHANNEL_SECTIONS, EFFECT_SECTIONS
from dit_lens.methods.answers import Results
from dit_lens.run.records import RunFolder

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        "shapes-sd3" not in zoo.names(), reason="shapes-sd3 is not in this checkout: train it"
    ),
]


SHORT = [
    "sampling.steps=3",
    "seeds=[0]",
    "samples.count=2",
    "effects.limit=2",
    "effects.controls={low: 1, random: 1, energy_matched: 1}",
    "effects.doses=[1, 4]",
    "effects.maps={prompts: 1, final_prompts: 1, final_steps: [1], pairs: 1, blocks: '3-4'}",
    "effects.gallery=1",
    "spatial={prompts: 2, calibration: 2, doses: [4], overlays: 1}",
    "transport.pairs=[[a large red plain star in the centre on a white background, "
    "a large blue plain star in the centre on a white background]]",
    "transport.far_pairs=null",
    "transport.steps=2",
    "transport.curve_pairs=1",
]
"""The main job with every question, on as little as it takes."""


@pytest.fixture(scope="module")
def lens() -> dit_lens.DiTLens:
    return dit_lens.load("shapes-sd3")


def test_the_main_job_runs_by_name_from_any_folder(
    lens: dit_lens.DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = run_analysis("massive_activations", overrides=SHORT, lens=lens, progress=False)
    assert place == Path("reports/massive_activations")
    folder = RunFolder.read(place)
    assert folder.record.model == "shapes-sd3"
    assert {*CHANNEL_SECTIONS, *EFFECT_SECTIONS, "spatial", "transport"} <= set(folder.table_names)
    assert len([entry for entry in folder.images() if entry.kind == "sample"]) == 2
    asked = {answer.question for answer in Results.load(place).answers}
    assert asked == {*EFFECT_SECTIONS, "spatial", "transport_text"}
    page = folder.report_path.read_text(encoding="utf-8")
    assert "Nothing to show here" not in page
    channels = folder.channels()
    assert channels is not None
    assert len(channels["blocks"]) == lens.num_blocks


def test_the_embedded_model_has_massive_channels(lens: dit_lens.DiTLens) -> None:
    """A trained model differs from a random one of its own shape; how far is measured, not assumed."""
    import torch

    from dit_lens.analysis.reading import read_spec

    prompts = read_spec("massive_activations").prompts[:8]
    stats = dit_lens.discover(lens, prompts, seeds=[0], sampling={"steps": 4}, progress=False)
    spectrum = stats.profile("abs_mean").values
    ratios = spectrum.max(axis=1) / torch.from_numpy(spectrum).median(dim=1).values.numpy()
    assert ratios[1:-1].max() > 4
