"""Which coordinate drives a channel: variance split over step, prompt, seed and token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dit_lens.methods.channel_labels import SOURCES

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = npt.NDArray[np.float64]

# Activations are float32 and so is the mean over tokens: a spread below a few units in the last place of the
# channel's largest value is rounding, and shares of it would be noise.
_RESOLUTION = 2.0**-21


@dataclass(frozen=True)
class StepMoments:
    """What one step knows of a channel over all samples; arrays `[steps, channels]`, float64.

    `mean`: over samples and tokens. `between`: population variance of the token mean over samples.
    `within`: population variance over the tokens of a sample, averaged over samples. `max_abs`: largest |x|.
    """

    mean: Array
    between: Array
    within: Array
    max_abs: Array


def variance_shares(steps: StepMoments, prompt_variance: Array, seed_variance: Array) -> Mapping[str, Array]:
    """Split each channel's variance over (step, prompt, seed, token) into shares that sum to one.

    x = token mean + spatial residual. The token mean is a balanced three-way layout (every prompt with every
    seed at every step), so its variance is exactly main effect of step + of prompt + of seed + what only
    their combinations explain (`interaction`). The residual's variance is `token`. Everything is a population
    variance: the samples at hand are described, no wider population is inferred.

    Args:
        steps: moments of each step, `[steps, channels]`.
        prompt_variance: variance of the prompt means (averaged over seeds and steps), `[channels]`.
        seed_variance: variance of the seed means (averaged over prompts and steps), `[channels]`.

    Returns:
        `{source: [channels]}` for `step prompt seed interaction token`. With one prompt (seed, step) that
        source is 0. A channel without variance (below float32 rounding of its largest value) has NaN shares:
        there is nothing to share out.

    >>> flat = np.zeros((2, 1))
    >>> moments = StepMoments(mean=np.array([[1.0], [3.0]]), between=flat, within=flat + 1, max_abs=flat + 4)
    >>> {k: float(v[0]) for k, v in variance_shares(moments, np.zeros(1), np.zeros(1)).items()}
    {'step': 0.5, 'prompt': 0.0, 'seed': 0.0, 'interaction': 0.0, 'token': 0.5}
    """
    step_variance = ((steps.mean - steps.mean.mean(axis=0)) ** 2).mean(axis=0)
    of_token_mean = steps.between.mean(axis=0) + step_variance
    # Non-negative in exact arithmetic; rounding may leave it a hair below zero.
    interaction = np.maximum(of_token_mean - step_variance - prompt_variance - seed_variance, 0.0)
    parts = np.stack([step_variance, prompt_variance, seed_variance, interaction, steps.within.mean(axis=0)])
    total = parts.sum(axis=0)
    resolvable = total > (_RESOLUTION * steps.max_abs.max(axis=0)) ** 2
    shares = np.divide(parts, total, out=np.full_like(parts, np.nan), where=resolvable)
    return dict(zip(SOURCES, shares, strict=True))
