"""IoU of the masks that channel families give, over prompts, seeds, blocks and steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.methods.discovery_request import sampling_of
from dit_lens.methods.spatial.clustering import Clustering
from dit_lens.methods.spatial.harvest import Harvest, SegmentedSample, plan_harvest, segment_samples
from dit_lens.methods.spatial.masks import Mask
from dit_lens.methods.spatial.overlap import overlap
from dit_lens.methods.spatial.subject import Subject
from dit_lens.methods.spatial.truth import PICTURE, Truth, as_truth
from dit_lens.methods.units import units
from dit_lens.words import known_words

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

COLUMNS = (
    "prompt", "seed", "family", "draw", "block", "step", "branch", "k",
    "normalise", "method", "clusters", "rule",
    "iou", "precision", "recall", "chance", "everything", "foreground_share", "truth_share", "dropped",
)  # fmt: skip


@known_words
def spatial_study(
    lens: DiTLens,
    families: Any,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    truth: Any = PICTURE,
    blocks: Any = "*",
    steps: Any = (-1,),
    branch: str = "cond",
    how: Clustering | None = None,
    sampling: Sampling | Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    on_sample: Callable[[SegmentedSample, Mask | None], None] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Cluster the tokens of every sample by each family's channels, and compare the masks with the truth.

    One pass of denoising serves all families, blocks and steps. Masks are made without the truth; it is
    looked at only to compare.

    Args:
        families: see `as_families`; `channel_families` and `families_over_k` make the usual ones.
        truth: see `as_truth`. By default the exact mask in the embedded world's generated picture.
        blocks, steps, branch: see `plan_harvest`; steps are the last one by default, as in arXiv 2605.13974.
        how: clustering and foreground rule.
        on_sample: gets every sample (with its picture where the truth needs one) and its true mask.

    Returns:
        One row per sample and mask. `iou`, `precision`, `recall` on tokens; `chance` is the expected IoU of
        a shuffled mask of this size, `everything` that of all tokens; `foreground_share` and `truth_share`
        are shares of the tokens; `dropped` counts constant channels. Overlaps are NaN where the truth found
        no subject. Tokens that cannot be told apart give an empty mask, whose IoU is 0.

    Raises:
        BadInput: what `plan_harvest` refuses, or a truth that does not fit; before any forward pass where
        that can be known.

    >>> from dit_lens.methods.spatial import channel_families
    >>> families = channel_families(massive, stats, controls_drawn={"random": 1})
    >>> table = spatial_study(lens, families, prompts, blocks=[7], sampling={"steps": 4})
    >>> table.groupby("family").iou.mean().index.tolist()
    ['all', 'all_but_massive', 'massive', 'random']
    """
    how = how or Clustering()
    known = as_truth(truth)
    chosen = sampling_of(lens, sampling)
    if not isinstance(prompts, str) and len(set(prompts)) == len(prompts):
        prompts = units(lens, prompts, chosen)
    harvest = plan_harvest(
        lens, families, prompts, seeds, blocks=blocks, steps=steps, branch=branch, sampling=sampling
    )
    if len(set(harvest.samples)) != len(harvest.samples):
        raise BadInput("A prompt or a seed stands twice; the same sample twice is no second measurement.")
    known.require([Subject(p, s, None, harvest.grid, harvest.image_size) for p, s in harvest.samples])
    rows: list[tuple[Any, ...]] = []
    pictures = known.needs_picture
    for measured in measured_samples(
        lens, harvest, known, how, pictures=pictures, batch_size=batch_size, progress=progress
    ):
        if on_sample is not None:
            on_sample(measured.sample, measured.truth)
        rows += measured.rows
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True)
class MeasuredSample:
    """A sample, its true mask (None where there is none), and its rows of the study's table."""

    sample: SegmentedSample
    truth: Mask | None
    rows: tuple[tuple[Any, ...], ...]


def measured_samples(
    lens: DiTLens,
    harvest: Harvest,
    truth: Truth,
    how: Clustering,
    *,
    pictures: bool,
    batch_size: int | None = None,
    progress: bool = False,
) -> Iterator[MeasuredSample]:
    """Run the samples of a harvest and measure each one's masks, in order; rows are as `COLUMNS` names them.

    For studies that keep what is finished; `spatial_study` gives the whole table. Raises as it does.
    """
    for sample in segment_samples(
        lens,
        harvest,
        how,
        pictures=pictures or truth.needs_picture,
        batch_size=batch_size,
        progress=progress,
    ):
        there = truth.find(
            Subject(sample.prompt, sample.seed, sample.picture, harvest.grid, harvest.image_size)
        )
        rows = tuple(
            (
                sample.prompt, sample.seed, place.family, place.draw, place.block, place.step,
                place.branch, place.k, how.normalise, how.method, how.clusters, how.rule,
                *_agreement(found.mask, there),
                found.mask.share, math.nan if there is None else there.share, found.dropped,
            )
            for place, found in sample.masks.items()
        )  # fmt: skip
        yield MeasuredSample(sample, there, rows)


def _agreement(mask: Mask, there: Mask | None) -> tuple[float, float, float, float, float]:
    if there is None:
        return (math.nan,) * 5
    each = overlap(mask, there)
    return (each.iou, each.precision, each.recall, each.chance, each.everything)


def best_place(table: pd.DataFrame, family: str = "massive") -> tuple[int, int]:
    """(block, step) where a family's mean IoU is largest; ask it of calibration prompts, and judge on others.

    Raises:
        BadInput: the family is not in the table, or has no finite IoU.
    """
    of = table[table["family"] == family]
    means = of.groupby(["block", "step"])["iou"].mean().dropna()
    if means.empty:
        there = ", ".join(sorted(set(table["family"]))) or "none"
        raise BadInput(f"No finite IoU of family {family!r} in this table; it has: {there}.")
    block, step = means.idxmax()
    return int(block), int(step)
