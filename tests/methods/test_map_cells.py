"""Maps as numbers: what is read from an effects table, and what is tested in each cell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import Zero
from dit_lens.methods.map_arms import CellEdit, map_arms
from dit_lens.methods.map_cells import (
    COLUMNS,
    EffectMap,
    MapCells,
    cells_frame,
    compare_cells,
    corrected,
    flip_signs,
    read_cells,
)
from dit_lens.methods.stats import compare

pytestmark = pytest.mark.pure

BLOCKS, STEPS = (1, 2), (0, 3, 4)
PROMPTS = tuple(f"prompt {i}" for i in range(7))
SEEDS = (0, 5)


def arms(readout: str = "final"):
    edits = [
        CellEdit("massive", "massive", [3], Zero()),
        CellEdit("random-0", "random", [5], Zero(), draw=0),
        CellEdit("random-1", "random", [6], Zero(), draw=1),
    ]
    return map_arms(edits, blocks=BLOCKS, steps=STEPS, readout=readout)


def table(rng: np.random.Generator, metric: str = "latent") -> pd.DataFrame:
    """Values that grow with block and step, more so for massive."""
    rows = []
    for arm in arms():
        for prompt in PROMPTS:
            for seed in SEEDS:
                value = (arm.family == "massive") * (arm.block + 0.1 * arm.step) + rng.normal(scale=0.3)
                rows.append((arm.name, prompt, seed, metric, value))
    return pd.DataFrame(rows, columns=["arm", "prompt", "seed", "metric", "value"])


def tidy(effects: pd.DataFrame) -> pd.DataFrame:
    """The same values addressed by cell, for `stats.compare`."""
    named = {arm.name: arm for arm in arms()}
    return effects.assign(
        arm=[f"{named[a].family}-{named[a].draw}" for a in effects["arm"]],
        block=[named[a].block for a in effects["arm"]],
        step=[named[a].step for a in effects["arm"]],
    )


def test_cells_hold_the_mean_over_seeds_and_draws_wherever_they_stand_in_the_table() -> None:
    effects = table(np.random.default_rng(0))
    cells = read_cells(effects, arms(), "latent")
    shuffled = read_cells(effects.sample(frac=1, random_state=1), arms(), "latent")
    assert (cells.blocks, cells.steps, set(cells.prompts)) == (BLOCKS, STEPS, set(PROMPTS))
    at = effects.query("prompt == 'prompt 4' and arm in ['random-0.at-2-3', 'random-1.at-2-3']")
    assert len(at) == 4
    found = cells.values["random"][cells.prompts.index("prompt 4"), 1, 1]
    assert found == pytest.approx(at["value"].mean(), abs=1e-12)
    assert shuffled.prompts == cells.prompts
    for family in cells.families:
        assert np.allclose(cells.values[family], shuffled.values[family], atol=1e-12)


def test_every_cell_is_tested_as_the_comparison_of_two_arms_would_be() -> None:
    effects = table(np.random.default_rng(1))
    # A value that is missing for one draw takes its pair out of that cell, and of that cell only.
    lost = (effects["arm"] == "random-1.at-2-3") & (effects["prompt"] == "prompt 0") & (effects["seed"] == 5)
    effects.loc[lost, "value"] = np.nan
    gone = (effects["arm"] == "massive.at-1-4") & (effects["prompt"] == "prompt 6")
    effects.loc[gone, "value"] = np.nan
    cells = read_cells(effects, arms(), "latent")
    found = compare_cells(cells, "random", resamples=999)
    oracle = compare(
        tidy(effects),
        treatment="massive-0",
        controls={"random": ["random-0", "random-1"]},
        by=("block", "step"),
        correction="benjamini-hochberg",
        resamples=999,
    )
    assert len(oracle) == len(BLOCKS) * len(STEPS)
    for (_, _, block, step), effect in oracle.items():
        at = BLOCKS.index(block), STEPS.index(step)
        mine = found.effect(cells, *at)
        assert mine.n == effect.n == (6 if (block, step) == (1, 4) else 7)
        for name in ("estimate", "ci_low", "ci_high", "p", "p_adjusted", "sd"):
            assert getattr(mine, name) == pytest.approx(getattr(effect, name), abs=1e-9), (block, step, name)


@given(st.integers(0, 2**31), st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_the_correction_only_raises_p_and_keeps_its_order(seed: int, size: int) -> None:
    p = np.random.default_rng(seed).uniform(size=(size, 3))
    p[0, 0] = np.nan
    q = corrected(p)
    assert np.isnan(q[0, 0]) and np.isfinite(q).sum() == p.size - 1
    known = np.isfinite(p)
    assert (q[known] >= p[known]).all() and (q[known] <= 1).all()
    order = np.argsort(p[known])
    assert (np.diff(q[known][order]) >= -1e-12).all()


def test_sign_flips_know_how_many_prompts_a_cell_has() -> None:
    differences = np.ones((6, 1, 3))
    differences[2:, 0, 1] = np.nan
    differences[1:, 0, 2] = np.nan
    # 2 / 2^6, 2 / 2^2, and one prompt, which has no p.
    assert flip_signs(differences)[0, :2].tolist() == [0.03125, 0.5]
    assert np.isnan(flip_signs(differences)[0, 2])


def test_a_falling_metric_peaks_where_it_is_lowest() -> None:
    values = np.array([[[0.9, 0.2], [0.8, np.nan]]])
    for metric, peak in (("ssim", (0, 1)), ("latent", (0, 0)), ("attribute.shape", (0, 1))):
        assert MapCells(metric, (0, 1), (0, 1), ("a",), {"massive": values}).peak() == peak


def test_passing_cells_lie_on_the_disrupted_side() -> None:
    cells = read_cells(table(np.random.default_rng(2)), arms(), "latent")
    found = compare_cells(cells, "random", interval=False)
    assert found.passing(0.05, falls=False).all()
    assert not found.passing(0.05, falls=True).any()
    assert np.isnan(found.low).all()


def test_the_frame_has_a_row_per_family_and_cell() -> None:
    cells = read_cells(table(np.random.default_rng(3)), arms(), "latent")
    frame = cells_frame(cells, [compare_cells(cells, "random")], sigmas=(1.0, 0.8, 0.6, 0.4), direction="x")
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 2 * len(BLOCKS) * len(STEPS)
    massive = frame[frame["family"] == "massive"]
    others = frame[frame["family"] == "random"]
    assert massive["p"].notna().all() and others[["p", "p_adjusted", "difference"]].isna().all(axis=None)
    differences = massive["mean"].to_numpy() - others["mean"].to_numpy()
    assert massive["difference"].to_numpy() == pytest.approx(differences)
    # Step 4 starts at no noise level that was given.
    assert (
        frame.loc[frame["step"] == 3, "sigma"].eq(0.4).all()
        and frame.loc[frame["step"] == 4, "sigma"].isna().all()
    )
    assert set(frame["direction"]) == {"x"} and set(frame["n"]) == {len(PROMPTS)}


def test_an_effect_map_says_what_it_found() -> None:
    found = EffectMap.of(
        read_cells(table(np.random.default_rng(4)), arms(), "latent"),
        "final",
        sigmas=(1, 0.8, 0.6, 0.4, 0.2),
        resamples=499,
    )
    said = repr(found)
    assert "2 blocks × 3 steps, n = 7 prompts, exploratory" in said
    assert "at block 2, step 4 (sigma 0.2)" in said
    assert "6 of 6 cells" in said and "too few" not in said
    frame = found.to_frame()
    assert (frame["ci_low"] <= frame["mean"]).all() and (frame["mean"] <= frame["ci_high"]).all()
    assert {*COLUMNS, "ci_low", "ci_high"} == set(frame.columns)
    assert found.values["massive"].shape == found.comparisons["random"].p.shape == (2, 3)
    few = read_cells(table(np.random.default_rng(4)), arms(), "latent", prompts=PROMPTS[:4])
    assert "4 prompts are too few" in repr(EffectMap.of(few, "final", resamples=99))


def test_what_is_no_map_is_refused() -> None:
    effects = table(np.random.default_rng(5))
    with pytest.raises(BadInput, match="no values of 'ssim'; they have latent"):
        read_cells(effects, arms(), "ssim")
    with pytest.raises(BadInput, match=r"1 of the map's 3 × 2 × 3 arms .* missing"):
        read_cells(effects, arms()[:-1], "latent")
    with pytest.raises(BadInput, match="there twice"):
        read_cells(effects, (*arms(), *arms("step")), "latent")
    with pytest.raises(BadInput, match="needs arms of single cells"):
        read_cells(effects, (), "latent")
