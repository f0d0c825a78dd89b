"""Masks of samples while they are denoised: activations are clustered where they are read, and never kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput
from dit_lens.methods.spatial.clustering import Clustering, segmentation
from dit_lens.methods.spatial.families import ChannelFamily, as_families
from dit_lens.methods.spatial.masks import Grid, Mask
from dit_lens.model.hook_points import HookPoint, parse_blocks, select_steps
from dit_lens.words import known_words, shown

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.runner import Visit

ROWS = 8
"""Samples per forward pass unless images are large."""


@dataclass(frozen=True)
class Place:
    """Where a mask comes from; `k` channels of a family (one draw of it), after a block, at a step."""

    family: str
    draw: int
    k: int
    block: int
    step: int
    branch: str


@dataclass(frozen=True)
class Found:
    """A mask and how many of its channels were constant over the tokens, and left out."""

    mask: Mask
    dropped: int


@dataclass(frozen=True)
class SegmentedSample:
    """The masks of one prompt and seed; `picture` is None unless it was asked for."""

    prompt: str
    seed: int
    masks: Mapping[Place, Found]
    picture: Image | None

    def at(self, *, family: str = "massive", **coordinates: Any) -> Mask:
        """The one mask of a family at these coordinates (block, step, branch, draw, k).

        Raises:
            BadInput: none, or several.

        >>> sample = dl.segment_prompt(lens, massive, prompts[0], steps=[1, 3], sampling={"steps": 4})
        >>> sample.at(block=7, step=3).grid
        (12, 12)
        """
        asked = {"family": family, **coordinates}
        fields = [each.name for each in dataclass_fields(Place)]
        wrong = sorted(set(asked) - set(fields))
        if wrong:
            raise BadInput(f"A mask has no {wrong[0]!r}; it has {', '.join(fields)}.")
        found = [
            held.mask
            for place, held in self.masks.items()
            if all(getattr(place, name) == value for name, value in asked.items())
        ]
        if len(found) != 1:
            where = ", ".join(f"{name} {value}" for name, value in asked.items())
            raise BadInput(
                f"There are {len(found)} masks at {where}, and one must be meant. This sample has "
                f"{len(self.masks)}, the first at {next(iter(self.masks), None)}."
            )
        return found[0]


@dataclass(frozen=True)
class Harvest:
    """What to read of a model, resolved and checked: nothing has run yet."""

    families: tuple[ChannelFamily, ...]
    blocks: tuple[int, ...]
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    samples: tuple[tuple[str, int], ...]
    sampling: Sampling
    grid: Grid

    @property
    def image_size(self) -> Grid:
        return (self.sampling.height, self.sampling.width)

    @property
    def clusterings(self) -> int:
        """How many masks it will make."""
        return len(self.places) * len(self.samples)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where every sample gets a mask."""
        return tuple(
            Place(family.name, family.draw, family.k(block), block, step, branch)
            for step in self.steps
            for branch in self.branches
            for block in self.blocks
            for family in self.families
            if family.at(block, step)
        )


def plan_harvest(
    lens: DiTLens,
    families: Any,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    blocks: Any = "*",
    steps: Any = (-1,),
    branch: str = "cond",
    sampling: Sampling | Mapping[str, Any] | None = None,
) -> Harvest:
    """Resolve blocks, steps, branches and samples, and check them against the model.

    `blocks` and `steps` take what `parse_blocks` and `select_steps` take; `branch` is cond, uncond or both.

    Raises:
        BadInput: what the model does not have, a family without a channel in these blocks, or no prompt.
    """
    from dit_lens.model.sampling import rows_of

    if sampling is None or isinstance(sampling, Mapping):
        sampling = lens.sampling(**(sampling or {}))
    chosen = as_families(families)
    at = parse_blocks("*" if blocks == "all" else blocks, lens.num_blocks)
    for family in chosen:
        there = [block for block in at if block in family.blocks]
        if not there:
            raise BadInput(
                f"The family {family.name!r} has channels in blocks {', '.join(map(str, family.blocks))}; "
                f"asked for are {', '.join(map(str, at))}. Name a block that it has."
            )
        wrong = [c for block in there for c in family.blocks[block] if not 0 <= c < lens.num_channels]
        if wrong:
            raise BadInput(
                f"The family {family.name!r} names channel {wrong[0]}; {lens.name} has 0 to "
                f"{lens.num_channels - 1}. Use channels of this model."
            )
    if branch != "both" and branch not in sampling.branches:
        raise BadInput(
            f"No branch {branch!r} at this guidance; there are: {', '.join(sampling.branches)}, or 'both'."
        )
    rows = rows_of(prompts, [int(seed) for seed in seeds])
    listed = list(steps) if isinstance(steps, (tuple, range)) else steps
    chosen_steps = select_steps(listed, sampling.steps)
    for family in chosen:
        if family.steps is not None and not set(family.steps) & set(chosen_steps):
            raise BadInput(
                f"The family {family.name!r} is for steps {', '.join(map(str, family.steps))}; asked for are "
                f"{', '.join(map(str, chosen_steps))}. Name a step that it is for."
            )
    return Harvest(
        families=chosen,
        blocks=tuple(block for block in at if any(block in family.blocks for family in chosen)),
        steps=chosen_steps,
        branches=tuple(sampling.branches) if branch == "both" else (branch,),
        samples=tuple(zip(*rows, strict=True)),
        sampling=sampling,
        grid=lens.token_grid(sampling.height, sampling.width),
    )


def segment_samples(
    lens: DiTLens,
    harvest: Harvest,
    how: Clustering | None = None,
    *,
    pictures: bool = False,
    batch_size: int | None = None,
    progress: bool = False,
) -> Iterator[SegmentedSample]:
    """Run the samples of a harvest and give each one's masks, in order.

    Nothing of an activation outlives its visit but the masks: one byte per token each, for one batch.
    With `pictures` every sample is denoised to its end and decoded; else a run ends after its last read.

    Raises:
        BadInput: more clusters than tokens. RunFailure: an activation is NaN or infinite.

    >>> plan = plan_harvest(lens, {"massive": massive}, ["a red circle"], sampling={"steps": 4})
    >>> sample = next(segment_samples(lens, plan, pictures=True))
    >>> place, found = next(iter(sample.masks.items()))
    >>> place.family, found.mask.overlay(sample.picture).size
    ('massive', (48, 48))
    """
    from dit_lens.model.progress import ProgressBar
    from dit_lens.model.sampling import default_batch_size
    from dit_lens.run.runner import observe

    how = how or Clustering()
    tokens = harvest.grid[0] * harvest.grid[1]
    how.require_tokens(tokens)
    points = [HookPoint("resid_post", block, "image") for block in harvest.blocks]
    size = batch_size or default_batch_size(ROWS, tokens)
    batches = [harvest.samples[i : i + size] for i in range(0, len(harvest.samples), size)]
    last = harvest.sampling.steps if pictures else harvest.steps[-1] + 1
    with ProgressBar(len(batches) * last, "masks", enabled=progress) as bar:
        for rows in batches:
            batch = lens.prepare_rows([p for p, _ in rows], [s for _, s in rows], harvest.sampling)
            masks: list[dict[Place, Found]] = [{} for _ in rows]

            def visit(at: Visit, tensor: torch.Tensor, masks: list[dict[Place, Found]] = masks) -> None:
                if at.branch in harvest.branches:
                    for row, found in enumerate(masks):
                        found.update(_masks_of(at, tensor[row], harvest, how))

            done = observe(
                lens,
                batch,
                points,
                visit,
                steps=harvest.steps,
                stop_early=not pictures,
                on_step=lambda *_: bar.advance(),
            )
            if done.latents is None:
                # The last step ends at its last read, before it counts as a step.
                bar.advance()
            for row, (prompt, seed) in enumerate(rows):
                # One at a time: the rows beside it would change an image's last bits.
                picture = None if done.latents is None else lens.decode(done.latents[row : row + 1])[0]
                yield SegmentedSample(prompt, seed, masks[row], picture if pictures else None)


@known_words
def segment_prompt(
    lens: DiTLens,
    channels: Any,
    prompt: str,
    seed: int = 0,
    *,
    blocks: Any = "*",
    steps: Any = (-1,),
    branch: str = "cond",
    how: Clustering | None = None,
    sampling: Sampling | Mapping[str, Any] | None = None,
) -> SegmentedSample:
    """One picture and its masks by one channel set (the family `massive`), for a first look.

    Tokens are clustered by those channels, one cluster is the subject: claim 2 of arXiv 2605.13974.

    Args:
        lens: the model.
        channels: a `ChannelSet` or {block: channel numbers}.
        prompt: one caption, run with one `seed`.
        blocks, steps: those to look at; by default all blocks, and the last step.
        branch: "cond" or "uncond".
        how: clusters, scaling and the rule that picks the subject; see `Clustering`.
        sampling: a `Sampling`, or some of its fields over the model's defaults.

    Raises:
        BadInput: as `plan_harvest`. RunFailure: an activation is NaN or infinite.

    >>> seen = segment_prompt(lens, massive, prompts[0], steps=[1], sampling={"steps": 4})
    >>> subject = seen.at(block=7, step=1)
    >>> subject.overlay(seen.picture).size, 0.1 < subject.share < 0.6
    ((48, 48), True)
    """
    if not isinstance(prompt, str):
        raise BadInput(f"prompt is {shown(prompt)}; give one caption. spatial_study takes many.")
    plan = plan_harvest(
        lens,
        {"massive": channels},
        [prompt],
        (seed,),
        blocks=blocks,
        steps=steps,
        branch=branch,
        sampling=sampling,
    )
    return next(segment_samples(lens, plan, how, pictures=True))


def _masks_of(at: Visit, row: torch.Tensor, harvest: Harvest, how: Clustering) -> dict[Place, Found]:
    """Masks of every family in one activation [tokens, channels]."""
    values = row.detach().float().cpu().numpy()
    block = at.point.block
    assert block is not None
    made = {}
    for family in harvest.families:
        if family.at(block, at.step):
            chosen = values[:, list(family.blocks[block])]
            found = segmentation(chosen, harvest.grid, how, image_size=harvest.image_size, nothing="empty")
            place = Place(family.name, family.draw, family.k(block), block, at.step, at.branch)
            made[place] = Found(found.mask, len(found.dropped))
    return made
