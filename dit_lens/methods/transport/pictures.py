"""Pictures to carry from: rendered scenes or a user's file, as latents at every noise level, and their mask.

What was noised or inverted is kept on disk, so that a run that is continued meets the very same latents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph
from dit_lens.zoo.scenes import ATTRIBUTES, IMAGE_SIZE, Scene, render, sample_scenes

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from dit_lens.methods.channels import ChannelSet
    from dit_lens.methods.spatial import Mask
    from dit_lens.model.given import GivenPath
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

ORIGINS = ("noised", "inverted")

FOLDER = "paths"
"""The run folder's place for latents that were noised or inverted."""

ITERATIONS = 8
"""At most so many by which each step of the sampler is undone."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture and where it goes: pixels [3, H, W] in [-1, 1], and the prompt that it is carried into.

    `shows` says what it shows, None where nobody did; `prompt` conditions the forwards that harvest it.
    """

    unit: str
    pixels: Tensor
    shows: str | None
    prompt: str
    target: str

    @cached_property
    def digest(self) -> str:
        """Of the pixels, 12 hex digits: what goes into several targets is one picture."""
        return hashlib.sha256(self.pixels.cpu().float().numpy().astype("<f4").tobytes()).hexdigest()[:12]


def rendered(
    count: int, seed: int, size: tuple[int, int], *, prompt: str | None = None
) -> tuple[Picture, ...]:
    """Scenes that the embedded model never saw, each with a target that differs in every attribute.

    Raises:
        BadInput: the run's size is not the world's.
    """
    from dit_lens.model.pictures import read_picture

    if size != (IMAGE_SIZE, IMAGE_SIZE):
        raise BadInput(
            f"Scenes are pictures of {IMAGE_SIZE} × {IMAGE_SIZE} pixels of the embedded world, and the run's "
            f"are {size[0]} × {size[1]}. Name a picture of that size: source.image."
        )
    scenes = _distinct(count, seed)
    targets = _opposites(scenes, seed)
    return tuple(
        Picture(
            unit=f"picture-{i:03d}",
            pixels=read_picture(render(scene), size),
            shows=scene.caption,
            prompt=prompt or "",
            target=target,
        )
        for i, (scene, target) in enumerate(zip(scenes, targets, strict=True))
    )


def _distinct(count: int, seed: int) -> list[Scene]:
    found: dict[str, Scene] = {}
    for scene in sample_scenes(20 * count, seed, held_out=True):
        found.setdefault(scene.caption, scene)
    if len(found) < count:
        raise BadInput(f"{count} different unseen scenes were asked for; ask for at most {len(found)}.")
    return list(found.values())[:count]


def _opposites(scenes: Sequence[Scene], seed: int) -> list[str]:
    """Captions that differ from a scene's in every attribute, all different."""
    rng = np.random.default_rng([seed, 1])
    taken: set[str] = {scene.caption for scene in scenes}
    found = []
    for scene in scenes:
        caption = scene.caption
        while caption in taken:
            chosen = {
                name: str(rng.choice([value for value in values if value != getattr(scene, name)]))
                for name, values in ATTRIBUTES.items()
            }
            caption = Scene.of(chosen).caption
        taken.add(caption)
        found.append(caption)
    return found


@dataclass(frozen=True, eq=False)
class Paths:
    """Latents of pictures at every noise level, made once and kept in a folder (None: not kept)."""

    lens: DiTLens
    sampling: Sampling
    folder: Path | None = None

    def of(self, picture: Picture, origin: str, seed: int) -> tuple[GivenPath, float | None]:
        """(the path, dB by which sampling from an inverted path misses the picture's latents).

        The second is None for noised paths, which are exact at their end. Conditioned by the picture's
        prompt; noise is that of the seed.

        Raises:
            BadInput: a picture that does not fit the sampling. RunFailure: the inversion diverges.
        """
        from dit_lens.model.given import GivenPath

        name = self._name(picture, origin, seed)
        if self.folder is not None:
            place, about = self.folder / f"{name}.safetensors", self.folder / f"{name}.json"
            try:
                return GivenPath.load(place), json.loads(about.read_text(encoding="utf-8"))["psnr"]
            except (BadInput, OSError, ValueError, KeyError, TypeError):
                # Absent or damaged: made again, to the same bits.
                pass
        path, psnr = self._made(picture, origin, seed)
        if self.folder is not None:
            from dit_lens.atomic import atomic_write

            path.save(place)
            atomic_write(about, json.dumps({"psnr": psnr}) + "\n")
        return path, psnr

    def _name(self, picture: Picture, origin: str, seed: int) -> str:
        digest = hashlib.sha256()
        identity = self.lens.identity(self.sampling).told("paths that are kept")
        about = [identity.digest, self.sampling.canonical]
        digest.update(json.dumps([*about, picture.prompt, origin, seed], sort_keys=True).encode())
        digest.update(picture.pixels.cpu().float().numpy().astype("<f4").tobytes())
        return digest.hexdigest()[:24]

    def _made(self, picture: Picture, origin: str, seed: int) -> tuple[GivenPath, float | None]:
        from dit_lens.model.inversion import encode, inverted_path, noised_path

        latents = encode(self.lens, [picture.pixels])
        if origin == "noised":
            path = noised_path(self.lens, latents, picture.prompt, seeds=[seed], sampling=self.sampling)[0]
            return path, None
        found = inverted_path(
            self.lens,
            latents,
            picture.prompt,
            sampling=self.sampling,
            iterations=ITERATIONS,
            progress=False,
        )
        return found.paths[0], float(found.reconstruction_psnr[0])


def inversions(pictures: Sequence[Picture], psnr: Mapping[str, float], steps: int) -> pd.DataFrame:
    """How well sampling from inverted paths leads back, a row per picture: `psnr` in dB, by its digest.

    `targets` counts the prompts into whose runs a picture is carried, `iterations` is the most that a step
    was undone by.
    """
    import pandas as pd

    of: dict[str, list[Picture]] = {}
    for picture in pictures:
        of.setdefault(picture.digest, []).append(picture)
    rows = [
        (digest, same[0].shows or "", len(same), steps, ITERATIONS, psnr[digest])
        for digest, same in of.items()
        if digest in psnr
    ]
    return pd.DataFrame(rows, columns=["picture", "shows", "targets", "steps", "iterations", "psnr"])


def subject(
    lens: DiTLens,
    path: GivenPath,
    massive: ChannelSet,
    *,
    block: int,
    seed: int,
    sampling: Sampling,
) -> Mask:
    """The subject's mask on a path: its own massive channels clustered after a block at the last step.

    Empty where nothing stands out. Source: arXiv 2605.13974; see `methods.spatial`.

    Raises:
        BadInput: a block without massive channels.
    """
    from dit_lens.methods.spatial import segmentation
    from dit_lens.run.runner import run

    chosen = massive.blocks.get(block, ())
    if not chosen:
        raise BadInput(
            f"The picture's subject is segmented by massive channels of block {block}, and there are none. "
            f"There are some in blocks {', '.join(str(b) for b, c in massive.blocks.items() if c)}."
        )
    graph = InterventionGraph(sampling=asdict(sampling))
    donor = graph.trajectory(prompt=path.prompt, seed=seed, id="picture", path="picture")
    graph.read(
        donor,
        at=f"blocks.{block}.resid_post.image",
        steps=[sampling.steps - 1],
        branch="cond",
        name="tokens",
    )
    done = run(lens, graph, images=False, sham=False, progress=False, paths={"picture": path})
    tokens: Any = done.read("tokens")[0].value.numpy()[:, list(chosen)]
    grid = lens.token_grid(sampling.height, sampling.width)
    found = segmentation(tokens, grid, image_size=(sampling.height, sampling.width), nothing="empty")
    return found.mask


def tokens_of(mask: Mask, picture: Picture, say: Callable[[str], None] | None) -> Any:
    """The mask as tokens to carry; one that holds nothing or everything stands for the whole image."""
    from dit_lens.methods.transport.subjects import mask_or_all

    return mask_or_all(mask, picture.shows or picture.unit, "; the whole image is carried.", say)


__all__ = ["FOLDER", "ORIGINS", "Paths", "Picture", "inversions", "rendered", "subject", "tokens_of"]
