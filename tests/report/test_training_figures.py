"""The model card's figures show the rows they are given."""

from __future__ import annotations

import pandas as pd
import pytest

from dit_lens.errors import BadInput
from dit_lens.report.plots.training import top_ratios, training_curve

pytestmark = pytest.mark.pure

LOSSES = pd.DataFrame(
    [("text", 1, 1.0), ("text", 2, 0.5), ("clip", 1, 7.0)], columns=["stage", "step", "loss"]
)
RATIOS = pd.DataFrame(
    [(block, rank, 10 * block + rank, "abs_mean", 9.0 / rank) for block in range(3) for rank in (1, 2)],
    columns=["block", "rank", "channel", "statistic", "ratio"],
)


def test_each_stage_has_its_panel() -> None:
    figure = training_curve(LOSSES)
    assert [list(trace.y) for trace in figure.data] == [[1.0, 0.5], [7.0]]
    assert [note.text for note in figure.layout.annotations] == ["text", "clip"]
    assert figure.layout.yaxis.type == "log"


def test_each_rank_is_a_bar_beside_its_block() -> None:
    figure = top_ratios(RATIOS)
    assert [trace.name for trace in figure.data] == ["rank 1", "rank 2"]
    assert list(figure.data[1].y) == [4.5] * 3
    assert list(figure.data[0].text) == ["1", "11", "21"]


def test_missing_columns_are_named() -> None:
    with pytest.raises(BadInput, match=r"column\(s\) loss"):
        training_curve(LOSSES.drop(columns="loss"))
