"""An analysis of channels that the user chose: by hand, or in a file that `dit-lens discover` wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import dit_lens
from dit_lens.analysis import plan_analysis, run_analysis
from dit_lens.analysis.reading import read_spec
from dit_lens.errors import BadInput
from dit_lens.methods.channel_sets import ChannelSet
from dit_lens.run.records import RunFolder

pytestmark = pytest.mark.tiny

SPEC = {
    "model": "shapes-sd3",
    "prompts": ["a star", "a circle"],
    "seeds": [0],
    "sampling": {"steps": 2, "max_sequence_length": 0},
    "sections": ["spectrum", "disruption"],
    "samples": {"count": 0},
    "effects": {
        "prompts": ["blue", "green"],
        "controls": {"random": 1},
        "metrics": ["latent", "predicted_x0"],
        "gallery": 0,
    },
}


@pytest.fixture(scope="module")
def stats(tiny_sd3_lens: dit_lens.DiTLens) -> dit_lens.ChannelStatistics:
    return dit_lens.discover(tiny_sd3_lens, ["a star"], [0], sampling=SPEC["sampling"], progress=False)


@pytest.fixture
def own(stats: dit_lens.ChannelStatistics, tmp_path: Path) -> Path:
    return stats.select(chosen={1: [3, 1], 2: [2]}).save(tmp_path / "own.json")


def test_chosen_channels_stand_strongest_first_and_other_blocks_have_none(stats) -> None:
    massive = stats.select(chosen={1: [3, 1], 2: [2]})
    values = stats.profile("abs_mean").sel(block=1).values
    assert massive.blocks[1] == ((1, 3) if values[1] >= values[3] else (3, 1))
    assert massive.blocks[2] == (2,)
    assert not any(channels for block, channels in massive.blocks.items() if block not in (1, 2))


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({}, "names no channel"),
        ({1: []}, "names no channel"),
        ([1, 2], "names no channel"),
        ({9: [1]}, "block 9.*0 to 3"),
        ({1: [99]}, "channel 99 in block 1; there are 0 to 31"),
        ({1: [-1]}, "channel -1"),
        ({1: [True]}, "channel True"),
    ],
)
def test_what_no_model_has_is_refused(stats, chosen, says) -> None:
    with pytest.raises(BadInput, match=says):
        stats.select(chosen=chosen)
    with pytest.raises(BadInput, match="choose one of"):
        stats.select(chosen={1: [1]}, top_k=4)


@pytest.mark.parametrize("way", ["shorthand", "key", "override", "by hand"])
def test_a_file_and_channels_by_hand_are_edited(
    own: Path, tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path, way: str
) -> None:
    wanted = {b: channels for b, channels in ChannelSet.load(own).blocks.items() if channels}
    by_hand = {"channels": {"chosen": {b: list(channels) for b, channels in wanted.items()}}}
    declared = {
        "shorthand": {"channels": own.name},
        "key": {"channels": {"file": own.name}},
        "override": {"channels": {"top_k": 2}},
        "by hand": by_hand,
    }[way]
    path = own.with_name("mine.yaml")
    path.write_text(yaml.safe_dump({**SPEC, **declared}), encoding="utf-8")
    spec = read_spec(path, [f"channels={own}"] if way == "override" else [])
    assert {b: set(channels) for b, channels in (spec.channels.chosen or {}).items()} == {
        b: set(channels) for b, channels in wanted.items()
    }
    assert (spec.channels.found_in is None) is (way == "by hand")
    assert spec.channels.top_k is None
    if way in ("key", "by hand"):
        folder = RunFolder.read(run_analysis(spec, tmp_path / "r", lens=tiny_sd3_lens, progress=False))
        found = folder.channels()
        assert found is not None
        assert {int(b): tuple(channels) for b, channels in found["blocks"].items() if channels} == wanted
        assert read_spec(folder.path / "spec.yaml").channels == spec.channels, "the run's spec stands alone"
        drift = folder.table("effects").query("metric == 'predicted_x0'")
        assert len(drift) >= 4 and (drift["value"] > 0).all()
        assert "mean drift of the predicted image" in folder.report_path.read_text("utf-8")


def test_channels_of_another_model_are_refused(own: Path, tiny_sd35_lens: dit_lens.DiTLens) -> None:
    spec = read_spec({**SPEC, "channels": str(own)})
    with pytest.raises(BadInput, match="channels: The channel set was found in"):
        plan_analysis(spec, lens=tiny_sd35_lens)


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        ("gone.json", r"channels\.file: .*gone\.json"),
        ({"file": "own.json", "stream": "context"}, "leave stream out"),
        ({"file": "own.json", "top_k": 2}, "give one of"),
        ({"chosen": {9: [1]}}, r"channels\.chosen: there is no block 9"),
        ({"chosen": {1: [99]}}, r"channels\.chosen\.1: there is no channel 99"),
        ({"chosen": {1: []}}, "holds no channel"),
    ],
)
def test_wrong_channels_are_refused_by_their_key(
    own: Path, tiny_sd3_lens: dit_lens.DiTLens, monkeypatch: pytest.MonkeyPatch, channels, says
) -> None:
    monkeypatch.chdir(own.parent)
    with pytest.raises(BadInput, match=says):
        plan_analysis({**SPEC, "channels": channels}, lens=tiny_sd3_lens)


def test_packaged_prompts_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = {**SPEC, "prompts": "prompts/shapes.txt"}
    assert len(read_spec(spec).prompts) == 24
    assert len(read_spec(SPEC, ["prompts=prompts/shapes.txt"]).prompts) == 24
    with pytest.raises(BadInput, match=r"looked for in .*dit_lens itself brings prompts/shapes\.txt"):
        read_spec({**SPEC, "prompts": "prompts/mine.txt"})
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/shapes.txt").write_text("mine\nyours\n", encoding="utf-8")
    assert read_spec(spec).prompts == ("mine", "yours"), "a file of one's own goes first"
