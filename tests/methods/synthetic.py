"""A denoising run that never happened: every activation of a small imaginary model, as plain arrays."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from dit_lens.methods.channel_pass import ChannelPass, points_to_read
from dit_lens.methods.channels import ChannelStatistics
from dit_lens.model.hook_points import STREAMS, HookPoint, in_forward_order

SIGMAS = (1.0, 0.6, 0.2)


@dataclass(frozen=True)
class At:
    """Coordinates of a visit, as the runner gives them."""

    step: int
    sigma: float
    branch: str
    point: HookPoint


@dataclass(frozen=True)
class ImaginaryRun:
    """Prompts × seeds through `blocks` blocks; the context ends before the last, as in SD3."""

    prompts: int = 3
    seeds: int = 2
    steps: int = 3
    blocks: int = 3
    channels: int = 24
    image_tokens: int = 6
    context_tokens: int = 4
    branches: tuple[str, ...] = ("uncond", "cond")

    def points(self) -> tuple[HookPoint, ...]:
        points = [HookPoint("temb"), HookPoint("velocity")]
        for block in range(self.blocks):
            for stream in STREAMS:
                points.append(HookPoint("resid_pre", block, stream))
                if stream == "context" and block == self.blocks - 1:
                    points += [HookPoint(f"adaln.{kind}_attn", block, stream) for kind in ("scale", "shift")]
                    continue
                sites = ["attn", "mlp"] + ["attn2"] * (stream == "image" and block == 0)
                points += [
                    HookPoint(f"adaln.{kind}_{site}", block, stream)
                    for site in sites
                    for kind in ("shift", "scale", "gate")
                ]
                points += [HookPoint(f"{site}_out", block, stream) for site in sites]
                points.append(HookPoint("resid_post", block, stream))
        return in_forward_order(points)

    @property
    def samples(self) -> list[tuple[int, int]]:
        return [(p, s) for p in range(self.prompts) for s in range(self.seeds)]

    def values(self, step: int, branch: str, point: HookPoint) -> np.ndarray:
        """Activations of all samples, prompt-major: [samples, tokens, channels], or [samples, channels]."""
        rng = np.random.default_rng([step, zlib.crc32(f"{branch} {point}".encode())])
        scale = np.where(np.arange(self.channels) % 7 == 3, 8.0, 1.0)
        if point.component.startswith("adaln."):
            return rng.normal(size=(len(self.samples), self.channels)) * scale
        tokens = self.image_tokens if point.stream == "image" else self.context_tokens
        prompt = np.repeat(np.random.default_rng([9, 0]).normal(size=(self.prompts, 1)), self.seeds, axis=0)
        x = rng.normal(size=(len(self.samples), tokens, self.channels)) + prompt[:, None] + step
        return x * scale

    def feed(self, reducer: ChannelPass, batch: int, samples: list[tuple[int, int]] | None = None) -> None:
        """Run through `reducer` in batches, visiting in forward order like the runner."""
        samples = self.samples if samples is None else samples
        for start in range(0, len(samples), batch):
            rows = samples[start : start + batch]
            where = [self.samples.index(sample) for sample in rows]
            reducer.begin(rows)
            for at in self.visits():
                x = self.values(at.step, at.branch, at.point)[where]
                reducer.visit(at, torch.from_numpy(x))
            reducer.end()

    def visits(self) -> Iterator[At]:
        for step in range(self.steps):
            for point in points_to_read(self.points()):
                for branch in self.branches:
                    yield At(step, SIGMAS[step], branch, point)

    def reducer(self, depth: int = 16) -> ChannelPass:
        return ChannelPass(self.channels, self.seeds, depth)


@lru_cache
def imaginary_statistics(run: ImaginaryRun | None = None) -> ChannelStatistics:
    run = run or ImaginaryRun()
    reducer = run.reducer()
    run.feed(reducer, batch=4)
    provenance = {
        "model": "imaginary",
        "fingerprint": "0123",
        "prompts": [f"prompt {i}" for i in range(run.prompts)],
        "seeds": list(range(run.seeds)),
    }
    return ChannelStatistics(reducer.dataset(), provenance, top_k=4, cost={"forwards": 6, "samples": 6})


def statistics_like(abs_mean: np.ndarray, **others: np.ndarray) -> ChannelStatistics:
    """Statistics with these image-stream profiles [blocks, channels]: one step, both branches alike."""
    blocks, channels = abs_mean.shape
    run = ImaginaryRun(prompts=1, seeds=1, steps=1, blocks=blocks, channels=channels)
    data = imaginary_statistics(run).data.copy(deep=True)
    for name, values in {"abs_mean": abs_mean, **others}.items():
        data[name].loc[{"stream": "image"}] = values[None, None]
    return ChannelStatistics(data, {"model": "made up", "prompts": ["x"], "seeds": [0]}, top_k=1)
