"""Effects of a study that never ran: every arm disrupts by an amount that a test plants."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from dit_lens.methods.answers import Answer
from dit_lens.methods.arms import CLEAN, Arm
from dit_lens.methods.channels import ChannelStatistics
from dit_lens.methods.metrics import METRICS
from dit_lens.methods.questions import Answered, Judging, Question, Setting
from tests.methods.synthetic import statistics_like

FAST = Judging(resamples=499)

BLOCKS, CHANNELS = 3, 40

STRONG = 6.0
"""A planted effect in standard deviations of the noise."""

ALL_METRICS = ("alignment", "ssim", "semantics", "detail", "change_low", "change_high", "attribute.shape")

CLEAN_SCORES = {"alignment": 0.35, "semantics": 0.95, "detail": 0.8}
"""What an unedited image scores; the other metrics are distances and have no value there."""

UNDISTURBED = {"ssim": 1.0, "psnr": 40.0}
"""What an edit that changes nothing measures; 0 for the distances."""

Disruption = Callable[[Arm], float | Mapping[str, float]]
"""Arm → how much it disrupts, in standard deviations of the noise; for all metrics, or for each."""


@lru_cache
def rising_statistics() -> ChannelStatistics:
    """Channel c has the value c + 1 in every block, so the last channels are the strongest."""
    return statistics_like(np.tile(np.arange(1.0, CHANNELS + 1), (BLOCKS, 1)))


def a_setting(**fields: object) -> Setting:
    stats = rising_statistics()
    values = {"massive": stats.select(top_k=4), "stats": stats, "num_blocks": BLOCKS, "num_steps": 3}
    return Setting(**{**values, **fields})  # type: ignore[arg-type]


def effects(
    arms: Sequence[Arm],
    disruption: Disruption,
    *,
    metrics: Sequence[str] = ("alignment", "ssim", "semantics"),
    prompts: int = 16,
    seeds: Sequence[int] = (0,),
    noise: float = 1.0,
    random_state: int = 0,
) -> pd.DataFrame:
    """The tidy table: in units of 0.01, score = undisturbed ∓ (disruption + noise); prompts differ too."""
    rows = []
    for metric in metrics:
        sign = -1.0 if metric not in METRICS or METRICS[metric].disrupted == "less" else 1.0
        for arm in arms:
            if arm == CLEAN and metric not in CLEAN_SCORES:
                continue
            planted = 0.0 if arm == CLEAN else disruption(arm)
            size = planted[metric] if isinstance(planted, Mapping) else planted
            own = [random_state, zlib.crc32(f"{metric} {arm.name}".encode())]
            rng = np.random.default_rng(own)
            offset = np.random.default_rng([random_state, 1]).normal(size=prompts)
            base = CLEAN_SCORES.get(metric, UNDISTURBED.get(metric, 0.0))
            for i in range(prompts):
                for seed in seeds:
                    z = offset[i] + size + noise * rng.normal()
                    rows.append((arm.name, f"prompt {i}", seed, metric, base + 0.01 * sign * z))
    return pd.DataFrame(rows, columns=["arm", "prompt", "seed", "metric", "value"])


def asked(question: Question, disruption: Disruption, **options: object):  # type: ignore[no-untyped-def]
    """The question's answer to planted effects; `options` are those of `effects`."""
    arms = question.arms(a_setting())
    table = effects(arms, disruption, **options)  # type: ignore[arg-type]
    metrics = list(dict.fromkeys(table["metric"]))
    return question.answer(table, arms, metrics=metrics, judging=FAST)


def massive_disrupts(arm: Arm) -> float:
    """All at once most, one block a little, more channels more; what keeps the mean or the layout, half."""
    if arm.family == "mean_only":
        return STRONG / 2
    if arm.family != "massive":
        return 0.0
    if arm.k is not None:
        return 1.0 + 2.0 * math.log2(arm.k)
    return STRONG if arm.block is None else STRONG / 2


def by_name(answered: Answered) -> dict[str, Answer]:
    return {answer.name: answer for answer in answered.answers}
