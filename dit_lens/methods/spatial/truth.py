"""Where the subject truly is: scenes of the embedded world, a user's files, or another model.

A truth answers for one sample at a time, as a mask on the token grid, or None where it finds no subject (the
sample's overlaps are then undefined, and statistics count it as left out).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dit_lens.errors import BadInput
from dit_lens.methods.spatial.masks import Mask, require_partial
from dit_lens.methods.spatial.subject import Subject
from dit_lens.plain_yaml import load_yaml

if TYPE_CHECKING:
    pass

PICTURE, CAPTION = "picture", "caption"
SEGMENTER = "transformers:"


@runtime_checkable
class Truth(Protocol):
    """What tells where the subject is.

    `name` says it in words, `needs_picture` whether the finished picture has to be made. `require` raises
    `BadInput`, before anything runs, for samples it cannot answer for.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_picture(self) -> bool: ...

    def require(self, samples: Sequence[Subject]) -> None: ...

    def find(self, sample: Subject) -> Mask | None: ...


@dataclass(frozen=True)
class SceneTruth:
    """Exact masks of the embedded world, for its captions.

    `of="picture"` (default): the mask of the scene whose rendering is nearest to the generated picture; it
    follows the subject to where the model put it. `of="caption"`: the mask of the captioned scene in its
    nominal place. Subjects sit up to two pixels from there, half a token, and small ones have a few tokens
    only, so the two differ: over the calibration captions (seed 0) they have a mean token IoU of 0.75, and
    the pixels that stand out from the picture's background a mean IoU of 0.81 with the first and 0.73 with
    the second. Neither looks at activations.

    Raises:
        BadInput: another `of`.
    """

    of: str = PICTURE

    def __post_init__(self) -> None:
        if self.of not in (PICTURE, CAPTION):
            raise BadInput(f"A scene's truth is of the {PICTURE} or of the {CAPTION}, not of {self.of!r}.")

    @property
    def name(self) -> str:
        return f"exact mask of the {self.of}'s scene"

    @property
    def needs_picture(self) -> bool:
        return self.of == PICTURE

    def require(self, samples: Sequence[Subject]) -> None:
        from dit_lens.zoo.scenes import IMAGE_SIZE, parse_caption

        for sample in samples:
            if sample.image_size != (IMAGE_SIZE, IMAGE_SIZE):
                height, width = sample.image_size
                raise BadInput(
                    f"Exact masks exist for the embedded world's pictures of {IMAGE_SIZE} × {IMAGE_SIZE} "
                    f"pixels; these have {height} × {width}. Give mask files or a segmentation model as the "
                    "truth."
                )
            if self.of == CAPTION:
                parse_caption(sample.prompt)

    def find(self, sample: Subject) -> Mask:
        from dit_lens.zoo.nearest import scene_of
        from dit_lens.zoo.scenes import parse_caption, subject_mask

        if self.of == CAPTION:
            scene = parse_caption(sample.prompt)
        else:
            assert sample.picture is not None
            scene = scene_of(sample.picture)
        return Mask.from_pixels(subject_mask(scene), sample.grid, about=self.name)


@dataclass(frozen=True)
class FileTruth:
    """Masks that the user made: {prompt or (prompt, seed): a Mask, or the path of its PNG or JSON}.

    A PNG has the picture's size; see `Mask.load`. Masks that are empty or full are refused.
    """

    masks: Mapping[Any, Mask | str | os.PathLike[str]]
    name: str = "the user's masks"
    needs_picture: bool = False

    @classmethod
    def in_folder(cls, folder: str | os.PathLike[str]) -> FileTruth:
        """The masks that `masks.yaml` in a folder lists: entries of prompt, file and, if it matters, seed.

        Raises `BadInput` where there is no such list, or it holds anything else.
        """
        place = Path(folder)
        listed = place / "masks.yaml"
        shape = (
            "It lists entries such as {prompt: a red circle, seed: 0, file: circle.png}; seed may be absent."
        )
        try:
            entries = load_yaml(listed.read_text(encoding="utf-8"), str(listed))
        except OSError as error:
            raise BadInput(f"Cannot read {listed}: {error.strerror or error}. {shape}") from error
        except BadInput as error:
            raise BadInput(f"{error} {shape}") from None
        except ValueError as error:
            raise BadInput(f"{listed} is no UTF-8 text ({error!s:.80}). {shape}") from error
        masks: dict[Any, Path] = {}
        for entry in entries if isinstance(entries, list) and entries else [None]:
            if not isinstance(entry, dict) or not {"prompt", "file"} <= set(entry) <= {
                "prompt",
                "seed",
                "file",
            }:
                raise BadInput(f"{listed}: {entry!r:.80} is no entry. {shape}")
            key = entry["prompt"] if entry.get("seed") is None else (entry["prompt"], entry["seed"])
            if key in masks:
                raise BadInput(f"{listed}: {entry!r:.80} stands twice, and a sample has one mask. Keep one.")
            masks[key] = place / str(entry["file"])
        return cls(masks, name=f"masks in {place.name}")

    def require(self, samples: Sequence[Subject]) -> None:
        for sample in samples:
            self.find(sample)

    def find(self, sample: Subject) -> Mask:
        for key in ((sample.prompt, sample.seed), sample.prompt):
            if key in self.masks:
                held = self.masks[key]
                mask = held if isinstance(held, Mask) else Mask.load(held, sample.grid)
                return _fitting(mask, sample)
        raise BadInput(f"There is no mask for {sample}; there are {len(self.masks)}, by prompt and seed.")


@dataclass(frozen=True)
class FunctionTruth:
    """A function of the sample: (Subject) → a Mask, pixels as `Mask.from_pixels` takes, or None."""

    function: Callable[[Subject], Any]
    name: str = "the given function"
    needs_picture: bool = True

    def require(self, samples: Sequence[Subject]) -> None:
        """Nothing is known of a function before it runs."""

    def find(self, sample: Subject) -> Mask | None:
        found = self.function(sample)
        if found is None:
            return None
        return _fitting(found if isinstance(found, Mask) else Mask.from_pixels(found, sample.grid), sample)


def as_truth(value: Any) -> Truth:
    """A truth from what users write.

    "picture" or "caption" (embedded world), "transformers:MODEL" or "transformers:MODEL#LABEL" (a
    segmentation model, see `SegmenterTruth`), a folder with `masks.yaml`, a mapping (`FileTruth`), a function
    (`FunctionTruth`) or a truth.

    Raises:
        BadInput: anything else.

    >>> as_truth("caption").name
    "exact mask of the caption's scene"
    """
    if isinstance(value, Truth) and not isinstance(value, type):
        return value
    if isinstance(value, Mapping):
        return FileTruth(value)
    if callable(value):
        return FunctionTruth(value)
    if value in (PICTURE, CAPTION):
        return SceneTruth(value)
    if isinstance(value, str) and value.startswith(SEGMENTER):
        from dit_lens.methods.spatial.segmenter import SegmenterTruth

        model, _, label = value.removeprefix(SEGMENTER).partition("#")
        return SegmenterTruth(model, subject=(label,) if label else ())
    if isinstance(value, (str, os.PathLike)) and Path(value).is_dir():
        return FileTruth.in_folder(value)
    raise BadInput(
        f"truth is {value!r}; give {PICTURE!r} or {CAPTION!r} (the embedded world's exact masks), a folder "
        f"with masks.yaml, '{SEGMENTER}MODEL#LABEL', a mapping of prompts to masks, or a function."
    )


def _fitting(mask: Mask, sample: Subject) -> Mask:
    """The mask, or BadInput if it is for another picture size, empty or full."""
    if mask.grid != sample.grid or mask.image_size not in (None, sample.image_size):
        made = mask.image_size or mask.grid
        unit = "pixels" if mask.image_size else "tokens"
        raise BadInput(
            f"The mask for {sample} has {made[0]} × {made[1]} {unit}; the picture has "
            f"{sample.image_size[0]} × {sample.image_size[1]} pixels, {sample.grid[0]} × {sample.grid[1]} "
            "tokens. Nothing is resized."
        )
    return require_partial(mask, f"The mask for {sample}")
