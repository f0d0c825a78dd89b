"""Effect tables, images and verdicts of a made-up study of 24 prompts, in their exact columns."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from PIL import Image

from dit_lens.methods.answers import Answer, Results, judge_all
from dit_lens.methods.stats import Effect, judge
from dit_lens.run.records import RunFolder

PROMPTS, BLOCKS, STEPS = 24, 8, 20
CONTROLS = {"low": 1, "random": 5, "random_rank_window": 5, "energy_matched": 5}
# metric: (clean level or None, level under massive, sd of paired differences, which side is disrupted)
METRICS: dict[str, tuple[float | None, float, float, str]] = {
    "ssim": (None, 0.42, 0.06, "less"),
    "semantics": (0.97, 0.61, 0.18, "less"),
    "detail": (0.88, 0.52, 0.22, "less"),
    "change_low": (None, 0.21, 0.05, "greater"),
    "change_high": (None, 0.064, 0.02, "greater"),
    "latent": (None, 0.83, 0.1, "greater"),
    "attribute.shape": (0.98, 0.58, 0.3, "less"),
    "attribute.pattern": (0.81, 0.46, 0.3, "less"),
}
UNTOUCHED = {"ssim": 1.0, "change_low": 0.0, "change_high": 0.0, "latent": 0.0}
# How far each control goes from the clean image to the level under massive.
REACH = {"low": 0.02, "random": 0.15, "random_rank_window": 0.45, "energy_matched": 0.93}


def level(metric: str, reach: float) -> float:
    clean, massive, _, _ = METRICS[metric]
    start = UNTOUCHED[metric] if clean is None else clean
    return start + reach * (massive - start)


def an_effect(
    rng: np.random.Generator, metric: str, control: str, reach: float, family: float = 1.0
) -> Effect:
    """Massive (at `family` of its reach) − control, from simulated paired differences."""
    from scipy.stats import ttest_1samp

    sd = METRICS[metric][2]
    differences = level(metric, family) - level(metric, reach) + rng.normal(0, sd, PROMPTS)
    half = 2.07 * differences.std(ddof=1) / np.sqrt(PROMPTS)
    middle = differences.mean()
    p = float(ttest_1samp(differences, 0).pvalue)
    return Effect(
        metric, middle, middle - half, middle + half, PROMPTS, p, min(1.0, 4 * p), control,
        sd=float(differences.std(ddof=1)),
    )  # fmt: skip


def effect_tables(seed: int = 0) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, object]]] = {
        name: []
        for name in (
            "disruption", "bias_or_carrier", "semantics_or_detail", "single_or_all", "dose", "step_map",
            "final_map", "patch_map",
        )
    }  # fmt: skip

    def spread(metric: str) -> float:
        return 2.07 * METRICS[metric][2] / np.sqrt(PROMPTS) * rng.uniform(0.7, 1.2)

    def around(metric: str, value: float) -> dict[str, object]:
        half = spread(metric)
        return {"ci_low": value - half, "ci_high": value + 1.1 * half, "n": PROMPTS}

    for metric, (clean, _, _, side) in METRICS.items():
        for control, draws in CONTROLS.items():
            effect = an_effect(rng, metric, control, REACH[control])
            rows["disruption"].append(
                {"metric": metric, "control": control, "draws": draws, "treatment_mean": level(metric, 1),
                 "control_mean": level(metric, REACH[control]), "clean_mean": clean,
                 "estimate": effect.estimate, "ci_low": effect.ci_low, "ci_high": effect.ci_high,
                 "n": PROMPTS, "p": effect.p, "p_adjusted": effect.p_adjusted,
                 "rank_p": 1 / (draws + 1) if draws > 1 else None, "direction": side,
                 "outcome": judge(effect, direction=side).outcome}
            )  # fmt: skip
        for arm, label, reach in (
            ("zero", "zeroed: nothing is left", 1.0),
            ("mean_only", "only the token mean is left", 0.9),
            ("residual_only", "only what varies over tokens is left", 0.2),
            ("shuffled", "tokens shuffled", 0.85),
            ("ln_preserving", "zeroed, LayerNorm kept", 0.8),
        ):
            mean = level(metric, reach)
            rows["bias_or_carrier"].append(
                {"metric": metric, "arm": arm, "label": label, "mean": mean, "clean_mean": clean,
                 **around(metric, mean)}
            )  # fmt: skip
        for family, reach in (("massive", 1.0), ("energy_matched", 0.6)):
            for block in (None, *range(BLOCKS)):
                part = reach * (1.0 if block is None else 0.5 * np.exp(-((block - 2) ** 2) / 6))
                mean = level(metric, part)
                shift = mean if metric in UNTOUCHED else mean - float(clean or 0)
                rows["semantics_or_detail"].append(
                    {"protocol": "all_blocks" if block is None else "single_block", "family": family,
                     "block": block, "metric": metric, "change": shift, **around(metric, shift)}
                )  # fmt: skip
                entry: dict[str, object] = {
                    "metric": metric, "family": family, "block": block, "mean": mean, **around(metric, mean)
                }  # fmt: skip
                if family == "massive":
                    effect = an_effect(rng, metric, "energy_matched", 0.6 * part, part)
                    entry |= {
                        "difference": effect.estimate, "difference_low": effect.ci_low,
                        "difference_high": effect.ci_high, "p_adjusted": effect.p_adjusted,
                        "outcome": judge(effect, direction=side).outcome,
                    }  # fmt: skip
                rows["single_or_all"].append(entry)
        for family, reach in (("massive", 1.0), ("random", 0.1), ("energy_matched", 0.7)):
            for k in (1, 2, 4, 8, 16):
                mean = level(metric, reach * k / (k + 2))
                rows["dose"].append(
                    {"metric": metric, "family": family, "k": k, "mean": mean, **around(metric, mean)}
                )
    for name, metric, directions in (
        ("step_map", "velocity", ("",)),
        ("final_map", "latent", ("",)),
        ("final_map", "ssim", ("",)),
        ("patch_map", "toward_latent", ("denoising", "noising")),
    ):
        rows[name] += map_rows(rng, metric, directions)
    tables = {name: pd.DataFrame(entries) for name, entries in rows.items()}
    for table in tables.values():
        for column in ("block", "step", "k", "draws", "n"):
            if column in table:
                table[column] = table[column].astype("Int64")
    return tables


def map_rows(rng: np.random.Generator, metric: str, directions: tuple[str, ...]) -> list[dict[str, object]]:
    rows = []
    for direction, block, step in itertools.product(directions, range(BLOCKS), range(STEPS)):
        bump = float(np.exp(-((block - 2) ** 2) / 5 - ((step - 6) ** 2) / 30))
        there = {"metric": metric, "direction": direction, "block": block, "step": step,
                 "sigma": 1 - step / STEPS, "n": 8}  # fmt: skip
        massive = 0.4 * bump + rng.normal(0.02, 0.01)
        control = 0.15 * bump + rng.normal(0.02, 0.01)
        p = float(np.clip(np.exp(-40 * abs(massive - control)) * rng.uniform(0.4, 1), 1e-4, 1))
        rows.append({**there, "family": "massive", "mean": massive, "difference": massive - control, "p": p,
                     "p_adjusted": min(1.0, 2 * p)})  # fmt: skip
        rows.append({**there, "family": "energy_matched", "mean": control, "difference": None, "p": None,
                     "p_adjusted": None})  # fmt: skip
    return rows


def results(seed: int = 0, sham: float = 0.0) -> Results:
    """Verdicts with every outcome among them."""
    rng = np.random.default_rng(seed)
    answers = []
    for question, metric, reaches, claim in (
        ("disruption", "ssim", REACH, "zeroing massive channels disrupts the image more than every control"),
        ("disruption", "semantics", {"low": 0.02, "random": 0.15},
         "zeroing massive channels loses more of what was asked for than every control"),
        ("bias_or_carrier", "ssim", {"residual only": 0.2}, "the image needs what varies over the tokens"),
        ("semantics_or_detail", "detail", {"energy_matched": 1.02}, "one block is enough to lose detail"),
        ("single_or_all", "ssim", {"energy_matched": 0.9}, "one block disrupts more than its control"),
        ("dose", "ssim", {"energy_matched": 0.7}, "each doubling of k costs more than for its control"),
    ):  # fmt: skip
        side = METRICS[metric][3]
        found = judge_all(
            [an_effect(rng, metric, name, reach) for name, reach in reaches.items()], direction=side
        )
        verdict = judge(found.weakest, claim=claim, direction=side)
        answers.append(
            Answer(
                name=f"{question}.{metric}", question=question, claim=claim, sources=("2605.13974",),
                metric=metric, direction=side, outcome=found.outcome, reason=found.reason,
                sentence=verdict.sentence, effects=found.effects,
                primary=not any(answer.question == question for answer in answers),
            )
        )  # fmt: skip
    return Results(
        model="shapes-sd3", fingerprint="ab" * 32, dtype="float32", prompts=PROMPTS, seeds=(0, 1),
        sham_difference=sham, answers=tuple(answers),
    )  # fmt: skip


ARMS = (
    "random-10", "random-2", "massive", "low", "energy_matched-0", "massive.block-2", "massive.block-11",
    "random_rank_window-0",
)  # fmt: skip


def arm_picture(index: int, arm: int, size: int = 48) -> Image.Image:
    """A disc that each arm moves and blurs in its own way."""
    across, down = np.meshgrid(np.arange(size), np.arange(size))
    centre = (18 + 6 * index + arm, 26 - arm)
    inside = np.clip((150 - (across - centre[0]) ** 2 - (down - centre[1]) ** 2) / (10 + 20 * arm), 0, 1)
    colours = np.array([[40, 70, 160], [205, 60 + 15 * arm, 50]], dtype=float)
    return Image.fromarray((colours[0] + inside[..., None] * (colours[1] - colours[0])).astype(np.uint8))


def write_arms(folder: RunFolder, prompts: tuple[str, ...], arms: tuple[str, ...] = ARMS) -> None:
    """Write the images of arms, the clean one in the middle of the index."""
    for index, prompt in enumerate(prompts):
        names = [*arms[:2], "clean", *arms[2:]]
        for position, name in enumerate(names):
            folder.write_image(
                f"arm-{index}-{name}", arm_picture(index, 0 if name == "clean" else position + 1),
                prompt=prompt, seed=0, caption=name, kind="arm",
            )  # fmt: skip
