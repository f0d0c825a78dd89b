"""Three programs that compute the same block × step map, for `benchmark.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nnsight import NNsight
from torch import Tensor

import dit_lens as dl

Cell = tuple[int, int]
"""(block, step): one arm of the map."""

Advance = Callable[[int], None]
"""Told how many block passes were just done; comes back when it is this program's turn again."""

Program = Callable[["Task", Advance], "Outcome"]
"""One way of computing the map."""

PROMPT, SEED = "a large red circle on a blue background", 0


@dataclass(frozen=True)
class Task:
    """The map that every contender computes; the clean trajectory belongs to it."""

    cells: tuple[Cell, ...]
    blocks: int
    steps: int
    guidance: float
    arms_per_forward: int
    channels: tuple[int, ...]

    def batches(self) -> list[tuple[Cell | None, ...]]:
        """Arms that go together; the clean trajectory goes alone."""
        size = self.arms_per_forward
        return [(None,), *(self.cells[i : i + size] for i in range(0, len(self.cells), size))]

    def rows_at(self, batch: Sequence[Cell | None], step: int) -> dict[int, list[int]]:
        """block → rows of a forward (both guidance branches) that are edited behind it at this step."""
        found: dict[int, list[int]] = {}
        branches = 2 if self.guidance > 1 else 1
        for k, cell in enumerate(batch):
            if cell is not None and cell[1] == step:
                rows = found.setdefault(cell[0], [])
                rows += [branch * len(batch) + k for branch in range(branches)]
        return found


@dataclass
class Outcome:
    """What one contender made of the task: final latents and images, the clean ones first."""

    latents: Tensor
    images: list[Any]
    block_passes: int
    forwards: int


# ------------------------------------------------------------------------------------------ the contenders
def with_dit_lens(lens: Any) -> Program:
    """One graph, one run. Building, checking and planning count too."""

    def run(task: Task, advance: Advance) -> Outcome:
        graph = dl.InterventionGraph(sampling={"steps": task.steps, "guidance_scale": task.guidance})
        clean = graph.trajectory(prompt=PROMPT, seed=SEED)
        arms = [graph.trajectory(prompt=PROMPT, seed=SEED) for _ in task.cells]
        for arm, (block, step) in zip(arms, task.cells, strict=True):
            at = f"blocks.{block}.resid_post.image"
            graph.edit(arm, at=at, op="zero", channels=task.channels, steps=[step])
        done = dl.run(
            lens,
            graph,
            arms_per_forward=task.arms_per_forward,
            sham=False,
            keep="final",
            progress=False,
            on_forward=advance,
        )
        found = [done[each] for each in (clean, *arms)]
        return Outcome(
            torch.cat([each.latents for each in found]),
            [each.image for each in found],
            done.proof.block_passes,
            done.proof.forwards,
        )

    return run


class PlainLoop:
    """The denoising loop of a diffusers pipeline, written out; `velocity` is the transformer's call."""

    def __init__(self, pipeline: Any, task: Task, text_tokens: int) -> None:
        self.pipeline, self.task = pipeline, task
        embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(
            PROMPT, None, None, do_classifier_free_guidance=task.guidance > 1, max_sequence_length=text_tokens
        )
        self.guided = task.guidance > 1
        self.embeds = [negative, embeds] if self.guided else [embeds]
        self.pooled = [negative_pooled, pooled] if self.guided else [pooled]
        size = pipeline.default_sample_size
        channels = pipeline.transformer.config.in_channels
        noise = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(SEED))
        self.noise = noise.to(embeds)
        self.block_passes = self.forwards = 0

    def denoise(
        self, rows: int, advance: Advance | None = None, on_step: Callable[[int], None] | None = None
    ) -> Tensor:
        """Final latents of that many rows from the same noise: [rows, C, h, w]."""
        pipeline, task = self.pipeline, self.task
        scheduler = pipeline.scheduler
        scheduler.set_timesteps(task.steps)
        embeds = torch.cat([each.repeat(rows, 1, 1) for each in self.embeds])
        pooled = torch.cat([each.repeat(rows, 1) for each in self.pooled])
        x = self.noise.repeat(rows, 1, 1, 1)
        for step, t in enumerate(scheduler.timesteps):
            if on_step is not None:
                on_step(step)
            hidden = torch.cat([x, x]) if self.guided else x
            velocity = pipeline.transformer(
                hidden_states=hidden,
                timestep=t.expand(len(hidden)),
                encoder_hidden_states=embeds,
                pooled_projections=pooled,
                return_dict=False,
            )[0]
            if self.guided:
                uncond, cond = velocity.chunk(2)
                velocity = uncond + task.guidance * (cond - uncond)
            x = scheduler.step(velocity, t, x, return_dict=False)[0]
            self.block_passes += rows * task.blocks
            self.forwards += 1
            if advance is not None:
                advance(rows * task.blocks)
        return x

    def decode(self, latents: Tensor) -> list[Any]:
        """Images, one batch at a time."""
        vae = self.pipeline.vae
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(latents, return_dict=False)[0]
        return list(self.pipeline.image_processor.postprocess(pixels, output_type="pil"))

    def outcome(self, finished: Sequence[Tensor]) -> Outcome:
        images = [image for latents in finished for image in self.decode(latents)]
        return Outcome(torch.cat(list(finished)), images, self.block_passes, self.forwards)


def with_hooks(pipeline: Any, text_tokens: int) -> Program:
    """Plain torch hooks; every arm is denoised from its noise through every block."""

    @torch.no_grad()
    def run(task: Task, advance: Advance) -> Outcome:
        loop = PlainLoop(pipeline, task, text_tokens)
        finished = []
        for batch in task.batches():
            edited: dict[int, list[int]] = {}

            def next_step(step: int, batch: Any = batch, edited: dict[int, list[int]] = edited) -> None:
                edited.clear()
                edited.update(task.rows_at(batch, step))

            def hook_of(block: int, edited: dict[int, list[int]] = edited) -> Any:
                def hook(module: Any, args: Any, output: Any) -> Any:
                    if block not in edited:
                        return None
                    context, image = output
                    image = image.clone()
                    for channel in task.channels:
                        image[edited[block], :, channel] = 0
                    return context, image

                return hook

            blocks = sorted({cell[0] for cell in batch if cell is not None})
            handles = [
                pipeline.transformer.transformer_blocks[b].register_forward_hook(hook_of(b)) for b in blocks
            ]
            try:
                finished.append(loop.denoise(len(batch), advance, next_step))
            finally:
                for handle in handles:
                    handle.remove()
        return loop.outcome(finished)

    return run


def with_nnsight(pipeline: Any, text_tokens: int) -> Program:
    """Plain nnsight: one trace of the denoising loop per batch of arms, edits in the order of the forward."""
    model = NNsight(pipeline.transformer)

    @torch.no_grad()
    def run(task: Task, advance: Advance) -> Outcome:
        loop = PlainLoop(pipeline, task, text_tokens)
        finished = []
        for batch in task.batches():
            edits = [sorted(task.rows_at(batch, step).items()) for step in range(task.steps)]

            def denoise(rows: int) -> Tensor:
                return loop.denoise(rows)

            with model.trace(len(batch), fn=denoise) as tracer:
                for step in tracer.iter[: task.steps]:
                    for block, rows in edits[step]:
                        context, image = model.transformer_blocks[block].output
                        image = image.clone()
                        for channel in task.channels:
                            image[rows, :, channel] = 0
                        model.transformer_blocks[block].output = (context, image)
                latents = tracer.result.save()
            finished.append(latents)
            # Not inside the trace: nnsight would not bear another program's trace within its own.
            advance(len(batch) * task.blocks * task.steps)
        return loop.outcome(finished)

    return run
