"""Matched controls: as many channels, others where others are meant, drawn once and reproducibly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import (
    Add,
    EnergyMatched,
    Identity,
    Mean,
    Scale,
    Site,
    TokenShuffle,
    Zero,
    from_data,
)
from dit_lens.methods.channels import ChannelSet, ChannelStatistics
from dit_lens.methods.controls import Control, control_kinds, controls, is_drawn
from tests.methods.synthetic import ImaginaryRun, imaginary_statistics, statistics_like

pytestmark = pytest.mark.pure

KINDS = control_kinds()

DRAWN = tuple(kind for kind in KINDS if is_drawn(kind))

OTHERS = ("low", "random", "random_rank_window", "energy_matched")


def a_set(stats: ChannelStatistics, blocks: dict[int, tuple[int, ...]], **fields: Any) -> ChannelSet:
    values = {"model": stats.model, "statistic": "abs_mean", "stream": "image", "selection": {"top_k": 1}}
    return ChannelSet.model_validate({**values, "blocks": blocks, **fields})


def rising(blocks: int = 2, channels: int = 40) -> ChannelStatistics:
    """Channel c has the value c + 1 in every block, twice that in the next, and so on."""
    return statistics_like(np.arange(1.0, channels + 1) * 2.0 ** np.arange(blocks)[:, None])


STATS = rising()
MASSIVE = a_set(STATS, {0: (39, 37), 1: (37, 39, 38)})


@pytest.fixture(scope="module")
def imaginary() -> ChannelStatistics:
    return imaginary_statistics()


# ------------------------------------------------------------------------------------------- of every kind
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_and_names_match_the_treatment(kind: str, imaginary: ChannelStatistics) -> None:
    massive = imaginary.select(top_k=3)
    draws = 3 if kind in DRAWN else 1
    found = controls(massive, imaginary, kind, draws=draws)
    assert [c.draw for c in found] == list(range(draws))
    assert [c.name for c in found] == ([f"{kind}-{i}" for i in range(3)] if draws == 3 else [kind])
    for control in found:
        assert control.kind == kind
        assert control.channels is not None
        assert {b: len(c) for b, c in control.channels.blocks.items()} == dict.fromkeys(range(3), 3)
        assert (control.channels.model, control.channels.stream) == (massive.model, massive.stream)
        assert control.channels.provenance == massive.provenance
        assert from_data(control.op.to_data()) == control.op
        assert ChannelSet.model_validate_json(control.channels.to_json()) == control.channels
        disjoint = all(
            not set(massive.blocks[b]) & set(channels) for b, channels in control.channels.blocks.items()
        )
        assert disjoint == (kind in OTHERS)
    assert found == controls(massive, imaginary, kind, draws=draws)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in OTHERS])
def test_controls_on_the_same_channels(kind: str) -> None:
    (control,) = controls(MASSIVE, STATS, kind)
    assert control.channels == MASSIVE


def test_each_kind_has_its_edit() -> None:
    def edit(kind: str, **more: Any) -> Any:
        return controls(MASSIVE, STATS, kind, **more)[0].op

    for kind in ("low", "random", "random_rank_window"):
        assert edit(kind) == Zero()
        assert edit(kind, op=Scale(0.5, part="mean")) == Scale(0.5, part="mean")
    assert edit("mean_set") == Mean("token")
    assert isinstance(edit("token_shuffle"), TokenShuffle)
    assert edit("ln_preserving") == Zero(ln_preserving=True)
    assert edit("ln_preserving", op=Zero(part="residual")) == Zero(part="residual", ln_preserving=True)
    assert edit("sham") == Identity()
    matched = edit("energy_matched", op=Zero(part="mean"))
    assert isinstance(matched, EnergyMatched)
    assert matched.blocks == MASSIVE.blocks and matched.part == "mean"


def test_context_stream_controls(imaginary: ChannelStatistics) -> None:
    massive = imaginary.select(top_k=2, stream="context")
    for kind in KINDS:
        (control,) = controls(massive, imaginary, kind)
        assert control.channels is not None
        assert (control.channels.stream, list(control.channels.blocks)) == ("context", [0, 1])


# --------------------------------------------------------------------------------------------------- low
def test_low_is_the_bottom_by_the_sets_own_statistic() -> None:
    (control,) = controls(MASSIVE, STATS, "low")
    assert control.channels is not None
    assert control.channels.blocks == {0: (0, 1), 1: (0, 1, 2)}
    assert control.channels.selection["of"] == {"top_k": 1}
    falling = statistics_like(
        np.tile(np.arange(1.0, 41), (2, 1)), max_abs=np.tile(np.arange(40.0, 0, -1), (2, 1))
    )
    by_max = a_set(falling, {0: (0, 1)}, statistic="max_abs")
    assert controls(by_max, falling, "low")[0].channels.blocks == {0: (39, 38)}


def test_low_looks_where_the_set_was_chosen() -> None:
    stats = imaginary_statistics(ImaginaryRun(channels=16))
    for selection in ({"branch": "uncond", "steps": [2]}, {"branch": "both", "steps": "all"}):
        massive = stats.select(top_k=2, **selection)
        profile = stats.profile("abs_mean", **selection).values
        assert controls(massive, stats, "low")[0].channels.blocks == {
            b: tuple(np.argsort(profile[b], kind="stable")[:2]) for b in range(3)
        }


def test_low_never_takes_a_channel_of_the_treatment() -> None:
    weak = a_set(STATS, {0: (0, 2)})
    assert controls(weak, STATS, "low")[0].channels.blocks == {0: (1, 3)}


# ------------------------------------------------------------------------------------------------ random
@st.composite
def requests(draw: st.DrawFn) -> tuple[ChannelSet, int, int]:
    """A set of any shape on 40 channels, draws, and a seed."""
    blocks = {
        b: tuple(draw(st.lists(st.integers(0, 39), unique=True, min_size=1, max_size=8))) for b in range(2)
    }
    return a_set(STATS, blocks), draw(st.integers(1, 6)), draw(st.integers(0, 2**33))


@pytest.mark.parametrize("kind", ["random", "random_rank_window", "energy_matched"])
@settings(max_examples=25, deadline=None)
@given(requests())
def test_draws_differ_and_avoid_the_treatment(kind: str, request_: tuple[ChannelSet, int, int]) -> None:
    massive, draws, seed = request_
    found = controls(massive, STATS, kind, draws=draws, seed=seed)
    as_sets = {tuple(frozenset(c) for c in each.channels.blocks.values()) for each in found}
    assert len(as_sets) == draws
    for each in found:
        for block, channels in each.channels.blocks.items():
            assert len(set(channels)) == len(channels) == len(massive.blocks[block])
            # Not even a channel that is massive in the other block: it would reach that block as well.
            assert not set(channels) & set(massive.channels)
        assert each.channels.selection["seed"] == seed and each.channels.selection["persistent"] is True
    # A channel of the treatment is replaced by the same one wherever it occurs.
    for each in found:
        pairs = {
            pair
            for block, channels in each.channels.blocks.items()
            for pair in zip(massive.blocks[block], channels, strict=True)
        }
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert controls(massive, STATS, kind, draws=draws + 1, seed=seed)[:draws] == found


def test_seeds_differ() -> None:
    one, other = (controls(MASSIVE, STATS, "random", seed=s)[0].channels for s in (0, 1))
    assert one.blocks != other.blocks


def test_random_is_uniform_over_all_other_channels() -> None:
    massive = a_set(rising(1, 16), {0: (15, 14)})
    found = controls(massive, rising(1, 16), "random", draws=91)
    # All 91 pairs of the 14 other channels, each once.
    assert len({frozenset(c.channels.blocks[0]) for c in found}) == 91
    first = [controls(massive, rising(1, 16), "random", seed=s)[0].channels.blocks[0] for s in range(700)]
    counts = np.bincount(np.ravel(first), minlength=16)
    assert (counts[14:] == 0).all()
    # 100 ± 9.3 times each; within five standard deviations.
    assert (np.abs(counts[:14] - 100) < 46).all()


def test_more_draws_than_there_are_is_refused() -> None:
    massive = a_set(rising(1, 16), {0: (15, 14)})
    with pytest.raises(BadInput, match=r"92 different draws .* there are only 91"):
        controls(massive, rising(1, 16), "random", draws=92)


def test_the_rank_window_holds_the_next_strongest() -> None:
    # Three distinct channels: the window is the 16 below them (at least 16, else 4 for each).
    drawn = controls(MASSIVE, STATS, "random_rank_window", draws=60)
    assert {c for each in drawn for c in each.channels.channels} == set(range(21, 37))
    wide = a_set(STATS, {0: (39, 38, 37, 36, 35)})
    drawn = controls(wide, STATS, "random_rank_window", draws=60)
    assert {c for each in drawn for c in each.channels.channels} == set(range(15, 35))


def test_the_rank_window_weighs_blocks_alike() -> None:
    # In block 1 everything is a thousand times larger; by raw values it alone would decide.
    values = np.ones((2, 40))
    values[0, :20], values[1, 20:] = 8, 5
    values[1] *= 1000
    massive = a_set(statistics_like(values), {0: (0,), 1: (0,)})
    drawn = controls(massive, statistics_like(values), "random_rank_window", draws=16)
    assert {c for each in drawn for c in each.channels.channels} == set(range(1, 17))


def test_where_channels_are_few_each_block_draws_alone() -> None:
    stats = rising(2, 16)
    massive = a_set(stats, {0: (0, 1, 2, 3, 4), 1: (7, 8, 9, 10, 11)})
    for kind in ("random", "random_rank_window", "energy_matched"):
        for each in controls(massive, stats, kind, draws=10):
            assert each.channels.selection["persistent"] is False
            for block, channels in each.channels.blocks.items():
                assert len(set(channels)) == 5 and not set(channels) & set(massive.blocks[block])


def test_a_block_without_channels_stays_without() -> None:
    massive = a_set(STATS, {0: (), 1: (39,)})
    for kind in OTHERS:
        (control,) = controls(massive, STATS, kind)
        assert control.channels.blocks[0] == ()
        assert len(control.channels.blocks[1]) == 1


# -------------------------------------------------------------------------------------------- the rest
def test_energy_matched_uses_the_channels_of_random() -> None:
    matched = controls(MASSIVE, STATS, "energy_matched", draws=4, seed=5)
    random = controls(MASSIVE, STATS, "random", draws=4, seed=5)
    assert [c.channels.blocks for c in matched] == [c.channels.blocks for c in random]
    assert len({c.op.seed for c in matched}) == 4


def edited(control: Control) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(block, activation, edited activation) of made-up activations with massive channels 37 to 39."""
    for block in MASSIVE.blocks:
        x = torch.randn(2, 9, 40, generator=torch.Generator().manual_seed(block))
        x[..., 37:] += 50
        channels = None if control.channels is None else control.channels.blocks[block]
        yield block, x, control.op.at_block(block).apply(x, Site(channels))


@pytest.mark.parametrize("subspace", [False, True])
def test_energy_matched_controls_change_as_much_as_the_treatment(subspace: bool) -> None:
    for control in controls(MASSIVE, STATS, "energy_matched", draws=3, subspace=subspace):
        assert (control.channels is None) == subspace
        for block, x, found in edited(control):
            removed = x[..., list(MASSIVE.blocks[block])].norm(dim=-1)
            assert ((found - x).norm(dim=-1) / removed - 1).abs().max() <= 0.01
    for control in controls(MASSIVE, STATS, "random", draws=3):
        for block, x, found in edited(control):
            removed = x[..., list(MASSIVE.blocks[block])].norm(dim=-1)
            assert ((found - x).norm(dim=-1) / removed).max() < 0.1


def test_draws_of_a_shuffle_differ() -> None:
    draws = controls(MASSIVE, STATS, "token_shuffle", draws=5)
    assert len({c.op for c in draws}) == 5
    assert draws != controls(MASSIVE, STATS, "token_shuffle", draws=5, seed=1)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"kind": "randon"}, "There is no control 'randon'; there are: low, random, .*Did you mean 'random'"),
        ({"kind": None}, "There is no control None"),
        ({"kind": "random", "draws": 0}, "draws is 0; it must be a whole number, at least 1"),
        ({"kind": "random", "draws": 2.0}, "draws is 2.0"),
        ({"kind": "random", "draws": True}, "draws is True"),
        ({"kind": "random", "seed": -1}, "seed is -1"),
        ({"kind": "low", "draws": 2}, "nothing in it is drawn: there is one"),
        ({"kind": "sham", "draws": 5}, "Draws make sense for random, "),
        ({"kind": "random", "op": "zero"}, r"op is 'zero'.*Zero\(\)"),
        (
            {"kind": "energy_matched", "op": Add(1.0)},
            "measures what zeroing removes.* is {op: add, value: 1.0}. Leave",
        ),
        ({"kind": "random", "subspace": True}, "subspace=True belongs to energy_matched"),
    ],
)
def test_bad_requests(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=f"(?s){says}"):
        controls(MASSIVE, STATS, **asked)


@pytest.mark.parametrize(
    ("massive", "says"),
    [
        (a_set(STATS, {0: (3,)}, model="other"), "made for 'other' and the statistics for 'made up'"),
        (a_set(STATS, {0: ()}), "no channels in any block"),
        (a_set(STATS, {0: (1,), 7: (3,)}), "holds block 7 of the image stream; .* blocks 0 to 1"),
        (a_set(STATS, {1: (3,)}, stream="context"), "holds block 1 of the context stream"),
        (a_set(STATS, {0: (40,)}), "holds channel 40; the model has 40, 0 to 39"),
        (a_set(STATS, {0: (3,)}, stream="text"), "No stream 'text'"),
    ],
)
@pytest.mark.parametrize("kind", ["low", "random", "sham"])
def test_sets_that_do_not_fit_the_statistics(kind: str, massive: ChannelSet, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        controls(massive, STATS, kind)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_control_needs_as_many_other_channels(kind: str) -> None:
    massive = a_set(STATS, {0: (1,), 1: tuple(range(21))})
    with pytest.raises(BadInput, match=r"has 21 of 40 channels at block 1.* Choose at most 20"):
        controls(massive, STATS, kind)
    half = a_set(STATS, {0: tuple(range(20))})
    assert controls(half, STATS, kind)[0].channels.channels == tuple(range(20, 40))
    with pytest.raises(BadInput, match="has 21 of 40"):
        controls(massive, STATS, "energy_matched", subspace=True)


def test_a_set_of_other_weights_is_refused(imaginary: ChannelStatistics) -> None:
    massive = imaginary.select(top_k=1)
    other = massive.model_copy(update={"provenance": {**massive.provenance, "fingerprint": "4567"}})
    with pytest.raises(BadInput, match=r"'imaginary' \(4567\) and the statistics for 'imaginary' \(0123\)"):
        controls(other, imaginary, "random")


@pytest.mark.parametrize("kind", ["low", "random_rank_window"])
def test_ranking_needs_a_known_statistic(kind: str) -> None:
    by_hand = a_set(STATS, {0: (3,)}, statistic="by hand")
    with pytest.raises(BadInput, match=r"names the statistic 'by hand'.*abs_mean"):
        controls(by_hand, STATS, kind)
    assert controls(by_hand, STATS, "random")[0].channels is not None
