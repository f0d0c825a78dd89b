"""Reading activations while a batch is denoised, with proof that each planned read happened at its step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.adapters import require_finite
from dit_lens.model.hook_points import HookPoint, in_forward_order, select_steps
from dit_lens.model.sampling import denoise

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import SampleBatch


@dataclass(frozen=True)
class Visit:
    """Coordinates of one read: which step (at which noise level), which guidance branch, where."""

    step: int
    sigma: float
    branch: str
    point: HookPoint

    def __str__(self) -> str:
        return f"step {self.step} (sigma {self.sigma:.3g}), branch {self.branch}, {self.point}"


@dataclass(frozen=True)
class Observation:
    """What a run of reads did; `latents` [rows, C, h, w] is None if it stopped after its last read."""

    steps: tuple[int, ...]
    branches: tuple[str, ...]
    points: tuple[HookPoint, ...]
    visits: int
    forwards: int
    seconds: float
    latents: Tensor | None


def observe(
    lens: DiTLens,
    batch: SampleBatch,
    points: Sequence[HookPoint],
    visit: Callable[[Visit, Tensor], None],
    *,
    steps: Sequence[int] | None = None,
    stop_early: bool = True,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Observation:
    """Denoise the batch and show `visit` every hook point, at each chosen step, for each guidance branch.

    `visit` gets its coordinates and the live tensor of that branch's rows: [rows, tokens, channels] for
    streams, [rows, channels] for AdaLN signals and `temb`, [rows, C, h, w] for `velocity`, in the model's
    dtype on its device. Clone or reduce what you keep. Calls come in forward order, once per (step, branch,
    point). With `stop_early` nothing is computed after the last read. `on_step` gets (step, latents after
    it).

    Raises:
        BadInput: no such point or step; before any forward pass. RunFailure: an activation is NaN or
        infinite, or a planned read did not happen exactly once at its step.

    >>> seen = []
    >>> observe(lens, batch, lens.hook_points.select("blocks.*.resid_post.image"),   # doctest: +SKIP
    ...         lambda at, x: seen.append((at.step, x.abs().max().item())))
    """
    if not points:
        raise BadInput("No hook point to observe was given; see lens.hook_points for what there is.")
    ordered = in_forward_order(points)
    for point in ordered:
        lens.adapter.access(point)
    lens.adapter.ready()
    chosen = select_steps(
        "all" if steps is None else list(steps), batch.sampling.steps, batch.sigmas.tolist()
    )
    last = chosen[-1]
    happened: list[Visit] = []
    forwards = 0

    def touch_at(step: int) -> Callable[[HookPoint, Tensor], None]:
        def touch(point: HookPoint, tensor: Tensor) -> None:
            for branch in batch.branches:
                at = Visit(step, float(batch.sigmas[step]), branch, point)
                rows = tensor[batch.branch_rows(branch)]
                require_finite(rows, str(at))
                happened.append(at)
                visit(at, rows)

        return touch

    def forward(step: int, inputs: Mapping[str, Any]) -> Tensor | None:
        nonlocal forwards
        forwards += 1
        if step not in chosen:
            return lens.traced.forward(inputs)
        return lens.traced.traced_forward(inputs, ordered, touch_at(step), stop=stop_early and step == last)

    started = time.perf_counter()
    with lens.lock, torch.no_grad():
        latents = denoise(batch, forward, on_step=on_step)
        lens.pipeline.maybe_free_model_hooks()
    _prove(happened, [(s, b, p) for s in chosen for p in ordered for b in batch.branches])
    return Observation(
        steps=chosen,
        branches=batch.branches,
        points=ordered,
        visits=len(happened),
        forwards=forwards,
        seconds=time.perf_counter() - started,
        latents=latents,
    )


def _prove(happened: Sequence[Visit], planned: Sequence[tuple[int, str, HookPoint]]) -> None:
    """Raise RunFailure unless what happened is what was planned, once each and in that order."""
    seen = [(at.step, at.branch, at.point) for at in happened]
    if seen == list(planned):
        return
    once = set(seen)
    missing = [each for each in planned if each not in once]
    detail = (
        f"{len(missing)} did not happen, first {_where(missing[0])}"
        if missing
        else "some happened twice or late"
    )
    raise RunFailure(
        f"Of {len(planned)} planned reads {len(seen)} happened: {detail}. The run's numbers are void."
    )


def _where(each: tuple[int, str, HookPoint]) -> str:
    step, branch, point = each
    return f"step {step}, branch {branch}, {point}"
