"""`dit-lens segment`: a picture, its mask, and both together, from one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.tiny

PROMPT = "a red circle"


@pytest.fixture
def segment(dit, model: Path):
    def call(*arguments: object, prompt: str = PROMPT):
        return dit("segment", prompt, "--model", model, "--steps", 3, *arguments)

    return call


def test_a_sheet_holds_the_picture_the_mask_and_both(segment, tmp_path: Path, tiny_sd3_pipeline) -> None:
    out = tmp_path / "new" / "mask.png"
    done = segment("--at-blocks", "1,3", "--at-steps", 2, "--top-k", 3, "--json", "--out", out)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["prompt"], found["step"], found["picture"]) == (PROMPT, 2, str(out))
    assert found["channels_from"] == "this prompt's own run"
    assert [each["block"] for each in found["masks"]] == [1, 3]
    assert all(len(each["channels"]) == 3 for each in found["masks"])
    with Image.open(out) as sheet:
        pixels = np.asarray(sheet)
    # 16 × 16 pixels, enlarged twelvefold, two rows of three with a gap of four between them.
    assert pixels.shape == (2 * 192 + 4, 3 * 192 + 2 * 4, 3)
    for row, each in enumerate(found["masks"]):
        panel = pixels[196 * row : 196 * row + 192, 196 : 196 + 192]
        cells = panel[24::48, 24::48].mean(axis=-1)
        lines = ["".join("#" if cell == 255 else "." for cell in line) for line in cells]
        assert lines == each["mask"]
        assert set(np.unique(panel)) <= {0, 255}
        picture, overlay = pixels[196 * row : 196 * row + 192, :192], pixels[196 * row :, 392:][:192]
        outside = panel == 0
        assert np.array_equal(picture[outside], overlay[outside])
        assert not np.array_equal(picture, overlay)
    assert 0 < found["masks"][0]["share"] < 1
    assert np.array_equal(pixels[:192, :192], pixels[196:, :192]), "one picture"


def test_the_picture_and_the_mask_are_those_of_the_library(segment, tmp_path: Path, model: Path) -> None:
    import dit_lens
    from dit_lens.methods.channels import discover
    from dit_lens.methods.spatial import segment_prompt

    out = tmp_path / "mask.png"
    found = json.loads(segment("--seed", 4, "--out", out, "--json").stdout)
    lens = dit_lens.load(model)
    sampling = lens.sampling(steps=3)
    stats = discover(lens, [PROMPT], (4,), sampling=sampling, progress=False)
    (each,) = found["masks"]
    # The last block, a quarter into the run: step 0 of three.
    assert (each["block"], found["step"]) == (3, 0)
    assert tuple(each["channels"]) == stats.select(top_k=4).blocks[3]
    seen = segment_prompt(lens, stats.select(top_k=4), PROMPT, 4, steps=[0], sampling=sampling)
    mask = seen.at(block=3, step=0)
    assert each["mask"] == ["".join("#" if cell else "." for cell in row) for row in mask.values]
    with Image.open(out) as sheet:
        small = sheet.crop((0, 0, 192, 192)).resize((16, 16), Image.Resampling.NEAREST)
    assert np.abs(np.asarray(small, float) - np.asarray(seen.picture, float)).max() <= 1


def test_channels_from_a_file(dit, segment, tmp_path: Path, model: Path) -> None:
    prompts, channels = tmp_path / "p.txt", tmp_path / "massive.json"
    prompts.write_text("a blue star\n")
    assert (
        dit(
            "discover", model, "--prompts", prompts, "--steps", 2, "--top-k", 2, "--out", channels
        ).exit_code
        == 0
    )  # fmt: skip
    done = segment("--channels", channels, "--out", tmp_path / "m.png")
    assert done.exit_code == 0, done.output
    assert "channels from the given channel set" in done.stdout
    chosen = json.loads(channels.read_text())["blocks"]["3"]
    assert f"after block 3, channels {chosen[0]}, {chosen[1]}: Mask(" in done.stdout
    assert "Note:" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at-blocks", "9"], "9"),
        (["--at-steps", "3"], "step"),
        (["--at-steps", "-4"], "step"),
        (["--top-k", "33"], "32"),
        (["--top-k", "0"], "0"),
        (["--rule", "brigther"], "Did you mean 'brighter'?"),
        (["--out", "mask.jpg"], "name a file such as mask.png"),
        (["--out", "{folder}"], "this is a folder"),
        (["--channels", "nope.json"], "nope.json"),
        (["--channels", "c.json", "--top-k", "3"], "exclude each other"),
        (["--seed", "-1"], "--seed"),
        (["--steps", "0"], "0"),
    ],
)
def test_bad_input_is_a_message_and_status_2(
    segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dit_lens.run.runner.observe", lambda *_, **__: pytest.fail("something ran"))
    done = segment(*(word.format(folder=tmp_path) for word in arguments))
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_blank_prompt_and_an_unknown_model(dit, segment, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    blank = segment(prompt="  ")
    assert (blank.exit_code, blank.stdout) == (2, "")
    assert "The prompt is blank" in blank.stderr
    unknown = dit("segment", PROMPT, "--model", "shapes-sd4")
    assert unknown.exit_code == 2
    assert "shapes-sd3" in unknown.stderr
