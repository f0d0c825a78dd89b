"""DiTLens: a diffusion pipeline with nnsight around its transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dit_lens.display import Summarised
from dit_lens.errors import BadInput, RunFailure
from dit_lens.model import sampling as _sampling
from dit_lens.model.adapters import Geometry
from dit_lens.model.hook_points import HookPoint, HookPoints
from dit_lens.model.identity import RunIdentity
from dit_lens.model.memory import is_out_of_memory, memory_explained
from dit_lens.model.progress import ProgressBar
from dit_lens.model.prompts import PromptTokens, tokens_of
from dit_lens.model.sampling import SampleBatch, Sampling, Trajectory, sampling_words
from dit_lens.model.state import PipelineState, Weights
from dit_lens.model.traced import TracedTransformer
from dit_lens.model.weights import parameter_count
from dit_lens.notices import notice
from dit_lens.summary import Facts, Fold, Summary, Text
from dit_lens.words import methods_know_words

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.model.check import CheckReport

# Measured on two CPU cores, milliseconds per row of one forward pass. The embedded model (164 tokens × 128
# channels × 2 branches): 18.0 with 1 row, 12.8 with 4, 11.7 with 8, 11.4 with 16, 12.2 with 24, 14.1 with 48,
# 15.6 with 64: 16 rows are 670,000 values. The random test model (36 × 32 × 2): 2.5 with 1 row, 0.51 with
# 16, 0.44 with 32 and with 64, so that small models gain nothing from still larger batches. SD3-medium
# at 1024² fills the caches with a single row.
CPU_VALUES = 700_000
MOST_ROWS = 64


@methods_know_words
class DiTLens(Summarised):
    """A diffusion pipeline, its transformer open at named hook points. Made by `dit_lens.load`.

    ```
    lens.pipeline        the diffusers pipeline
    lens.hook_points     every address with its shape:     print(lens.hook_points)
    lens.generate(...)   images and latents per step:      lens.generate("a red circle", seeds=[0, 1])
    lens.trace(...)      plain nnsight over the denoising loop; lens.nn is the wrapped transformer
    lens.check()         does this wrapper tell the truth on this checkpoint?
    ```

    Args:
        pipeline: a `StableDiffusion3Pipeline`; it is used as it is and not changed.
        name: what reports call the model; by default the name it was loaded by.
        defaults: fields of `Sampling` that differ from the pipeline's own defaults.
        weights: what has been read of the weights already, so that they are not read twice.

    Raises:
        BadInput: a transformer of a family without an adapter, a step cache or another mode in which a lens
            cannot measure it, or a default out of range.

    >>> lens = dl.load("shapes-sd3")
    >>> len(lens.hook_points), lens.token_grid()
    (155, (12, 12))
    >>> lens.check().ok
    True
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.state = PipelineState(pipeline, weights)
        # Prompts that were looked at, with the length of T5's part: what is cut of them has been said.
        self._read: set[tuple[str, int]] = set()
        self.name = name or pipeline.config.get("_name_or_path") or type(pipeline).__name__
        self.traced = TracedTransformer(pipeline.transformer, pipeline)
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

    @property
    def fingerprint(self) -> str:
        """sha256 that names the weights as they are now; see `dit_lens.model.weights.fingerprint`."""
        return self.state.fingerprint

    def identity(self, sampling: Sampling | None = None) -> RunIdentity:
        """Everything on which the numbers of a run depend besides prompt, seed and edit, at this moment.

        Weights of every part, adapters and their scales, processors, hooks, tokenizers, the schedule as it
        will run under `sampling` (the model's default unless given), dtypes, torch's precision switches and
        the kind of device. Stored results are addressed by its `digest`. Costs about a millisecond where
        nothing changed since it was asked for last.

        Raises:
            BadInput: something was switched on with which a lens cannot measure, such as a step cache.

        >>> lens.identity().entries["device"], len(lens.identity().digest)
        ('cpu', 64)
        """
        return self.state.identity(sampling or self.defaults)

    def token_grid(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """(rows, columns) of image tokens at `height` × `width` pixels; by default the default size.

        Raises:
            BadInput: the size does not fit the model.

        >>> lens.token_grid(height=32, width=48)
        (8, 12)
        """
        return self._token_grid(self.sampling(height=height, width=width))

    def _token_grid(self, sampling: Sampling) -> tuple[int, int]:
        _sampling.require_size(self.pipeline, sampling)
        scale = self.pipeline.vae_scale_factor
        return self.adapter.token_grid(sampling.height // scale, sampling.width // scale)

    def geometry(self, sampling: Sampling, rows: int) -> Geometry:
        """Sizes of a forward pass of so many `rows` under a `sampling`: latents and text tokens.

        >>> lens.geometry(lens.sampling(), rows=2)
        Geometry(rows=2, latent_height=24, latent_width=24, context_tokens=20)
        """
        scale = self.pipeline.vae_scale_factor
        context = self.pipeline.tokenizer_max_length + sampling.max_sequence_length
        return Geometry(rows, sampling.height // scale, sampling.width // scale, context)

    def _default_shape(self, point: HookPoint) -> tuple[int | str, ...]:
        return ("rows", *self.adapter.shape(point, self.geometry(self.defaults, 1))[1:])

    def sampling(self, **overrides: Any) -> Sampling:
        """The default sampling with some fields replaced by `overrides`; None leaves a field as it is.

        Raises:
            BadInput: no such field, or a value out of range.

        >>> lens.sampling(steps=8)
        Sampling(steps=8, guidance_scale=4.5, height=48, width=48, max_sequence_length=0, negative_prompt='')
        """
        found = self.defaults.overridden(overrides)
        if overrides.get("negative_prompt"):
            self._tell_ignored(found)
        return found

    def prepare(
        self,
        prompts: str | Sequence[str],
        seeds: int | Sequence[int] = (0,),
        sampling: Sampling | None = None,
    ) -> SampleBatch:
        """Embeddings, noise and schedule for `prompts` × `seeds`, prompt-major; nothing is denoised yet.

        `sampling` is the model's default unless given. The noise of a row, [C, h, w], depends on its seed
        alone.

        Raises:
            BadInput: a prompt, seed or size that the model cannot take.

        >>> batch = lens.prepare("a red circle", seeds=[0, 1])
        >>> batch.latents.shape, batch.sigmas.shape
        (torch.Size([2, 8, 24, 24]), (21,))
        """
        rows, row_seeds = _sampling.rows_of(prompts, seeds)
        return self.prepare_rows(rows, row_seeds, sampling)

    def read_prompts(
        self, prompts: Sequence[str], sampling: Sampling | None = None
    ) -> tuple[PromptTokens, ...]:
        """What of each prompt reaches the model: tokens of every text encoder, and words that are cut.

        `prompts` are captions; `sampling` says how long T5's part is, the model's default unless given. Words
        that are cut are given notice of, once per prompt.

        >>> lens.read_prompts(["a red circle"])[0].cut
        ()
        """
        sampling = sampling or self.defaults
        with self.lock:
            read = tokens_of(self.pipeline, prompts, sampling)
        self._tell_cut(read, sampling)
        return read

    def _tell_cut(self, read: Sequence[PromptTokens], sampling: Sampling) -> None:
        fresh = [each for each in read if (each.prompt, sampling.max_sequence_length) not in self._read]
        self._read |= {(each.prompt, sampling.max_sequence_length) for each in fresh}
        cut = [each for each in fresh if each.cut]
        if cut:
            more = f" So are {len(cut) - 3} more prompts." if len(cut) > 3 else ""
            notice(" ".join(each.cut_in_words() for each in cut[:3]) + more)

    def _tell_ignored(self, sampling: Sampling) -> None:
        if sampling.negative_prompt and not sampling.guided:
            notice(
                f"The negative prompt {sampling.negative_prompt!r} is ignored: guidance runs above a scale "
                f"of 1, and guidance_scale is {sampling.guidance_scale:g}."
            )

    def prepare_rows(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling | None = None
    ) -> SampleBatch:
        """Like `prepare`, for rows given one by one: row i is `prompts[i]` with `seeds[i]`.

        `sampling` is one for all rows; the model's default unless given.

        Raises:
            BadInput: as `prepare`.

        >>> lens.prepare_rows(["a red circle", "a blue star"], [0, 5]).seeds
        (0, 5)
        """
        if len(prompts) != len(seeds) or not prompts:
            raise BadInput(
                f"{len(prompts)} prompts and {len(seeds)} seeds make no rows; give one seed per prompt."
            )
        for prompt, seed in zip(prompts, seeds, strict=True):
            _sampling.rows_of([prompt], [seed])
        sampling = sampling or self.defaults
        self._token_grid(sampling)
        self.traced.require_unchanged()
        self.state.current()
        texts = dict.fromkeys([*prompts, *([sampling.negative_prompt] if sampling.guided else [])])
        unread = [text for text in texts if (text, sampling.max_sequence_length) not in self._read]
        if unread:
            self.read_prompts(unread, sampling)
        with self.lock, memory_explained(self._work(len(prompts), sampling)):
            return _sampling.prepare(self.pipeline, prompts, seeds, sampling)

    def _tokens(self, sampling: Sampling) -> int:
        rows, columns = self._token_grid(sampling)
        return rows * columns

    def _work(self, rows: int, sampling: Sampling) -> str:
        return f"sampling {rows} rows of {self._tokens(sampling)} image tokens"

    def default_batch_size(self, sampling: Sampling | None = None) -> int:
        """Rows per forward pass where nobody chose: what keeps the device busy and not more.

        On a CPU that is what its caches hold, `CPU_VALUES` values of the residual streams; elsewhere about
        16,000 image tokens. `sampling` says how large the images are; the model's default unless given.

        >>> lens.default_batch_size()
        16
        """
        sampling = sampling or self.defaults
        image = self._tokens(sampling)
        if self.device.type != "cpu":
            return _sampling.default_batch_size(MOST_ROWS, image)
        tokens = image + self.geometry(sampling, 1).context_tokens
        values = len(sampling.branches) * tokens * self.num_channels
        return max(1, min(MOST_ROWS, CPU_VALUES // values))

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

        Args:
            prompts: one caption, or several.
            seeds: one whole number, or several; every prompt runs with each.
            steps, guidance_scale, height, width, negative_prompt, max_sequence_length: fields of `Sampling`;
                None takes the model's default. Height and width are pixels.
            batch_size: rows per forward pass; None takes `default_batch_size`. Changes the last bits only.
            progress: whether a bar is drawn on stderr.

        Returns:
            A `Trajectory`: images, and float latents [rows, steps + 1, C, h, w] on the CPU.

        Raises:
            BadInput: a value that the model cannot take; before any forward pass.
            RunFailure: out of memory, or a result that is not finite.

        >>> lens.generate("a large red circle", seeds=[0, 1], steps=4)
        Trajectory(2 rows, 4 steps, guidance 4.5, latents (2, 5, 8, 24, 24))
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

    def decode(self, latents: Tensor, *, at_a_time: int | None = None) -> list[Image]:
        """Images of final `latents` [rows, C, h, w], all of them or so many rows `at_a_time`.

        Rows decoded together differ in their last bits from rows decoded alone: the pipeline decodes those
        of a batch together. With `at_a_time=1` no image depends on the rows beside it. Where memory does not
        suffice for several rows, they are decoded in halves.

        Raises:
            RunFailure: out of memory for a single row.

        >>> [image.size for image in lens.decode(trajectory.latents[:, -1])]
        [(48, 48), (48, 48)]
        """
        with self.lock:
            # Asked for once: the pipeline walks through all its modules to find its device.
            device = self.device
            parts = latents.split(at_a_time or max(1, len(latents)))
            images = [image for part in parts for image in self._decode(part, device)]
            self.pipeline.maybe_free_model_hooks()
        return images

    def _decode(self, latents: Tensor, device: torch.device) -> list[Image]:
        try:
            with memory_explained("decoding one row") if len(latents) == 1 else nullcontext():
                return list(_sampling.decode(self.pipeline, latents, device))
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(latents) == 1:
                raise
        # Outside the handler: the error's frames hold the tensors that did not fit.
        if device.type == "cuda":
            torch.cuda.empty_cache()
        halves = latents.split(-(-len(latents) // 2))
        return [image for half in halves for image in self._decode(half, device)]

    @property
    def nn(self) -> Any:
        """The transformer under plain nnsight, every module wrapped."""
        self.traced.require_unchanged()
        return self.traced.everything

    def trace(self, *args: Any, seeds: int | Sequence[int] = (0,), fn: Any = None, **kwargs: Any) -> Any:
        """Plain nnsight. With prompts, a trace of the whole denoising loop; else `lens.nn.trace(...)` itself.

        The first of `args` is a prompt or a list of them, `seeds` as in `generate`, and `kwargs` are those
        of `sampling`. Anything else, or an `fn` of your own, goes to nnsight as it is. The rows of one
        forward are [uncond, cond] where guidance runs, `tracer.result` is the final latents, and nnsight's
        rules hold: places in forward order, steps through `tracer.iter`, one thread at a time (hold
        `lens.lock` where there are several). A torch context such as `autocast` that the block enters around
        a read holds for the model too, until the block leaves it: enter it between reads. Whether gradients
        are on is after the trace what it was before.

        Raises:
            BadInput: a prompt, seed or field of `sampling` that the model cannot take; or the pipeline's
                transformer or its hooks are no longer those that the lens was made with.

        >>> with lens.trace("a red circle", steps=4) as tracer:
        ...     context, image = lens.nn.transformer_blocks[3].output
        ...     kept = image.clone().save()
        >>> kept.shape                                       # the first step: rows, image tokens, channels
        torch.Size([2, 144, 128])
        """
        prompts: Any = args[0] if len(args) == 1 else None
        listed = isinstance(prompts, list | tuple) and bool(prompts) and isinstance(prompts[0], str)
        if fn is not None or not (listed or isinstance(prompts, str)):
            return self.nn.trace(*args, **({} if fn is None else {"fn": fn}), **kwargs)
        return self.traced.trace_loop(self.prepare(prompts, seeds, self.sampling(**kwargs)))

    def check(self) -> CheckReport:
        """Test this wrapper on this checkpoint: shapes, streams, exactness, edits.

        A check that fails or crashes becomes an entry of the report; nothing is raised. `dit-lens check
        MODEL` prints the same.
        """
        from dit_lens.model.check import check

        return check(self)

    def __reduce__(self) -> Any:
        raise BadInput(
            f"The lens of {self.name} cannot be pickled or copied: nnsight's wrapper and a lock are tied to "
            "this process. Load the model again where it is needed, in the other process for instance."
        )

    def __deepcopy__(self, memo: object) -> Any:
        return self.__reduce__()

    def summary(self) -> Summary:
        """The model's size, how it samples, and every hook point behind a fold."""
        transformer = self.pipeline.transformer
        rows, columns = self.token_grid()
        text = self.geometry(self.defaults, 1).context_tokens
        about = {
            "transformer": f"{type(transformer).__name__}, {self.num_blocks} blocks × {self.num_channels} "
            f"channels, {parameter_count(transformer) / 1e6:.1f} M parameters",
            "tokens": f"{rows} × {columns} of the image, {text} of the prompt",
            "by default": sampling_words(self.defaults),
            "weights": f"{str(self.dtype).removeprefix('torch.')} on {self.device}",
        }
        points = Fold(f"{len(self.hook_points)} hook points", Text(str(self.hook_points)))
        return Summary(f"DiTLens {self.name}", (Facts(about), points))

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
