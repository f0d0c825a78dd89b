"""Self-check of a lens on the checkpoint it holds: does the wrapper change nothing, and reach what it names?

Runs a few steps on a small image. In float32 on the CPU every comparison must be exact; elsewhere torch
promises no such thing between differently built runs, so the measured difference is reported instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dit_lens.display import Summarised
from dit_lens.errors import DitLensError, RunFailure
from dit_lens.model.adapters import require_finite
from dit_lens.model.hook_points import STREAMS, HookPoint
from dit_lens.model.sampling import SampleBatch, Sampling, denoise
from dit_lens.summary import Summary, Table

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dit_lens.model.adapters import Adapter
    from dit_lens.model.hook_points import HookPoints
    from dit_lens.model.traced import Touch, TracedTransformer

_GUIDANCE = (1.0, 4.5)
_STEPS = 3
_PROMPTS = ("a small red circle", "a large blue square on the left")
_SEEDS = (0, 1)
_MOST_TOKENS = 256
_INEXACT_TOLERANCE = 0.05
"""Largest difference accepted where exactness is not promised, as a fraction of the reference's spread."""


@dataclass(frozen=True)
class CheckEntry:
    """One thing that was checked, and what was found."""

    name: str
    ok: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class CheckReport(Summarised):
    """All that was checked about one model."""

    model: str
    checks: tuple[CheckEntry, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(entry.ok for entry in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain values: {"ok", "model", "checks": [{"name", "ok", "detail", "seconds"}, …]}."""
        entries = [
            {"name": each.name, "ok": each.ok, "detail": each.detail, "seconds": round(each.seconds, 3)}
            for each in self.checks
        ]
        return {"ok": self.ok, "model": self.model, "checks": entries}

    def summary(self) -> Summary:
        """Every check with what it found, those that failed first."""
        entries = sorted(self.checks, key=lambda entry: entry.ok)
        failed = sum(not entry.ok for entry in entries)
        rows = [
            ("✓ ok" if each.ok else "✗ FAILED", each.name, each.detail, f"{each.seconds:.1f} s")
            for each in entries
        ]
        outcome = (
            f"{failed} of {len(entries)} checks failed" if failed else f"all {len(entries)} checks passed"
        )
        return Summary(f"{self.model}: {outcome}", (Table(("", "check", "found", "took"), rows),))

    def __str__(self) -> str:
        width = max((len(each.name) for each in self.checks), default=0)
        lines = [
            f"{'ok  ' if each.ok else 'FAIL'} {each.name:<{width}}  {each.detail}" for each in self.checks
        ]
        return "\n".join([f"{self.model}: {'all checks passed' if self.ok else 'CHECKS FAILED'}", *lines])

    __repr__ = __str__


class _Failed(Exception):
    """A check did not hold; the message is its detail."""


class Checkable(Protocol):
    """What the checks need of a lens; `model.lens.DiTLens` says what each is."""

    name: str
    pipeline: Any
    traced: TracedTransformer
    defaults: Sampling
    hook_points: HookPoints

    @property
    def adapter(self) -> Adapter: ...

    @property
    def lock(self) -> AbstractContextManager[Any]: ...

    @property
    def nn(self) -> Any: ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def token_grid(self) -> tuple[int, int]: ...

    def sampling(self, **overrides: Any) -> Sampling: ...

    def prepare_rows(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
    ) -> SampleBatch: ...


def check(lens: Checkable) -> CheckReport:
    """Run every check and report; a failing or crashing check becomes an entry, not an exception.

    >>> from dit_lens.zoo.random_pipelines import random_pipeline
    >>> check(dl.load(random_pipeline("sd3.5"))).ok
    True
    """
    bench = _Bench(lens)
    checks: list[tuple[str, Callable[[], str]]] = [("hook point shapes are as declared", bench.shapes)]
    checks += [(f"{stream} stream is named right", partial(bench.stream, stream)) for stream in STREAMS]
    for guidance in _GUIDANCE:
        at = f"guidance {guidance}"
        checks += [
            (f"plain pipeline = our loop, {at}", partial(bench.loop, guidance)),
            (f"our loop = traced loop, {at}", partial(bench.traced_loop, guidance)),
            (f"traced loop = one trace per step, {at}", partial(bench.traced_steps, guidance)),
            (f"traced loop = read at every hook point, {at}", partial(bench.read_everywhere, guidance)),
            (f"identity swap at every hook point, {at}", partial(bench.identity_swap, guidance)),
            (f"resuming at step {_STEPS // 2} is exact, {at}", partial(bench.resume, guidance)),
        ]
    checks += [
        ("every activation is finite", bench.finite),
        ("a row does not depend on the rows beside it", bench.company),
        ("an edit at each block changes the output", bench.edits),
        ("NaN in an activation is found", bench.not_a_number),
        ("no hook is left behind", bench.hooks),
    ]
    with lens.lock, torch.no_grad(), _quiet(lens.pipeline):
        return CheckReport(lens.name, tuple(_entry(name, run) for name, run in checks))


def _entry(name: str, run: Callable[[], str]) -> CheckEntry:
    started = time.perf_counter()
    try:
        ok, detail = True, run()
    except (_Failed, DitLensError) as error:
        ok, detail = False, str(error)
    except Exception as error:  # a crash inside a checkpoint's own code is a finding as well
        ok, detail = False, f"{type(error).__name__}: {error}"
    return CheckEntry(name, ok, detail, time.perf_counter() - started)


@contextmanager
def _quiet(pipeline: Any) -> Iterator[None]:
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipeline._progress_bar_config = before


class _Bench:
    """One small sampling setup, its reference runs, and the checks against them."""

    def __init__(self, lens: Checkable) -> None:
        self.lens = lens
        self.points = tuple(lens.hook_points)
        self.exact = lens.device.type == "cpu" and lens.dtype == torch.float32
        self._hooks_before = self._count_hooks()
        self._batches: dict[float, SampleBatch] = {}
        self._paths: dict[float, list[Tensor]] = {}

    @cached_property
    def size(self) -> dict[str, int]:
        """Pixels of a grid no larger than 16 × 16 tokens."""
        rows, columns = self.lens.token_grid()
        if rows * columns <= _MOST_TOKENS:
            return {"height": self.lens.defaults.height, "width": self.lens.defaults.width}
        side = int(_MOST_TOKENS**0.5)
        return {
            "height": self.lens.defaults.height // rows * min(side, rows),
            "width": self.lens.defaults.width // columns * min(side, columns),
        }

    def batch(self, guidance: float) -> SampleBatch:
        if guidance not in self._batches:
            sampling = self.lens.sampling(steps=_STEPS, guidance_scale=guidance, **self.size)
            self._batches[guidance] = self.lens.prepare_rows(_PROMPTS, _SEEDS, sampling)
        return self._batches[guidance]

    def run(self, guidance: float, points: tuple[HookPoint, ...], touch: Touch) -> Tensor:
        def forward(step: int, inputs: Mapping[str, Any]) -> Tensor | None:
            return self.lens.traced.traced_forward(inputs, points, touch)

        return _finished(denoise(self.batch(guidance), forward))

    def path(self, guidance: float) -> list[Tensor]:
        """Latents before each step and after the last, by our loop without any trace."""
        if guidance not in self._paths:
            batch = self.batch(guidance)
            path = [batch.latents]
            denoise(batch, self._plain, on_step=lambda step, x: path.append(x))
            self._paths[guidance] = path
        return self._paths[guidance]

    def _plain(self, step: int, inputs: Mapping[str, Any]) -> Tensor:
        return self.lens.traced.forward(inputs)

    def same(self, result: Tensor, reference: Tensor) -> str:
        """Detail of an equality that holds; raises where it does not."""
        require_finite(result, "the final latents")
        if torch.equal(result, reference):
            return "equal bit for bit"
        largest = float((result.float() - reference.float()).abs().max())
        spread = float(reference.float().std())
        found = f"largest difference {largest:.3g}, spread of the reference {spread:.3g}"
        if self.exact or largest > _INEXACT_TOLERANCE * spread:
            raise _Failed(found)
        return f"{found}; exactness is promised in float32 on the CPU only"

    def one_forward(
        self, points: tuple[HookPoint, ...], touch: Touch, *, stop: bool = False
    ) -> Tensor | None:
        """The first forward pass of the guided run."""
        result: list[Tensor | None] = []

        def forward(step: int, inputs: Mapping[str, Any]) -> Tensor | None:
            result.append(self.lens.traced.traced_forward(inputs, points, touch, stop=stop))
            return None

        denoise(self.batch(_GUIDANCE[-1]), forward)
        return result[0]

    # The checks. Each returns what it found, or raises.

    def shapes(self) -> str:
        # traced_forward compares every shape with the adapter's; this counts that all were served.
        seen: list[HookPoint] = []
        self.one_forward(self.points, lambda point, _: seen.append(point))
        if tuple(seen) != self.points:
            raise _Failed(f"{len(seen)} of {len(self.points)} hook points were served")
        return f"{len(seen)} hook points"

    def stream(self, stream: str) -> str:
        """The stream starts as its embedding, each block hands it on, and editing it matters."""
        kept: dict[HookPoint, Tensor] = {}
        points = tuple(p for p in self.points if p.stream == stream and p.component.startswith("resid_"))
        embedding = _embedding(self.lens, stream)
        outputs: list[Tensor] = []
        handle = embedding.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            velocity = self.one_forward(points, lambda p, x: kept.update({p: x.clone()}))
        finally:
            handle.remove()
        if not torch.equal(kept[HookPoint("resid_pre", 0, stream)], outputs[0]):
            raise _Failed("what enters block 0 is not the stream's embedding")
        for block in range(1, self.lens.num_blocks):
            before = kept[HookPoint("resid_post", block - 1, stream)]
            if not torch.equal(kept[HookPoint("resid_pre", block, stream)], before):
                raise _Failed(f"what enters block {block} is not what left block {block - 1}")
        entry = HookPoint("resid_pre", 0, stream)
        edited = self.one_forward((entry,), lambda p, x: x.roll(1, dims=-1))
        if velocity is None or edited is None or torch.equal(edited, velocity):
            raise _Failed("editing it changes nothing")
        return f"handed on through {self.lens.num_blocks} blocks; an edit changes the output"

    def loop(self, guidance: float) -> str:
        batch = self.batch(guidance)
        sampling: Sampling = batch.sampling
        latents = self.lens.pipeline(
            prompt=list(_PROMPTS),
            negative_prompt=sampling.negative_prompt,
            height=sampling.height,
            width=sampling.width,
            num_inference_steps=sampling.steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in _SEEDS],
            max_sequence_length=sampling.max_sequence_length,
            output_type="latent",
        ).images
        return self.same(self.path(guidance)[-1], latents)

    def traced_loop(self, guidance: float) -> str:
        """The whole loop inside one plain nnsight trace that reads a block at each step."""
        batch = self.batch(guidance)
        result: list[Tensor] = []
        reads: list[int] = []
        block = self.lens.nn.get(self.lens.adapter.access(HookPoint("resid_post", 0, "image")).module)

        def loop(batch: SampleBatch) -> None:
            result.append(_finished(denoise(batch, self._plain)))

        def read(tracer: Any) -> None:
            for step in tracer.iter[: batch.sampling.steps]:
                if block.output is not None:
                    reads.append(step)

        with self.lens.nn.trace(batch, fn=loop) as tracer:
            read(tracer)
        if reads != list(range(batch.sampling.steps)):
            raise _Failed(f"{len(reads)} of {batch.sampling.steps} steps were read")
        return self.same(result[0], self.path(guidance)[-1])

    def traced_steps(self, guidance: float) -> str:
        return self.same(self.run(guidance, (), lambda p, x: None), self.path(guidance)[-1])

    def read_everywhere(self, guidance: float) -> str:
        reads: list[HookPoint] = []
        result = self.run(guidance, self.points, lambda p, x: reads.append(p))
        if len(reads) != _STEPS * len(self.points):
            raise _Failed(f"{len(reads)} reads instead of {_STEPS * len(self.points)}")
        return f"{self.same(result, self.path(guidance)[-1])}; {len(reads)} reads"

    def identity_swap(self, guidance: float) -> str:
        return self.same(self.run(guidance, self.points, lambda p, x: x.clone()), self.path(guidance)[-1])

    def resume(self, guidance: float) -> str:
        path, middle = self.path(guidance), _STEPS // 2
        result = denoise(self.batch(guidance), self._plain, start=middle, latents=path[middle])
        return self.same(_finished(result), path[-1])

    def finite(self) -> str:
        """Where NaN or infinity begins: among embeddings, hook points in forward order, or pixels."""
        batch = self.batch(_GUIDANCE[-1])
        for what, embeds in (("prompt embeddings", batch.prompt_embeds), ("pooled", batch.pooled_embeds)):
            require_finite(embeds, f"the text encoders' {what}")
        step_now = 0

        def touch(point: HookPoint, x: Tensor) -> None:
            for branch in batch.branches:
                rows = x[batch.branch_rows(branch)]
                if not bool(torch.isfinite(rows).all()):
                    bad = int((~torch.isfinite(rows)).sum())
                    raise _Failed(
                        f"{bad} of {rows.numel()} values are NaN or infinite from {point} on, at step "
                        f"{step_now}, "
                        f"branch {branch} ({rows.dtype}); everything before it is finite"
                    )

        def forward(step: int, inputs: Mapping[str, Any]) -> Tensor | None:
            nonlocal step_now
            step_now = step
            return self.lens.traced.traced_forward(inputs, self.points, touch)

        latents = _finished(denoise(batch, forward))
        require_finite(latents, "the final latents")
        pixels = self.lens.pipeline.vae.decode(
            latents[:1].to(self.lens.pipeline.vae.dtype), return_dict=False
        )[0]
        require_finite(pixels, "the autoencoder's pixels")
        return f"{len(self.points)} hook points in {batch.sampling.steps} steps, embeddings and pixels"

    def company(self) -> str:
        """One forward of two rows against two of one row: quantised activations may mix them."""
        guidance = _GUIDANCE[0]
        together: list[Tensor] = []
        apart: list[Tensor] = []

        def forward(step: int, inputs: Mapping[str, Any]) -> None:
            together.append(self.lens.traced.forward(inputs))
            for row in range(len(_PROMPTS)):
                alone = {k: v[row : row + 1] if isinstance(v, Tensor) else v for k, v in inputs.items()}
                apart.append(self.lens.traced.forward(alone))

        denoise(self.batch(guidance), forward)
        one, many = torch.cat(apart).float(), together[0].float()
        require_finite(many, "the velocity")
        largest, spread = float((one - many).abs().max()), float(many.std())
        found = f"largest difference {largest:.3g}, spread {spread:.3g}"
        if largest > _INEXACT_TOLERANCE * spread:
            raise _Failed(f"{found}: what one edit does would depend on those beside it")
        return found

    def edits(self) -> str:
        plain = self.one_forward((), lambda p, x: None)
        sites = tuple(p for p in self.points if p.component == "resid_post")
        for site in sites:
            # Rolling channels survives the LayerNorm behind the last block; adding or scaling would not.
            edited = self.one_forward((site,), lambda p, x: x.roll(1, dims=-1))
            if edited is None or plain is None or torch.equal(edited, plain):
                raise _Failed(f"an edit at {site} changes nothing")
        return f"{len(sites)} places, each stream after each block"

    def not_a_number(self) -> str:
        poisoned = HookPoint("resid_post", 0, "image")
        later = HookPoint("resid_post", self.lens.num_blocks - 1, "image")

        def touch(point: HookPoint, x: Tensor) -> Tensor | None:
            if point == poisoned:
                return torch.full_like(x, float("nan"))
            require_finite(x, str(point))
            return None

        try:
            self.one_forward((poisoned, later), touch)
        except RunFailure as error:
            if str(later) in str(error):
                return f"planted at {poisoned}, found at {later}"
            raise
        raise _Failed(f"NaN planted at {poisoned} was not found at {later}")

    def hooks(self) -> str:
        after = self._count_hooks()
        if after != self._hooks_before:
            raise _Failed(
                f"{after} hooks on the transformer's modules, {self._hooks_before} before the checks"
            )
        if (
            not self.lens.traced.idle
            or self.lens.nn.interleaver.interleaving
            or self.lens.nn.interleaver.mediators
        ):
            raise _Failed("nnsight still holds a run")
        return f"{after} hooks, as before"

    def _count_hooks(self) -> int:
        return sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            for module in self.lens.pipeline.transformer.modules()
        )


def _finished(latents: Tensor | None) -> Tensor:
    if latents is None:
        raise _Failed("the loop ended before its last step")
    return latents


def _embedding(lens: Checkable, stream: str) -> torch.nn.Module:
    """The module whose output starts a stream."""
    return lens.pipeline.transformer.get_submodule(lens.adapter.embedding(stream))
