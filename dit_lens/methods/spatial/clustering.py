"""Tokens restricted to some channels → clusters → the subject's mask. Source: arXiv 2605.13974.

The paper's steps: min-max each channel over the tokens, k-means with two clusters, the cluster with the
larger mean of summed channels is the subject. All but the last is the default here; `foreground` says why.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.methods.pixels import as_array
from dit_lens.methods.spatial.foreground import DEFAULT_RULE, foreground, require_rule
from dit_lens.methods.spatial.masks import Grid, Mask

Values = npt.NDArray[np.float64]

NORMALISATIONS = ("minmax", "zscore", "none")
METHODS = ("kmeans", "gmm", "spectral")

_STARTS = 4
_ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Clustering:
    """How tokens become a mask.

    - `normalise`: per channel over the tokens: `minmax` to [0, 1] (the paper's), `zscore`, `none`.
    - `method`: `kmeans`; `gmm`, a mixture of Gaussians with a variance per channel; `spectral`, normalised
      cuts on exp(−d² / median d²), whose memory is 8 bytes × tokens².
    - `clusters`: how many, 2 or more; the subject is one of them.
    - `rule`: which one; see `dit_lens.methods.spatial.foreground`.
    - `seed`: of the starting points.

    Raises:
        BadInput: a name that does not exist, or fewer than two clusters.
    """

    normalise: str = "minmax"
    method: str = "kmeans"
    clusters: int = 2
    rule: str = DEFAULT_RULE
    seed: int = 0

    def __post_init__(self) -> None:
        for what, asked, there in (
            ("normalisation", self.normalise, NORMALISATIONS),
            ("clustering method", self.method, METHODS),
        ):
            if asked not in there:
                hint = did_you_mean(str(asked), there)
                raise BadInput(f"There is no {what} {asked!r}; there are: {', '.join(there)}.{hint}")
        require_rule(self.rule)
        for name, value, least in (("clusters", self.clusters, 2), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise BadInput(f"{name} is {value!r}; it must be a whole number, at least {least}.")

    def __str__(self) -> str:
        return f"{self.method}, {self.clusters} clusters, {self.normalise}, {self.rule} rule"

    def require_tokens(self, tokens: int) -> None:
        """Raise `BadInput` for more clusters than tokens."""
        if self.clusters > tokens:
            raise BadInput(
                f"{self.clusters} clusters were asked for, of {tokens} tokens; ask for at most {tokens}."
            )


@dataclass(frozen=True)
class Segmentation:
    """A mask, the clusters that it comes from, and what was left out on the way.

    `labels` is int [rows, columns], numbered by size, the largest first; the subject's is in `subject`.
    `dropped` are positions (in the channels given) of channels that had the same value at every token. Where
    one cluster holds all tokens the mask is empty and `subject` is −1.
    """

    mask: Mask
    labels: npt.NDArray[np.int64]
    subject: int
    dropped: tuple[int, ...]


def segment(
    values: Any,
    grid: Grid,
    *,
    normalise: str = "minmax",
    method: str = "kmeans",
    clusters: int = 2,
    seed: int = 0,
    rule: str = DEFAULT_RULE,
    image_size: Grid | None = None,
) -> Mask:
    """The subject's mask from tokens × channels: normalise, cluster, choose the foreground.

    Args:
        values: float [tokens, channels], an array or a tensor; tokens run along the rows of the grid.
        grid: (rows, columns).
        normalise, method, clusters, seed, rule: see `Clustering`.
        image_size: (height, width) in pixels of the picture the tokens make.

    A channel with the same value at every token says nothing about where: it is left out, and the mask's
    `about` says how many were.

    Raises:
        BadInput: another shape, values that are not finite, more clusters than tokens or than different
        tokens, or no channel that varies.

    >>> values = np.zeros((9, 2))
    >>> values[4] = 1
    >>> segment(values, (3, 3)).tokens
    (4,)
    """
    how = Clustering(normalise, method, clusters, rule, seed)
    return segmentation(values, grid, how, image_size=image_size).mask


def segmentation(
    values: Any,
    grid: Grid,
    how: Clustering | None = None,
    *,
    image_size: Grid | None = None,
    nothing: str = "raise",
) -> Segmentation:
    """Like `segment`, with the clusters and the channels left out. Raises `BadInput` as `segment` does.

    With `nothing="empty"`, tokens that cannot be told apart (no channel varies, or fewer different tokens
    than clusters) give an empty mask that says so: in a study that is a finding, and no reason to end it.
    """
    how = how or Clustering()
    tokens = _checked(as_array(values), grid)
    how.require_tokens(len(tokens))
    varies = varying(tokens)
    dropped = tuple(int(channel) for channel in np.flatnonzero(~varies))
    about = str(how)
    if dropped:
        about += f"; {len(dropped)} of {tokens.shape[1]} channels constant and left out"

    def none_found(reason: str) -> Segmentation:
        empty = Mask(np.zeros(grid, dtype=bool), image_size, f"{about}; {reason}")
        return Segmentation(empty, np.zeros(grid, dtype=np.int64), -1, dropped)

    if not varies.any():
        if nothing == "empty":
            return none_found("no channel varies")
        raise BadInput(
            f"All {tokens.shape[1]} channels have the same value at every token, so there is nothing to "
            "cluster. Take other channels, another block, or a later step."
        )
    scaled = normalised(tokens[:, varies], how.normalise)
    different = _different(scaled, how.clusters)
    if different < how.clusters:
        if nothing == "empty":
            return none_found(f"only {different} different tokens")
        raise BadInput(
            f"{how.clusters} clusters were asked for, and only {different} tokens differ in these channels. "
            f"Ask for at most {different}."
        )
    labels = _by_size(_labels(scaled, how))
    if labels.max() == 0:
        # A mixture may end with every token nearest to one component: nothing stands out.
        return none_found("all tokens in one cluster")
    subject = foreground(labels, scaled, grid, how.rule)
    mask = Mask((labels == subject).reshape(grid), image_size, about)
    return Segmentation(mask, labels.reshape(grid), subject, dropped)


def varying(tokens: Values) -> npt.NDArray[np.bool_]:
    """Which channels of [tokens, channels] differ between tokens by more than float32 rounding."""
    return np.asarray(np.ptp(tokens, axis=0) > _ROUNDING * np.abs(tokens).max(axis=0))


def normalised(tokens: Values, how: str) -> Values:
    """Channels brought to one scale over the tokens; every channel must vary.

    >>> normalised(np.array([[1.0], [3.0], [2.0]]), "minmax").ravel().tolist()
    [0.0, 1.0, 0.5]
    """
    if how == "minmax":
        low = tokens.min(axis=0)
        return (tokens - low) / (tokens.max(axis=0) - low)
    if how == "zscore":
        return (tokens - tokens.mean(axis=0)) / tokens.std(axis=0)
    return tokens


def _different(scaled: Values, enough: int) -> int:
    """How many different tokens there are, counted up to `enough`."""
    seen: set[bytes] = set()
    for token in scaled:
        # −0 and 0 are one number and two patterns of bits.
        seen.add((token + 0.0).tobytes())
        if len(seen) == enough:
            break
    return len(seen)


def _labels(scaled: Values, how: Clustering) -> npt.NDArray[np.int64]:
    if how.method == "kmeans":
        from sklearn.cluster import KMeans

        found = KMeans(how.clusters, n_init=_STARTS, random_state=how.seed).fit_predict(scaled)
    elif how.method == "gmm":
        from sklearn.mixture import GaussianMixture

        # A full covariance has more numbers than there are tokens, as soon as channels are many.
        # The floor of the variance is relative, so that channels without normalisation are treated alike.
        floor = 1e-4 * float(scaled.var(axis=0).mean())
        mixture = GaussianMixture(
            how.clusters, covariance_type="diag", reg_covar=floor, n_init=_STARTS, random_state=how.seed
        )
        with warnings.catch_warnings():
            # Not converged after 100 rounds: the labels of the best start are what there is.
            warnings.simplefilter("ignore")
            found = mixture.fit_predict(scaled)
    else:
        from scipy.spatial.distance import pdist, squareform
        from sklearn.cluster import SpectralClustering

        squared = pdist(scaled, "sqeuclidean")
        apart = squared[squared > 0]
        affinity = np.exp(-squareform(squared) / np.median(apart))
        cuts = SpectralClustering(how.clusters, affinity="precomputed", n_init=_STARTS, random_state=how.seed)
        found = cuts.fit_predict(affinity)
    return np.asarray(found, dtype=np.int64)


def _by_size(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Clusters renumbered by size, so that numbers do not depend on where the method began."""
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = sorted(range(len(names)), key=lambda i: (-counts[i], first[i]))
    place = {int(names[i]): rank for rank, i in enumerate(order)}
    return np.array([place[int(label)] for label in labels], dtype=np.int64)


def _checked(values: Values, grid: Grid) -> Values:
    if values.ndim != 2 or not values.shape[1]:
        raise BadInput(f"Clustering needs [tokens, channels], with a channel; got {list(values.shape)}.")
    if len(values) != grid[0] * grid[1]:
        raise BadInput(
            f"{len(values)} tokens do not fill a grid of {grid[0]} × {grid[1]}; see lens.token_grid()."
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise BadInput(f"{bad} of {values.size} values are not finite; the run that made them went wrong.")
    return values
