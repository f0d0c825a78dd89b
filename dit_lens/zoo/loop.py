"""One training loop for every stage of the recipe: resumable, exactly repeatable, with a progress bar.

Everything random in step *n* comes from a generator seeded with (seed, n), so a resumed run takes the same
steps as one that was never stopped; no generator state needs storing. Checkpoints are safetensors and JSON.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """How one stage is optimised (AdamW, linear warm-up, cosine decay to zero, EMA of the weights)."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.998
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Fitted:
    """What a finished stage leaves for the model card."""

    name: str
    recipe: Recipe
    minutes: float
    device: str
    precision: str
    torch_threads: int
    losses: list[tuple[int, float]]
    """(step, mean loss since the previous entry)."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU generator of one training step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def fit(
    name: str,
    model: nn.Module,
    loss_of_step: Callable[[int, torch.Generator], Tensor],
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    checkpoint_seconds: float = 60.0,
    stop_after: int | None = None,
) -> Fitted:
    """Train `model` in place; it ends with the EMA weights. Continues from `folder` if a checkpoint is there.

    `loss_of_step(step, generator)` draws its own batch from that generator. `precision="bf16"` runs it under
    autocast (weights and optimiser stay float32). `stop_after` ends early at that step, checkpoint written.
    """
    params = {k: p for k, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(
        params.values(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    average = {k: p.detach().clone() for k, p in params.items()}
    start, spent, losses = _resume(folder, name, recipe, params, average, optimiser)
    started, saved, window = time.monotonic(), time.monotonic(), []
    end = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    model.train()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("loss {task.fields[loss]}")) as progress:
        task = progress.add_task(name, total=recipe.steps, completed=start, loss="–")
        for step in range(start, end):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step)
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16"):
                loss = loss_of_step(step, step_generator(recipe.seed, step))
            optimiser.zero_grad(set_to_none=True)
            # On a line of its own: nnsight, once imported, voids a one-line `with …: backward()`.
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
            optimiser.step()
            decay = min(recipe.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.values()), list(params.values()), 1 - decay)
            window.append(float(loss.detach()))
            if (step + 1) % max(1, recipe.steps // 100) == 0 or step + 1 == end:
                losses.append((step + 1, sum(window) / len(window)))
                window = []
            progress.update(task, advance=1, loss=f"{losses[-1][1] if losses else window[-1]:.4f}")
            if time.monotonic() - saved > checkpoint_seconds or step + 1 == end:
                _save(
                    folder,
                    name,
                    recipe,
                    step + 1,
                    spent + time.monotonic() - started,
                    losses,
                    params,
                    average,
                    optimiser,
                )
                saved = time.monotonic()
    for k, p in params.items():
        p.data.copy_(average[k])
    model.eval()
    minutes = (spent + time.monotonic() - started) / 60
    return Fitted(name, recipe, minutes, device, precision, torch.get_num_threads(), losses)


# ------------------------------------------------------------------ checkpoints


def _save(
    folder: Path,
    name: str,
    recipe: Recipe,
    step: int,
    seconds: float,
    losses: list[tuple[int, float]],
    params: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimiser: torch.optim.AdamW,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"param/{k}": p.detach().cpu().contiguous() for k, p in params.items()}
    tensors |= {f"ema/{k}": v.cpu().contiguous() for k, v in average.items()}
    for k, p in params.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{k}"] = optimiser.state[p][moment].cpu().contiguous()
    state = {"step": step, "seconds": seconds, "losses": losses, "recipe": asdict(recipe)}
    partial = folder / f".{name}.partial"
    # State travels inside the same file as metadata, so weights and step can never come from two moments.
    save_file(tensors, partial, metadata={"state": json.dumps(state)})
    partial.replace(folder / f"{name}.safetensors")


def read_state(folder: Path, name: str) -> dict[str, object] | None:
    """The JSON state of a stage's checkpoint, or None if the stage was never begun."""
    file = folder / f"{name}.safetensors"
    if not file.exists():
        return None
    from safetensors import safe_open

    with safe_open(file, framework="pt") as handle:
        state: dict[str, object] = json.loads(handle.metadata()["state"])
    return state


def _resume(
    folder: Path,
    name: str,
    recipe: Recipe,
    params: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimiser: torch.optim.AdamW,
) -> tuple[int, float, list[tuple[int, float]]]:
    state = read_state(folder, name)
    if state is None or state["recipe"] != asdict(recipe):
        # Another recipe's half-trained weights would silently mix two experiments: start afresh.
        return 0, 0.0, []
    tensors = load_file(folder / f"{name}.safetensors")
    for k, p in params.items():
        p.data.copy_(tensors[f"param/{k}"])
        average[k].copy_(tensors[f"ema/{k}"])
        optimiser.state[p] = {
            "step": torch.tensor(float(state["step"])),  # type: ignore[arg-type]
            "exp_avg": tensors[f"exp_avg/{k}"].to(p.device),
            "exp_avg_sq": tensors[f"exp_avg_sq/{k}"].to(p.device),
        }
    losses = [(int(s), float(v)) for s, v in state["losses"]]  # type: ignore[attr-defined]
    return int(state["step"]), float(state["seconds"]), losses  # type: ignore[call-overload, arg-type]


def scaled(recipe: Recipe, share: float) -> Recipe:
    """The same recipe with a share of its steps: miniatures and trial runs."""
    steps = max(2, round(recipe.steps * share))
    return replace(recipe, steps=steps, warmup=max(1, min(recipe.warmup, steps // 4)))
