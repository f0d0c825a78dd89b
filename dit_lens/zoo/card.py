"""Measure the embedded models and write their model card: `python -m dit_lens.zoo.card`.

Every number on the card is measured by this command on the weights that lie in the package; the training
figures come from the `training.json` that the training run left.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

import dit_lens as dl
from dit_lens import zoo
from dit_lens.report.plots import training as figures
from dit_lens.zoo.diffusion import SIGNATURE
from dit_lens.zoo.measure import held_out_captions, picture_accuracy, scorer_accuracy
from dit_lens.zoo.readout import load_reader
from dit_lens.zoo.recipes import ZooRecipe
from dit_lens.zoo.scenes import ATTRIBUTES, Scene

HERE = Path(__file__).parent
PICTURES = "card"
DISCOVERY_PROMPTS = 24


def measure(lens: Any, captions: list[Scene], *, seed: int = 0) -> tuple[dict[str, Any], list[Image.Image]]:
    """All numbers of the card, and the generated pictures that they were read from."""
    reader = load_reader()
    texts = [scene.caption for scene in captions]
    lens.generate(texts[0], seeds=[seed], progress=False)  # the first call pays for warming up
    started = time.perf_counter()
    lens.generate(texts[0], seeds=[seed], progress=False)
    seconds = time.perf_counter() - started
    images = lens.generate(texts, seeds=[seed], batch_size=10).images
    stats = dl.discover(lens, texts[:DISCOVERY_PROMPTS], seeds=[seed])
    numbers = {
        "captions": len(captions),
        "seed": seed,
        "sampling": asdict(lens.defaults),
        "seconds_per_image": round(seconds, 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "megabytes": round(sum(f.stat().st_size for f in _assets()) / 1e6, 1),
        "parameters": {
            "transformer": _count(lens.pipeline.transformer),
            "vae": _count(lens.pipeline.vae),
            "text_encoder": _count(lens.pipeline.text_encoder),
            "text_encoder_2": _count(lens.pipeline.text_encoder_2),
            "scorer": _count(reader.model),
        },
        "scorer": scorer_accuracy(reader),
        "generator": picture_accuracy(reader, images, captions),
        "spectrum": _spectrum(stats),
    }
    return numbers, images


def _assets() -> list[Path]:
    return [f for folder in (zoo.path(), zoo.scorer_path()) for f in folder.rglob("*") if f.is_file()]


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _spectrum(stats: Any) -> list[dict[str, Any]]:
    """Per block: the four largest channels and their ratios to the channel median, by both readings."""
    rows = []
    readings = {
        name: stats.profile(name, stream="image", branch="cond", steps="all")
        for name in ("abs_mean", "mean_abs")
    }
    for block in readings["abs_mean"].coords["block"].values.tolist():
        row: dict[str, Any] = {"block": int(block)}
        for name, profile in readings.items():
            values = profile.sel(block=block).values
            top = np.argsort(-values)[:4]
            row[name] = {
                "channels": [int(c) for c in top],
                "ratios": [round(float(values[c] / np.median(values)), 1) for c in top],
            }
        rows.append(row)
    return rows


def sample_grid(images: list[Image.Image], *, columns: int = 10, rows: int = 4, zoom: int = 2) -> Image.Image:
    """The first pictures side by side."""
    edge = images[0].width * zoom
    grid = Image.new("RGB", (columns * edge, rows * edge))
    for index, image in enumerate(images[: columns * rows]):
        place = (index % columns * edge, index // columns * edge)
        grid.paste(image.resize((edge, edge), Image.Resampling.NEAREST), place)
    return grid


def write_card(
    folder: Path, numbers: dict[str, Any], training: list[dict[str, Any]], images: list[Image.Image]
) -> Path:
    """Write `README.md`, `card.json` and the card's pictures."""
    pictures = folder / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    sample_grid(images).save(pictures / "samples.png", optimize=True)
    losses = pd.DataFrame(
        [(t["name"], step, loss) for t in training for step, loss in t["losses"]],
        columns=["stage", "step", "loss"],
    )
    ratios = pd.DataFrame(
        [
            (row["block"], rank + 1, row[name]["channels"][rank], name, row[name]["ratios"][rank])
            for row in numbers["spectrum"]
            for name in ("abs_mean", "mean_abs")
            for rank in range(4)
        ],
        columns=["block", "rank", "channel", "statistic", "ratio"],
    )
    for name, figure in (("loss", figures.training_curve(losses)), ("spectrum", figures.top_ratios(ratios))):
        dl.plots.save(figure, pictures / f"{name}.png", width=900, height=340, scale=1.5)
    (folder / "card.json").write_text(json.dumps({"training": training, **numbers}, indent=1) + "\n")
    env = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    text = env.get_template("card.md.j2").render(
        **numbers,
        training=training,
        attributes=ATTRIBUTES,
        recipe=asdict(ZooRecipe()),
        architecture=SIGNATURE,
        pictures=PICTURES,
    )
    card = folder / "README.md"
    card.write_text(text)
    return card


def main(
    captions: Annotated[
        int, typer.Option(help="How many held-out captions to judge the generator on.")
    ] = 200,
    out: Annotated[Path, typer.Option(help="Folder of the card.")] = HERE,
) -> None:
    """Measure shapes-sd3 and shapes-clip and write their model card (about five minutes on two cores).

    Needs the extra [export] (kaleido) and Debian's Chromium for the card's figures.

    Example: python -m dit_lens.zoo.card
    """
    lens = dl.load("shapes-sd3")
    numbers, images = measure(lens, held_out_captions(captions))
    training = json.loads((HERE / "training.json").read_text())
    print(write_card(out, numbers, training, images))


if __name__ == "__main__":
    typer.run(main)
