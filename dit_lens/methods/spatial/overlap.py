"""How well a mask agrees with the truth, and how well any mask of its size would."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dit_lens.errors import BadInput
from dit_lens.methods.spatial.masks import Mask, require_partial


@dataclass(frozen=True)
class Overlap:
    """Agreement of a mask with the truth, on tokens.

    `iou` is |both| / |either|; `precision` = |both| / |mask| (NaN for an empty mask), `recall` = |both| /
    |truth|. `chance` is the expected IoU of a mask with as many tokens in random places; `everything` is the
    IoU of a mask that holds all tokens, which is the truth's share.
    """

    iou: float
    precision: float
    recall: float
    chance: float
    everything: float


def overlap(mask: Mask, truth: Mask) -> Overlap:
    """Compare a mask with the truth.

    Raises:
        BadInput: different grids, or a truth that is empty or full.

    >>> found = Mask(np.array([[True, True], [False, False]]))
    >>> overlap(found, Mask(np.array([[True, False], [False, False]]))).iou
    0.5
    """
    if mask.grid != truth.grid:
        raise BadInput(f"A mask of {mask.grid} tokens and a truth of {truth.grid} cannot be compared.")
    require_partial(truth, "The truth")
    both = int((mask.values & truth.values).sum())
    found, there, total = int(mask.values.sum()), int(truth.values.sum()), mask.values.size
    return Overlap(
        iou=both / (found + there - both),
        precision=both / found if found else math.nan,
        recall=both / there,
        chance=chance_iou(found, there, total),
        everything=there / total,
    )


def chance_iou(found: int, there: int, total: int) -> float:
    """Expected IoU of a mask of `found` tokens in random places with a truth of `there`, of `total` tokens.

    Exact: the overlap of a shuffled mask is hypergeometric.

    Raises:
        BadInput: counts that do not fit, or a truth without tokens.

    >>> chance_iou(4, 2, 4)
    0.5
    """
    from scipy.stats import hypergeom

    if not (0 <= found <= total and 0 < there <= total):
        raise BadInput(f"{found} and {there} of {total} tokens are no two masks of one grid.")
    both = np.arange(max(0, found + there - total), min(found, there) + 1)
    likely = hypergeom.pmf(both, total, there, found)
    return float((likely * (both / (found + there - both))).sum())
