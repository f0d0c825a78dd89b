"""How steady a channel set is: Jaccard overlap, and what chance alone would give."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Sets = npt.NDArray[np.integer[Any]]


def jaccard(a: Sequence[int], b: Sequence[int]) -> float:
    """|A ∩ B| / |A ∪ B|; NaN when both are empty.

    >>> jaccard([1, 2], [2, 3])
    0.3333333333333333
    """
    union = set(a) | set(b)
    return len(set(a) & set(b)) / len(union) if union else float("nan")


def chance_jaccard(channels: int, k: int, other: int | None = None) -> float:
    """Expected Jaccard of two independent uniform sets of `k` and `other` (default `k`) of `channels`.

    The overlap is hypergeometric; the mean is taken of the Jaccard index itself, not of the overlap.

    >>> chance_jaccard(4, 4), round(chance_jaccard(128, 4), 4)
    (1.0, 0.0181)
    """
    from scipy.stats import hypergeom

    other = k if other is None else other
    overlap = np.arange(min(k, other) + 1)
    probability = hypergeom.pmf(overlap, channels, k, other)
    return float((probability * overlap / np.maximum(k + other - overlap, 1)).sum())


@dataclass(frozen=True)
class Overlap:
    """Mean Jaccard over `n` pairs of sets; NaN when there is no pair."""

    jaccard: float
    n: int


def pairwise_overlap(sets: Sets, channels: int) -> Overlap:
    """Mean Jaccard over all pairs of rows of `[sets, k]` (distinct channel indices in each row).

    >>> pairwise_overlap(np.array([[0, 1], [0, 1], [2, 3]]), channels=4).jaccard
    0.3333333333333333
    """
    count, k = sets.shape
    if count < 2:
        return Overlap(float("nan"), 0)
    member = np.zeros((count, channels), dtype=np.float32)
    np.put_along_axis(member, sets.astype(np.int64), 1.0, axis=1)
    # One product of memberships counts all overlaps at once; 1,000 prompts are a million pairs.
    overlap = (member @ member.T)[np.triu_indices(count, 1)].astype(np.float64)
    return Overlap(float((overlap / (2 * k - overlap)).mean()), len(overlap))


def overlap_along(
    sets: Sets, channels: int, groups: Sequence[Hashable], compared: Sequence[Hashable]
) -> Overlap:
    """Mean Jaccard over pairs of sets that share `groups` and differ in `compared`.

    With `groups` = seed and `compared` = prompt this is the overlap between prompts at equal noise.
    """
    found: list[Overlap] = []
    for group in dict.fromkeys(groups):
        rows = [i for i, value in enumerate(groups) if value == group]
        if len({compared[i] for i in rows}) == len(rows):
            found.append(pairwise_overlap(sets[rows], channels))
    return pooled(found)


def paired_overlap(first: Sets, second: Sets) -> Overlap:
    """Mean Jaccard of row i of `first` with row i of `second`, both `[n, k]`.

    >>> paired_overlap(np.array([[0, 1]]), np.array([[1, 2]]))
    Overlap(jaccard=0.3333333333333333, n=1)
    """
    k = first.shape[1]
    overlap = (first[:, :, None] == second[:, None, :]).sum(axis=(1, 2)).astype(np.float64)
    if len(overlap) == 0:
        return Overlap(float("nan"), 0)
    return Overlap(float((overlap / (2 * k - overlap)).mean()), len(overlap))


def pooled(parts: Sequence[Overlap]) -> Overlap:
    """Overlap over the pairs of all parts together."""
    parts = [part for part in parts if part.n]
    n = sum(part.n for part in parts)
    if n == 0:
        return Overlap(float("nan"), 0)
    return Overlap(sum(part.jaccard * part.n for part in parts) / n, n)
