"""What it costs to know what a model is: reading it as it opens, and asking before a run if it changed.

    python analyses/identity.py               # the embedded model, and a random one of 38 blocks
    python analyses/identity.py --json        # the same numbers for a program

Opening reads every weight. It is compared, turn by turn in one process, with a pass that looks for NaN
alone and takes 64 values of every weight, which tells less.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import dit_lens as dl
from dit_lens.model.state import weigh_parts
from dit_lens.model.weights import modules_of, sample_of, weights_of
from dit_lens.zoo.random_pipelines import random_pipeline

Work = Callable[[], Any]


@torch.no_grad()
def sampled_only(pipeline: Any) -> None:
    """A look for NaN, and a sample of every weight."""
    for part, module in modules_of(pipeline).items():
        for name, (value, _) in weights_of(part, module).items():
            if value.is_floating_point() and value.numel():
                low, high = torch.aminmax(value)
                assert bool(torch.isfinite(low) & torch.isfinite(high))
            sample_of(name, value)


def median_ms(works: list[Work], turns: int) -> list[float]:
    """Median milliseconds of each, side by side: a busy minute slows all of them."""
    took: list[list[float]] = [[] for _ in works]
    for _ in range(turns + 1):
        for work, times in zip(works, took, strict=True):
            started = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - started))
    return [statistics.median(times[1:]) for times in took]


def wide(blocks: int = 38) -> Any:
    """A random pipeline with as many blocks as SD3.5-large, 384 channels wide."""
    from diffusers import SD3Transformer2DModel

    pipeline = random_pipeline("sd3.5")
    config = {key: value for key, value in pipeline.transformer.config.items() if not key.startswith("_")}
    size = {"attention_head_dim": 32, "num_attention_heads": 12, "caption_projection_dim": 384}
    config |= {"num_layers": blocks, "dual_attention_layers": (), **size}
    pipeline.transformer = SD3Transformer2DModel(**config).eval()
    return pipeline


def measured(pipeline: Any, turns: int) -> dict[str, float]:
    """Milliseconds: reading all of it before and now, and the check before a run."""
    parts = modules_of(pipeline)
    works: list[Work] = [lambda: sampled_only(pipeline), lambda: weigh_parts(parts, finite=True)]
    before, now = median_ms(works, turns)
    lens = dl.load(pipeline)
    lens.generate("a large red circle", steps=1, max_sequence_length=0, progress=False)
    (check,) = median_ms([lens.identity], 5 * turns)
    tensors = sum(len(weights_of(part, module)) for part, module in parts.items())
    return {"tensors": tensors, "sampled only": before, "opening": now, "ratio": now / before, "check": check}


def main(
    turns: int = typer.Option(7, min=1, help="How often each is timed."),
    as_json: bool = typer.Option(False, "--json", help="Print the numbers alone."),
) -> None:
    """Time what identities cost. Example: python analyses/identity.py --turns 3"""
    pipelines = {"shapes-sd3": dl.load("shapes-sd3").pipeline, "random, 38 blocks": wide()}
    found = {name: measured(pipeline, turns) for name, pipeline in pipelines.items()}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("", "tensors", "NaN and samples, ms", "opening now, ms", "ratio", "check before a run, ms")
    for name, row in found.items():
        table.add_row(name, *(f"{value:.3g}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
