"""DiTLens: a diffusion pipeline with nnsight around its transformer."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.interleaver import OutOfOrderError
from torch import Tensor, nn

from dit_lens.errors import BadInput, RunFailure
from dit_lens.model import sampling as _sampling
from dit_lens.model.adapters import Access, Adapter, Geometry, adapter_for
from dit_lens.model.hook_points import HookPoint, HookPoints, in_forward_order
from dit_lens.model.memory import memory_explained
from dit_lens.model.progress import ProgressBar
from dit_lens.model.sampling import SampleBatch, Sampling, Trajectory
from dit_lens.model.weights import fingerprint, parameter_count

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.model.check import CheckReport

Touch = Callable[[HookPoint, Tensor], "Tensor | None"]
"""(hook point, its live tensor for all rows) → a tensor that replaces it, or None to leave it as it is."""


@dataclass(frozen=True)
class Place:
    """One module of a forward pass and who serves it when the pass gets there.

    `side` says what `serve` is given: the module's `"input"` or `"output"` (it may return a replacement, or
    None), `"through"` = (first input, output) for a new output, or `"skip"` = None for the output of a module
    that then does not run. `key` orders places as `HookPoint.forward_key` orders hook points.
    """

    key: tuple[float, float, float]
    module: str
    side: str
    serve: Callable[[Any], Any]
    name: str


class _WrappedWhenNamed(Envoy):
    """A block whose inner modules nnsight wraps only once they are named.

    Every wrapped module costs time at each call, and a run names few of them. Only for our own one-forward
    traces: nnsight counts visits from the moment of wrapping, so a trace over many forwards that first names
    a module half-way would bind to a later one.
    """

    def _add_envoy(self, name: str, module: nn.Module) -> Any:
        if self._module._modules.get(name) is module:
            return None
        return super()._add_envoy(name, module)


# nnsight keeps one run per model at a time; two lenses around one transformer share it.
_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()


class TracedTransformer:
    """nnsight around one transformer: forward passes that read and replace values at hook points.

    Each forward pass is a trace of its own. A place that was passed already can then only raise; in a trace
    over several passes it would silently stand for the next pass.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self.adapter: Adapter = adapter_for(transformer)
        self.lock = _LOCKS.setdefault(transformer, threading.RLock())
        self._envoy = NNsight(transformer, envoys={self.adapter.block_class: _WrappedWhenNamed})

    @property
    def idle(self) -> bool:
        """Whether no trace is running and none left anything behind."""
        return not self._envoy.interleaver.interleaving and not self._envoy.interleaver.mediators

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The velocity of one untraced forward pass: [rows, C, h, w]."""
        velocity: Tensor = self.transformer(**inputs, return_dict=False)[0]
        return velocity

    def traced_forward(
        self,
        inputs: Mapping[str, Any],
        points: Sequence[HookPoint],
        touch: Touch,
        *,
        stop: bool = False,
        extra: Sequence[Place] = (),
    ) -> Tensor | None:
        """One forward pass in which `touch` sees every point, in forward order, and may replace it.

        With `stop`, the pass ends after the last point and returns None. `extra` places, given in their
        order, are served too.

        Raises:
            BadInput: the model has no such point.
            RunFailure: a point was not reached, or had another shape than the adapter declares.
        """
        geometry = Geometry(
            rows=inputs["hidden_states"].shape[0],
            latent_height=inputs["hidden_states"].shape[2],
            latent_width=inputs["hidden_states"].shape[3],
            context_tokens=inputs["encoder_hidden_states"].shape[1],
        )
        # Modules in the order in which the pass reaches them, each with the points that lie in its value.
        located = [(point, self.adapter.access(point)) for point in in_forward_order(points)]
        grouped = [
            (place, list(group))
            for place, group in groupby(located, key=lambda each: (each[1].module, each[1].side))
        ]

        def serving(group: Sequence[tuple[HookPoint, Access]]) -> Callable[[Any], Any]:
            def serve(value: Any) -> Any:
                changed = False
                for point, access in group:
                    tensor = access.pick(value)
                    _require_shape(point, tensor, self.adapter.shape(point, geometry))
                    new = touch(point, tensor)
                    if new is not None:
                        _require_shape(point, new, tuple(tensor.shape))
                        value, changed = access.put(value, new), True
                return value if changed else None

            return serve

        places = [
            Place(group[0][0].forward_key, module, side, serving(group), str(group[0][0]))
            for (module, side), group in grouped
        ]
        return self._walk(inputs, list(merge(places, extra, key=lambda place: place.key)), stop=stop)

    def _walk(self, inputs: Mapping[str, Any], places: Sequence[Place], *, stop: bool) -> Tensor | None:
        served = 0
        velocity: list[Tensor] = []

        def visit(tracer: Any) -> None:
            nonlocal served
            for place in places:
                envoy = self._envoy.get(place.module) if place.module else self._envoy
                if place.side == "skip":
                    envoy.skip(place.serve(None))
                elif place.side == "input":
                    if (new := place.serve(envoy.inputs)) is not None:
                        envoy.inputs = new
                else:
                    first = envoy.input if place.side == "through" else None
                    value = envoy.output if first is None else (first, envoy.output)
                    if (new := place.serve(value)) is not None:
                        envoy.output = new
                served += 1
            if stop:
                tracer.stop()

        def run(_: bool) -> None:
            velocity.append(self.forward(inputs))

        try:
            # The inputs stay out of nnsight's hands: it would move them to the first parameter's device,
            # which is the wrong one for an offloaded model.
            with self._envoy.trace(True, fn=run) as tracer:
                visit(tracer)
        except OutOfOrderError as error:
            raise RunFailure(f"{places[served].name} was not reached in this forward pass: {error}") from None
        if served != len(places):
            raise RunFailure(f"{served} of {len(places)} places were served in one forward pass.")
        return velocity[0] if velocity else None


def _require_shape(point: HookPoint, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise RunFailure(f"{point} has shape {tuple(tensor.shape)}, expected {expected}.")


class DiTLens:
    """A diffusion pipeline, its transformer open at named hook points. Made by `dit_lens.load`.

    ```
    lens.pipeline        the diffusers pipeline
    lens.hook_points     every address with its shape:     print(lens.hook_points)
    lens.generate(...)   images and latents per step:      lens.generate("a red circle", seeds=[0, 1])
    lens.trace(...)      plain nnsight over the denoising loop; lens.nn is the wrapped transformer
    lens.check()         does this wrapper tell the truth on this checkpoint?
    ```
    """

    def __init__(
        self, pipeline: Any, *, name: str | None = None, defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.pipeline = pipeline
        self.name = name or pipeline.config.get("_name_or_path") or type(pipeline).__name__
        self.traced = TracedTransformer(pipeline.transformer)
        self.adapter = self.traced.adapter
        self.lock = self.traced.lock
        size = pipeline.default_sample_size * pipeline.vae_scale_factor
        # The pipeline's own defaults, as its __call__ declares them.
        standard = Sampling(28, 7.0, size, size, 256)
        self.defaults = standard.overridden(defaults or {})
        self.hook_points = HookPoints(self.adapter.points, self._default_shape)

    @property
    def num_blocks(self) -> int:
        """Number of transformer blocks."""
        return self.adapter.num_blocks

    @property
    def num_channels(self) -> int:
        """Width of the residual streams."""
        return self.adapter.num_channels

    @property
    def device(self) -> torch.device:
        """Where the transformer computes, also when its weights rest elsewhere."""
        return torch.device(self.pipeline._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's dtype."""
        dtype: torch.dtype = self.pipeline.transformer.dtype
        return dtype

    @cached_property
    def fingerprint(self) -> str:
        """sha256 that identifies the weights; see `dit_lens.model.weights.fingerprint`."""
        return fingerprint(self.pipeline)

    def token_grid(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """(rows, columns) of image tokens for an image of that many pixels; by default the default size.

        Raises:
            BadInput: the size does not fit the model.
        """
        return self._token_grid(self.sampling(height=height, width=width))

    def _token_grid(self, sampling: Sampling) -> tuple[int, int]:
        _sampling.require_size(self.pipeline, sampling)
        scale = self.pipeline.vae_scale_factor
        return self.adapter.token_grid(sampling.height // scale, sampling.width // scale)

    def geometry(self, sampling: Sampling, rows: int) -> Geometry:
        """Sizes of a forward pass of that many rows."""
        scale = self.pipeline.vae_scale_factor
        context = self.pipeline.tokenizer_max_length + sampling.max_sequence_length
        return Geometry(rows, sampling.height // scale, sampling.width // scale, context)

    def _default_shape(self, point: HookPoint) -> tuple[int | str, ...]:
        return ("rows", *self.adapter.shape(point, self.geometry(self.defaults, 1))[1:])

    def sampling(self, **overrides: Any) -> Sampling:
        """The default sampling with some of its fields replaced; None leaves a field as it is.

        Raises:
            BadInput: no such field, or a value out of range.
        """
        return self.defaults.overridden(overrides)

    def prepare(
        self,
        prompts: str | Sequence[str],
        seeds: int | Sequence[int] = (0,),
        sampling: Sampling | None = None,
    ) -> SampleBatch:
        """Embeddings, noise and schedule for prompts × seeds, prompt-major; nothing is denoised yet.

        Raises:
            BadInput: a prompt, seed or size that the model cannot take.
        """
        rows, row_seeds = _sampling.rows_of(prompts, seeds)
        return self.prepare_rows(rows, row_seeds, sampling)

    def prepare_rows(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling | None = None
    ) -> SampleBatch:
        """Like `prepare`, for rows given one by one: row i has prompts[i] and seeds[i]."""
        if len(prompts) != len(seeds) or not prompts:
            raise BadInput(
                f"{len(prompts)} prompts and {len(seeds)} seeds make no rows; give one seed per prompt."
            )
        for prompt, seed in zip(prompts, seeds, strict=True):
            _sampling.rows_of([prompt], [seed])
        sampling = sampling or self.defaults
        self._token_grid(sampling)
        with self.lock, memory_explained(self._work(len(prompts), sampling)):
            return _sampling.prepare(self.pipeline, prompts, seeds, sampling)

    def _tokens(self, sampling: Sampling) -> int:
        rows, columns = self._token_grid(sampling)
        return rows * columns

    def _work(self, rows: int, sampling: Sampling) -> str:
        return f"sampling {rows} rows of {self._tokens(sampling)} image tokens"

    def default_batch_size(self, sampling: Sampling | None = None) -> int:
        """Rows per forward pass where nobody chose: about 16,000 image tokens."""
        return _sampling.default_batch_size(2**14, self._tokens(sampling or self.defaults))

    def generate(
        self,
        prompts: str | Sequence[str],
        seeds: int | Sequence[int] = (0,),
        steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        negative_prompt: str | None = None,
        max_sequence_length: int | None = None,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> Trajectory:
        """Denoise prompts × seeds (prompt-major) and keep the latents of every step.

        Equals the plain pipeline bit for bit in float32 on the CPU, given the same rows per batch and
        `generator=[torch.Generator().manual_seed(seed) for each row]`.

        Raises:
            BadInput: a value that the model cannot take; before any forward pass.
            RunFailure: out of memory, or a result that is not finite.

        >>> import dit_lens as dl
        >>> dl.load("shapes-sd3").generate("a large red circle", seeds=[0, 1], steps=4)   # doctest: +SKIP
        Trajectory(2 rows, 4 steps, guidance 4.5, latents (2, 5, 12, 24, 24))
        """
        sampling = self.sampling(
            steps=steps,
            guidance_scale=guidance_scale,
            height=height,
            width=width,
            negative_prompt=negative_prompt,
            max_sequence_length=max_sequence_length,
        )
        rows, row_seeds = _sampling.rows_of(prompts, seeds)
        size = require_batch_size(batch_size) or self.default_batch_size(sampling)
        latents: list[Tensor] = []
        images: list[Image] = []
        sigmas = None
        starts = range(0, len(rows), size)
        with ProgressBar(len(starts) * sampling.steps, "denoising", enabled=progress) as bar:
            for start in starts:
                batch = self.prepare_rows(
                    rows[start : start + size], row_seeds[start : start + size], sampling
                )
                path = self._denoise(batch, bar.advance)
                latents.append(path)
                images += self.decode(path[:, -1])
                sigmas = batch.sigmas
        assert sigmas is not None
        return Trajectory(rows, row_seeds, sampling, sigmas, torch.cat(latents), images)

    def _denoise(self, batch: SampleBatch, advance: Callable[[], None]) -> Tensor:
        """Latents of every step on the CPU: [rows, steps + 1, C, h, w]."""
        path = [batch.latents.cpu()]

        def keep(step: int, latents: Tensor) -> None:
            path.append(latents.cpu())
            advance()

        with self.lock, torch.no_grad(), memory_explained(self._work(batch.rows, batch.sampling)):
            _sampling.denoise(batch, lambda step, inputs: self.traced.forward(inputs), on_step=keep)
            self.pipeline.maybe_free_model_hooks()
        if not bool(torch.isfinite(path[-1]).all()):
            first = next(i for i, x in enumerate(path) if not bool(torch.isfinite(x).all()))
            raise RunFailure(
                f"The latents of {self.name} are NaN or infinite from step {first - 1} on ({self.dtype}). "
                "`lens.check()` says where it begins; half precision may overflow, so try bfloat16 or "
                "float32."
            )
        return torch.stack(path, dim=1)

    def decode(self, latents: Tensor) -> list[Image]:
        """Images of final latents [rows, C, h, w]; one row at a time would differ in the last bits."""
        with self.lock, memory_explained(f"decoding {latents.shape[0]} rows"):
            images = _sampling.decode(self.pipeline, latents)
            self.pipeline.maybe_free_model_hooks()
        return images

    @cached_property
    def nn(self) -> NNsight:
        """The transformer under plain nnsight, every module wrapped. Made when first asked for."""
        return NNsight(self.pipeline.transformer)

    def trace(self, *args: Any, seeds: int | Sequence[int] = (0,), fn: Any = None, **kwargs: Any) -> Any:
        """Plain nnsight. With prompts, a trace of the whole denoising loop; else `lens.nn.trace(...)` itself.

        Keywords beside the prompts are those of `sampling`. The rows of one forward are [uncond, cond] where
        guidance runs, `tracer.result` is the final latents, and nnsight's rules hold: places in forward
        order, steps through `tracer.iter`, one thread at a time (hold `lens.lock` where there are several).

        >>> with lens.trace("a red circle", steps=4) as tracer:        # doctest: +SKIP
        ...     context, image = lens.nn.transformer_blocks[3].output
        ...     kept = image.clone().save()
        """
        prompts: Any = args[0] if len(args) == 1 else None
        listed = isinstance(prompts, list | tuple) and bool(prompts) and isinstance(prompts[0], str)
        if fn is not None or not (listed or isinstance(prompts, str)):
            return self.nn.trace(*args, **({} if fn is None else {"fn": fn}), **kwargs)
        batch = self.prepare(prompts, seeds, self.sampling(**kwargs))

        def loop(batch: SampleBatch) -> Tensor | None:
            with torch.no_grad():
                return _sampling.denoise(batch, lambda step, inputs: self.traced.forward(inputs))

        return self.nn.trace(batch, fn=loop)

    def check(self) -> CheckReport:
        """Test this wrapper on this checkpoint: shapes, streams, exactness, edits."""
        from dit_lens.model.check import check

        return check(self)

    def __repr__(self) -> str:
        rows, columns = self.token_grid()
        text = self.geometry(self.defaults, 1).context_tokens
        return (
            f"DiTLens({self.name!r}, {type(self.pipeline.transformer).__name__}: {self.num_blocks} blocks × "
            f"{self.num_channels} channels, {parameter_count(self.pipeline.transformer) / 1e6:.1f} M "
            "parameters, "
            f"{rows} × {columns} image tokens + {text} text tokens at {self.defaults.height} × "
            f"{self.defaults.width} px, {len(self.hook_points)} hook points, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )


def require_batch_size(batch_size: int | None) -> int | None:
    """The batch size, if it is one or None. Raises BadInput otherwise."""
    if batch_size is not None and (
        not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1
    ):
        raise BadInput(f"batch_size is {batch_size!r}; it must be a whole number, at least 1, or None.")
    return batch_size
