"""Streaming statistics of activations: what is kept of a tensor that cannot be kept.

A visit brings one tensor `[rows, tokens, channels]`; one row is one sample (a prompt and a seed). Tokens are
reduced at once on the tensor's own device, rows are then folded one after the other into float64 numpy state
whose size knows neither rows nor tokens.

Accuracy: the reduction over tokens runs in float32 (float64 for float64 input; half precisions are widened
first), the fold over samples in float64. Because rows are folded one by one and in order, cutting the same
rows into other batches changes a result only as far as torch's own reduction of a row depends on the rows
beside it (1e-6 relative at most; usually not at all). `merge` of separate states agrees to 1e-12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from dit_lens.errors import RunFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = npt.NDArray[np.float64]

QUANTILE = 0.999


def token_quantile(magnitudes: torch.Tensor, q: float = QUANTILE) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact `q` quantile over tokens and the maximum, from one partial sort.

    Args:
        magnitudes: `[rows, tokens, channels]`, float.
        q: in `[0, 1]`; linear interpolation between order statistics, as `numpy.quantile` does by default.

    Returns:
        quantile and maximum, each `[rows, channels]`.

    Only the `tokens - floor(q * (tokens - 1))` largest values are sorted (2 of 144, 6 of 4096 at 0.999).

    >>> token_quantile(torch.arange(11.0).view(1, 11, 1), q=0.95)[0].item()
    9.5
    """
    tokens = magnitudes.shape[1]
    position = q * (tokens - 1)
    below = math.floor(position)
    largest = magnitudes.topk(tokens - below, dim=1).values
    lower = largest[:, -1]
    upper = largest[:, -2] if tokens - below > 1 else lower
    return lower + (upper - lower) * (position - below), largest[:, 0]


@dataclass(frozen=True)
class TokenStatistics:
    """Each row reduced over its tokens: float64 numpy arrays `[rows, channels]`, in activation units.

    `variance` is the population variance over tokens (activation units squared).
    """

    mean: Array
    mean_abs: Array
    max_abs: Array
    p999: Array
    variance: Array


def token_statistics(activations: torch.Tensor) -> TokenStatistics:
    """Reduce `[rows, tokens, channels]` over tokens; bf16 and fp16 are widened to float32 first.

    >>> token_statistics(torch.tensor([[[1.0], [-3.0]]])).mean_abs
    array([[2.]])
    """
    # Row by row: what is held at a time does not grow with the batch, only with one sample's tokens.
    rows = [_row_statistics(row) for row in activations.detach().unbind(0)]
    # One transfer for everything, since each one would wait for the device.
    nothing = activations.new_zeros(5, 0, activations.shape[-1])
    stacked = (torch.stack(rows, dim=1) if rows else nothing).cpu().double().numpy()
    return TokenStatistics(*stacked)


def _row_statistics(x: torch.Tensor) -> torch.Tensor:
    """Mean, mean magnitude, largest magnitude, p999 and variance over tokens: `[5, channels]`."""
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    mean = x.mean(dim=0)
    magnitudes = x.abs()
    p999, max_abs = token_quantile(magnitudes.unsqueeze(0))
    mean_abs = magnitudes.mean(dim=0)
    # Two passes: E[x^2] - E[x]^2 would cancel on a channel that is large and nearly constant.
    variance = (x - mean).square_().mean(dim=0)
    return torch.stack([mean, mean_abs, max_abs[0], p999[0], variance])


def first_non_finite(statistics: TokenStatistics) -> tuple[int, int] | None:
    """`(row, channel)` of the first row that held a NaN or an infinity, or None.

    A mean of magnitudes is finite exactly when every magnitude is (short of overflow), so no token is read
    twice.
    """
    bad = np.argwhere(~np.isfinite(statistics.mean_abs))
    return (int(bad[0, 0]), int(bad[0, 1])) if len(bad) else None


class Moments:
    """State of one cell (step, branch, hook point): the channel statistics of all samples seen so far.

    Memory: seven float64 vectors of `channels`. `add` folds samples, `merge` adds another state,
    `finish` returns the statistics; the order of samples matters only in the last bits.
    """

    _SUMS = ("abs_mean", "mean_abs", "p999", "within")

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sums = np.zeros((len(self._SUMS), channels))
        self.max_abs = np.zeros(channels)
        self.mean = np.zeros(channels)
        self.between = np.zeros(channels)
        """Sum over samples of the squared distance of the token mean from its average (Welford's M2)."""

    def add(self, statistics: TokenStatistics) -> None:
        """Fold the rows of one visit, one after the other (so that no split into batches shows)."""
        rows = np.stack(
            [np.abs(statistics.mean), statistics.mean_abs, statistics.p999, statistics.variance], axis=1
        )
        for row, mean in zip(rows, statistics.mean, strict=True):
            self.count += 1
            self.sums += row
            delta = mean - self.mean
            self.mean += delta / self.count
            self.between += delta * (mean - self.mean)
        if len(rows):
            np.maximum(self.max_abs, statistics.max_abs.max(axis=0), out=self.max_abs)

    def merge(self, other: Moments) -> None:
        """Add the samples of another state, as if they had been folded here (Chan et al.'s update)."""
        if other.count == 0:
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self.between += other.between + delta**2 * (self.count * other.count / total)
        self.mean += delta * (other.count / total)
        self.sums += other.sums
        np.maximum(self.max_abs, other.max_abs, out=self.max_abs)
        self.count = total

    @property
    def nbytes(self) -> int:
        return self.sums.nbytes + self.max_abs.nbytes + self.mean.nbytes + self.between.nbytes

    def finish(self) -> dict[str, Array]:
        """Statistics of the cell, each `[channels]`, float64.

        - `abs_mean`: |mean over tokens|, averaged over samples. The ranking statistic of arXiv 2605.13974.
        - `mean_abs`: mean over tokens of |x|, averaged over samples.
        - `max_abs`: the largest |x| of all samples and tokens.
        - `p999`: the exact 0.999 quantile of |x| over the tokens *of one sample* (linear interpolation),
          averaged over samples. A streaming estimate: the quantile of all samples pooled lies higher when
          samples differ in scale (one loud sample fills the pooled tail, here it counts as one of n), and the
          two agree when samples are alike.
        - `mean`, `variance`: of x over samples and tokens (population variance).
        - `between`, `within`: the parts of `variance` – of the token mean over samples, and of tokens around
          it.
        """
        if self.count == 0:
            raise RunFailure("statistics of a cell that no sample reached; the pass must visit every cell")
        abs_mean, mean_abs, p999, within = self.sums / self.count
        between = self.between / self.count
        return {
            "abs_mean": abs_mean,
            "mean_abs": mean_abs,
            "max_abs": self.max_abs.copy(),
            "p999": p999,
            "mean": self.mean.copy(),
            "variance": within + between,
            "between": between,
            "within": within,
        }


class RunningMean:
    """Average over samples of vectors that need nothing else: AdaLN signals, residual writes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.total = np.zeros(shape)

    def add(self, rows: Array) -> None:
        """Fold `[rows, *shape]`, one row after the other."""
        for row in rows:
            self.count += 1
            self.total += row

    def merge(self, other: RunningMean) -> None:
        self.count += other.count
        self.total += other.total

    def finish(self) -> Array:
        """Mean over samples, `[*shape]`."""
        if self.count == 0:
            raise RunFailure("mean of a cell that no sample reached; the pass must visit every cell")
        return self.total / self.count


class SampleEffects:
    """Prompt and seed means of one place (branch, hook point), and each sample's strongest channels.

    Rows of a batch go through all steps before the next batch starts, so a row's step average is known when
    its batch ends (`close`); it then enters the average of its seed and of its prompt, and is forgotten. A
    prompt enters the variance over prompts when its last seed has come, so with prompt-major rows at most two
    prompts are open at a time.

    Memory: `seeds + 3` vectors of `channels`, two per row of the batch in flight – and a log of `depth`
    channel indices per sample (2 bytes each, 4 from 32,768 channels), the only part that grows with samples:
    64 samples × 8 blocks × 2 streams × 2 branches × 16 indices are 64 KiB.
    """

    def __init__(self, channels: int, seeds: int, depth: int) -> None:
        self.seeds = seeds
        self.depth = depth
        self.seed_totals = np.zeros((seeds, channels))
        self.seed_counts = np.zeros(seeds, dtype=np.int64)
        self.prompts = Moments(channels)
        # One array per batch, not per sample: small arrays cost more in headers than in numbers.
        self.log: list[tuple[tuple[tuple[int, int], ...], npt.NDArray[np.integer]]] = []
        self._open: dict[int, tuple[int, Array]] = {}
        self._rows: Array | None = None
        self._steps = 0

    def add(self, token_mean: Array) -> None:
        """Take one step's token means `[rows, channels]` of the batch in flight."""
        signed_and_abs = np.stack([token_mean, np.abs(token_mean)])
        self._rows = signed_and_abs if self._rows is None else self._rows + signed_and_abs
        self._steps += 1

    def close(self, samples: Sequence[tuple[int, int]]) -> None:
        """End a batch whose rows are these `(prompt index, seed index)` pairs."""
        if self._rows is None or self._rows.shape[1] != len(samples):
            seen = 0 if self._rows is None else self._rows.shape[1]
            raise RunFailure(f"a batch of {len(samples)} samples ended, but {seen} rows were read")
        means, magnitudes = self._rows / self._steps
        self._rows, self._steps = None, 0
        self.log.append((tuple(samples), strongest(magnitudes, self.depth)))
        for (prompt, seed), mean in zip(samples, means, strict=True):
            self.seed_totals[seed] += mean
            self.seed_counts[seed] += 1
            self._add_to_prompt(prompt, 1, mean)

    def merge(self, other: SampleEffects) -> None:
        """Add the closed batches of another state (other samples of the same prompts and seeds)."""
        self.seed_totals += other.seed_totals
        self.seed_counts += other.seed_counts
        self.prompts.merge(other.prompts)
        self.log += other.log
        for prompt, (count, total) in other._open.items():
            self._add_to_prompt(prompt, count, total)

    @property
    def nbytes(self) -> int:
        """Bytes of the state that stays between batches, the log of samples included."""
        vectors = self.seed_totals.nbytes + self.prompts.nbytes
        vectors += sum(total.nbytes for _, total in self._open.values())
        return vectors + sum(indices.nbytes for _, indices in self.log)

    def finish(self) -> tuple[Array, Array]:
        """Population variance of the prompt means and of the seed means, each `[channels]`."""
        if self._open or self._rows is not None or len(set(self.seed_counts.tolist())) != 1:
            raise RunFailure(
                "prompt and seed effects need every prompt with every seed; the pass ended before it was "
                "complete"
            )
        prompt_variance = self.prompts.finish()["between"]
        return prompt_variance, _variance(self.seed_totals / self.seed_counts[:, None])

    def _add_to_prompt(self, prompt: int, count: int, total: Array) -> None:
        seen, so_far = self._open.pop(prompt, (0, np.zeros_like(total)))
        seen, so_far = seen + count, so_far + total
        if seen < self.seeds:
            self._open[prompt] = (seen, so_far)
            return
        mean = (so_far / seen)[None]
        zero = np.zeros_like(mean)
        self.prompts.add(TokenStatistics(mean, zero, zero, zero, zero))


def strongest(values: Array, k: int) -> npt.NDArray[np.integer]:
    """Indices of the `k` largest of `[..., channels]`, largest first; equal values by lower index.

    >>> strongest(np.array([1.0, 5.0, 5.0, 0.0]), 3)
    array([1, 2, 0], dtype=int16)
    """
    order = np.argsort(-values, axis=-1, kind="stable")[..., :k]
    return order.astype(np.int16 if values.shape[-1] <= np.iinfo(np.int16).max else np.int32)


def _variance(means: Array) -> Array:
    """Population variance over axis 0, exactly zero for equal rows (a mean of equal rows may be an ulp
    off)."""
    centred = means - means[0]
    return np.asarray(((centred - centred.mean(axis=0)) ** 2).mean(axis=0))
