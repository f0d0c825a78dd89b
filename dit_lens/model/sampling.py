"""Prompts → embeddings, seeds → noise, and the denoising loop: the SD3 pipeline's own mathematics.

The loop is ours so that step and guidance branch are coordinates we hold, not counts of how often a module
ran. It calls one function per step for the velocity; tracing, reading and editing are other functions in that
place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from dit_lens.display import Summarised
from dit_lens.errors import BadInput, did_you_mean
from dit_lens.model.hook_points import BRANCHES
from dit_lens.summary import Facts, Images, Summary
from dit_lens.words import shown

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = {"steps": 10_000, "height": 16_384, "width": 16_384, "max_sequence_length": 512}
"""More T5 tokens the pipeline does not take. The others are beyond any use: a slip of the keyboard must not
fill the memory with a schedule or noise."""


@dataclass(frozen=True)
class Sampling:
    """How a trajectory is sampled; everything but prompt and seed.

    Args:
        steps: denoising steps, from 1 up.
        guidance_scale: of classifier-free guidance, which runs when it exceeds 1; from 0 up.
        height, width: of the image in pixels.
        max_sequence_length: T5 tokens, which are zeros in a model without T5; 0 leaves them out.
        negative_prompt: what the unconditional branch is conditioned on.

    Raises:
        BadInput: a value of the wrong kind or out of range.

    >>> Sampling(steps=28, guidance_scale=7.0, height=1024, width=1024, max_sequence_length=256).branches
    ('uncond', 'cond')
    """

    steps: int
    guidance_scale: float
    height: int
    width: int
    max_sequence_length: int
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("height", 1), ("width", 1), ("max_sequence_length", 0)):
            value = _plain(getattr(self, name))
            object.__setattr__(self, name, value)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise BadInput(
                    f"sampling.{name} is {value!r}; it must be a whole number, at least {least}.",
                    path=("sampling", name),
                )
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise BadInput(
                    f"sampling.{name} is {getattr(self, name)}; at most {most:,}.", path=("sampling", name)
                )
        object.__setattr__(self, "guidance_scale", _plain(self.guidance_scale))
        if isinstance(self.guidance_scale, bool) or not isinstance(self.guidance_scale, int | float):
            raise BadInput(
                f"sampling.guidance_scale is {self.guidance_scale!r}; it must be a number.",
                path=("sampling", "guidance_scale"),
            )
        if not 0 <= self.guidance_scale < float("inf"):
            raise BadInput(
                f"sampling.guidance_scale is {self.guidance_scale!r}; it must be finite, from 0 up.",
                path=("sampling", "guidance_scale"),
            )
        if not isinstance(self.negative_prompt, str):
            raise BadInput(
                f"sampling.negative_prompt is {self.negative_prompt!r}; it must be text.",
                path=("sampling", "negative_prompt"),
            )

    def overridden(self, overrides: Mapping[str, Any]) -> Sampling:
        """This sampling with some fields replaced by `overrides`; None leaves a field as it is.

        Raises:
            BadInput: no such field, or a value out of range.

        >>> lens.defaults.overridden({"guidance_scale": 1.0, "steps": None}).branches
        ('cond',)
        """
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in overrides:
            if name not in known:
                raise BadInput(
                    f"Sampling has no {name!r}. It has {', '.join(known)}.{did_you_mean(name, known)}"
                )
        return Sampling(**{**known, **{k: v for k, v in overrides.items() if v is not None}})

    @property
    def canonical(self) -> dict[str, Any]:
        """The fields as plain data, equal for samplings that are carried out alike.

        >>> Sampling(20, 1, 48, 48, 0, "blurred").canonical["negative_prompt"]       # guidance 1 ignores it
        ''
        """
        negative = self.negative_prompt if self.guided else ""
        return {**asdict(self), "guidance_scale": float(self.guidance_scale), "negative_prompt": negative}

    @property
    def guided(self) -> bool:
        """Whether each step runs an unconditional branch beside the conditional one."""
        return self.guidance_scale > 1

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches of one forward pass, in the order of their rows."""
        return BRANCHES if self.guided else ("cond",)


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.number) else value


@dataclass(frozen=True)
class SampleBatch:
    """All that a denoising run starts from: one row per prompt × seed.

    Embeddings are [rows, tokens, width], pooled ones [rows, width], in the model's dtype on its device;
    `latents` is the initial noise [rows, C, h, w]; `sigmas` is float32 [steps + 1], ending in 0.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sampling: Sampling
    latents: Tensor
    prompt_embeds: Tensor
    pooled_embeds: Tensor
    negative_embeds: Tensor | None
    negative_pooled: Tensor | None
    sigmas: np.ndarray
    scheduler: Any = field(repr=False)
    """The pipeline's scheduler with this run's schedule; a copy, so that the pipeline's own is left alone."""

    @property
    def rows(self) -> int:
        return len(self.prompts)

    @property
    def branches(self) -> tuple[str, ...]:
        return self.sampling.branches

    @property
    def context_tokens(self) -> int:
        """Text tokens of the joint blocks: CLIP's and, after them, T5's."""
        return self.prompt_embeds.shape[1]

    def with_latents(self, latents: Tensor) -> SampleBatch:
        """The same run from other latents of the same shape, for instance another batch's noise.

        Raises:
            BadInput: the shape differs.
        """
        if latents.shape != self.latents.shape:
            raise BadInput(
                f"Latents of shape {tuple(latents.shape)} do not fit this batch, which has "
                f"{tuple(self.latents.shape)}."
            )
        return replace(self, latents=latents.to(self.latents))

    def branch_rows(self, branch: str) -> slice:
        """Rows of one branch within a forward pass.

        Raises:
            BadInput: this sampling has no such branch.
        """
        if branch not in self.branches:
            raise BadInput(
                f"No branch {branch!r} at guidance {self.sampling.guidance_scale}: there is "
                f"{', '.join(self.branches)}."
            )
        first = self.branches.index(branch) * self.rows
        return slice(first, first + self.rows)


@dataclass(frozen=True)
class Trajectory(Summarised):
    """What a denoising run produced, a row for each prompt and seed.

    Fields: `prompts` and `seeds`, one per row; the `sampling`; `sigmas`, float32 [steps + 1], noise levels
    from 1 to 0; `latents`, [rows, steps + 1, C, h, w] on the CPU, of which `latents[:, 0]` is noise and
    `latents[:, -1]` was decoded; `images`, a PIL image per row.

    >>> trajectory = lens.generate("a large red circle", seeds=[0, 1], steps=4)
    >>> trajectory.latents.shape, trajectory.sigmas.shape, trajectory.images[0].size
    (torch.Size([2, 5, 8, 24, 24]), (5,), (48, 48))
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sampling: Sampling
    sigmas: np.ndarray
    latents: Tensor
    images: list[Image]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def labelled_images(self) -> list[tuple[str, Image]]:
        """Each image with its prompt and seed, for `dl.plots.images`."""
        labels = [f"{p} · seed {s}" for p, s in zip(self.prompts, self.seeds, strict=True)]
        return list(zip(labels, self.images, strict=True))

    def summary(self) -> Summary:
        """The images with their prompts and seeds, and the shape of the latents."""
        about = {
            "sampling": sampling_words(self.sampling),
            "latents": f"{list(self.latents.shape)}: rows, steps + 1, channels, height, width",
        }
        rows = f"{len(self)} {'row' if len(self) == 1 else 'rows'}"
        return Summary(f"Trajectory of {rows}", (Facts(about), Images(self.labelled_images)))

    def __repr__(self) -> str:
        return (
            f"Trajectory({len(self)} rows, {self.sampling.steps} steps, "
            f"guidance {self.sampling.guidance_scale:g}, latents {tuple(self.latents.shape)})"
        )


def sampling_words(sampling: Sampling) -> str:
    """A sampling setup in a line."""
    negative = f", negative prompt {sampling.negative_prompt!r}" if sampling.negative_prompt else ""
    return (
        f"{sampling.steps} steps, guidance {sampling.guidance_scale:g}, {sampling.height} × "
        f"{sampling.width} px{negative}"
    )


def rows_of(
    prompts: str | Sequence[str], seeds: int | Sequence[int]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Prompts × seeds, prompt-major: (prompt per row, seed per row).

    Raises:
        BadInput: nothing to sample, or a prompt or seed of the wrong type.

    >>> rows_of(["a", "b"], [0, 1])
    (('a', 'a', 'b', 'b'), (0, 1, 0, 1))
    """
    for name, given, example in (("prompts", prompts, '"a red circle"'), ("seeds", seeds, "0")):
        if not isinstance(given, Iterable) and not (name == "seeds" and hasattr(given, "__index__")):
            raise BadInput(f"{name} is {shown(given)}; give one, or a list, such as {name}=[{example}].")
    if hasattr(prompts, "shape"):
        raise BadInput(f"prompts is {shown(prompts)}; prompts are text here, not embeddings.")
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    if not prompts:
        raise BadInput("No prompts were given; a run needs at least one.")
    if not seeds:
        raise BadInput("No seeds were given; a run needs at least one, for example seeds=[0].")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise BadInput(f"Prompt {shown(prompt)} is not text.")
    for seed in seeds:
        if not hasattr(seed, "__index__") or isinstance(seed, bool) or not 0 <= int(seed) < 2**63:
            raise BadInput(f"Seed {seed!r} is no whole number from 0 to 2⁶³ − 1.")
    pairs = [(prompt, int(seed)) for prompt in prompts for seed in seeds]
    return tuple(p for p, _ in pairs), tuple(s for _, s in pairs)


@torch.no_grad()
def prepare(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> SampleBatch:
    """Encode the prompts and draw the noise exactly as the pipeline would for these rows.

    Noise is drawn on the CPU by one generator per row, so that it depends on the row's seed alone.

    Raises:
        BadInput: the size does not suit the model, or its scheduler is not deterministic flow-matching Euler.
    """
    require_size(pipeline, sampling)
    device = pipeline._execution_device
    scheduler = schedule(pipeline, sampling, device)
    embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(
        prompt=list(prompts),
        prompt_2=None,
        prompt_3=None,
        negative_prompt=sampling.negative_prompt,
        do_classifier_free_guidance=sampling.guided,
        device=device,
        max_sequence_length=sampling.max_sequence_length,
    )
    latents = pipeline.prepare_latents(
        len(prompts),
        pipeline.transformer.config.in_channels,
        sampling.height,
        sampling.width,
        embeds.dtype,
        device,
        [torch.Generator().manual_seed(seed) for seed in seeds],
    )
    return SampleBatch(
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        sampling=sampling,
        latents=latents,
        prompt_embeds=embeds,
        pooled_embeds=pooled,
        negative_embeds=negative,
        negative_pooled=negative_pooled,
        sigmas=scheduler.sigmas.cpu().numpy().astype(np.float32),
        scheduler=scheduler,
    )


def require_size(pipeline: Any, sampling: Sampling) -> None:
    """Raise BadInput unless the image falls into whole patches of this pipeline."""
    unit = pipeline.vae_scale_factor * pipeline.patch_size
    if sampling.height % unit or sampling.width % unit:
        raise BadInput(
            f"An image of {sampling.height} × {sampling.width} pixels does not fit this model: height "
            "and width "
            f"must be multiples of {unit}. The default is "
            f"{pipeline.default_sample_size * pipeline.vae_scale_factor}."
        )


def _check_scheduler(scheduler: Any) -> None:
    name = type(scheduler).__name__
    if name != "FlowMatchEulerDiscreteScheduler":
        # Heun and its like call the model twice per step: a step would no longer be one forward.
        raise BadInput(
            f"The pipeline's scheduler is {name}; the denoising loop follows "
            "FlowMatchEulerDiscreteScheduler. "
            "Set pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)."
        )
    if scheduler.config.stochastic_sampling:
        raise BadInput(
            "The scheduler samples stochastically (stochastic_sampling=True): its noise would come "
            "from no seed. "
            "Load the pipeline with stochastic_sampling=False."
        )


def schedule(pipeline: Any, sampling: Sampling, device: torch.device) -> Any:
    """A copy of the pipeline's scheduler, set for a sampling the way the pipeline sets its own.

    Raises:
        BadInput: the scheduler is not deterministic flow-matching Euler.
    """
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    _check_scheduler(pipeline.scheduler)
    scheduler = copy.deepcopy(pipeline.scheduler)
    config = scheduler.config
    if not config.get("use_dynamic_shifting", None):
        scheduler.set_timesteps(sampling.steps, device=device)
        return scheduler
    token = pipeline.vae_scale_factor * pipeline.transformer.config.patch_size
    mu = calculate_shift(
        (sampling.height // token) * (sampling.width // token),
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.16),
    )
    scheduler.set_timesteps(sampling.steps, device=device, mu=mu)
    return scheduler


Forward = Callable[[int, Mapping[str, Any]], "Tensor | None"]
"""(step, keyword arguments of the transformer) → velocity of all rows, or None to stop there."""


def denoise(
    batch: SampleBatch,
    forward: Forward,
    *,
    start: int = 0,
    latents: Tensor | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor | None:
    """Run the denoising loop and return the final latents [rows, C, h, w].

    `forward` gives the velocity at each step, for the rows of both branches where guidance runs. `start` > 0
    continues a run: `latents` are then those before that step. `on_step` gets (step, latents after it).
    Returns None where `forward` ended the run early.

    Raises:
        BadInput: `start` is no step, or lacks its latents.
    """
    steps = batch.sampling.steps
    if not 0 <= start < steps:
        raise BadInput(f"There is no step {start} to start from: there are {steps}, 0 to {steps - 1}.")
    if start and latents is None:
        raise BadInput(f"Starting at step {start} needs the latents before that step.")
    if latents is not None:
        batch = batch.with_latents(latents)
    # A private copy again, so that one batch can be run many times and from several threads. Shallow: a step
    # counts in the scheduler's own attributes and never writes into its sigmas and timesteps.
    scheduler = copy.copy(batch.scheduler)
    scheduler.set_begin_index(start)
    guided, scale = batch.sampling.guided, batch.sampling.guidance_scale
    embeds, pooled = batch.prompt_embeds, batch.pooled_embeds
    if guided:
        assert batch.negative_embeds is not None and batch.negative_pooled is not None
        embeds = torch.cat([batch.negative_embeds, embeds], dim=0)
        pooled = torch.cat([batch.negative_pooled, pooled], dim=0)
    x = batch.latents
    for step in range(start, steps):
        t = scheduler.timesteps[step]
        hidden = repeat(x, "rows c h w -> (branch rows) c h w", branch=2) if guided else x
        velocity = forward(
            step,
            {
                "hidden_states": hidden,
                "timestep": t.expand(hidden.shape[0]),
                "encoder_hidden_states": embeds,
                "pooled_projections": pooled,
                "joint_attention_kwargs": None,
            },
        )
        if velocity is None:
            return None
        if guided:
            uncond, cond = velocity.chunk(2)
            velocity = uncond + scale * (cond - uncond)
        x = scheduler.step(velocity, t, x, return_dict=False)[0]
        if on_step is not None:
            on_step(step, x)
    return x


@torch.no_grad()
def decode(pipeline: Any, latents: Tensor, device: torch.device | None = None) -> list[Image]:
    """Images of final latents [rows, C, h, w], as the pipeline decodes them; `device` where it computes."""
    vae = pipeline.vae
    latents = latents.to(device=device or pipeline._execution_device, dtype=vae.dtype)
    latents = (latents / vae.config.scaling_factor) + vae.config.shift_factor
    pixels = vae.decode(latents, return_dict=False)[0]
    images: list[Image] = pipeline.image_processor.postprocess(pixels, output_type="pil")
    return images


def default_batch_size(rows: int, image_tokens: int) -> int:
    """Rows per forward that keep about 16,000 image tokens in flight (4 rows of SD3-medium at 1024²)."""
    return max(1, min(rows, 2**14 // max(image_tokens, 1)))
