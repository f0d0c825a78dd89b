"""A picture as a trajectory: encoded, then brought to each step's noise level in one of two ways.

*Noised*: the clean latents mixed with the fixed noise of a seed. Every entry is a fair sample of its level,
but no step leads from one to the next. *Inverted*: the sampler's own steps, undone one by one from the clean
end. Sampling from the noise it finds leads back to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.fixed_point import norms, undone
from dit_lens.model.given import GivenPath
from dit_lens.model.memory import memory_explained
from dit_lens.model.progress import ProgressBar
from dit_lens.model.sampling import SampleBatch, Sampling, denoise, rows_of
from dit_lens.words import known_words

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.model.lens import DiTLens

PSNR_CAP = 100.0
"""dB given to pictures that are equal; nothing that 8 bits can tell apart comes near it."""

GROWTH_LIMIT = 10.0
"""An inversion has diverged once its latents are this many times larger (RMS) than the larger of the
picture's and unit noise, between which they should lie."""


# ------------------------------------------------------------------ pixels → latents


@known_words
@torch.no_grad()
def encode(lens: DiTLens, pictures: Tensor | Sequence[Tensor]) -> Tensor:
    """Clean latents of pictures: [rows, C, h, w] in the autoencoder's dtype, on its device.

    The mean of the autoencoder's posterior, shifted and scaled as `lens.decode` undoes it. Pictures are
    [rows, 3, H, W] or a list of [3, H, W] in [-1, 1], as `read_picture` gives them. Each goes through on its
    own, so that its latents do not depend on its company.

    Raises:
        BadInput: a wrong shape, a size that does not fit the model, or values out of range.
        RunFailure: out of memory, or latents that are not finite.

    >>> pictures = [dl.read_picture(image, lens) for image in trajectory.images]
    >>> encode(lens, pictures).shape
    torch.Size([2, 8, 24, 24])
    """
    rows = list(pictures)
    if not rows:
        raise BadInput("No pictures were given; encode needs at least one.")
    for picture in rows:
        _require_pixels(picture)
        # Refuses a size that does not fall into whole patches.
        lens.token_grid(height=picture.shape[1], width=picture.shape[2])
    shapes = {tuple(picture.shape) for picture in rows}
    if len(shapes) > 1:
        raise BadInput(f"The pictures differ in size: {', '.join(map(str, sorted(shapes)))}.")
    vae = lens.pipeline.vae
    with lens.lock, memory_explained(f"encoding a picture of {rows[0].shape[1]} × {rows[0].shape[2]} pixels"):
        latents = torch.cat(
            [vae.encode(row[None].to(device=lens.device, dtype=vae.dtype)).latent_dist.mode() for row in rows]
        )
        lens.pipeline.maybe_free_model_hooks()
    latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    if not bool(torch.isfinite(latents).all()):
        raise RunFailure(
            f"The autoencoder of {lens.name} gave NaN or infinite latents ({vae.dtype}); use float32."
        )
    return latents


def _require_pixels(picture: Any) -> None:
    if not isinstance(picture, Tensor) or picture.ndim != 3 or picture.shape[0] != 3:
        found = list(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__
        raise BadInput(
            f"A picture to encode is a tensor [3, H, W] in [-1, 1]; got {found}. read_picture(file, lens) "
            "makes one."
        )
    if not picture.is_floating_point() or not bool((picture.abs() <= 1).all()):
        raise BadInput(
            f"A picture to encode holds floats in [-1, 1]; got {str(picture.dtype).removeprefix('torch.')} "
            f"from {picture.min().item():.3g} to {picture.max().item():.3g}. read_picture makes one."
        )


# ------------------------------------------------------------------ latents → a path through the noise levels


@known_words
def noised_path(
    lens: DiTLens,
    latents: Tensor,
    prompts: str | Sequence[str] = "",
    *,
    seeds: int | Sequence[int] = 0,
    sampling: Sampling | None = None,
    origin: str = "noised",
) -> tuple[GivenPath, ...]:
    """Clean latents [rows, C, h, w] mixed with fixed noise at every sigma of the schedule, a path per row.

    x_σ = (1 − σ) x₀ + σ ε, where ε is the noise that the pipeline would start from for that seed. `prompts`
    and `seeds` are one for all rows or one per row; `prompts` condition what is harvested along the path.
    `sampling` gives the schedule, the model's default unless given; `origin` is what results call the path.

    Raises:
        BadInput: latents that do not fit the sampling, or another number of prompts or seeds than of rows.

    >>> latents = encode(lens, [dl.read_picture(trajectory.images[0], lens)])
    >>> noised_path(lens, latents, "a red circle", seeds=[0])[0].latents.shape       # a state per sigma
    torch.Size([21, 8, 24, 24])
    """
    sampling = sampling or lens.defaults
    texts, row_seeds = _per_row(latents, prompts, str, "prompts"), _per_row(latents, seeds, Integral, "seeds")
    _require_latents(lens, latents, sampling)
    batch = lens.prepare_rows(texts, row_seeds, replace(sampling, guidance_scale=1.0))
    sigmas = torch.from_numpy(batch.sigmas).view(-1, 1, 1, 1)
    return tuple(
        GivenPath(
            (1 - sigmas) * clean + sigmas * noise, tuple(batch.sigmas.tolist()), prompt, int(seed), origin
        )
        for clean, noise, prompt, seed in zip(
            latents.float().cpu(), batch.latents.float().cpu(), texts, row_seeds, strict=True
        )
    )


@dataclass(frozen=True, eq=False)
class Inversion:
    """What `inverted_path` found, and how well sampling from it leads back. One entry per row throughout.

    `drift` [rows, steps + 1] is the distance between the path and the run sampled from its noise, relative
    to the path's norm, at every sigma. `noise_rms` is that of the noise found; the sampler's own noise has 1.
    """

    paths: tuple[GivenPath, ...]
    sampling: Sampling
    reconstruction_psnr: tuple[float, ...]
    """dB between the decoded latents and the decoded reconstruction: the autoencoder's loss is in neither."""
    drift: np.ndarray = field(repr=False)
    noise_rms: tuple[float, ...]
    images: tuple[Image, ...] = field(repr=False)
    """The reconstructions."""
    forwards: int
    """Rows sent through the transformer to undo, without those that sampled the reconstruction."""


@known_words
def inverted_path(
    lens: DiTLens,
    latents: Tensor,
    prompts: str | Sequence[str] = "",
    *,
    sampling: Sampling | None = None,
    guided: bool = False,
    iterations: int = 8,
    tolerance: float = 1e-4,
    batch_size: int | None = 1,
    origin: str = "inverted",
    progress: bool = True,
) -> Inversion:
    """Undo the sampler's Euler steps from clean latents [rows, C, h, w] back to noise; a path per row.

    The step x → x + Δσ v(x, σ) has no inverse in closed form: the velocity belongs to the x that is sought.
    With `iterations=0` the velocity at the step's end stands in for it: plain Euler backwards. Each
    iteration then solves the equation better (arXiv:2312.12540, with the acceleration of arXiv:2309.04907);
    it ends early where every row's step leads back within `tolerance`, relative, or within the dtype's
    rounding. `prompts` condition the velocity ("" is the empty prompt). Guidance is left out unless `guided`
    asks for the sampling's own: it makes steps that are harder to undo. `sampling` is the model's default
    unless given; `origin` is what results call the paths.

    Sampling contracts: starts far apart lead to one picture, so the noise found is one that leads there, not
    the only one, and its last bits weigh. Rows therefore go through one by one, and a picture's path does
    not depend on its company; `batch_size` (None: the lens's own) trades that for speed.

    Raises:
        BadInput: latents that do not fit the sampling, or a number out of range; before any forward pass.
        RunFailure: the inversion diverges, or memory runs out.

    >>> latents = encode(lens, [dl.read_picture(trajectory.images[0], lens)])
    >>> inverted = inverted_path(lens, latents, "a red circle", sampling=lens.sampling(steps=4))
    >>> inverted.reconstruction_psnr[0] > 40                             # dB
    True
    """
    from dit_lens.model.lens import require_batch_size

    sampling = sampling or lens.defaults
    sampling = sampling if guided else replace(sampling, guidance_scale=1.0)
    if not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 0:
        raise BadInput(f"iterations is {iterations!r}; it must be a whole number from 0 (plain Euler) up.")
    if not isinstance(tolerance, int | float) or not 0 < tolerance < 1:
        raise BadInput(f"tolerance is {tolerance!r}; it must lie between 0 and 1.")
    texts = _per_row(latents, prompts, str, "prompts")
    rows_of(texts, 0)
    _require_latents(lens, latents, sampling)
    size = require_batch_size(batch_size) or lens.default_batch_size(sampling)
    starts = range(0, len(texts), size)
    done = []
    with ProgressBar(len(starts) * sampling.steps * (iterations + 2), "inverting", enabled=progress) as bar:
        for start in starts:
            rows = slice(start, start + size)
            batch = lens.prepare_rows(texts[rows], [0] * len(texts[rows]), sampling)
            done.append(
                _Undone(lens, batch, start, bar).run(latents[rows], iterations, float(tolerance), origin)
            )
    return Inversion(
        paths=tuple(path for part in done for path in part.paths),
        sampling=sampling,
        reconstruction_psnr=tuple(x for part in done for x in part.reconstruction_psnr),
        drift=np.concatenate([part.drift for part in done]),
        noise_rms=tuple(x for part in done for x in part.noise_rms),
        images=tuple(image for part in done for image in part.images),
        forwards=sum(part.forwards for part in done),
    )


def _per_row(latents: Tensor, values: Any, kind: type, name: str) -> list[Any]:
    """One value per row of the latents; a single one is repeated."""
    if not isinstance(latents, Tensor) or latents.ndim != 4 or not len(latents):
        found = list(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise BadInput(f"Latents must be [rows, C, h, w], as encode(lens, pictures) gives them; got {found}.")
    if isinstance(values, kind):
        return [values] * len(latents)
    if not isinstance(values, Sequence):
        raise BadInput(f"{name} is {values!r}; give one for all rows, or a list with one per row.")
    listed = list(values)
    if len(listed) != len(latents):
        raise BadInput(
            f"{len(listed)} {name} were given for {len(latents)} rows of latents; give one for all or "
            "one per row."
        )
    return listed


def _require_latents(lens: DiTLens, latents: Tensor, sampling: Sampling) -> None:
    lens.token_grid(height=sampling.height, width=sampling.width)
    scale = lens.pipeline.vae_scale_factor
    channels = lens.pipeline.transformer.config.in_channels
    expected = (channels, sampling.height // scale, sampling.width // scale)
    if tuple(latents.shape[1:]) != expected:
        raise BadInput(
            f"Latents of shape {tuple(latents.shape[1:])} do not fit this sampling, whose latents are "
            f"{expected} ({sampling.height} × {sampling.width} pixels): picture and run must have one "
            "resolution. Set sampling.height and sampling.width to the picture's, or resize the picture."
        )
    if not bool(torch.isfinite(latents).all()):
        raise BadInput("The latents hold values that are not finite; the picture's encoding went wrong.")


# ------------------------------------------------------------------ undoing steps


class _Undone:
    """One batch of rows, undone step by step."""

    def __init__(self, lens: DiTLens, batch: SampleBatch, first_row: int, bar: ProgressBar) -> None:
        self.lens, self.batch, self.first_row, self.bar = lens, batch, first_row, bar
        self.forwards = 0

    @torch.no_grad()
    def run(self, latents: Tensor, iterations: int, tolerance: float, origin: str) -> Inversion:
        lens, batch = self.lens, self.batch
        work = f"inverting {batch.rows} rows of {batch.sampling.height} × {batch.sampling.width} pixels"
        # Rounded to the model's dtype throughout: these are the latents that its forward passes will see.
        clean = latents.to(batch.latents)
        path = [clean]
        with lens.lock, memory_explained(work):
            for step in reversed(range(batch.sampling.steps)):
                path.append(self._before(step, path[-1], iterations, tolerance).to(clean))
                self._require_bounded(step, path[-1], clean)
            path.reverse()
            sampled = self._sampled(path[0])
            lens.pipeline.maybe_free_model_hooks()
        drift = torch.stack([_distance(found, x) for found, x in zip(sampled, path, strict=True)], dim=1)
        before, after = lens.decode(clean), lens.decode(sampled[-1])
        sigmas = tuple(batch.sigmas.tolist())
        rows = torch.stack(path, dim=1)
        return Inversion(
            paths=tuple(
                GivenPath(row, sigmas, prompt, None, origin)
                for row, prompt in zip(rows, batch.prompts, strict=True)
            ),
            sampling=batch.sampling,
            reconstruction_psnr=tuple(picture_psnr(a, b) for a, b in zip(after, before, strict=True)),
            drift=drift.cpu().numpy(),
            noise_rms=tuple(rms(path[0]).tolist()),
            images=tuple(after),
            forwards=self.forwards,
        )

    def _after(self, step: int, x: Tensor) -> Tensor:
        """The sampler's own step, guidance and rounding included: float32 [rows, C, h, w]."""
        found: list[Tensor] = []

        def velocity(now: int, inputs: Any) -> Tensor | None:
            return self.lens.traced.forward(inputs) if now == step else None

        denoise(self.batch, velocity, start=step, latents=x, on_step=lambda _, after: found.append(after))
        self.forwards += self.batch.rows
        return found[0].float()

    def _before(self, step: int, after: Tensor, iterations: int, tolerance: float) -> Tensor:
        """Latents before a step, from those after it."""
        ahead = iterations + 1

        def count(left: int) -> None:
            nonlocal ahead
            self.bar.advance(ahead - left)
            ahead = left

        try:
            return undone(
                lambda x: self._after(step, x),
                after,
                iterations=iterations,
                # No x can do better than the rounding of the dtype that the step is computed in.
                tolerance=max(tolerance, torch.finfo(after.dtype).eps),
                on_step=count,
            )
        except FloatingPointError as error:
            raise self._diverged(step, error.args[0], "not finite") from None

    def _sampled(self, noise: Tensor) -> list[Tensor]:
        """Latents of every step of a run from that noise."""
        path = [noise]

        def keep(_: int, latents: Tensor) -> None:
            path.append(latents)
            self.bar.advance()

        batch = self.batch.with_latents(noise)
        denoise(batch, lambda _, inputs: self.lens.traced.forward(inputs), on_step=keep)
        return path

    def _require_bounded(self, step: int, x: Tensor, clean: Tensor) -> None:
        now = rms(x)
        growth = now / rms(clean).clamp(min=1.0)
        if bool((growth <= GROWTH_LIMIT).all()):
            return
        row = int((~(growth <= GROWTH_LIMIT)).nonzero()[0])
        times = f"{growth[row].item():.3g} times as large as the picture's or as noise"
        raise self._diverged(step, row, times if bool(torch.isfinite(now[row])) else "not finite")

    def _diverged(self, step: int, row: int, what: str) -> RunFailure:
        batch = self.batch
        hint = "guided=False, " if batch.sampling.guided else ""
        return RunFailure(
            f"The inversion of row {self.first_row + row} (prompt {batch.prompts[row]!r}) diverges at step "
            f"{step}, sigma {batch.sigmas[step]:.3g}: its latents are {what}. Try {hint}more steps, more "
            "iterations, or a prompt that describes the picture; noised_path needs no inversion and cannot "
            "diverge."
        )


def picture_psnr(picture: Image, reference: Image) -> float:
    """dB between two 8-bit pictures of one size, at most `PSNR_CAP`, which equal ones get."""
    a, b = np.asarray(picture, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    error = float(np.mean((a - b) ** 2)) / 255.0**2
    return PSNR_CAP if error <= 10 ** (-PSNR_CAP / 10) else float(-10 * np.log10(error))


def rms(x: Tensor) -> Tensor:
    """Root mean square of each row: [rows]."""
    return x.float().flatten(1).square().mean(dim=1).sqrt()


def _distance(x: Tensor, reference: Tensor) -> Tensor:
    """Of each row, relative to the reference."""
    return norms(x.float() - reference.float()) / norms(reference).clamp(min=1e-12)
