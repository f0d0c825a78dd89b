"""Effect figures show the rows they are given: estimates, intervals, controls and what is significant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from dit_lens.errors import BadInput
from dit_lens.methods.metrics import METRICS, quantity
from dit_lens.report import effect_findings, plots
from dit_lens.report.effect_words import families_in_order, metrics_in_order

pytestmark = pytest.mark.pure

# Table → the figure drawn from it.
FIGURES: dict[str, Callable[..., go.Figure]] = {
    "disruption": plots.disruption,
    "bias_or_carrier": plots.bias_or_carrier,
    "semantics_or_detail": plots.semantics_or_detail,
    "single_or_all": plots.single_or_all,
    "dose": plots.dose,
    "step_map": plots.effect_map,
    "final_map": plots.effect_map,
    "patch_map": plots.effect_map,
}
NUMBERS = {"semantics_or_detail": "change", "disruption": "estimate"}


@pytest.mark.parametrize("name", FIGURES)
def test_every_effect_table_has_a_figure_with_named_axes_and_a_title(name, effects) -> None:
    figure = FIGURES[name](effects[name])
    assert len(figure.data) > 0
    assert len(figure.layout.title.text) > 20
    axes = [axis for axis in figure.layout if axis.startswith(("xaxis", "yaxis"))]
    assert {figure.layout[axis].title.text for axis in axes} - {"", None}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_neither_changes_nor_needs_the_order_of_its_rows(name, effects) -> None:
    table = effects[name]
    before = table.copy()
    first = FIGURES[name](table)
    pd.testing.assert_frame_equal(table, before)
    assert FIGURES[name](table.sample(frac=1, random_state=1)).to_json() == first.to_json()


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_not_there_is_refused_by_name(name, effects) -> None:
    asked = {"metrics": ["zeal"]} if name == "semantics_or_detail" else {"metric": "zeal"}
    with pytest.raises(BadInput, match="No row has metric = 'zeal'; there are: "):
        FIGURES[name](effects[name], **asked)
    column = "mean" if "mean" in effects[name] else NUMBERS[name]
    with pytest.raises(BadInput, match=rf"needs the column\(s\) {column}"):
        FIGURES[name](effects[name].drop(columns=column))
    with pytest.raises(BadInput, match="no rows"):
        FIGURES[name](effects[name].head(0))


def test_the_forest_holds_every_control_with_its_interval_and_outcome(effects) -> None:
    rows = effects["disruption"].query("metric == 'ssim'").set_index("control")
    figure = plots.disruption(effects["disruption"], metric="ssim")
    marks = {}
    labels = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    for trace in (trace for trace in figure.data if trace.xaxis == "x"):
        for x, y, up, down in zip(
            trace.x, trace.y, trace.error_x.array, trace.error_x.arrayminus, strict=True
        ):
            marks[labels[y].split("<br>")[0]] = (trace.name, x, x - down, x + up)
    assert len(marks) == len(rows) == 4
    for kind, words in (("low", "weakest"), ("energy_matched", "energy matched")):
        row = rows.loc[kind]
        assert marks[words][0] == row["outcome"]
        assert marks[words][1:] == pytest.approx((row["estimate"], row["ci_low"], row["ci_high"]))
    zero = figure.layout.shapes[0]
    assert (zero.x0, zero.x1, zero.xref) == (0, 0, "x")


def test_levels_stand_beside_the_forest_with_the_clean_image_where_it_has_one(effects) -> None:
    table = effects["disruption"]
    figure = plots.disruption(table, metric="semantics")
    levels = [trace.x[0] for trace in figure.data if trace.xaxis == "x2"]
    rows = table.query("metric == 'semantics'").set_index("control")
    order = families_in_order(rows.index)
    assert levels == [
        rows["treatment_mean"].iloc[0],
        *rows.loc[order, "control_mean"],
        rows["clean_mean"].iloc[0],
    ]
    assert figure.layout.yaxis2.ticktext[-1] == "clean"
    assert "clean" not in plots.disruption(table, metric="ssim").layout.yaxis2.ticktext


def test_the_side_that_disrupts_is_the_tables(effects) -> None:
    table = effects["disruption"]
    assert "left of 0" in plots.disruption(table, metric="ssim").layout.annotations[0].text
    assert "right of 0" in plots.disruption(table, metric="latent").layout.annotations[0].text


def test_bias_or_carrier_draws_every_arm_in_one_order(effects) -> None:
    rows = effects["bias_or_carrier"].query("metric == 'detail'")
    figure = plots.bias_or_carrier(effects["bias_or_carrier"].iloc[::-1], metric="detail")
    np.testing.assert_allclose(figure.data[0].x, rows["mean"])
    np.testing.assert_allclose(figure.data[0].x - figure.data[0].error_x.arrayminus, rows["ci_low"])
    assert [trace.name for trace in figure.data[1:]] == ["clean image"]
    assert figure.data[1].x[0] == rows["clean_mean"].iloc[0]


def test_both_protocols_are_in_one_panel(effects) -> None:
    table = effects["semantics_or_detail"]
    figure = plots.semantics_or_detail(table, metrics=["semantics", "detail"])
    massive = table.query("metric == 'detail' and family == 'massive'")
    drawn = [trace for trace in figure.data if trace.xaxis == "x2" and trace.name == "massive channels"]
    np.testing.assert_allclose(drawn[0].y, massive.loc[massive["block"].notna(), "change"])
    np.testing.assert_allclose(drawn[1].y, massive.loc[massive["block"].isna(), "change"])
    assert drawn[1].x[0] < 0 <= drawn[0].x[0] + 0.5
    assert figure.layout.xaxis.ticktext[0] == "all"
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert legend == ["massive channels", "energy matched"]


def test_the_mean_over_single_blocks_is_no_block(effects) -> None:
    table = effects["semantics_or_detail"]
    mean = table.query("protocol == 'all_blocks'").assign(protocol="single_block")
    with_mean = pd.concat([table, mean])
    assert len(plots.semantics_or_detail(with_mean).data) == len(plots.semantics_or_detail(table).data)


def test_an_image_metric_has_its_clean_value_as_its_line(effects) -> None:
    figure = plots.semantics_or_detail(effects["semantics_or_detail"], metrics=["ssim", "change_low"])
    assert [shape.y0 for shape in figure.layout.shapes] == [1.0, 0.0]


def test_single_blocks_stand_beside_all_of_them(effects) -> None:
    rows = effects["single_or_all"].query("metric == 'ssim' and family == 'massive'")
    figure = plots.single_or_all(effects["single_or_all"], metric="ssim")
    line = next(trace for trace in figure.data if trace.name == "massive channels")
    np.testing.assert_allclose(line.y, rows.loc[rows["block"].notna(), "mean"])
    whole = rows[rows["block"].isna()].iloc[0]
    dashed = [trace.y[0] for trace in figure.data if trace.line.dash == "dash"]
    assert whole["mean"] in dashed and whole["difference"] in dashed
    marks = [trace for trace in figure.data if trace.xaxis == "x2" and trace.mode == "markers"]
    drawn = {int(x): (trace.name, y) for trace in marks for x, y in zip(trace.x, trace.y, strict=True)}
    for row in rows[rows["block"].notna()].itertuples():
        assert drawn[int(row.block)] == (row.outcome, pytest.approx(row.difference))


def test_a_band_is_the_interval(effects) -> None:
    rows = effects["dose"].query("metric == 'ssim' and family == 'massive'")
    figure = plots.dose(effects["dose"], metric="ssim")
    band = next(trace for trace in figure.data if trace.fill == "toself" and trace.legendgroup == "massive")
    np.testing.assert_allclose(band.y, [*rows["ci_high"], *rows["ci_low"][::-1]])
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.tickvals) == [1, 2, 4, 8, 16]


# ------------------------------------------------------------------------------------------------------- maps
def heat(figure: go.Figure, index: int) -> go.Heatmap:
    return [trace for trace in figure.data if trace.type == "heatmap"][index]


def test_the_map_holds_every_cell_at_its_place(effects) -> None:
    figure = plots.effect_map(effects["patch_map"], direction="noising")
    rows = effects["patch_map"].query("direction == 'noising'")
    for index, family, column in (
        (0, "massive", "mean"),
        (1, "energy_matched", "mean"),
        (2, "massive", "difference"),
    ):
        of_family = rows[rows["family"] == family]
        grid = of_family.pivot(index="block", columns="step", values=column).to_numpy(dtype=float)
        np.testing.assert_allclose(heat(figure, index).z, grid, rtol=1e-5, atol=1e-7)
    assert heat(figure, 0).coloraxis == heat(figure, 1).coloraxis != heat(figure, 2).coloraxis
    scale = figure.layout.coloraxis2
    assert scale.cmin == -scale.cmax, "no difference is the middle of the scale"


def a_map(significant: list[tuple[int, int]]) -> pd.DataFrame:
    rows = []
    for family in ("massive", "low"):
        for block in range(3):
            for step in range(4):
                p = 0.01 if (block, step) in significant else 0.5
                difference = -0.2 if family == "massive" else None
                rows.append(
                    {"metric": "ssim", "family": family, "direction": "", "block": block, "step": step,
                     "sigma": 1.0, "mean": 0.5, "difference": difference, "p": p, "p_adjusted": p, "n": 8}
                )  # fmt: skip
    return pd.DataFrame(rows)


def edges(figure: go.Figure) -> int:
    return sum(x is None for x in next(trace for trace in figure.data if trace.name == "significant").x)


def test_significant_cells_are_outlined_together_and_signed() -> None:
    figure = plots.effect_map(a_map([(1, 1), (1, 2)]))
    assert edges(figure) == 6, "the edge between two such cells is not drawn"
    assert [row.count("−") for row in heat(figure, 2).text] == [0, 2, 0]
    assert edges(plots.effect_map(a_map([(0, 0), (2, 3)]))) == 8
    assert edges(plots.effect_map(a_map([]))) == 0


def test_title_and_finding_say_in_how_many_cells_the_control_does_more() -> None:
    table = a_map([(0, 0), (1, 1), (1, 2)])
    first = (table["block"] == 0) & (table["family"] == "massive")
    table = table.assign(difference=table["difference"].mask(first, 0.3))
    title = plots.effect_map(table).layout.title.text
    assert title.endswith("massive exceed control in 1 of 12 cells, fall short in 2 (corrected p ≤ 0.05)")
    said = effect_findings.effect_map(table)
    assert "massive channels exceed their control in 1 of 12 cells and fall short of it in 2 (" in said
    assert "exceed control in 0 of 12 cells, fall short in 0" in plots.effect_map(a_map([])).layout.title.text


def test_a_map_against_the_control_asked_for() -> None:
    table = a_map([(1, 1)]).assign(control=lambda rows: np.where(rows["family"] == "massive", "low", ""))
    other = table[table["family"] == "massive"].assign(control="random", difference=0.3, p_adjusted=0.01)
    both = pd.concat([table, other, table[table["family"] == "low"].assign(family="random", mean=0.2)])
    assert edges(plots.effect_map(both)) == 4
    against = plots.effect_map(both, control="random")
    assert np.all(heat(against, 2).z == np.float32(0.3)) and np.all(heat(against, 1).z == np.float32(0.2))
    with pytest.raises(BadInput, match="family = 'sham'; there are: low, random"):
        plots.effect_map(both, control="sham")


def test_a_map_without_a_control_shows_what_there_is() -> None:
    table = a_map([]).query("family == 'massive'").assign(difference=np.nan, p=np.nan, p_adjusted=np.nan)
    figure = plots.effect_map(table)
    assert [trace.type for trace in figure.data] == ["heatmap"]


def test_hundreds_of_cells_stay_light() -> None:
    rng = np.random.default_rng(0)
    cells = pd.MultiIndex.from_product(
        [["massive", "random"], range(24), range(28)], names=["family", "block", "step"]
    )
    noise = rng.normal(size=(2, len(cells)))
    table = pd.DataFrame(index=cells).reset_index()
    table = table.assign(metric="latent", direction="", sigma=0.5, mean=noise[0], difference=noise[1])
    table = table.assign(p=0.01, p_adjusted=0.01, n=8)
    assert len(plots.effect_map(table).to_json(validate=False)) < 60_000


# ------------------------------------------------------------------------------------------------------ words
@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_called_what_they_are_called_elsewhere(name) -> None:
    words = quantity(name)
    assert (words.title, words.unit) == (METRICS[name].title, METRICS[name].unit)
    assert metrics_in_order(METRICS, first=name)[0] == name
