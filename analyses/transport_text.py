"""Can one prompt's picture be carried into another's? transport_text.yaml's claim, through the Python API.

Do massive channels, carried from one prompt's run into another's with the same noise, move the picture toward
the source's prompt further than as many other channels do, moved by as much? (arXiv 2605.13974)

    python analyses/transport_text.py                      # the embedded model, one or two minutes
    python analyses/transport_text.py --prompts 6 --steps 6
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import dit_lens as dl

PROMPTS = Path(__file__).parent / "prompts"


def lines(file: str) -> list[str]:
    """The prompts of a file, one per line."""
    text = (PROMPTS / file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def main(
    prompts: Annotated[int, typer.Option(help="How many pairs of prompts judge, of 12.")] = 12,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 10,
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("transport_text.html"),
) -> None:
    """Print whether carrying massive channels moves the picture more than every control does, and draw it.

    Example: python analyses/transport_text.py --prompts 6 --out transport_text.html
    """
    lens = dl.load("shapes-sd3")
    sampling = {"steps": steps}
    stats = dl.discover(lens, lines("shapes.txt"), seeds=[0], sampling=sampling)
    massive = stats.select(top_k=4)

    low, random = (dl.controls(massive, stats, kind)[0].channels for kind in ("low", "random"))
    ways = {"massive": (massive, dl.Patch()), "low": (low, dl.Patch()), "random": (random, dl.Patch())}
    ways["energy_matched"] = (random, dl.PatchMatched(massive.blocks))
    arms = [dl.ablation_arm(name, name, *way, donor=True) for name, way in ways.items()]

    pairs = [line.split(" -> ") for line in lines("shapes_pairs_all.txt")[:prompts]]
    donors = {target: source for source, target in pairs}
    measures = dl.default_measures(lens, ["margin", "toward_latent"])
    study = dl.run_study(lens, arms, [*donors], [0], donors=donors, measures=measures, sampling=sampling)

    controls = {name: name for name in ways if name != "massive"}
    found = dl.compare(study.effects, treatment="massive", controls=controls, metrics=["margin"])
    for effect in found.values():
        typer.echo(dl.judge(effect).sentence)
    typer.echo(dl.plots.save(dl.plots.levels(study, metric="margin"), out))


if __name__ == "__main__":
    typer.run(main)
