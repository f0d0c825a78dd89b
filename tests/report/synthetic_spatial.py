"""Spatial tables and mask pictures of a made-up study, in their exact columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from dit_lens.methods.spatial.masks import Mask
from dit_lens.run.records import RunFolder

PLACES = ((6, 5), (4, 19))
"""(block, step) where claims are judged: the best one, and the best at the last step."""

BLOCKS, STEPS, PROMPTS = 8, (0, 5, 10, 14, 19), 48
LEVELS = {
    "massive": 0.65, "low": 0.1, "random": 0.2, "random_rank_window": 0.45, "all": 0.72,
    "all_but_massive": 0.7,
}  # fmt: skip


def _row(mean: float, n: int = PROMPTS) -> dict[str, object]:
    return {"mean": mean, "ci_low": mean - 0.06, "ci_high": mean + 0.05, "n": n, "chance": 0.07}


def iou(family: str, block: int, step: int) -> float:
    """Best after block 6, and at step 5."""
    return LEVELS[family] * float(np.exp(-((block - 6) ** 2) / 60 - ((step - 5) ** 2) / 900))


def spatial_tables() -> dict[str, pd.DataFrame]:
    """Every family after every block at every step, and over k at the places."""
    blocks = [
        {"family": family, "block": block, "step": step, **_row(iou(family, block, step))}
        for family in LEVELS
        for step in STEPS
        for block in range(BLOCKS)
    ]
    over_k = [
        {"family": family, "k": k, "block": block, "step": step, **_row(share * iou(family, block, step))}
        for family in ("massive", "low", "random", "random_rank_window")
        for block, step in PLACES
        for k, share in ((1, 0.6), (4, 1.0), (16, 1.05), (128, 1.1))
        if family == "massive" or k < 64
    ]
    return {"spatial_blocks": pd.DataFrame(blocks), "spatial_k": pd.DataFrame(over_k)}


def write_masks(folder: RunFolder, prompts: tuple[str, ...], *, size: int = 48, blocks: int = BLOCKS) -> None:
    """Write the pictures of masks as a run leaves them: the image, the true mask, one mask per block."""
    for index, prompt in enumerate(prompts):
        across, down = np.meshgrid(np.arange(size), np.arange(size))
        inside = (across - size / 3 - 4 * index) ** 2 + (down - size / 2) ** 2 < (size / 4) ** 2
        colours = np.array([[40, 70, 160], [205, 60, 50]], dtype=np.uint8)
        picture = Image.fromarray(colours[inside.astype(int)])
        mask = Mask.from_pixels(inside, (12, 12))
        shown = [("0-picture", "generated image", picture), ("1-truth", "true mask", mask.overlay(picture))]
        for block in range(blocks):
            grown = mask.dilate(block % 3)
            shown.append(
                (f"2-block-{block:03d}", f"after block {block}, step 5, IoU 0.5", grown.overlay(picture))
            )
        for name, caption, image in shown:
            folder.write_image(
                f"mask-{index:02d}-seed-0-{name}", image, prompt=prompt, seed=0, caption=caption, kind="mask"
            )
