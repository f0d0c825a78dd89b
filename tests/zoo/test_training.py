"""The recipe's machinery: resumable, repeatable, and its miniature from nothing to a pipeline folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import dit_lens as dl
from dit_lens.zoo.loop import Recipe, fit, read_state, scaled

pytestmark = pytest.mark.tiny

RECIPE = Recipe(steps=12, batch=4, learning_rate=1e-2, warmup=2, ema=0.9, seed=5)


def line(seed: int = 0) -> tuple[nn.Module, object]:
    """A line to fit: enough to see whether a resumed run is the same run."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 1)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(4, 3, generator=generator)
        return (model(x) - x.sum(1, keepdim=True)).pow(2).mean()

    return model, loss


def weights(model: nn.Module) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in model.parameters()]


def test_a_resumed_run_is_the_same_run(tmp_path):
    whole, loss = line()
    fit("line", whole, loss, RECIPE, tmp_path / "a")
    first, loss = line()
    fit("line", first, loss, RECIPE, tmp_path / "b", stop_after=5)
    assert read_state(tmp_path / "b", "line")["step"] == 5
    second, loss = line(seed=99)  # other initial weights: they must come from the checkpoint
    fit("line", second, loss, RECIPE, tmp_path / "b")
    assert all(np.array_equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))


def test_a_finished_stage_is_read_back_without_a_step(tmp_path):
    model, loss = line()
    fit("line", model, loss, RECIPE, tmp_path)
    again, _ = line(seed=7)
    fit("line", again, lambda *_: pytest.fail("trained again"), RECIPE, tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), weights(again), strict=True))


def test_another_recipe_starts_afresh(tmp_path):
    model, loss = line()
    fit("line", model, loss, RECIPE, tmp_path)
    fresh, loss = line()
    other = Recipe(steps=6, batch=4, learning_rate=1e-3, warmup=2, seed=6)
    fitted = fit("line", fresh, loss, other, tmp_path)
    assert fitted.losses[-1][0] == 6 and read_state(tmp_path, "line")["step"] == 6


def test_training_reduces_the_loss_and_ends_with_the_average(tmp_path):
    model, loss = line()
    fitted = fit("line", model, loss, Recipe(400, 4, 5e-2, warmup=5, ema=0.9), tmp_path)
    assert fitted.losses[-1][1] < 0.05 * fitted.losses[0][1]
    average = load_file(tmp_path / "line.safetensors")["ema/weight"]
    assert torch.equal(model.weight.detach(), average)


def test_the_rate_warms_up_and_decays_to_zero():
    recipe = Recipe(steps=100, batch=1, learning_rate=1.0, warmup=10)
    rates = [recipe.rate(s) for s in range(100)]
    assert rates[0] < rates[9] > rates[50] > rates[99] >= 0 and rates[99] < 0.01
    assert scaled(recipe, 0.1).steps == 10


def test_the_miniature_trains_a_pipeline_that_the_lens_opens(tmp_path):
    """One command from nothing to a folder: the same code path as the shipped weights."""
    from dit_lens.zoo import train

    app = typer.Typer()
    app.command()(train.main)
    arguments = [
        "--miniature",
        "--out",
        str(tmp_path / "out"),
        "--work",
        str(tmp_path / "work"),
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / "shapes-sd3"
    assert not [f for f in folder.rglob("*") if f.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    stages = json.loads((tmp_path / "out" / "training.json").read_text())
    assert [s["name"] for s in stages] == ["text", "autoencoder", "transformer", "refinement", "clip"]
    lens = dl.load(str(folder))
    trajectory = lens.generate(
        "a large red striped star on the left on a white background", steps=2, progress=False
    )
    assert trajectory.images[0].size == (48, 48)
    assert lens.defaults.max_sequence_length == 0 and lens.defaults.steps == 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--precision", "fp8"], "there are fp32 and bf16"), (["--device", "cuda:0"], "no CUDA device")],
)
def test_bad_flags_say_what_there_is(tmp_path, arguments, says):
    from dit_lens.zoo import train

    if torch.cuda.is_available() and "cuda:0" in arguments:
        pytest.skip(reason="this machine has the CUDA device that the test wants to be absent")
    app = typer.Typer()
    app.command()(train.main)
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "o"), "--work", str(tmp_path / "w")])
    assert done.exit_code == 2 and says in " ".join(done.output.split())
    assert not (tmp_path / "o").exists()
