"""The tidy tables: their columns, and every number in them recomputed from the dataset."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dit_lens.errors import BadInput
from dit_lens.methods import channel_tables
from dit_lens.methods.channel_sets import ChannelSet
from dit_lens.methods.channels import ChannelStatistics
from dit_lens.methods.stability import chance_jaccard, jaccard
from tests.methods.synthetic import ImaginaryRun, imaginary_statistics, statistics_like

pytestmark = pytest.mark.pure

COLUMNS = {
    "spectrum": "stream branch block rank channel statistic value ratio",
    "ratio_map": "stream branch step sigma block channel statistic value ratio",
    "life": "stream branch step sigma block channel statistic value ratio",
    "stability": "stream branch axis block k jaccard chance n",
    "agreement": "stream branch block k jaccard chance",
    "variance": "stream branch block channel source share",
    "births": "stream branch block channel writer value rank share",
    "adaln": "stream branch block channel signal value percentile",
}


@pytest.fixture(scope="module")
def stats() -> ChannelStatistics:
    return imaginary_statistics()


@pytest.fixture(scope="module")
def tables(stats: ChannelStatistics) -> dict[str, pd.DataFrame]:
    return channel_tables.tables(stats)


def cell(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    for name, value in where.items():
        table = table[table[name] == value]
    return table


def test_every_table_has_its_columns_and_no_missing_value(tables: dict[str, pd.DataFrame]) -> None:
    assert {name: " ".join(table.columns) for name, table in tables.items()} == COLUMNS
    for name, table in tables.items():
        assert len(table), name
        assert not table.isna().any().any(), name
        assert set(table["stream"]) == {"image", "context"}, name
        assert set(table["branch"]) == {"cond", "uncond"}, name
        assert not len(cell(table, stream="context", block=2)) or name == "adaln", name


@pytest.mark.parametrize("statistic", ["abs_mean", "mean_abs", "max_abs", "p999"])
def test_spectrum(stats: ChannelStatistics, tables: dict[str, pd.DataFrame], statistic: str) -> None:
    rows = cell(tables["spectrum"], stream="image", branch="uncond", block=1, statistic=statistic)
    values = stats.data[statistic].sel(stream="image", branch="uncond", block=1).astype(np.float64)
    expected = (values.max("step") if statistic == "max_abs" else values.mean("step")).values
    assert rows["rank"].tolist() == list(range(1, 25))
    assert sorted(rows["channel"]) == list(range(24))
    np.testing.assert_allclose(rows["value"], expected[rows["channel"]], rtol=1e-6)
    np.testing.assert_allclose(rows["ratio"], rows["value"] / np.median(expected), rtol=1e-6)
    assert rows["value"].is_monotonic_decreasing


def test_ratio_map_and_life_agree_with_the_dataset(
    stats: ChannelStatistics, tables: dict[str, pd.DataFrame]
) -> None:
    for name in ("ratio_map", "life"):
        for row in tables[name].sample(50, random_state=0).itertuples():
            at = {"stream": row.stream, "branch": row.branch, "step": row.step, "block": row.block}
            values = stats.data[row.statistic].sel(at)
            assert row.value == pytest.approx(float(values.sel(channel=row.channel)))
            median = float(stats.data[f"{row.statistic}_median"].sel(at))
            assert row.ratio == pytest.approx(row.value / median)
            assert row.sigma == float(values["sigma"])
            if name == "ratio_map":
                assert row.value == float(values.max())


def test_ratio_map_has_one_row_a_cell(tables: dict[str, pd.DataFrame]) -> None:
    table = tables["ratio_map"]
    assert len(cell(table, stream="image", branch="cond", statistic="abs_mean")) == 3 * 3
    assert not table.duplicated(["stream", "branch", "step", "block", "statistic"]).any()


def test_life_follows_the_leading_channels(stats: ChannelStatistics, tables: dict[str, pd.DataFrame]) -> None:
    profile = stats.profile(stream="image", branch="both").values
    ratios = profile / np.median(profile, axis=1, keepdims=True)
    leading = np.argsort(-ratios.mean(axis=0))[:4].tolist()
    assert list(channel_tables.leading_channels(stats, "image")) == leading
    life = cell(tables["life"], stream="image", branch="cond", statistic="abs_mean")
    assert set(life["channel"]) == set(leading)
    assert len(life) == 4 * 3 * 3


def test_leading_channels_without_a_median() -> None:
    profile = np.zeros((2, 24))
    profile[:, 9] = 2.0
    assert channel_tables.leading_channels(statistics_like(profile), "image", 1) == (9,)
    ratio = channel_tables.spectrum(statistics_like(profile))["ratio"]
    assert ratio.isna().any()
    assert not np.isinf(ratio).any()


# ------------------------------------------------------------------------------------------ stability
def test_stability_by_hand(stats: ChannelStatistics, tables: dict[str, pd.DataFrame]) -> None:
    log = stats.data["top_channels"].sel(stream="image", branch="cond")
    at = {
        (int(p), int(s)): i
        for i, (p, s) in enumerate(
            zip(stats.data["sample_prompt"].values, stats.data["sample_seed"].values, strict=True)
        )
    }

    def top(prompt: int, seed: int, block: int) -> list[int]:
        return log.sel(block=block).values[at[prompt, seed], :4].tolist()

    def step_top(step: int) -> list[int]:
        values = stats.data["abs_mean"].sel(stream="image", branch="cond", step=step, block=1).values
        return np.argsort(-values)[:4].tolist()

    expected = {
        "prompt": [jaccard(top(p, s, 1), top(q, s, 1)) for s in (0, 1) for p, q in [(0, 1), (0, 2), (1, 2)]],
        "seed": [jaccard(top(p, 0, 1), top(p, 1, 1)) for p in range(3)],
        "step": [jaccard(step_top(a), step_top(b)) for a, b in [(0, 1), (0, 2), (1, 2)]],
        "block": [jaccard(top(p, s, 1), top(p, s, 2)) for p in range(3) for s in (0, 1)],
    }
    rows = cell(tables["stability"], stream="image", branch="cond", block=1).set_index("axis")
    for axis, pairs in expected.items():
        assert rows.loc[axis, "jaccard"] == pytest.approx(np.mean(pairs)), axis
        assert rows.loc[axis, "n"] == len(pairs)
        assert rows.loc[axis, "chance"] == pytest.approx(chance_jaccard(24, 4))
    assert set(rows["k"]) == {4}


def test_the_last_block_has_no_next_one(tables: dict[str, pd.DataFrame]) -> None:
    by_block = cell(tables["stability"], axis="block", branch="cond")
    assert cell(by_block, stream="image")["block"].tolist() == [0, 1]
    assert cell(by_block, stream="context")["block"].tolist() == [0]


def test_an_axis_with_one_value_has_no_pairs() -> None:
    table = channel_tables.stability(imaginary_statistics(ImaginaryRun(prompts=1, seeds=1, steps=1)))
    rows = cell(table, stream="image", branch="cond", block=0).set_index("axis")
    assert rows.loc[["prompt", "seed", "step"], "n"].tolist() == [0, 0, 0]
    assert rows.loc[["prompt", "seed", "step"], "jaccard"].isna().all()
    assert rows.loc["block", "n"] == 1


def test_stability_of_more_channels_than_were_logged_is_refused(stats: ChannelStatistics) -> None:
    assert set(channel_tables.stability(stats, 16)["k"]) == {16}
    with pytest.raises(BadInput, match="17 was asked for; there are 16 channels logged per sample"):
        channel_tables.stability(stats, 17)


def test_agreement_is_the_jaccard_of_the_two_sets() -> None:
    profile = np.ones((2, 24))
    profile[:, 3] = 9
    mixed_sign = profile.copy()
    mixed_sign[1, 3], mixed_sign[1, 8] = 1, 9
    rows = cell(channel_tables.agreement(statistics_like(profile, mean_abs=mixed_sign), 1), stream="image")
    assert cell(rows, branch="cond")["jaccard"].tolist() == [1.0, 0.0]
    assert rows["chance"].tolist() == pytest.approx([1 / 24] * 4)


# -------------------------------------------------------------------------------------------- origins
def test_variance_is_of_the_massive_channels(
    stats: ChannelStatistics, tables: dict[str, pd.DataFrame]
) -> None:
    table = cell(tables["variance"], stream="image", branch="uncond")
    massive = stats.select(branch="both")
    assert set(zip(table["block"], table["channel"], strict=True)) == {
        (block, channel) for block, channels in massive.blocks.items() for channel in channels
    }
    np.testing.assert_allclose(table.groupby(["block", "channel"])["share"].sum(), 1, rtol=1e-6)
    row = table.iloc[7]
    at = {"stream": "image", "branch": "uncond", **row[["block", "channel", "source"]].to_dict()}
    assert row["share"] == pytest.approx(float(stats.data["variance_share"].sel(at)))


def test_a_channel_without_variance_has_no_rows(stats: ChannelStatistics) -> None:
    data = stats.data.copy(deep=True)
    data["variance_share"].loc[{"block": 0, "channel": 3, "stream": "image"}] = np.nan
    chosen = ChannelSet(model="m", statistic="abs_mean", stream="image", selection={}, blocks={0: (3, 4)})
    table = channel_tables.variance(ChannelStatistics(data, stats.provenance), chosen)
    assert set(table["channel"]) == {4}


def test_births_say_who_writes_a_channel(stats: ChannelStatistics, tables: dict[str, pd.DataFrame]) -> None:
    table = cell(tables["births"], stream="image", branch="cond")
    writes = stats.data["write_mean_abs"].sel(stream="image", branch="cond").astype(np.float64).mean("step")
    assert set(table["writer"]) == {"embed", "attn", "attn2", "mlp"}
    assert set(cell(table, writer="embed")["block"]) == {0}
    assert set(cell(table, writer="attn")["block"]) == {0, 1, 2}
    np.testing.assert_allclose(table.groupby("channel")["share"].sum(), 1)
    for row in table.sample(10, random_state=1).itertuples():
        values = writes.sel(block=row.block, writer=row.writer).values
        assert row.value == pytest.approx(values[row.channel])
        assert row.rank == 1 + (values > values[row.channel]).sum()
        assert row.share == pytest.approx(row.value / float(np.nansum(writes.sel(channel=row.channel))))


def test_births_of_chosen_channels(stats: ChannelStatistics) -> None:
    assert set(channel_tables.births(stats, "context", [5])["channel"]) == {5}
    assert channel_tables.births(stats, "context", []).columns.tolist() == COLUMNS["births"].split()


def test_adaln_percentiles(stats: ChannelStatistics, tables: dict[str, pd.DataFrame]) -> None:
    table = tables["adaln"]
    assert table["percentile"].between(0, 100).all()
    signals = stats.data["adaln"].astype(np.float64).mean("step")
    for row in table.sample(20, random_state=2).itertuples():
        at = {"stream": row.stream, "branch": row.branch, "block": row.block, "signal": row.signal}
        values = signals.sel(at).values
        assert row.value == pytest.approx(values[row.channel])
        below = (np.abs(values) < abs(values[row.channel])).sum()
        assert row.percentile == pytest.approx(100 * below / 23)
    assert set(cell(table, stream="image", block=1)["signal"]) == {
        f"{kind}_{site}" for kind in ("shift", "scale", "gate") for site in ("attn", "mlp")
    }


def test_an_empty_set_gives_empty_tables_with_columns(stats: ChannelStatistics) -> None:
    nothing = stats.select(rule="2402.17762", min_abs=1e9)
    assert nothing.is_empty
    found = channel_tables.tables(stats, nothing)
    for name in ("variance", "adaln"):
        assert set(found[name]["stream"]) == {"context"}
        assert " ".join(found[name].columns) == COLUMNS[name]


def test_a_set_of_another_model_is_refused(stats: ChannelStatistics) -> None:
    for blocks in ({7: (1,)}, {0: (24,)}):
        foreign = ChannelSet(model="wide", statistic="abs_mean", stream="image", selection={}, blocks=blocks)
        with pytest.raises(BadInput, match="set of wide names channel"):
            channel_tables.variance(stats, foreign)
