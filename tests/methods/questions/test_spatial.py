"""The spatial question: where it looks, what it compares, and what it says of planted tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dit_lens.errors import BadInput
from dit_lens.methods.questions import spatial
from dit_lens.methods.questions.question import Judging, Setting
from dit_lens.methods.questions.spatial import ChosenPlace, answer, places, steps_of

pytestmark = pytest.mark.pure

QUICK = Judging(resamples=499)
BEST = ChosenPlace("outline", 1, 5, 0.8)
LAST = ChosenPlace("last_step", 0, 9, 0.6)
DRAWS = {"massive": 1, "low": 1, "random": 5, "random_rank_window": 3, "all": 1, "all_but_massive": 1}


def planted(
    iou, *, prompts: int = 16, seeds: int = 2, steps=(5, 9), noise: float = 0.03, seed: int = 0
) -> pd.DataFrame:
    """A study whose mean IoU is `iou(family, block, step)`; chance is 0.1 everywhere."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "prompt": f"prompt {p}", "seed": s, "family": family, "draw": draw, "block": block, "step": step,
            "branch": "cond", "k": 4, "iou": iou(family, block, step) + noise * rng.normal(), "chance": 0.1,
        }
        for p in range(prompts) for s in range(seeds)
        for family, draws in DRAWS.items() for draw in range(draws)
        for block in (0, 1) for step in steps
    ]  # fmt: skip
    return pd.DataFrame(rows)


def outlined(family: str, block: int, step: int) -> float:
    """Massive channels win early, and all other channels together beat them."""
    by_family = {"massive": 0.7 if step == 5 else 0.3, "all": 0.8, "all_but_massive": 0.8}
    return by_family.get(family, 0.2 if step == 5 else 0.4) + 0.05 * block


def test_every_claim_has_its_verdict() -> None:
    found = {each.name: each for each in answer(planted(outlined), (BEST, LAST), judging=QUICK).answers}
    assert list(found) == [
        "spatial.outline", "spatial.exclusive", "spatial.last_step", "spatial.everywhere",
    ]  # fmt: skip
    outline = found["spatial.outline"]
    assert (outline.outcome, outline.primary, outline.direction) == ("supported", True, "greater")
    assert [effect.control for effect in outline.effects] == [
        "low",
        "random",
        "random_rank_window",
        "shuffled",
    ]
    for effect, expected in zip(outline.effects, (0.5, 0.5, 0.5, 0.65), strict=True):
        assert effect.estimate == pytest.approx(expected, abs=0.03)
        assert effect.n == 16
        assert effect.p_adjusted >= effect.p
    assert "rank p-value among 5 random draws" in outline.effects[1].note
    assert found["spatial.exclusive"].outcome == "not supported"
    assert found["spatial.exclusive"].effects[0].p_adjusted is None
    last = found["spatial.last_step"]
    assert last.outcome == "not supported"
    assert [effect.control for effect in last.effects if effect.estimate > 0] == ["shuffled"]
    assert not last.primary


def test_after_every_block_means_every_block() -> None:
    def early_blocks_fail(family: str, block: int, step: int) -> float:
        return 0.2 if (family, block) == ("massive", 0) else outlined(family, block, 5)

    mixed = answer(planted(early_blocks_fail), (BEST, LAST), judging=QUICK).answers[-1]
    assert (mixed.name, mixed.outcome, len(mixed.effects)) == ("spatial.everywhere", "not supported", 2 * 3)
    assert (
        "At step 9: supported after 1 of 2 blocks (1); not supported after 1 of 2 blocks (0)"
        in mixed.sentence
    )
    assert "Least after block 0: against" in mixed.sentence
    assert all(effect.p_adjusted >= effect.p for effect in mixed.effects)
    whole = answer(planted(outlined, steps=(5,)), (BEST,), judging=QUICK).answers[-1]
    assert whole.outcome == "supported"
    assert "At step 5: supported after 2 of 2 blocks (0 and 1)" in whole.sentence


def test_the_sentence_says_where_and_how_much() -> None:
    (outline, *_) = answer(planted(outlined, noise=0.0), (BEST,), judging=QUICK).answers
    for part in (
        "Supported: where they do best on other prompts (block 1, step 5), massive channels outline",
        "Against other channels at the last step: supported after 2 of 2 blocks (0 and 1).",
        "Mean IoU: massive 0.75, the weakest channels 0.25, random channels 0.25",
        "all channels 0.85, all other channels together 0.85, a shuffled mask 0.1.",
        "Measured after block 1 at step 5.",
        "did best on calibration prompts (IoU 0.8)",
    ):
        assert part in outline.sentence


def test_the_tables() -> None:
    table = planted(outlined)
    tables = answer(table, (BEST,), over_k=table.assign(k=8), judging=QUICK).tables
    assert list(tables) == ["spatial_blocks", "spatial_k"]
    blocks = tables["spatial_blocks"]
    assert list(blocks.columns) == ["family", "block", "step", "mean", "ci_low", "ci_high", "n", "chance"]
    assert len(blocks) == len(DRAWS) * 2 * 2
    row = blocks[(blocks.family == "random") & (blocks.block == 1) & (blocks.step == 5)].iloc[0]
    cell = table[(table.family == "random") & (table.block == 1) & (table.step == 5)]
    assert row["mean"] == pytest.approx(cell.iou.mean())
    assert row.ci_low < row["mean"] < row.ci_high
    assert (row.n, row.chance) == (16, pytest.approx(0.1))
    assert list(tables["spatial_k"].columns[:4]) == ["family", "k", "block", "step"]
    assert set(tables["spatial_k"].k) == {8}


def test_samples_without_a_truth_are_left_out() -> None:
    table = planted(outlined)
    table.loc[table.prompt == "prompt 3", ["iou", "chance"]] = np.nan
    answered = answer(table, (BEST,), judging=QUICK)
    assert set(answered.tables["spatial_blocks"].n) == {15}
    assert all(effect.n == 15 for effect in answered.answers[0].effects)


def test_places_come_from_the_calibration_table() -> None:
    massive = planted(outlined).query("family == 'massive'")
    best, last = places(massive)
    assert (best.name, best.block, best.step) == ("outline", 1, 5)
    assert (last.name, last.block, last.step) == ("last_step", 1, 9)
    assert best.calibration_iou == pytest.approx(0.75, abs=0.02)
    assert [each.name for each in places(massive.query("step == 9"))] == ["outline"]
    with pytest.raises(BadInput, match="No finite IoU"):
        places(massive.assign(iou=np.nan))


def test_tables_that_do_not_fit() -> None:
    table = planted(outlined)
    with pytest.raises(BadInput, match="after block 7 at step 5"):
        answer(table, (ChosenPlace("outline", 7, 5, 0.5),))
    with pytest.raises(BadInput, match="several branches"):
        answer(pd.concat([table, table.assign(branch="uncond")]), (BEST,))
    with pytest.raises(BadInput, match="no massive channels after block 1"):
        answer(table[table.family != "massive"], (BEST,))


def test_steps_are_spread_over_the_run() -> None:
    assert steps_of(20) == (0, 5, 10, 14, 19)
    assert steps_of(1) == (0,)
    assert steps_of(10, [1.0]) == (9,)


@pytest.mark.tiny
def test_families_follow_the_setting(tiny_sd3_lens) -> None:
    from dit_lens.methods.channels import discover

    stats = discover(tiny_sd3_lens, ["a red circle"], sampling={"steps": 2}, progress=False)
    massive = stats.select(top_k=2)

    def setting(**options) -> Setting:
        return Setting(massive, stats, num_blocks=4, num_steps=2, doses=(1, 2), **options)

    drawn = setting(controls={"random": 2, "low": 1, "energy_matched": 5})
    assert [f.name for f in spatial.families(drawn)] == [
        "massive", "low", "random", "random", "all", "all_but_massive",
    ]  # fmt: skip
    over_k = spatial.k_families(drawn)
    assert [f.k(0) for f in over_k if f.name == "massive"] == [1, 2, 4, 8, 16, 32]
    assert [f.k(0) for f in spatial.k_families(drawn, [3]) if f.name == "random"] == [3, 3]
    with pytest.raises(BadInput, match="at least one of low, random, random_rank_window"):
        spatial.families(setting(controls={"energy_matched": 5}))
