"""Paired effects: treatment − control on the same prompts and seeds, with interval, p-value and verdict.

The unit of analysis is the prompt. Seeds of a prompt are averaged first, because images that share a prompt
are not independent. Channels and layers are chosen on calibration prompts, effects are judged on held-out
ones (`split_prompts`). Only numpy and scipy are needed here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dit_lens.errors import BadInput
from dit_lens.methods.effect_tables import compare, correct
from dit_lens.methods.multiplicity import CORRECTIONS, benjamini_hochberg, holm
from dit_lens.methods.paired_effects import paired_effect, random_draw_effect
from dit_lens.methods.resampling import (
    EXACT,
    Interval,
    mean_interval,
    rank_p,
    rate_interval,
    sign_flip_p,
    smallest_p,
)
from dit_lens.methods.verdicts import VERDICT_RULE, Effect, Verdict, judge, numbers

__all__ = [
    "Effect",
    "Verdict",
    "VERDICT_RULE",
    "judge",
    "numbers",
    "paired_effect",
    "random_draw_effect",
    "compare",
    "correct",
    "split_prompts",
    "PromptSplit",
    "Interval",
    "mean_interval",
    "rate_interval",
    "EXACT",
    "sign_flip_p",
    "smallest_p",
    "rank_p",
    "holm",
    "benjamini_hochberg",
    "CORRECTIONS",
]


class ReadsPrompts(Protocol):
    """A lens, as far as a split asks it: what of each prompt reaches the model."""

    def read_prompts(self, prompts: Sequence[str]) -> Sequence[Any]: ...


@dataclass(frozen=True)
class PromptSplit:
    """Prompts that choose (channels, layers, thresholds) and prompts that judge; disjoint."""

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]


def split_prompts(
    prompts: Sequence[str], *, calibration: float = 0.5, seed: int = 0, lens: ReadsPrompts | None = None
) -> PromptSplit:
    """Split prompts into calibration and held-out ones, each in the order given; repeats count once.

    A prompt's side depends on the set of prompts and the seed, never on their order. Each side gets at least
    one prompt. With a `lens`, prompts that reach its model as the same tokens count once: none is held out
    that the model cannot tell from one that chooses.

    Raises:
        BadInput: fewer than two different prompts, or a share outside (0, 1).

    >>> split_prompts(["a", "b", "c", "d"], seed=1) == split_prompts(["a", "b", "c", "d"], seed=1)
    True
    """
    unique = tuple(dict.fromkeys(prompts))
    if lens is not None:
        read = {each.tokens: each.prompt for each in reversed(lens.read_prompts(unique))}
        unique = tuple(prompt for prompt in unique if prompt in read.values())
    if len(unique) < 2:
        raise BadInput(f"{len(unique)} different prompts cannot be split in two; give at least 2.")
    if not 0 < calibration < 1:
        raise BadInput(f"The calibration share is {calibration}; it must lie between 0 and 1.")
    count = min(max(round(calibration * len(unique)), 1), len(unique) - 1)
    chosen = set(
        sorted(unique, key=lambda prompt: hashlib.sha256(f"{seed}\0{prompt}".encode()).digest())[:count]
    )
    return PromptSplit(
        tuple(prompt for prompt in unique if prompt in chosen),
        tuple(prompt for prompt in unique if prompt not in chosen),
    )
