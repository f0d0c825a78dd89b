"""`dit-lens transport`: one prompt's channels in another's picture, as a grid, from one line."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image

import dit_lens
from dit_lens.errors import BadInput
from dit_lens.methods.transport.first_look import first_carry
from dit_lens.methods.transport.sheet import labelled_grid

pytestmark = pytest.mark.tiny

STAR, CIRCLE = "a small green star", "a large red circle"


@pytest.fixture(scope="module")
def model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with defaults beside it, as an embedded model has them."""
    folder = tmp_path_factory.mktemp("with-defaults") / "tiny"
    copytree(model, folder)
    defaults = {"sampling": {"steps": 3, "guidance_scale": 4.5, "max_sequence_length": 0}}
    (folder / "dit_lens.json").write_text(json.dumps(defaults))
    return folder


@pytest.fixture(scope="module")
def channels(dit, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("channels")
    (folder / "p.txt").write_text("a tree\n")
    done = dit("discover", model, "--prompts", folder / "p.txt", "--top-k", 3, "--out", folder / "c.json")
    assert done.exit_code == 0, done.output
    return folder / "c.json"


# --------------------------------------------------------------------------------------------- what comes out
def test_a_grid_is_written_and_said_where(dit, model, tmp_path) -> None:
    out = tmp_path / "new" / "grid.png"
    done = dit("transport", CIRCLE, STAR, "--model", model, "--out", out)
    assert done.exit_code == 0, done.output
    assert "quick discovery on these two prompts" in done.stderr
    assert f"Written to {out}" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "tiny, seed 0: 4 channels in each of 4 blocks, at 3 steps; from the runs of these two prompts"
    )
    assert [line.split()[0] for line in lines[2:]] == ["0", "0.25", "0.5", "0.75", "1"]
    assert lines[2].split()[1] in ("0.000", "–")
    with Image.open(out) as grid:
        assert grid.format == "PNG"
        picture = 16 * 12  # the tiny model's pictures, enlarged by a whole factor
        assert grid.width == 7 * picture + 6 * 10 + 2 * 14


def test_json_says_what_each_strength_did_and_nothing_else(dit, model, channels, tmp_path) -> None:
    out = tmp_path / "grid.png"
    done = dit(
        "transport", CIRCLE, STAR, "--model", model, "--channels", channels, "--strength", "0,1,1,2",
        "--at-blocks", "1-2", "--at-steps", "2:", "--steps", 4, "--seed", 7, "--out", out, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["picture"] == str(out) and out.is_file()
    assert (said["source"], said["target"], said["seed"], said["steps"]) == (CIRCLE, STAR, 7, [2, 3])
    assert {block: len(chosen) for block, chosen in said["channels"].items()} == {"1": 3, "2": 3}
    assert said["channels_from"] == "a set that was given"
    assert [one["strength"] for one in said["strengths"]] == [0, 1, 2], "once each"
    nothing, whole, beyond = said["strengths"]
    assert nothing["toward_latent"] == pytest.approx(0, abs=1e-5)
    assert whole["toward_latent"] != pytest.approx(0, abs=1e-4)
    assert beyond["toward_latent"] != whole["toward_latent"]
    assert all(one["alignment"] is None for one in said["strengths"]), "no CLIP knows these pictures"
    assert "quick discovery" not in done.stderr


def test_the_same_prompt_twice_moves_nothing_and_says_so(dit, model, channels, tmp_path) -> None:
    out = tmp_path / "grid.png"
    done = dit("transport", STAR, STAR, "--model", model, "--channels", channels, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert "the same prompt, so nothing can move" in done.stderr
    assert {one["toward_latent"] for one in json.loads(done.stdout)["strengths"]} == {None}
    assert dit("transport", STAR, STAR, "--model", model, "--out", out).exit_code == 0


@pytest.mark.parametrize("command", [("transport", CIRCLE, STAR), ("segment", STAR)], ids=lambda c: c[0])
def test_channels_of_another_model_are_refused(dit, model, channels, tmp_path, command) -> None:
    data = json.loads(channels.read_text())
    others = {**data["provenance"], "fingerprint": "0" * 64}
    cases = {
        "another model": ({"model": "another", "provenance": others}, 2),
        "the same weights in another folder": ({"model": "another"}, 0),
        "the same model in another dtype": ({"provenance": others}, 0),
    }
    for case, (changed, status) in cases.items():
        given = tmp_path / "given.json"
        given.write_text(json.dumps({**data, **changed}))
        options = ("--model", model, "--steps", 2, "--channels", given, "--out", tmp_path / "g.png")
        done = dit(*command, *options)
        assert done.exit_code == status, (case, done.output)
        assert ("was found in 'another'" in done.stderr) == (status == 2), case
        assert "Note:" not in done.stderr


# ------------------------------------------------------------------------------------------------ the library
def test_it_equals_the_graph_that_says_the_same(tiny_sd3_lens) -> None:
    sampling = tiny_sd3_lens.sampling(steps=2, max_sequence_length=0)
    look = first_carry(
        tiny_sd3_lens, CIRCLE, STAR, 1, strengths=[0.5], top_k=2, blocks="1-2", steps="1", sampling=sampling
    )
    graph = dit_lens.InterventionGraph(sampling={"steps": 2, "max_sequence_length": 0})
    donor = graph.trajectory(prompt=CIRCLE, seed=1)
    graph.trajectory(prompt=STAR, seed=1, id="target")
    into = graph.trajectory(prompt=STAR, seed=1)
    graph.patch(
        donor,
        into=into,
        at=["blocks.1.resid_post.image", "blocks.2.resid_post.image"],
        channels=look.channels,
        strength=0.5,
        steps=[1],
    )
    done = dit_lens.run(tiny_sd3_lens, graph, sham=False, progress=False)
    assert np.array_equal(np.asarray(look.carried[0].picture), np.asarray(done[into].image))
    assert np.array_equal(np.asarray(look.pictures[0]), np.asarray(done[donor].image))
    moved, way = (done[name].latents[-1] - done["target"].latents[-1] for name in (into, donor))
    expected = torch.dot(moved.flatten(), way.flatten()) / torch.dot(way.flatten(), way.flatten())
    assert look.carried[0].toward_latent == pytest.approx(float(expected), rel=1e-4)


def test_tokens_and_branch_are_those_that_were_asked_for(dit, model, channels, tmp_path) -> None:
    from dit_lens.methods.channel_sets import ChannelSet
    from dit_lens.methods.transport.subjects import subjects

    base = [
        "transport",
        CIRCLE,
        STAR,
        "--model",
        model,
        "--channels",
        channels,
        "--strength",
        "0,1",
        "--json",
    ]
    base += ["--seed", 1, "--out", tmp_path / "grid.png"]
    everywhere, subject, one = (
        json.loads(dit(*base, *more).stdout)
        for more in ([], ["--tokens", "union"], ["--tokens", "union", "--branch", "cond"])
    )
    assert (everywhere["tokens"], everywhere["tokens_from"], everywhere["branch"]) == ("all", "all", "both")
    lens = dit_lens.load(model)
    sampling, chosen = lens.sampling(), ChannelSet.load(channels)
    masks = subjects(lens, chosen, [CIRCLE, STAR], [1], sampling)
    assert subject["tokens"] == one["tokens"] == list(masks[CIRCLE, 1].union(masks[STAR, 1]).tokens)
    assert 0 < len(subject["tokens"]) < masks[CIRCLE, 1].values.size
    graph = dit_lens.InterventionGraph()
    donor = graph.trajectory(prompt=CIRCLE, seed=1)
    into = graph.trajectory(prompt=STAR, seed=1)
    at = [f"blocks.{block}.resid_post.image" for block in chosen.blocks]
    graph.patch(donor, into=into, at=at, channels=chosen, tokens=one["tokens"], branch=one["branch"])
    done = dit_lens.run(lens, graph, sham=False, progress=False)
    look = first_carry(lens, CIRCLE, STAR, 1, strengths=[1], channels=chosen, tokens="union", branch="cond")
    assert np.array_equal(np.asarray(look.carried[0].picture), np.asarray(done[into].image))
    assert f"in the cond branch alone, at {len(one['tokens'])} tokens of the subject in either run" in str(
        look
    )
    ways = [found["strengths"][1]["toward_latent"] for found in (everywhere, subject, one)]
    assert len(set(ways)) == 3


def test_a_library_call_refuses_what_cannot_be(tiny_sd3_lens) -> None:
    for options, said in (
        ({"strengths": []}, "No strength"),
        ({"source": "  "}, "source prompt is blank"),
        ({"top_k": 99}, "32"),
        ({"strengths": [float("nan")]}, "strength"),
    ):
        with pytest.raises(BadInput, match=said):
            first_carry(tiny_sd3_lens, **{"source": CIRCLE, "target": STAR, **options})


# -------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--strength", "0:1"], "start:stop:count"),
        (["--strength", "0:1:1"], "count from 2 to 32"),
        (["--strength", "0:1:99"], "count from 2 to 32"),
        (["--strength", "half"], "start:stop:count"),
        (["--strength", ""], "start:stop:count"),
        (["--strength", "0:3:4"], "3 is outside [0, 2]"),
        (["--strength", "-0.5,1"], "-0.5 is outside [0, 2]"),
        (["--strength", "nan"], "nan is outside [0, 2]"),
        (["--strength", "inf"], "inf is outside [0, 2]"),
        (["--out", "{folder}"], "this is a folder"),
        (["--out", "{channels}/grid.png"], "nothing can be written"),
        (["--out", "{folder}/grid.jpg"], "the grid is a PNG"),
        (["--channels", "{folder}/nope.json"], "Cannot read the channel set"),
        (["--channels", "{channels}", "--top-k", "4"], "exclude each other"),
        (["--channels", "{empty}"], "no channel to carry"),
        (["--at-blocks", "9"], "there are 4, 0 to 3"),
        (["--at-blocks", "x"], "block"),
        (["--at-steps", "7", "--steps", "4"], "step"),
        (["--tokens", "sources"], "Did you mean 'source'?"),
        (["--branch", "left"], "there are: both, uncond, cond"),
        (["--branch", "uncond", "--guidance", "1"], "there are: both, cond"),
        (["--steps", "0:4"], "write --at-steps 0:4"),
        (["--steps", "all"], "write --at-steps all"),
        (["--steps", "0"], "0"),
        (["--top-k", "0"], "1"),
        (["--top-k", "33"], "32"),
        (["--seed", "-1"], "--seed"),
        (["--model", "{folder}/nothing"], "nothing"),
        (["--dtype", "float31"], "float31"),
    ],
)
def test_bad_input_is_status_2_before_anything_runs(
    dit, model, channels, tmp_path, monkeypatch, arguments, expected
) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model ran")

    for place in (
        "dit_lens.model.traced.TracedTransformer.forward",
        "dit_lens.model.traced.TracedTransformer.traced_forward",
    ):
        monkeypatch.setattr(place, forbidden)
    empty = tmp_path / "empty.json"
    data = json.loads(channels.read_text())
    empty.write_text(json.dumps({**data, "blocks": {block: [] for block in data["blocks"]}}))
    places = {"folder": tmp_path, "channels": channels, "empty": empty}
    words = [word.format(**places) for word in arguments]
    base = ["--model", model] if "--model" not in words else []
    if "--out" not in words:
        base += ["--out", tmp_path / "grid.png"]
    done = dit("transport", CIRCLE, STAR, *base, *words)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert expected in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "grid.png").exists()


def test_a_blank_prompt_is_refused(dit, model, tmp_path) -> None:
    done = dit("transport", CIRCLE, " ", "--model", model, "--out", tmp_path / "grid.png")
    assert done.exit_code == 2
    assert "target prompt is blank" in done.stderr


# --------------------------------------------------------------------------------------------------- the grid
def test_a_grid_wraps_its_rows_and_takes_any_letters() -> None:
    tiles = [(Image.new("RGB", (200, 100), (10 * i, 0, 0)), f"strength {i}", "") for i in range(9)]
    grid = labelled_grid(tiles, ["ein Stern → 星 ★\nzwei", "x" * 4000], "seed 0", across=4)
    assert grid.width == 4 * 200 + 3 * 10 + 2 * 14, "large pictures keep their size"
    pixels = np.asarray(grid)
    found = [np.argwhere((pixels == (10 * i, 0, 0)).all(-1)).min(axis=0) for i in range(9)]
    assert found[4][1] == found[0][1] and found[4][0] > found[3][0] == found[0][0]
    assert grid.height < 700, "a prompt without end is cut"


# -------------------------------------------------------------------------------------------------- the world
@pytest.mark.embedded
def test_on_the_embedded_model_alignment_is_measured(dit, embedded_lens, tmp_path) -> None:
    out = tmp_path / "grid.png"
    done = dit(
        "transport", "a large red plain circle in the centre on a white background",
        "a small blue plain star on the left on a black background", "--strength", 1, "--out", out, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    (whole,) = said["strengths"]
    # Something moved; how far, and whereto, is a question for a study with controls.
    assert abs(whole["toward_latent"]) > 1e-3
    assert 0 < whole["ssim"] < 0.999
    source, target = (said["unedited"][name]["alignment"] for name in ("source", "target"))
    assert source["source"] > source["target"] and target["target"] > target["source"]
    assert set(whole["alignment"]) == {"source", "target"}
    with Image.open(out) as grid:
        assert grid.width == 3 * 192 + 2 * 10 + 2 * 14
