"""What the runner saves: a full block × step map three ways, on identical arms, in one process.

    python analyses/benchmark.py              # the embedded model at 4 steps, some twenty seconds
    python analyses/benchmark.py --full       # 8 blocks × 20 steps, some minutes
    python analyses/benchmark.py --json       # the same numbers for a program

Every cell of the map is an arm: a trajectory in which some channels behind one block are zeroed at one step,
denoised to its image. Three programs run these arms, each on a pipeline of its own with the same weights, and
with as many arms per forward pass:

- `dit_lens`: `dl.run` of one intervention graph, which computes nothing twice;
- `hooks`: the loop that one writes by hand, plain torch hooks on the plain pipeline, each arm from its noise;
- `nnsight`: the same loop as one nnsight trace per batch of arms.

Then the clean path: `lens.generate` against the plain diffusers pipeline.

A machine is rarely idle, and never equally busy twice. So the programs run side by side, one at a time, in
short turns: whoever has done the smallest share of its work goes on, and a busy minute slows all of them.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
import typer
from benchmark_programs import (
    PROMPT,
    SEED,
    Outcome,
    Program,
    Task,
    with_dit_lens,
    with_hooks,
    with_nnsight,
)
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import dit_lens as dl
from dit_lens import zoo
from dit_lens.errors import BadInput

SLICES = 200
"""Turns of each program: many, but none so short that it would only refill the caches."""


def floor(blocks: int, steps: int) -> int:
    """Fewest block passes of a full map: behind its edit an arm shares nothing with any other.

    At its own step it runs the blocks behind the edited one, S·L(L−1)/2 over all arms; then whole steps,
    L²·S(S−1)/2; and the clean trajectory runs once, S·L.
    """
    whole = blocks**2 * steps * (steps - 1) // 2
    return steps * blocks * (blocks - 1) // 2 + whole + steps * blocks


def without_reuse(blocks: int, steps: int) -> int:
    """Block passes of the same map where every arm runs from its noise: L²·S² + S·L."""
    return blocks**2 * steps**2 + steps * blocks


@dataclass
class Clock:
    """Seconds that one program held the baton, by the wall and by the processor, and its work so far."""

    total: int
    done: int = 0
    seconds: float = 0.0
    processor: float = 0.0


class Baton:
    """Lets programs run side by side, one at a time: each in a thread, and only the holder goes on."""

    def __init__(self, totals: Mapping[str, int], on_work: Callable[[int], None]) -> None:
        self.clocks = {name: Clock(total) for name, total in totals.items()}
        self.running = list(totals)
        self.holder = self.running[0]
        self.error: BaseException | None = None
        self._since = 0
        self._started = (0.0, 0.0)
        self._turn = threading.Condition()
        self._on_work = on_work

    def run(self, programs: Mapping[str, Callable[[Callable[[int], None]], Any]]) -> dict[str, Any]:
        """The results of programs that report their work; raises what one of them raised."""
        results: dict[str, Any] = {}

        def body(name: str) -> None:
            self._wait(name)
            try:
                if self.error is None:
                    results[name] = programs[name](lambda work: self._work(name, work))
            except BaseException as error:
                self.error = self.error or error
            finally:
                self._stop(name)
                self.running.remove(name)
                self._hand_over()

        # Daemons: a Ctrl-C here need not wait for them.
        threads = [threading.Thread(target=body, args=(name,), daemon=True) for name in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.error is not None:
            raise self.error
        return results

    def _work(self, name: str, work: int) -> None:
        self._on_work(work)
        clock = self.clocks[name]
        clock.done += work
        self._since += work
        if self._since * SLICES < clock.total:
            return
        self._stop(name)
        self._hand_over()
        self._wait(name)
        if self.error is not None:
            raise RuntimeError("another program failed")

    def _hand_over(self) -> None:
        with self._turn:
            if self.running:
                self.holder = min(
                    self.running, key=lambda name: self.clocks[name].done / self.clocks[name].total
                )
            self._turn.notify_all()

    def _wait(self, name: str) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self.holder == name)
        self._since = 0
        self._started = time.perf_counter(), time.process_time()

    def _stop(self, name: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        clock = self.clocks[name]
        clock.seconds += time.perf_counter() - self._started[0]
        clock.processor += time.process_time() - self._started[1]


def pixels_apart(one: list[Any], two: list[Any]) -> int:
    """Largest difference of any pixel of two lists of images, in levels of 0–255."""
    from PIL import ImageChops

    differences = (ImageChops.difference(a, b).getextrema() for a, b in zip(one, two, strict=True))
    return max(high for each in differences for _, high in each)


def measure_map(
    lens: Any, pipelines: list[Any], task: Task, turns: int, on_work: Callable[[int], None]
) -> dict[str, Any]:
    """The map's numbers as plain data; times are those of every turn."""
    tokens = lens.defaults.max_sequence_length
    programs: dict[str, Program] = {
        "dit_lens": with_dit_lens(lens),
        "hooks": with_hooks(pipelines[0], tokens),
        "nnsight": with_nnsight(pipelines[1], tokens),
    }
    passes = without_reuse(task.blocks, task.steps)
    totals = {"dit_lens": floor(task.blocks, task.steps), "hooks": passes, "nnsight": passes}
    clocks: dict[str, list[Clock]] = {name: [] for name in programs}
    outcomes: dict[str, Outcome] = {}
    for _ in range(turns):
        baton = Baton(totals, on_work)
        outcomes = baton.run(
            {name: (lambda tell, run=run: run(task, tell)) for name, run in programs.items()}
        )
        for name, clock in baton.clocks.items():
            clocks[name].append(clock)
    ours = outcomes["dit_lens"]
    found: dict[str, Any] = {
        **asdict(task),
        "cells": len(task.cells),
        "floor": totals["dit_lens"],
        "without_reuse": passes,
        "programs": {},
    }
    for name, outcome in outcomes.items():
        both = list(zip(clocks["dit_lens"], clocks[name], strict=True))
        found["programs"][name] = {
            "block_passes": outcome.block_passes,
            "forwards": outcome.forwards,
            "seconds": [clock.seconds for clock in clocks[name]],
            "processor_seconds": [clock.processor for clock in clocks[name]],
            "latents_apart": float((outcome.latents - ours.latents).abs().max()),
            "pixels_apart": pixels_apart(outcome.images, ours.images),
            "dit_lens_takes": {
                "block_passes": ours.block_passes / outcome.block_passes,
                "seconds": statistics.median(a.seconds / b.seconds for a, b in both),
                "processor_seconds": statistics.median(a.processor / b.processor for a, b in both),
            },
        }
    return found


def measure_clean(
    lens: Any, pipeline: Any, task: Task, turns: int, on_work: Callable[[int], None]
) -> dict[str, Any]:
    """`lens.generate` against the plain pipeline, by turns: one image, from the text to the picture."""
    more = {"guidance_scale": task.guidance, "max_sequence_length": lens.defaults.max_sequence_length}

    def ours() -> Any:
        return lens.generate(PROMPT, SEED, task.steps, progress=False, **more).images[0]

    def plain() -> Any:
        generator = torch.Generator().manual_seed(SEED)
        return pipeline(PROMPT, num_inference_steps=task.steps, generator=generator, **more).images[0]

    equal = ours().tobytes() == plain().tobytes()
    pairs: list[tuple[Clock, Clock]] = []
    for turn in range(turns):
        pair = (Clock(0), Clock(0))
        both = list(zip(pair, (ours, plain), strict=True))
        for clock, go in both if turn % 2 else reversed(both):
            wall, processor = time.perf_counter(), time.process_time()
            go()
            clock.seconds, clock.processor = time.perf_counter() - wall, time.process_time() - processor
            on_work(task.steps * task.blocks)
        pairs.append(pair)
    return {
        "turns": turns,
        "generate_seconds": statistics.median(a.seconds for a, _ in pairs),
        "diffusers_seconds": statistics.median(b.seconds for _, b in pairs),
        "generate_takes": {
            "seconds": statistics.median(a.seconds / b.seconds for a, b in pairs),
            "processor_seconds": statistics.median(a.processor / b.processor for a, b in pairs),
        },
        "equal": equal,
    }


def plain_pipeline(lens: Any, model: str) -> Any:
    """The pipeline as diffusers loads it: nothing of dit_lens or nnsight has touched it."""
    from diffusers import StableDiffusion3Pipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    folder = zoo.path(model) if model in zoo.names() else model
    parts = ("text_encoder_3", "tokenizer_3")
    absent = {name: None for name in parts if getattr(lens.pipeline, name) is None}
    for library in (logging, transformers_logging):
        library.disable_progress_bar()
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, **absent).to(lens.device)
    if pipeline.transformer.dtype != lens.dtype:
        pipeline.to(lens.dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def benchmark(
    model: str = "shapes-sd3",
    *,
    steps: int | None = 4,
    turns: int = 1,
    arms_per_forward: int | None = None,
    channels: tuple[int, ...] = (0, 1, 2, 3),
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Measure the map and the clean path; plain data. `steps=None` takes the model's default."""
    lens = dl.load(model, device=device)
    steps = lens.defaults.steps if steps is None else steps
    sampling = {"steps": steps, "guidance_scale": lens.defaults.guidance_scale}
    if arms_per_forward is None:
        graph = dl.InterventionGraph(sampling=sampling)
        graph.trajectory(prompt=PROMPT, seed=SEED)
        arms_per_forward = graph.plan(lens).arms_per_forward
    task = Task(
        cells=tuple(product(range(lens.num_blocks), range(steps))),
        blocks=lens.num_blocks,
        steps=steps,
        guidance=lens.defaults.guidance_scale,
        arms_per_forward=arms_per_forward,
        channels=channels,
    )
    pipelines = [plain_pipeline(lens, model) for _ in range(2)]
    clean_turns = 10 * turns
    total = turns * (floor(task.blocks, steps) + 2 * without_reuse(task.blocks, steps))
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not progress,
    )
    with bar:
        row = bar.add_task("block passes", total=total + 2 * clean_turns * steps * task.blocks)

        def on_work(work: int) -> None:
            bar.advance(row, work)

        clean = measure_clean(lens, pipelines[0], task, clean_turns, on_work)
        whole = measure_map(lens, pipelines, task, turns, on_work)
    return {
        "model": lens.name,
        "fingerprint": lens.fingerprint,
        "device": str(lens.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "turns": turns,
        "map": whole,
        "clean": clean,
    }


def show(found: Mapping[str, Any], console: Console) -> None:
    """The numbers for a reader."""
    whole, clean = found["map"], found["clean"]
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    console.print(
        f"{found['model']} on {found['device']}, {threads}. {whole['blocks']} blocks × "
        f"{whole['steps']} steps = {whole['cells']} arms, {whole['arms_per_forward']} per forward pass."
    )
    table = Table(
        "", "block passes", "forwards", "seconds", "dit_lens takes", "latents apart", "pixels apart"
    )
    for name, each in whole["programs"].items():
        table.add_row(
            name,
            f"{each['block_passes']:,}",
            f"{each['forwards']:,}",
            f"{statistics.median(each['seconds']):.2f}",
            f"{each['dit_lens_takes']['seconds']:.3f}",
            f"{each['latents_apart']:.1e}",
            f"{each['pixels_apart']} of 255",
        )
    console.print(table)
    share = whole["floor"] / whole["without_reuse"]
    console.print(f"Floor of block passes: {whole['floor']:,}, {share:.3f} of {whole['without_reuse']:,}.")
    console.print(
        f"Clean path, one image: lens.generate {clean['generate_seconds']:.3f} s, diffusers "
        f"{clean['diffusers_seconds']:.3f} s, ratio {clean['generate_takes']['seconds']:.3f}; the pictures "
        f"are {'equal' if clean['equal'] else 'NOT equal'}."
    )


app = typer.Typer(add_completion=False)


@app.command(help=(__doc__ or "").replace("\n    python", "\n\n    python"))
def main(
    model: str = typer.Option("shapes-sd3", help="An embedded model, a local folder or a hub id."),
    steps: int = typer.Option(4, min=1, help="Denoising steps of the map."),
    full: bool = typer.Option(False, "--full", help="All steps of the model's default sampling."),
    turns: int = typer.Option(1, min=1, help="How often the whole is measured; medians are shown."),
    arms_per_forward: int | None = typer.Option(
        None, min=1, help="Arms in one forward pass, for all three; by default what dit_lens chooses."
    ),
    channels: str = typer.Option("0,1,2,3", help="Channels to zero, with commas."),
    device: str = typer.Option("cpu", help="Where to compute."),
    as_json: bool = typer.Option(False, "--json", help="Print the numbers as JSON."),
) -> None:
    try:
        if not all(each.strip().isdecimal() for each in channels.split(",")):
            raise BadInput(f"--channels is {channels!r}; write channel numbers with commas, such as 3,7.")
        found = benchmark(
            model,
            steps=None if full else steps,
            turns=turns,
            arms_per_forward=arms_per_forward,
            channels=tuple(int(each) for each in channels.split(",")),
            device=device,
        )
    except BadInput as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(found, Console())


if __name__ == "__main__":
    app()
