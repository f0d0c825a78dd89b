"""One picture, and the subject as massive channels outline it: a first look, judged against nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_lens.display import Summarised
from dit_lens.errors import BadInput
from dit_lens.methods.channel_sets import ChannelSet, require_k
from dit_lens.methods.pixels import save_png
from dit_lens.methods.spatial.clustering import Clustering
from dit_lens.methods.spatial.harvest import plan_harvest, segment_samples
from dit_lens.methods.spatial.masks import Mask
from dit_lens.model.hook_points import parse_blocks, select_steps
from dit_lens.summary import Facts, Images, Summary

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

TOP_K = 4
OWN_RUN = "this prompt's own run"

_EARLY = 0.25
_SMALL, _ENLARGED = 128, 192
_GAP = 4


@dataclass(frozen=True)
class FirstLook(Summarised):
    """A picture and its masks: block → mask at one step, by the channels named, and where those come from."""

    prompt: str
    seed: int
    model: str
    picture: Image
    step: int
    masks: dict[int, Mask]
    channels: dict[int, tuple[int, ...]]
    channels_from: str

    @property
    def labelled_images(self) -> list[tuple[str, Image]]:
        """The picture, and the mask over it after each block, for `dl.plots.images`."""
        masks = [(f"mask after block {b}", mask.overlay(self.picture)) for b, mask in self.masks.items()]
        return [(f"{self.prompt} · seed {self.seed}", self.picture), *masks]

    def sheet(self) -> Image:
        """One row per block, from the first: the picture, the mask (white), and the mask over the picture.

        Small pictures are enlarged by a whole factor, with their pixels kept.
        """
        from PIL import Image as images

        width, height = self.picture.size
        rows = []
        for mask in self.masks.values():
            white = images.fromarray(mask.to_pixels(height, width).astype(np.uint8) * 255).convert("RGB")
            rows.append([self.picture.convert("RGB"), white, mask.overlay(self.picture)])
        factor = -(-_ENLARGED // max(width, height)) if max(width, height) < _SMALL else 1
        width, height = width * factor, height * factor
        size = (3 * width + 2 * _GAP, len(rows) * height + (len(rows) - 1) * _GAP)
        found = images.new("RGB", size, (255, 255, 255))
        for down, row in enumerate(rows):
            for across, panel in enumerate(row):
                enlarged = panel.resize((width, height), images.Resampling.NEAREST)
                found.paste(enlarged, (across * (width + _GAP), down * (height + _GAP)))
        return found

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sheet as a PNG, whole or not at all; raises `RunFailure` where that cannot be."""
        return save_png(path, self.sheet())

    def as_data(self) -> dict[str, Any]:
        """Plain data, without the picture; a mask is lines of # (subject) and dots."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "model": self.model,
            "step": self.step,
            "channels_from": self.channels_from,
            "masks": [
                {
                    "block": block,
                    "channels": list(self.channels[block]),
                    "about": mask.about,
                    "share": mask.share,
                    "mask": ["".join("#" if cell else "." for cell in row) for row in mask.values],
                }
                for block, mask in self.masks.items()
            ],
        }

    def summary(self) -> Summary:
        """The picture, and the mask over it after each block."""
        about = {"prompt": self.prompt, "step": self.step, "channels": f"from {self.channels_from}"}
        title = f"{self.model}, seed {self.seed}: the subject as massive channels outline it"
        return Summary(title, (Facts(about), Images(self.labelled_images)))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        head = f"{self.model}, seed {self.seed}, step {self.step}; channels from {self.channels_from}"
        each = [
            f"after block {block}, channels {', '.join(map(str, self.channels[block]))}: {mask!r}"
            for block, mask in self.masks.items()
        ]
        return "\n".join([head, *each])


def first_look(
    lens: DiTLens,
    prompt: str,
    seed: int = 0,
    *,
    channels: ChannelSet | None = None,
    top_k: int | None = None,
    blocks: Any = None,
    step: int | None = None,
    how: Clustering | None = None,
    sampling: Sampling | None = None,
    progress: bool = False,
) -> FirstLook:
    """Make a picture and cluster its tokens by a channel set.

    Without `channels`, the `top_k` (4) channels of the largest |mean over image tokens| in the picture's own
    run are taken, which costs a second run of it. Fine for a look; to judge anything, choose channels on
    other prompts, as `dit-lens discover` does.

    Without `blocks` and `step`, the last block a quarter into the run: where the embedded model's masks fit
    best on its calibration captions. Other models may show the subject elsewhere: look at `blocks="*"`.

    Args:
        blocks: what `parse_blocks` takes.
        step: a number; negative ones count from the end.

    Raises:
        BadInput: a block, step or channel that the model does not have, a blank prompt, `channels` together
            with `top_k`, or a channel set of another model or without a channel in these blocks;
            before anything runs.

    >>> first_look(lens, "a large red circle", sampling=lens.sampling(steps=4)).save("mask.png").name
    'mask.png'
    """
    from dit_lens.methods.channels import discover

    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput("The prompt is blank; say what the picture shows, for example: a red circle")
    if channels is not None and top_k is not None:
        raise BadInput("A channel set and top_k were both given; the set already says which channels.")
    if channels is not None:
        channels.require_found_in(lens)
    sampling = sampling or lens.sampling()
    at = (lens.num_blocks - 1,) if blocks is None else parse_blocks(blocks, lens.num_blocks)
    early = round(_EARLY * (sampling.steps - 1))
    (when,) = select_steps(early if step is None else step, sampling.steps)
    options: dict[str, Any] = {"blocks": list(at), "steps": [when], "sampling": sampling}
    source = "the given channel set"
    if channels is None:
        k = require_k(TOP_K if top_k is None else top_k, lens.num_channels)
        stats = discover(lens, [prompt], (seed,), sampling=sampling, top_k=k, progress=progress)
        channels, source = stats.select(top_k=k), OWN_RUN
    plan = plan_harvest(lens, {"massive": channels}, [prompt], (seed,), **options)
    sample = next(segment_samples(lens, plan, how, pictures=True, progress=progress))
    assert sample.picture is not None
    masks = {place.block: found.mask for place, found in sample.masks.items()}
    return FirstLook(
        prompt=prompt,
        seed=seed,
        model=lens.name,
        picture=sample.picture,
        step=plan.steps[0],
        masks=masks,
        channels={block: tuple(channels.blocks[block]) for block in masks},
        channels_from=source,
    )
