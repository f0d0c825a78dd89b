"""Figures show the rows they are given: counts, values and controls, read back from the figure itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.report import plots
from dit_lens.report.plots.panels import Panels

pytestmark = pytest.mark.pure

# Figures of other tables are tested beside them.
ALL: dict[str, Callable[..., go.Figure]] = {
    name: getattr(plots, name)
    for name in (
        "spectrum", "ratio_map", "life", "stability", "agreement", "variance", "births", "adaln",
        "token_maps",
    )
}  # fmt: skip


def traces(figure: go.Figure, kind: str) -> list[go.Figure]:
    return [trace for trace in figure.data if trace.type == kind]


@pytest.mark.parametrize("name", ALL)
def test_every_table_has_a_figure_with_named_axes_and_a_title(name, tables) -> None:
    figure = ALL[name](tables[name])
    assert isinstance(figure, go.Figure)
    assert len(figure.data) > 0
    assert len(figure.layout.title.text) > 20
    if name != "token_maps":
        axes = [axis for axis in figure.layout if axis.startswith(("xaxis", "yaxis"))]
        named = {figure.layout[axis].title.text for axis in axes} - {"", None}
        assert named, "axes say what they measure"


@pytest.mark.parametrize("name", ALL)
def test_a_figure_neither_changes_nor_needs_the_order_of_its_rows(name, tables) -> None:
    table = tables[name]
    if name == "token_maps":  # channels keep the order of their rows: largest first
        table = table[table["channel"] == 81]
    before = table.copy()
    first = ALL[name](table)
    pd.testing.assert_frame_equal(table, before)
    shuffled = table.sample(frac=1, random_state=1)
    if name == "token_maps":
        shuffled = pd.concat([table.head(1), shuffled.drop(table.index[0])])
    assert ALL[name](shuffled).to_json() == first.to_json()


@pytest.mark.parametrize("name", ALL)
def test_rows_that_are_not_there_are_refused_by_name(name, tables) -> None:
    with pytest.raises(BadInput, match=r"stream = 'video'; there are: .*image"):
        ALL[name](tables[name], stream="video")
    with pytest.raises(BadInput, match=r"needs the column\(s\) branch"):
        ALL[name](tables[name].drop(columns="branch"))
    with pytest.raises(BadInput, match="no rows at all"):
        ALL[name](tables[name].head(0))


def test_the_spectrum_names_the_top_channels_and_draws_the_median(tables) -> None:
    rows = tables["spectrum"].query("stream == 'image' and branch == 'cond' and statistic == 'abs_mean'")
    figure = plots.spectrum(tables["spectrum"])
    titles = [note.text for note in figure.layout.annotations]
    for block, of_block in rows.groupby("block"):
        top = of_block.nlargest(3, "ratio")["channel"].tolist()
        assert titles[block] == f"block {block}: {top[0]}, {top[1]}, {top[2]} …"
    medians = [trace for trace in figure.data if trace.name == "channel median"]
    assert [list(trace.y) for trace in medians] == [[1, 1]] * rows["block"].nunique()
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    for (_, of_block), line in zip(rows.groupby("block"), lines, strict=True):
        assert max(line.y) == of_block["ratio"].max()
        assert min(line.y) == of_block["ratio"].min()
        assert list(line.y) == sorted(line.y, reverse=True)


def test_a_wide_models_spectrum_is_thinned_but_keeps_both_ends() -> None:
    size = 1536
    table = pd.DataFrame(
        {"stream": "image", "branch": "cond", "block": 0, "statistic": "abs_mean", "rank": range(1, size + 1),
         "channel": range(size), "value": 1.0, "ratio": np.geomspace(100, 0.1, size)}
    )  # fmt: skip
    line = next(trace for trace in plots.spectrum(table).data if trace.mode == "lines+markers")
    assert len(line.x) < 120
    assert list(line.x[:24]) == list(range(1, 25))
    assert (line.x[-1], line.y[-1]) == (size, table["ratio"].min())


def test_the_map_holds_every_cell_at_its_place(tables) -> None:
    rows = tables["ratio_map"].query("stream == 'context' and branch == 'uncond'")
    heat = plots.ratio_map(tables["ratio_map"], stream="context", branch="uncond").data[0]
    for row in rows.itertuples():
        across, down = list(heat.x).index(row.step), list(heat.y).index(row.block)
        assert heat.z[down][across] == pytest.approx(np.log10(row.ratio))
        assert heat.text[down][across] == str(row.channel)
        assert heat.customdata[down][across].tolist() == pytest.approx(
            [row.channel, row.value, row.ratio, row.sigma]
        )


def test_a_cell_without_a_ratio_stays_empty(tables) -> None:
    rows = tables["ratio_map"].query("stream == 'image' and branch == 'cond'").reset_index(drop=True)
    rows.loc[0, "ratio"] = np.nan
    heat = plots.ratio_map(rows).data[0]
    assert np.isnan(heat.z).sum() == 1
    rows["ratio"] = np.nan
    assert np.isnan(plots.ratio_map(rows).data[0].z).all()


def test_life_draws_means_and_ranges_of_the_rows(tables) -> None:
    rows = tables["life"].query("stream == 'image' and branch == 'cond'")
    figure = plots.life(tables["life"])
    leader = int(rows.loc[rows["ratio"].idxmax(), "channel"])
    depth, time = (trace for trace in figure.data if trace.name == f"channel {leader}")
    mine = rows[rows["channel"] == leader]
    np.testing.assert_allclose(depth.y, mine.groupby("block")["ratio"].mean())
    np.testing.assert_allclose(time.y, mine.groupby("step")["ratio"].mean())
    np.testing.assert_allclose(depth.customdata[:, 1], mine.groupby("block")["ratio"].max())


@pytest.mark.parametrize("name", ["stability", "agreement"])
def test_overlaps_stand_beside_chance(name, tables) -> None:
    figure = ALL[name](tables[name])
    chance = next(trace for trace in figure.data if trace.name == "chance")
    assert set(chance.y) == {0.016}
    assert chance.showlegend


def test_an_axis_without_pairs_is_left_out(tables) -> None:
    names = {trace.name for trace in plots.stability(tables["stability"], stream="context").data}
    assert names == {"prompts", "steps", "neighbouring blocks", "chance"}
    nothing = tables["stability"].assign(jaccard=np.nan)
    assert {trace.name for trace in plots.stability(nothing).data} == set()


def test_an_unknown_k_is_refused(tables) -> None:
    with pytest.raises(BadInput, match="k = 9; there are: 4"):
        plots.stability(tables["stability"], k=9)


def test_variance_bars_add_up_to_one(tables) -> None:
    bars = traces(plots.variance(tables["variance"], blocks=[2, 3]), "bar")
    assert [bar.name for bar in bars] == ["step", "prompt", "seed", "interaction", "token"]
    np.testing.assert_allclose(np.sum([bar.x for bar in bars], axis=0), 1)
    assert {label.split(" · ")[0] for label in bars[0].y} == {"block 2", "block 3"}


def test_births_draw_every_write_once(tables) -> None:
    rows = tables["births"].query("stream == 'image' and branch == 'cond'")
    bars = traces(plots.births(tables["births"], limit=99), "bar")
    assert sum(len(bar.y) for bar in bars) == len(rows)
    assert sorted(np.concatenate([bar.y for bar in bars])) == sorted(rows["value"])
    assert {bar.name for bar in bars} == {"attention", "MLP", "input embedding"}


def test_adaln_draws_every_percentile_beside_the_middle(tables) -> None:
    rows = tables["adaln"].query("stream == 'image' and branch == 'cond'")
    figure = plots.adaln(tables["adaln"])
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert sorted(np.concatenate([trace.y for trace in points])) == sorted(rows["percentile"])
    assert sum(trace.name == "any channel (50)" for trace in figure.data) == rows["signal"].nunique()


def test_more_channels_than_colours_share_a_neutral_one(tables) -> None:
    one = tables["adaln"].query("stream == 'image' and branch == 'cond'").head(24)
    many = pd.concat([one.assign(channel=one["channel"] + 200 * shift) for shift in range(4)])
    names = {trace.name for trace in plots.adaln(many).data}
    assert "other massive channels" in names
    drawn = sum(len(trace.y) for trace in plots.adaln(many).data if trace.mode == "markers")
    assert drawn == len(many)


def test_token_maps_lie_as_the_image_does(tables) -> None:
    rows = tables["token_maps"].query("prompt_index == 0")
    figure = plots.token_maps(tables["token_maps"], Image.new("RGB", (48, 48), "red"), prompt_index=0)
    heats = traces(figure, "heatmap")
    assert len(heats) == len(rows.drop_duplicates(["block", "channel"]))
    first = rows.query("block == 1 and channel == 81").pivot(index="row", columns="col", values="value")
    np.testing.assert_allclose(heats[0].z, first, rtol=1e-6)
    assert figure.layout.yaxis2.autorange == "reversed", "row 0 is at the top, as in the image"
    assert figure.layout.images[0].source.startswith("data:image/webp;base64,")


def test_a_hostile_prompt_is_a_label_and_no_markup(tables) -> None:
    title = plots.token_maps(tables["token_maps"], prompt_index=1).layout.title.text
    assert "<" not in title
    assert "&#60;script&#62;" in title


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 8))
def test_panels_neither_overlap_nor_leave_the_figure(total: int, wide: int, narrow: int) -> None:
    panels = Panels(titles=tuple("t" * total), wide=wide, narrow=narrow)
    for patch in panels.figure("title").layout.meta["arrangements"].values():
        boxes = []
        for index in range(total):
            suffix = "" if index == 0 else str(index + 1)
            boxes.append((*patch[f"xaxis{suffix}.domain"], *patch[f"yaxis{suffix}.domain"]))
        for left, right, bottom, top in boxes:
            assert 0 <= left < right <= 1
            assert 0 <= bottom < top <= 1
        for first in range(total):
            for second in range(first + 1, total):
                a, b = boxes[first], boxes[second]
                assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2]
