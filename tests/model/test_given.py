"""A given path: what it refuses, what identifies it, and that files bring it back."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from safetensors.torch import save_file

from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.given import GivenPath

pytestmark = pytest.mark.pure


def a_path(**changes) -> GivenPath:
    values = {
        "latents": torch.arange(3 * 2 * 2 * 2, dtype=torch.float32).view(3, 2, 2, 2),
        "sigmas": (1.0, 0.4, 0.0),
        "prompt": "a red círcle",
        "seed": 7,
        "origin": "noised",
    }
    return GivenPath(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"latents": torch.zeros(3, 2, 2)}, r"\[steps \+ 1, C, h, w\].*got \[3, 2, 2\]"),
        ({"latents": [[0.0]]}, "got list"),
        ({"latents": torch.zeros(1, 2, 2, 2)}, "one step or more"),
        ({"latents": torch.full((3, 2, 2, 2), torch.nan)}, "not finite"),
        ({"sigmas": (1.0, 0.0)}, "3 latents need as many sigmas; got 2"),
        ({"sigmas": (0.4, 1.0, 0.0)}, "must fall"),
        ({"sigmas": (1.0, 0.5, 0.1)}, "to 0; got 1, 0.5, 0.1"),
        ({"sigmas": (1.5, 0.5, 0.0)}, "from at most 1"),
        ({"sigmas": (1.0, float("nan"), 0.0)}, "must fall"),
        ({"prompt": None}, "'' is the empty prompt"),
        ({"seed": -1}, "Seed -1"),
        ({"seed": True}, "Seed True"),
        ({"origin": 3}, "must be text"),
    ],
)
def test_what_does_not_fit_is_refused(changes, says):
    with pytest.raises(BadInput, match=says):
        a_path(**changes)


def test_latents_are_float32_and_nobody_elses():
    latents = torch.ones(3, 2, 2, 2, dtype=torch.bfloat16)
    path = a_path(latents=latents)
    latents += 1
    assert path.latents.dtype == torch.float32
    assert torch.equal(path.latents, torch.ones(3, 2, 2, 2))
    with pytest.raises(FrozenInstanceError):
        path.prompt = "another"


def test_the_digest_knows_all_that_changes_a_result():
    path = a_path()
    moved = path.latents.clone()
    moved[1, 0, 0, 0] += 1e-6
    others = [
        replace(path, latents=moved),
        replace(path, sigmas=(1.0, 0.5, 0.0)),
        replace(path, prompt="a red circle"),
        replace(path, seed=None),
        replace(path, latents=path.latents.view(3, 1, 4, 2)),
    ]
    assert len({path.digest, *(each.digest for each in others)}) == 6
    assert replace(path, origin="elsewhere").digest == path.digest
    assert path == a_path() and hash(path) == hash(a_path()) and path != others[0]


def test_the_digest_is_the_same_on_every_machine():
    # Results are filed under it; a change here makes every stored cell of a given path unreachable.
    assert a_path().digest == "6949f2358f4c3a74e405c971b622eceb64369431d1eab40f468aac41fa0fd278"


@pytest.mark.parametrize("name", ["path.safetensors", "path", "deep/er/path.v2"])
def test_files_bring_it_back(tmp_path, name):
    path = a_path(sigmas=(1.0, 0.1 + 0.2, 0.0), seed=None)
    written = path.save(tmp_path / name)
    assert written.suffix == ".safetensors"
    for where in (written, tmp_path / name):
        back = GivenPath.load(where)
        assert back == path
        assert torch.equal(back.latents, path.latents)
        assert (back.sigmas, back.prompt, back.seed, back.origin) == (
            path.sigmas, path.prompt, path.seed, path.origin,
        )  # fmt: skip
    assert [each.name for each in written.parent.iterdir()] == [written.name]


def _rewritten(file, latents, **changes):
    about = {
        "schema_version": 1, "sigmas": [1.0, 0.4, 0.0], "prompt": "a red círcle", "seed": 7,
        "origin": "noised", "digest": a_path().digest, **changes,
    }  # fmt: skip
    save_file({"latents": latents}, file, metadata={"dit_lens.given_path": json.dumps(about)})


def test_files_that_cannot_be_trusted_are_refused(tmp_path):
    file = tmp_path / "path.safetensors"
    with pytest.raises(BadInput, match="no given path to read"):
        GivenPath.load(file)
    file.write_bytes(b"not a tensor in sight")
    with pytest.raises(BadInput, match="damaged"):
        GivenPath.load(file)
    save_file({"latents": a_path().latents}, file)
    with pytest.raises(BadInput, match="holds no given path"):
        GivenPath.load(file)
    _rewritten(file, a_path().latents)
    assert GivenPath.load(file) == a_path()
    _rewritten(file, a_path().latents + 1)
    with pytest.raises(BadInput, match="was changed"):
        GivenPath.load(file)
    _rewritten(file, a_path().latents, schema_version=2)
    with pytest.raises(BadInput, match="schema_version 2; this dit_lens reads 1"):
        GivenPath.load(file)
    _rewritten(file, a_path().latents, sigmas="high")
    with pytest.raises(BadInput, match="damaged"):
        GivenPath.load(file)


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunFailure, match=r"Cannot write .*bytes"):
        a_path().save(tmp_path / "taken" / "path")


def test_a_path_knows_the_runs_it_fits():
    path = a_path()
    path.require_fits((2, 2, 2), torch.tensor([1.0, 0.4, 0.0]))
    with pytest.raises(BadInput, match="one resolution"):
        path.require_fits((2, 4, 4), path.sigmas)
    with pytest.raises(BadInput, match=r"2 steps from sigma 1, and this run has 3 from 1"):
        path.require_fits((2, 2, 2), (1.0, 0.7, 0.4, 0.0))
