"""How long a plan will take, measured instead of guessed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dit_lens.graph.plan import Plan, blocks_run
from dit_lens.model.memory import memory_explained
from dit_lens.model.sampling import denoise

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling


def seconds(lens: DiTLens, plan: Plan) -> float:
    """Seconds that a plan will take on this machine, from one denoising step.

    That step runs with one row and with as many as the plan's largest forward has; other sizes lie on the
    line between. Decoding images and reading activations come on top.

    Raises:
        RunFailure: memory does not suffice for the largest forward.
    """
    forwards = [(unit, forward) for unit in plan.units for at_step in unit.steps for forward in at_step]
    if not forwards:
        return 0.0  # then nothing is drawn on either
    most = max(len(forward.rows) for _, forward in forwards)
    prompt, seed = plan.units[0].groups[0]
    one = step_seconds(lens, prompt, seed, plan.graph.sampling, 1)
    slope = 0.0
    if most > 1:
        slope = max(0.0, (step_seconds(lens, prompt, seed, plan.graph.sampling, most) - one) / (most - 1))
    steps = 0.0
    for unit, forward in forwards:
        # Rows join behind the blocks that they leave out: the first of them runs through most blocks.
        blocks = blocks_run(plan.graph, unit, forward)
        steps += max(blocks) * (one - slope) + sum(blocks) * slope
    return steps / plan.graph.num_blocks + plan.own_steps * one


def step_seconds(lens: DiTLens, prompt: str, seed: int, sampling: Sampling, rows: int) -> float:
    """Seconds of one denoising step of equal rows: the quicker of two, since the first one warms up.

    Raises:
        RunFailure: memory does not suffice for so many rows.
    """
    batch = lens.prepare_rows([prompt] * rows, [seed] * rows, sampling)
    taken = []

    def forward(step: int, inputs: Mapping[str, Any]) -> Tensor | None:
        if step:
            return None
        started = time.perf_counter()
        velocity = lens.traced.forward(inputs)
        if velocity.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
        return velocity

    with lens.lock, torch.no_grad(), memory_explained(f"timing {rows} rows"):
        for _ in range(2):
            denoise(batch, forward)
    return min(taken)
