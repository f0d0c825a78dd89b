"""Tables, pictures and verdicts of a made-up transport and guidance, in their exact columns."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from PIL import Image

from dit_lens.methods.answers import Answer, judge_all
from dit_lens.methods.stats import Effect, judge
from dit_lens.run.records import RunFolder

ATTRIBUTES = ("shape", "colour", "size", "position", "background", "detail")
GROUPS = ("colour", "all")
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
# How far each family goes at strength 1; blends are measured along strength like massive, the rest once.
REACH = {
    "massive": 0.45, "low": 0.01, "random": 0.05, "random_rank_window": 0.12, "energy_matched": 0.02,
    "all": 0.93, "all_but_massive": 0.6, "latent_blend": 0.8, "pixel_blend": 0.85, "prompt_blend": 0.9,
}  # fmt: skip
ONCE = ("low", "all_but_massive")
RIDES = {"shape": 0.9, "size": 0.8, "position": 0.85, "colour": 0.2, "background": 0.1, "detail": 0.3}
METRICS = ("toward_latent", "margin", "moved", "kept", "ssim")


def _level(metric: str, reach: float) -> float:
    return {"margin": 0.4 * reach, "kept": 1 - 0.3 * reach, "ssim": 1 - 0.7 * reach}.get(metric, reach)


def _around(mean: float, n: int) -> dict[str, object]:
    half = 0.35 / np.sqrt(n)
    return {"mean": mean, "ci_low": mean - half, "ci_high": mean + 1.1 * half, "n": n}


def transport_table(column: str, ways: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for group, way, family in itertools.product(GROUPS, ways, REACH):
        n = 12 if group == "all" else 4
        turn = 1.0 if way == ways[0] else 0.9
        for strength in (1.0,) if family in ONCE else STRENGTHS:
            reach = turn * REACH[family] * strength**1.5
            there = {"pair_group": group, column: way, "family": family, "strength": strength}
            rows += [{**there, "metric": name, **_around(_level(name, reach), n)} for name in METRICS]
            for name in ATTRIBUTES:
                nothing = {"mean": np.nan, "ci_low": np.nan, "ci_high": np.nan, "n": 0}
                differs = group in (name, "all")
                share = min(1.0, reach * 2 * RIDES[name])
                rows.append(
                    {**there, "metric": f"moved.{name}", **(_around(share, n) if differs else nothing)}
                )
    return pd.DataFrame(rows).astype({"n": "Int64"})


def curves_table() -> pd.DataFrame:
    values = {
        "blocks": ("0-1", "2-3", "4-5", "6-7", "all"),
        "steps": ("0:5", "5:10", "10:15", "15:20", "all"),
        "k": ("1", "2", "4", "8", "16"),
        "part": ("mean", "residual", "all"),
    }
    rows = []
    for axis, family, metric in itertools.product(values, ("massive", "random", "energy_matched"), METRICS):
        for index, value in enumerate(values[axis]):
            reach = REACH[family] * (1 if value == "all" else 0.2 + 0.15 * index)
            there = {"axis": axis, "value": value, "family": family, "metric": metric}
            rows.append({**there, **_around(_level(metric, reach), 72)})
    return pd.DataFrame(rows).astype({"n": "Int64"})


def guidance_table() -> pd.DataFrame:
    rows = []
    for weight, cfg, family in itertools.product((0.0, 0.25, 0.5, 1.0), (True, False), REACH):
        if family not in ("massive", "random_rank_window"):
            continue
        for metric, start, gain in (("detail", 0.7, 0.2), ("alignment", 0.3, 0.02), ("ssim", 1.0, -0.4)):
            mean = start + gain * weight * (1 if family == "massive" else 0.2) * (1 if cfg else 1.3)
            there = {"weight": weight, "cfg": cfg, "family": family, "metric": metric}
            rows.append({**there, **_around(mean, 24)})
    return pd.DataFrame(rows).astype({"n": "Int64"})


def carry_tables() -> dict[str, pd.DataFrame]:
    return {
        "transport": transport_table("direction", ("forward", "backward")),
        "transport_curves": curves_table(),
        "transport_image": transport_table("origin", ("noised", "inverted")),
        "guidance": guidance_table(),
    }


# ------------------------------------------------------------------------------------------------- pictures
def carried_picture(index: int, share: float, noise: float = 0.0, size: int = 96) -> Image.Image:
    """A disc on the left that turns into one on the right, at some share of the way."""
    across, down = np.meshgrid(np.arange(size), np.arange(size))
    centre = (30 + 36 * share, 40 + 8 * index)
    inside = ((across - centre[0]) ** 2 + (down - centre[1]) ** 2 < 500)[..., None]
    ground = np.array([235, 235, 235]) * (1 - share) + np.array([60, 60, 130]) * share
    pixels = np.where(inside, [205, 60, 50], ground)
    pixels = pixels + np.random.default_rng(index).normal(0, 40 * noise, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_carried(
    folder: RunFolder, pairs: tuple[tuple[str, str], ...], *, begin: str = "carry", kind: str = "carry"
) -> None:
    """Write the pictures of (source, target) pairs: each a source, a target and what was carried."""
    for index, (source, target) in enumerate(pairs):
        carried = [("massive", strength, 0.5 * strength) for strength in STRENGTHS]
        carried += [(family, 1.0, reach) for family, reach in REACH.items() if family != "massive"]
        shown = [("source", source, 1.0), ("target", target, 0.0)]
        # Strengths are written out of order: the page sorts them.
        shown += [(f"{family} {strength:g}", target, share) for family, strength, share in carried[::-1]]
        for caption, prompt, share in shown:
            folder.write_image(
                f"{begin}-{index:02d}-seed-0-{caption.replace(' ', '-')}", carried_picture(index, share),
                prompt=prompt, seed=0, caption=caption, kind=kind,
            )  # fmt: skip


# ------------------------------------------------------------------------------------------------- verdicts
def carry_answers() -> tuple[Answer, ...]:
    """One primary verdict per question, and what was compared with blending beside the first."""
    found = []
    for name, question, metric, gain, primary, claim in (
        ("channels", "transport_text", "toward_latent", 0.33, True,
         "carrying massive channels moves the image toward the source more than every control"),
        ("prompts", "transport_text", "toward_latent", -0.45, False,
         "carrying massive channels moves the image toward the source more than blending prompts"),
        ("channels", "transport_image", "moved", 0.01, True,
         "massive channels of a picture carry its attributes into another image"),
        ("weight", "detail_guidance", "detail", 0.15, True,
         "leading away from a run without massive channels adds detail"),
    ):  # fmt: skip
        p = 0.6 if abs(gain) < 0.05 else 1e-4
        effect = Effect(
            metric, gain, gain - 0.06, gain + 0.06, 24, p, min(1.0, 2 * p), "energy_matched", sd=0.1
        )
        together = judge_all([effect], direction="greater")
        said = judge(together.weakest, claim=claim, direction="greater")
        found.append(
            Answer(
                name=f"{question}.{name}", question=question, claim=claim, sources=("2605.13974",),
                metric=metric, direction="greater", outcome=together.outcome, reason=together.reason,
                sentence=said.sentence, effects=together.effects, primary=primary,
            )
        )  # fmt: skip
    return tuple(found)
