"""GivenPath: latents of every step that come from a picture, or from anywhere but the sampler.

A graph takes it where it would take a prompt and a seed to denoise from: its activations are harvested along
these latents.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit_lens.atomic import atomic_write
from dit_lens.errors import BadInput
from dit_lens.paths import named_path

SCHEMA_VERSION = 1
_KEY = "dit_lens.given_path"
_SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class GivenPath:
    """A trajectory's latents [steps + 1, C, h, w], float32 on the CPU; the last ones are the clean ones.

    `sigmas` [steps + 1] fall strictly, end in 0, and say at which noise level each entry lies. `prompt`
    conditions the forward passes that harvest its activations. `seed` is that of its noise, None where no
    seed made it. `origin` says in words where it comes from, and is the only field that `digest` leaves out.

    Raises:
        BadInput: shapes, sigmas or types that do not fit together, or latents that are not finite.

    >>> path = GivenPath(torch.zeros(3, 4, 8, 8), (1.0, 0.5, 0.0), "a red circle", seed=0, origin="noised")
    >>> path.steps
    2
    """

    latents: Tensor = field(repr=False)
    sigmas: tuple[float, ...]
    prompt: str
    seed: int | None = None
    origin: str = "given"

    def __post_init__(self) -> None:
        if not isinstance(self.latents, Tensor) or self.latents.ndim != 4 or self.latents.shape[0] < 2:
            found = (
                list(self.latents.shape) if isinstance(self.latents, Tensor) else type(self.latents).__name__
            )
            raise BadInput(
                f"A given path's latents are [steps + 1, C, h, w] with one step or more; got {found}."
            )
        if not bool(torch.isfinite(self.latents).all()):
            raise BadInput("A given path's latents hold values that are not finite.")
        # A copy: the digest must not change under whoever holds it.
        latents = self.latents.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
        # Sigmas are float32 everywhere else; as such they compare equal to a schedule's.
        sigmas = tuple(torch.tensor([float(s) for s in self.sigmas], dtype=torch.float32).tolist())
        object.__setattr__(self, "latents", latents)
        object.__setattr__(self, "sigmas", sigmas)
        if len(sigmas) != len(latents):
            raise BadInput(f"{len(latents)} latents need as many sigmas; got {len(sigmas)}.")
        falling = all(a > b for a, b in pairwise(sigmas))
        if not falling or sigmas[-1] != 0 or not 0 < sigmas[0] <= 1:
            raise BadInput(
                "A given path's sigmas must fall from at most 1 to 0; got "
                f"{', '.join(f'{s:.4g}' for s in sigmas)}."
            )
        if not isinstance(self.prompt, str):
            raise BadInput(f"Prompt {self.prompt!r} is not text; '' is the empty prompt.")
        if not isinstance(self.origin, str):
            raise BadInput(f"origin is {self.origin!r}; it must be text.")
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if self.seed is not None and not (whole and 0 <= self.seed < 2**63):
            raise BadInput(f"Seed {self.seed!r} is no whole number from 0 to 2⁶³ − 1, nor None.")

    @property
    def steps(self) -> int:
        """Denoising steps; one less than there are latents."""
        return len(self.sigmas) - 1

    @cached_property
    def digest(self) -> str:
        """sha256 of all that changes a result: latents, sigmas, prompt and seed. Stable across machines."""
        about = json.dumps(
            {
                "shape": list(self.latents.shape),
                "sigmas": [s.hex() for s in self.sigmas],
                "prompt": self.prompt,
                "seed": self.seed,
            },
            sort_keys=True,
        )
        numbers = self.latents.numpy().astype("<f4").tobytes()
        return hashlib.sha256(about.encode() + b"\0" + numbers).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GivenPath) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def require_fits(self, latent_shape: Sequence[int], sigmas: Sequence[float]) -> None:
        """Check this path against a run: `latent_shape` is one row's (C, h, w), `sigmas` its schedule.

        Raises:
            BadInput: another resolution or another schedule.
        """
        mine = tuple(self.latents.shape[1:])
        if mine != tuple(latent_shape):
            raise BadInput(
                f"The given path ({self.origin}) has latents {mine}, and this run has {tuple(latent_shape)}: "
                "source and target must have one resolution. Set height and width to the picture's."
            )
        schedule = tuple(torch.tensor([float(s) for s in sigmas], dtype=torch.float32).tolist())
        if self.sigmas != schedule:
            raise BadInput(
                f"The given path ({self.origin}) has {self.steps} steps from sigma {self.sigmas[0]:.4g}, "
                f"and this run has {len(schedule) - 1} from {schedule[0]:.4g}: their sigmas differ. Make the "
                "path with this run's sampling; matched_path makes one of a run with other steps."
            )

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file with everything else as JSON in its header, whole or not at all.

        Raises:
            RunFailure: the file cannot be written.
        """
        from safetensors.torch import save as to_bytes

        path = _named(path)
        about = {
            "schema_version": SCHEMA_VERSION,
            "sigmas": list(self.sigmas),
            "prompt": self.prompt,
            "seed": self.seed,
            "origin": self.origin,
            "digest": self.digest,
        }
        data = to_bytes({"latents": self.latents}, metadata={_KEY: json.dumps(about, ensure_ascii=False)})
        return atomic_write(path, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GivenPath:
        """Read what `save` wrote.

        Raises:
            BadInput: not such a file, from another version, or changed since it was written.
        """
        from safetensors import SafetensorError, safe_open

        path = _named(path)
        try:
            with safe_open(str(path), framework="pt") as file:
                about: Any = json.loads((file.metadata() or {})[_KEY])
                latents = file.get_tensor("latents")
            if about["schema_version"] != SCHEMA_VERSION:
                raise BadInput(
                    f"{path} has schema_version {about['schema_version']!r}; this dit_lens reads "
                    f"{SCHEMA_VERSION}. Make the path again, or update dit_lens."
                )
            found = cls(latents, tuple(about["sigmas"]), about["prompt"], about["seed"], about["origin"])
            changed = found.digest != about["digest"]
        except OSError as error:
            raise BadInput(f"There is no given path to read at {path}: {error.strerror or error}.") from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{path} holds no given path, or is damaged ({error}). Make it again.") from None
        if changed:
            raise BadInput(f"{path} was changed after it was written: its digest is not its content's.")
        return found


def _named(path: str | os.PathLike[str]) -> Path:
    path = named_path(path, asked_by="path")
    return path if path.suffix == _SUFFIX else path.with_name(path.name + _SUFFIX)
