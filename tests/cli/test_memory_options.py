"""What saves memory, on the command line and in a spec: it reaches `load`, whose refusals are status 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

pytestmark = pytest.mark.tiny

COMMANDS = {
    "check": ("check", "{model}"),
    "discover": ("discover", "{model}", "--prompts", "{folder}/p.txt", "--steps", "1", "--out", "{out}.json"),
    "segment": ("segment", "a star", "--model", "{model}", "--steps", "1", "--out", "{out}.png"),
    "transport": (
        "transport",
        "a star",
        "a circle",
        "--model",
        "{model}",
        "--strength=1",
        "--out",
        "{out}.png",
    ),
    "run": ("run", "{folder}/quick.yaml", "--out", "{out}"),
}
"""Everything that opens a model of the user's and runs it."""

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device to offload from")


@pytest.fixture(scope="module")
def listing_t5(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose index lists a T5 that was not downloaded, and few steps by default."""
    folder = tmp_path_factory.mktemp("models") / "listing_t5"
    shutil.copytree(model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "text_encoder_3": ["transformers", "T5EncoderModel"],
        "tokenizer_3": ["transformers", "T5TokenizerFast"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "dit_lens.json").write_text(json.dumps({"sampling": {"steps": 1, "max_sequence_length": 2}}))
    return folder


def words(name: str, model: Path, folder: Path, **options: str | bool) -> list[str]:
    """A command on a model; options become `--set model.…` where it takes a spec."""
    (folder / "p.txt").write_text("a star\n", encoding="utf-8")
    spec = {"model": str(model), "prompts": ["a star"], "seeds": [0], "sections": ["spectrum"]}
    spec |= {"sampling": {"steps": 1}, "samples": {"count": 0}}
    (folder / "quick.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    said = [word.format(model=model, folder=folder, out=folder / "out") for word in COMMANDS[name]]
    for option, value in options.items():
        if name == "run":
            said += ["--set", f"model.{option}={str(value).lower()}"]
        else:
            said += [f"--{option.replace('_', '-')}", *([str(value)] if value is not True else [])]
    return said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_t5_can_be_dropped(dit, listing_t5: Path, tmp_path: Path, name: str) -> None:
    refused = dit(*words(name, listing_t5, tmp_path))
    assert refused.exit_code == 2
    assert "drop_t5=True" in refused.stderr
    assert not list(tmp_path.glob("out*"))
    done = dit(*words(name, listing_t5, tmp_path, drop_t5=True))
    assert done.exit_code == 0, done.output
    assert name == "check" or list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"offload": "model"}, "offload='model' needs an accelerator to offload from: add device='cuda'"),
        ({"offload": "sequential", "device": "cpu"}, "offload='sequential' needs an accelerator"),
        pytest.param(
            {"offload": "model", "device": "cuda"}, "device='cuda' was asked for", marks=no_cuda, id="cuda"
        ),
        ({"offload": "disk"}, "offload"),
        ({"device_map": "balanced", "device": "cpu"}, "device_map places the parts itself; leave out device"),
        ({"device_map": "balanced", "offload": "model"}, "device_map places the parts itself"),
    ],
)
def test_what_does_not_go_together_is_status_2(
    dit, model: Path, tmp_path: Path, name: str, options: dict[str, str], expected: str
) -> None:
    done = dit(*words(name, model, tmp_path, **options))
    assert done.exit_code == 2, done.output
    assert expected in done.stderr
    assert "Traceback" not in done.output
    assert not list(tmp_path.glob("out*"))


def test_without_t5_already_dropping_it_changes_nothing(dit, model: Path, tmp_path: Path) -> None:
    found = []
    for options in ({}, {"drop_t5": True}):
        done = dit(*words("discover", model, tmp_path, **options))
        assert done.exit_code == 0, done.output
        found.append((tmp_path / "out.json").read_bytes())
    assert found[0] == found[1]


def test_a_run_keeps_what_its_model_was_opened_with(dit, listing_t5: Path, tmp_path: Path) -> None:
    assert dit(*words("run", listing_t5, tmp_path, drop_t5=True)).exit_code == 0
    kept = tmp_path / "out" / "spec.yaml"
    model = yaml.safe_load(kept.read_text(encoding="utf-8"))["model"]
    assert model == {"name": str(listing_t5), "device": "cpu", "drop_t5": True}
    again = dit("plan", kept, "--no-timing")
    assert again.exit_code == 0, again.output


def test_a_device_map_takes_the_place_of_a_device(dit, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="it is what places the parts")
    words("run", model, tmp_path)
    mapped = ("--set", "model.device_map=balanced", "--no-timing")
    planned = dit("plan", tmp_path / "quick.yaml", *mapped)
    assert planned.exit_code == 0, planned.output
    # The spec of a run says device: cpu, which is taken back first.
    own = yaml.safe_load((tmp_path / "quick.yaml").read_text())
    own["model"] = {"name": str(model), "device": "cpu"}
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(own))
    assert dit("plan", tmp_path / "quick.yaml", *mapped).exit_code == 2
    assert dit("plan", tmp_path / "quick.yaml", "--set", "model.device=null", *mapped).exit_code == 0
