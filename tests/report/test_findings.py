"""Sentences are made from the numbers: other numbers, other sentences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dit_lens.report import findings

pytestmark = pytest.mark.pure


def plain(sentence: str) -> str:
    return sentence.replace("\xa0", " ")


def a_spectrum(*tops: float) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (block, channel, ratio)
            for block, top in enumerate(tops)
            for channel, ratio in ((7, top), (3, 1.0))
        ],
        columns=["block", "channel", "ratio"],
    )


def test_spectrum() -> None:
    assert plain(findings.spectrum(a_spectrum(0.5, 6.0, 14.2))) == (
        "Channel 7 is the largest in 2 of 3 blocks; the highest ratio to the median channel is 14.2 (channel "
        "7, block 2). The top channel is at 5 × the median or more in blocks 1–2."
    )
    assert plain(findings.spectrum(a_spectrum(2.0))).endswith(
        "In no block does a channel reach 5 × the median."
    )


def test_nothing_is_claimed_where_the_median_is_zero() -> None:
    table = a_spectrum(1.0, 2.0).assign(ratio=np.nan, step=0, sigma=1.0)
    for sentence in (findings.spectrum, findings.ratio_map, findings.life):
        assert sentence(table) == findings.UNDEFINED


@pytest.mark.parametrize(("last", "word"), [(8.0, "rises"), (4.2, "hardly changes"), (1.0, "falls")])
def test_ratio_map(last: float, word: str) -> None:
    table = pd.DataFrame(
        {"step": [0, 1], "sigma": [1.0, 0.5], "block": 0, "channel": [7, 9], "ratio": [4.0, last]}
    )
    assert f"it {word} from the first step to the last, from 4 (σ = 1) to" in findings.ratio_map(table)


def test_life() -> None:
    table = pd.DataFrame({"block": [0, 1, 2], "channel": 7, "ratio": [1.0, 9.0, 2.0]})
    assert plain(findings.life(table)) == (
        "Channel 7 first reaches 5 × the median in block 1, is largest in block 1 (9 ×, mean of the steps' "
        "ratios), and falls to 2 × in the last block (2)."
    )
    assert "stays below 5 × the median" in plain(findings.life(table.assign(ratio=[1.0, 2.0, 1.5])))


def test_stability_names_axes_that_could_not_be_compared() -> None:
    table = pd.DataFrame({"axis": ["prompt", "seed"], "jaccard": [0.9, np.nan], "chance": 0.02, "k": 4})
    assert findings.stability(table) == (
        "Mean Jaccard overlap of the top 4: 0.9 over prompts; chance gives 0.02. There is no pair of seeds, "
        "steps or blocks to compare."
    )
    assert "says nothing about stability" in findings.stability(table.assign(jaccard=np.nan))


def test_agreement() -> None:
    table = pd.DataFrame({"block": [0, 1], "jaccard": [1.0, 0.6], "chance": 0.02})
    assert findings.agreement(table) == (
        "The sets by |mean| and by mean |value| overlap 0.8 on average (chance 0.02); they are identical "
        "in 1 of 2 blocks (0)."
    )


def test_variance() -> None:
    table = pd.DataFrame(
        {"block": 0, "channel": 7, "source": ["step", "prompt", "token"], "share": [0.2, 0.1, 0.7]}
    )
    sentence = plain(findings.variance(table))
    assert "from token 70 %, step 20 % and prompt 10 %" in sentence
    assert sentence.endswith("interaction together make 10 %.")


def test_births() -> None:
    table = pd.DataFrame(
        {"block": [0, 1], "channel": 7, "writer": ["attn", "mlp"], "value": [1.0, 3.0], "share": [0.25, 0.75]}
    )
    assert plain(findings.births(table)) == (
        "Largest single writes: into channel 7 by the MLP of block 1 (75 % of all that is written into it)."
    )


def test_adaln() -> None:
    table = pd.DataFrame({"signal": ["gate_mlp", "gate_attn", "shift_mlp"], "percentile": [99.0, 50.0, 10.0]})
    sentence = plain(findings.adaln(table))
    assert "highest in the MLP gate (99), lowest in the MLP shift (10)" in sentence
    assert "1 of 2 gate values lie at or above the 95th percentile" in sentence


def a_map(values: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"prompt_index": 0, "seed": 0, "stream": "image", "branch": "cond", "block": 0, "step": 0,
         "channel": 7, "value": values}
    )  # fmt: skip


def test_token_maps_tell_a_constant_from_a_layout() -> None:
    assert "on average 0 % of" in plain(findings.token_maps(a_map([3.0, 3.0])))
    assert "on average 100 % of" in plain(findings.token_maps(a_map([3.0, -3.0])))


def test_channel_set() -> None:
    assert findings.channel_set({"0": [1, 2], "1": [2, 3]}) == (
        "3 different channels in 2 blocks; channel 2 is in every one of them."
    )
    assert findings.channel_set({"0": [1], "1": [2]}).endswith("none is in every one of them.")
    assert findings.channel_set({"0": []}, "The largest is 3.").endswith("in any block. The largest is 3.")
    assert findings.channel_set({"0": []}) == "No channel passes the rule of this run in any block."
