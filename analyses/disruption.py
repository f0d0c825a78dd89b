"""Are massive channels critical? The claim of disruption.yaml, through the Python API.

Does zeroing the massive channels of every block take the image further from its prompt than zeroing as many
low, random or next-largest channels, and further than a change of the same size elsewhere? (arXiv 2605.13974)

    python analyses/disruption.py                          # the embedded model, one or two minutes
    python analyses/disruption.py --prompts 24 --steps 20
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import dit_lens as dl

PROMPTS = Path(__file__).parent / "prompts"
CONTROLS = {"low": 1, "random": 5, "random_rank_window": 5, "energy_matched": 5}


def lines(file: str) -> list[str]:
    """The prompts of a file, one per line."""
    text = (PROMPTS / file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def main(
    prompts: Annotated[int, typer.Option(help="How many held-out prompts judge.")] = 12,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 10,
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("disruption.html"),
) -> None:
    """Print whether zeroing massive channels disrupts more than every control, and draw it.

    Example: python analyses/disruption.py --prompts 24 --out disruption.html
    """
    lens = dl.load("shapes-sd3")
    sampling = {"steps": steps}

    # One list of prompts chooses the channels, another judges them.
    stats = dl.discover(lens, lines("shapes.txt"), seeds=[0], sampling=sampling)
    massive = stats.select(top_k=4, statistic="abs_mean")

    # The question declares the arms it needs: the unedited run, the treatment, every draw of the controls.
    question = dl.QUESTIONS["disruption"]
    arms = question.arms(dl.Setting(massive, stats, lens.num_blocks, steps, controls=CONTROLS))
    measures = dl.default_measures(lens, ["alignment", "ssim"])
    held_out = lines("shapes_held_out.txt")[:prompts]
    study = dl.run_study(lens, arms, held_out, [0], measures=measures, sampling=sampling)

    primary = question.answer(study.effects, arms, metrics=measures.names).answers[0]
    typer.echo(primary.sentence)
    typer.echo(dl.plots.save(dl.plots.disruption(study, metric=primary.metric), out))


if __name__ == "__main__":
    typer.run(main)
