"""Laws of the edits: what is exact, what is left alone, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import (
    OPERATIONS,
    PARTS,
    Add,
    Clamp,
    EnergyMatched,
    Identity,
    Intervention,
    Material,
    Mean,
    Noise,
    Patch,
    PatchMatched,
    Resample,
    Scale,
    Site,
    TokenShuffle,
    Zero,
    from_data,
    json_schema,
)

pytestmark = pytest.mark.pure

# Rounding of a mean, a subtraction and an addition.
TOLERANCE = 8 * torch.finfo(torch.float32).eps

EDITS: dict[str, Callable[[str], Intervention]] = {
    "identity": lambda part: Identity(part=part),
    "zero": lambda part: Zero(part=part),
    "mean token": lambda part: Mean(part=part),
    "mean dataset": lambda part: Mean("dataset", part=part),
    "scale": lambda part: Scale(-1.5, part=part),
    "clamp": lambda part: Clamp(0.8, part=part),
    "add": lambda part: Add(2.5, part=part),
    "noise": lambda part: Noise(0.5, part=part),
    "resample": lambda part: Resample(part=part),
    "token_shuffle": lambda part: TokenShuffle(part=part),
    "patch": lambda part: Patch(0.3, part=part),
}
every_edit = pytest.mark.parametrize("name", list(EDITS))
every_part = pytest.mark.parametrize("part", PARTS)


def activation(rows: int, tokens: int, channels: int, seed: int) -> torch.Tensor:
    """Ordinary channels beside one that is large and nearly constant, as in a diffusion transformer."""
    x = torch.randn(rows, tokens, channels, generator=torch.Generator().manual_seed(seed))
    x[..., seed % channels] = x[..., seed % channels] * 0.5 + 60
    return x


def dataset_mean(x: torch.Tensor, seed: int) -> torch.Tensor:
    return activation(1, *x.shape[1:], seed + 7)[0]


def material(op: Intervention, x: torch.Tensor, seed: int = 3) -> Material:
    """Everything an edit may ask for, of the right shapes."""
    source = dataset_mean(x, seed) if isinstance(op, Mean) else activation(*x.shape, seed + 1)
    bounds = torch.stack([torch.full(x.shape[-1:], -0.4), torch.full(x.shape[-1:], 0.5)])
    return Material(source, bounds, torch.Generator().manual_seed(seed))


@st.composite
def cases(draw: st.DrawFn, min_tokens: int = 1) -> tuple[torch.Tensor, Site]:
    """An activation and a site in it."""
    tokens, channels = draw(st.integers(min_tokens, 7)), draw(st.integers(1, 6))
    x = activation(draw(st.integers(1, 3)), tokens, channels, draw(st.integers(0, 99)))

    def some(size: int) -> st.SearchStrategy[Any]:
        return st.none() | st.lists(st.integers(0, size - 1), unique=True, min_size=1)

    return x, Site(draw(some(channels)), draw(some(tokens)))


def addressed(x: torch.Tensor, site: Site) -> torch.Tensor:
    """A mask [rows, tokens, channels] of the site, made entry by entry."""
    mask = torch.zeros(x.shape, dtype=torch.bool)
    for token in range(x.shape[1]) if site.tokens is None else site.tokens:
        for channel in range(x.shape[2]) if site.channels is None else site.channels:
            mask[:, token, channel] = True
    return mask


def close(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> bool:
    """Equal up to rounding of numbers as large as those of `x` and its materials."""
    return (a - b).abs().max().item() <= 4 * TOLERANCE * max(x.abs().max().item(), 70.0)


# ------------------------------------------------------------------------------------- laws of every edit
@every_edit
@every_part
@settings(max_examples=10, deadline=None)
@given(cases(), st.integers(0, 50))
def test_only_addressed_entries_change_and_inputs_never_do(
    name: str, part: str, case: tuple[torch.Tensor, Site], seed: int
) -> None:
    (x, site), op = case, EDITS[name](part)
    given_ = material(op, x, seed)
    before = [v.clone() for v in (x, given_.source, given_.quantiles, given_.generator.get_state())]
    found = op.apply(x, site, given_)
    assert found.shape == x.shape and found.dtype == x.dtype
    assert torch.equal(found[~addressed(x, site)], x[~addressed(x, site)])
    after = [x, given_.source, given_.quantiles, given_.generator.get_state()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    # Pure: the same arguments give the same result.
    assert torch.equal(op.apply(x, site, given_), found)


@every_edit
@every_part
@settings(max_examples=10, deadline=None)
@given(cases(), st.data())
def test_permuting_rows_permutes_the_result(
    name: str, part: str, case: tuple[torch.Tensor, Site], data: st.DataObject
) -> None:
    (x, site), op = case, EDITS[name](part)
    order = data.draw(st.permutations(range(len(x))))
    given_ = material(op, x)
    source = given_.source if isinstance(op, Mean) else given_.source[order]
    permuted = dataclasses.replace(given_, source=source)
    found = op.apply(x, site, given_)
    assert torch.equal(op.apply(x[order], site, permuted), found[order])
    # So does doing one row at a time: a row never hears of the others.
    for row in range(len(x)):
        alone = given_.source if isinstance(op, Mean) else given_.source[[row]]
        one = dataclasses.replace(given_, source=alone)
        assert torch.equal(op.apply(x[[row]], site, one)[0], found[row])


@every_edit
@settings(max_examples=10, deadline=None)
@given(cases())
def test_an_edit_of_one_part_keeps_the_other(name: str, case: tuple[torch.Tensor, Site]) -> None:
    x, site = case
    for part in ("mean", "residual"):
        op = EDITS[name](part)
        before, after = site.read(x), site.read(op.apply(x, site, material(op, x)))
        if part == "residual":
            assert close(after.mean(1), before.mean(1), x)
        else:
            assert close(after - after.mean(1, keepdim=True), before - before.mean(1, keepdim=True), x)


@every_edit
@settings(max_examples=10, deadline=None)
@given(cases())
def test_what_says_it_changes_nothing_changes_nothing(name: str, case: tuple[torch.Tensor, Site]) -> None:
    x, site = case
    for part in PARTS:
        op = EDITS[name](part)
        if op.changes_nothing:
            assert op.apply(x, site, material(op, x)) is x
    declared = {part for part in PARTS if EDITS[name](part).changes_nothing}
    expected = {
        "identity": set(PARTS),
        "mean token": {"mean"},
        "token_shuffle": {"mean"},
        "add": {"residual"},
    }
    assert declared == expected.get(name, set())


@every_part
@settings(max_examples=10, deadline=None)
@given(cases())
def test_identity_and_strength_zero_are_exact(part: str, case: tuple[torch.Tensor, Site]) -> None:
    x, site = case
    for op in (Identity(part=part), Patch(0, part=part), Scale(1, part=part), Add(0.0, part=part)):
        assert torch.equal(op.apply(x, site, material(op, x)), x)
    assert torch.equal(Noise(0, part=part).apply(x, site, material(Noise(0), x)), x)


@pytest.mark.parametrize("op", [Patch(1), Patch(), Resample()])
@given(cases())
@settings(max_examples=20, deadline=None)
def test_full_strength_is_exactly_the_source(op: Intervention, case: tuple[torch.Tensor, Site]) -> None:
    x, site = case
    given_ = material(op, x)
    found = op.apply(x, site, given_)
    assert torch.equal(found, torch.where(addressed(x, site), given_.source, x))
    # One donor row serves all rows.
    one = Material(source=given_.source[:1])
    assert torch.equal(
        op.apply(x, site, one)[addressed(x, site)], given_.source[:1].expand_as(x)[addressed(x, site)]
    )


@given(cases(), st.floats(-2, 3))
@settings(max_examples=30, deadline=None)
def test_a_patch_of_both_parts_is_a_patch_of_the_whole(
    case: tuple[torch.Tensor, Site], strength: float
) -> None:
    x, site = case
    given_ = material(Patch(), x)
    half = Patch(strength, part="mean").apply(x, site, given_)
    whole = Patch(strength).apply(x, site, given_)
    assert close(Patch(strength, part="residual").apply(half, site, given_), whole, x)
    expected = x + strength * (given_.source - x)
    assert close(whole[addressed(x, site)], expected[addressed(x, site)], x)


# ------------------------------------------------------------------------------------------ zero and parts
@given(cases())
@settings(max_examples=30, deadline=None)
def test_zero_twice_is_zero(case: tuple[torch.Tensor, Site]) -> None:
    x, site = case
    once = Zero().apply(x, site)
    assert torch.equal(once, x.masked_fill(addressed(x, site), 0))
    assert torch.equal(Zero().apply(once, site), once)
    for part in ("mean", "residual"):
        once = Zero(part=part).apply(x, site)
        assert close(Zero(part=part).apply(once, site), once, x)


@given(cases())
@settings(max_examples=50, deadline=None)
def test_zeroing_both_parts_is_zeroing(case: tuple[torch.Tensor, Site]) -> None:
    x, site = case
    limit = TOLERANCE * x.abs().max().item()
    for first, second in (("mean", "residual"), ("residual", "mean")):
        found = Zero(part=second).apply(Zero(part=first).apply(x, site), site)
        assert found[addressed(x, site)].abs().max() <= limit


def test_the_mean_is_taken_over_the_addressed_tokens() -> None:
    x = torch.tensor([[[1.0], [3.0], [100.0]]])
    subject = Site(tokens=(0, 1))
    assert Zero(part="mean").apply(x, subject).flatten().tolist() == [-1, 1, 100]
    assert Zero(part="residual").apply(x, subject).flatten().tolist() == [2, 2, 100]
    assert Mean().apply(x, subject).flatten().tolist() == [2, 2, 100]


@given(cases())
@settings(max_examples=20, deadline=None)
def test_the_token_mean_is_what_zeroing_the_residual_leaves(case: tuple[torch.Tensor, Site]) -> None:
    x, site = case
    expected = site.read(x).mean(1, keepdim=True).expand_as(site.read(x))
    assert torch.equal(site.read(Mean().apply(x, site)), expected)
    assert close(Zero(part="residual").apply(x, site), Mean().apply(x, site), x)


@given(cases())
@settings(max_examples=20, deadline=None)
def test_dataset_means_by_channel_and_by_token(case: tuple[torch.Tensor, Site]) -> None:
    x, site = case
    by_token = dataset_mean(x, 5)
    op = Mean("dataset")
    found = op.apply(x, site, Material(source=by_token))
    assert torch.equal(found, torch.where(addressed(x, site), by_token.expand_as(x), x))
    found = op.apply(x, site, Material(source=by_token[0]))
    assert torch.equal(found, torch.where(addressed(x, site), by_token[0].expand_as(x), x))
    # One value per channel has no residual: replacing the residual by its residual is zeroing that.
    found = Mean("dataset", part="residual").apply(x, site, Material(source=by_token[0]))
    assert close(found, Zero(part="residual").apply(x, site), x)


# ---------------------------------------------------------------------------------------- the other edits
def test_scale_and_add_by_hand() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0], [3.0, 6.0, 9.0]]])
    assert Scale(2).apply(x, Site((1,))).tolist() == [[[1, 4, 3], [3, 12, 9]]]
    assert Scale(2, part="mean").apply(x, Site((1,))).tolist() == [[[1, 6, 3], [3, 10, 9]]]
    assert Scale(2, part="residual").apply(x, Site((1,))).tolist() == [[[1, 0, 3], [3, 8, 9]]]
    # One value per channel follows the site's order.
    assert Add((10, 20)).apply(x, Site((2, 0))).tolist() == [[[21, 2, 13], [23, 6, 19]]]
    assert Add(1, part="mean").apply(x, Site((1,), (1,))).tolist() == [[[1, 2, 3], [3, 7, 9]]]


@given(cases(min_tokens=2), st.integers(500, 1000).map(lambda n: n / 1000))
@settings(max_examples=30, deadline=None)
def test_clamping_to_measured_bounds(case: tuple[torch.Tensor, Site], quantile: float) -> None:
    x, site = case
    op = Clamp(quantile)
    bounds = op.bounds(x, site)
    values = site.read(x).flatten(0, 1).numpy().astype(np.float64)
    low = np.quantile(values, 1 - quantile, axis=0, method="lower")
    high = np.quantile(values, quantile, axis=0, method="higher")
    chosen = list(range(x.shape[2])) if site.channels is None else list(site.channels)
    assert (bounds[0, chosen].numpy() <= low + 1e-4 * np.abs(low)).all()
    assert (bounds[1, chosen].numpy() >= high - 1e-4 * np.abs(high)).all()
    others = [c for c in range(x.shape[2]) if c not in chosen]
    assert torch.isinf(bounds[:, others]).all()
    found = op.apply(x, site, Material(quantiles=bounds))
    expected = x.clamp(bounds[0], bounds[1])
    assert torch.equal(found, torch.where(addressed(x, site), expected, x))
    # Within the bounds nothing changes, in any part: taking apart and putting together costs no bit.
    wide = torch.tensor([[-math.inf], [math.inf]]).expand(2, x.shape[2])
    for part in PARTS:
        assert torch.equal(Clamp(quantile, part=part).apply(x, site, Material(quantiles=wide)), x)


def test_clamp_bounds_are_those_of_the_part() -> None:
    x = torch.tensor([[[10.0], [12.0], [14.0]], [[20.0], [21.0], [22.0]]])
    assert Clamp(1).bounds(x).flatten().tolist() == [10, 22]
    assert Clamp(1, part="mean").bounds(x).flatten().tolist() == [12, 21]
    assert Clamp(1, part="residual").bounds(x).flatten().tolist() == [-2, 2]
    assert Clamp(0.8).bounds(x[0, :, 0:1].repeat(2, 1)).flatten().tolist() == [10, 14]


def test_noise_is_as_large_as_said_and_shared_by_the_rows() -> None:
    x = activation(2, 4000, 3, 0)
    change = Noise(0.5).apply(x, Site((0, 2)), Material(generator=torch.Generator().manual_seed(1))) - x
    size = x.square().mean(1).sqrt()
    measured = change.square().mean(1).sqrt()
    assert torch.allclose(measured[:, [0, 2]], 0.5 * size[:, [0, 2]], rtol=0.05)
    relative = change[:, :, 2] / size[:, None, 2]
    assert torch.allclose(relative[0], relative[1], atol=1e-5)
    # On the mean part all tokens move together, on the residual the mean stays (tested for all edits above).
    moved = Noise(0.5, part="mean").apply(x, Site((1,)), Material(generator=torch.Generator())) - x
    assert moved[0, :, 1].std() < 1e-4 < moved[0, 0, 1].abs()


def test_a_shuffle_keeps_values_and_channels_together() -> None:
    x = activation(2, 16, 5, 0)
    given_ = Material(generator=torch.Generator().manual_seed(0))
    site = Site((1, 3), tuple(range(2, 16)))
    found = TokenShuffle().apply(x, site, given_)
    assert not torch.equal(found, x)
    order = [x[0, :, 1].tolist().index(value) for value in found[0, :, 1].tolist()]
    assert sorted(order) == list(range(16)) and order[:2] == [0, 1]
    assert torch.equal(found[:, :, [1, 3]], x[:, order][:, :, [1, 3]])
    # A shuffle keeps the mean, so that one of the residual is one of the whole.
    assert close(TokenShuffle(part="residual").apply(x, site, given_), found, x)


@pytest.mark.parametrize("kind", [lambda s: Noise(1.0, seed=s), lambda s: TokenShuffle(seed=s)])
def test_draws_follow_both_the_generator_and_the_edits_own_seed(kind: Callable[[int], Intervention]) -> None:
    x = activation(1, 32, 2, 0)

    def draw(seed: int, generator: int) -> torch.Tensor:
        return kind(seed).apply(x, material=Material(generator=torch.Generator().manual_seed(generator)))

    assert torch.equal(draw(0, 0), draw(0, 0))
    assert not torch.equal(draw(0, 0), draw(1, 0))
    assert not torch.equal(draw(0, 0), draw(0, 1))


@every_edit
@every_part
def test_half_precision_is_computed_in_single(name: str, part: str) -> None:
    x = activation(2, 6, 4, 1).bfloat16()
    op = EDITS[name](part)
    given_ = material(op, x)
    found = op.apply(x, Site((0, 1)), given_)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, op.apply(x.float(), Site((0, 1)), given_).bfloat16())


def test_values_without_tokens() -> None:
    x = activation(1, 3, 4, 0)[0]
    site = Site((1, 2))
    assert torch.equal(Zero().apply(x, site), x * torch.tensor([1, 0, 0, 1]))
    donor = torch.ones(3, 4)
    assert torch.equal(Patch().apply(x, site, Material(source=donor))[:, 1:3], donor[:, 1:3])
    assert torch.equal(Patch().apply(x, site, Material(source=donor[:1]))[:, 1:3], donor[:, 1:3])
    means = torch.arange(4.0)
    assert Mean("dataset").apply(x, site, Material(source=means))[2, 1:3].tolist() == [1, 2]


def test_an_empty_site_changes_nothing() -> None:
    x = activation(1, 3, 4, 0)
    for site in (Site(channels=()), Site(tokens=())):
        assert Zero().apply(x, site) is x
        assert Zero(part="mean").apply(x, site) is x
        assert torch.isinf(Clamp(0.9).bounds(x, site)).all()


def test_gradients_pass_through() -> None:
    x = activation(1, 3, 2, 0).requires_grad_()
    Scale(3.0, part="mean").apply(x, Site((0,))).sum().backward()
    assert torch.allclose(x.grad[0], torch.tensor([[3.0, 1.0]]).expand(3, 2))


# ------------------------------------------------------------------------------------------ energy matched
@st.composite
def energy_cases(draw: st.DrawFn) -> tuple[torch.Tensor, tuple[int, ...], Site]:
    """An activation, treatment channels, and a control site of as many or more other channels."""
    channels, tokens = draw(st.integers(4, 12)), draw(st.integers(1, 6))
    x = activation(draw(st.integers(1, 3)), tokens, channels, draw(st.integers(0, 99)))
    order = draw(st.permutations(range(channels)))
    k = draw(st.integers(1, channels // 2))
    outer = draw(st.integers(k, channels - k))
    control = draw(st.sampled_from([None, tuple(order[k : k + outer])]))
    where = draw(st.none() | st.lists(st.integers(0, tokens - 1), unique=True, min_size=1))
    return x, tuple(order[:k]), Site(control, where)


@every_part
@settings(max_examples=40, deadline=None)
@given(energy_cases(), st.integers(0, 2**40))
def test_energy_matched_changes_each_token_by_what_zeroing_removes(
    part: str, case: tuple[torch.Tensor, tuple[int, ...], Site], seed: int
) -> None:
    x, treatment, site = case
    op = EnergyMatched(treatment, seed, part=part)
    before = x.clone()
    found = op.apply(x, site)
    assert torch.equal(x, before)
    removed = (x - Zero(part=part).apply(x, Site(treatment, site.tokens))).norm(dim=-1)
    changed = (found - x).norm(dim=-1)
    assert ((changed - removed).abs() <= 0.01 * removed + 1e-4).all()
    assert torch.equal(found[..., list(treatment)], x[..., list(treatment)])
    assert torch.equal(found[~addressed(x, site)], x[~addressed(x, site)])
    assert torch.equal(op.apply(x[[0]], site)[0], found[0])


def test_energy_matched_measured_on_massive_channels() -> None:
    x = activation(2, 64, 32, 3)
    treatment, control = (3, 5, 8, 13), (0, 1, 2, 4)
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        y = x.to(dtype)
        removed = (y - Zero().apply(y, Site(treatment))).double().norm(dim=-1)
        for site in (Site(control), Site()):
            changed = (EnergyMatched(treatment, 1).apply(y, site).double() - y.double()).norm(dim=-1)
            assert (changed / removed - 1).abs().max() <= limit
        unmatched = (y - Zero().apply(y, Site(control))).double().norm(dim=-1)
        assert (unmatched / removed).max() < 0.2, "plain zeroing of other channels is far smaller"


def test_energy_matched_keeps_the_layout_of_what_it_mimics() -> None:
    x = activation(1, 20, 12, 2)
    change = (EnergyMatched((2, 4), 0).apply(x, Site((7, 9))) - x)[0][:, [7, 9]]
    removed = x[0][:, [2, 4]]
    assert torch.allclose(change @ change.T, removed @ removed.T, rtol=1e-4, atol=1e-2)


def test_energy_matched_follows_its_seed() -> None:
    x = activation(1, 4, 10, 2)

    def draw(seed: int) -> torch.Tensor:
        return EnergyMatched((2, 4), seed).apply(x, Site((7, 9)))

    assert torch.equal(draw(1), draw(1))
    assert not torch.allclose(draw(1), draw(2))


def test_energy_matched_at_every_block_displaces_as_much_as_zeroing() -> None:
    first, written = activation(1, 6, 10, 2), activation(1, 6, 10, 3)
    op, site = EnergyMatched((2, 4), 0), Site((7, 9))
    once = op.apply(first, site)
    # A second block adds to the stream. What the edit added before is taken back, so that the channels are as
    # far from where they would be as zeroed ones; without that, both additions would stay.
    second = first + written
    again = op.apply(once + written, site, Material(displaced=once - first))
    zeroed = second[..., [2, 4]].norm(dim=-1)
    torch.testing.assert_close((again - second).norm(dim=-1), zeroed, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(again, op.apply(second, site), rtol=1e-5, atol=1e-3)
    added_up = (op.apply(once + written, site) - second).norm(dim=-1)
    assert not torch.allclose(added_up, zeroed, rtol=0.05)
    assert op.welcomes == {"displaced"} and not op.needs


def test_energy_matched_per_block() -> None:
    op = EnergyMatched({3: (0, 1), "1": [2], 5: ()}, 4, part="mean")
    assert op.blocks == {1: (2,), 3: (0, 1), 5: ()}
    assert op.at_block(3) == EnergyMatched((0, 1), 4, part="mean")
    assert op.at_block(3).at_block(7) == op.at_block(3)
    assert hash(op) == hash(EnergyMatched(op.blocks, 4, part="mean"))
    x = activation(1, 4, 6, 0)
    assert op.at_block(5).apply(x) is x
    with pytest.raises(BadInput, match="no channels at block 2; it has some at 1, 3, 5"):
        op.at_block(2)
    with pytest.raises(BadInput, match="at_block"):
        op.apply(x)
    assert Zero().at_block(3) == Zero()


@pytest.mark.parametrize(
    ("op", "site", "says"),
    [
        (EnergyMatched((0, 1)), Site((1, 2)), r"\[1\] are channels of the treatment"),
        (EnergyMatched((0, 1)), Site((2,)), "has 2 channels and its control 1"),
        (EnergyMatched((0, 1, 2, 3)), Site(), "address at least 4"),
        (EnergyMatched((9,)), Site((1,)), "treatment channel 9 was named; there are 6"),
    ],
)
def test_energy_matched_refuses_what_cannot_be_matched(op: EnergyMatched, site: Site, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        op.apply(activation(1, 3, 6, 0), site)


# ----------------------------------------------------------------------------------------- as data and back
ALL_OF_THEM = [
    *(EDITS[name](part) for name in EDITS for part in PARTS),
    Zero(ln_preserving=True),
    Add((1, -2.5)),
    Patch(),
    Noise(0.1, seed=4),
    TokenShuffle(seed=2),
    EnergyMatched((4, 2), 9, part="residual"),
    EnergyMatched({0: (1, 2), 11: (3,)}),
    PatchMatched((4, 2), 0.5, part="residual"),
    PatchMatched({0: (1, 2), 11: (3,)}),
]


@pytest.mark.parametrize("op", ALL_OF_THEM, ids=repr)
def test_round_trip_through_json(op: Intervention) -> None:
    data = op.to_data()
    assert from_data(json.loads(json.dumps(data, allow_nan=False))) == op
    assert set(data) == {"op", *(each.name for each in dataclasses.fields(op))}
    assert from_data(from_data(data).to_data()).to_data() == data


def test_every_operation_has_a_test() -> None:
    assert {op.op for op in ALL_OF_THEM} == set(OPERATIONS)
    for op in ALL_OF_THEM:
        with pytest.raises(dataclasses.FrozenInstanceError):
            op.part = "mean"  # type: ignore[misc]


def test_data_in_short() -> None:
    assert from_data("token_shuffle") == TokenShuffle()
    assert from_data({"op": "mean"}) == Mean()
    assert Zero(part="mean").to_data() == {"op": "zero", "part": "mean", "ln_preserving": False}
    assert Patch(0.5).to_data() == {"op": "patch", "strength": 0.5, "part": "all", "ln_preserving": False}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"op": "zeroe"}, "There is no edit 'zeroe'; there are: identity, zero, .*Did you mean 'zero'"),
        ("suffle", "There is no edit"),
        ({"op": 3}, "There is no edit 3"),
        ({"op": ["zero"]}, "There is no edit"),
        ({"part": "mean"}, "has no op"),
        (None, "An edit is None"),
        (["zero"], "write its name"),
        ({"op": "patch", "strenght": 1}, "no field 'strenght'.*Did you mean 'strength'"),
        ({"op": "zero", 7: 1}, "no field 7"),
        ({"op": "scale"}, "scale needs factor"),
        ({"op": "zero", "part": "residul"}, "there are: all, mean, residual. Did you mean 'residual'"),
        ({"op": "zero", "part": ["all"]}, "part is"),
        ({"op": "zero", "ln_preserving": 1}, "true or false"),
        ({"op": "scale", "factor": "2"}, "factor is '2'; it must be a finite number"),
        ({"op": "scale", "factor": True}, "factor is True"),
        ({"op": "scale", "factor": float("nan")}, "finite"),
        ({"op": "scale", "factor": 10**400}, "finite"),
        ({"op": "patch", "strength": float("inf")}, "finite"),
        ({"op": "noise", "scale": -1}, "at least 0"),
        ({"op": "noise", "scale": 1, "seed": -1}, "seeds are whole numbers"),
        ({"op": "token_shuffle", "seed": 1.5}, "seeds are whole numbers"),
        ({"op": "clamp", "quantile": 0.2}, "at least 0.5 and at most 1"),
        ({"op": "clamp", "quantile": 99}, "at least 0.5 and at most 1"),
        ({"op": "mean", "of": "dataste"}, "Did you mean 'dataset'"),
        ({"op": "add", "value": "1"}, "value is '1'"),
        ({"op": "add", "value": [1, None]}, r"value\[1\] is None"),
        ({"op": "add", "value": {"a": 1}}, "value is"),
        ({"op": "energy_matched", "treatment_channels": [1, 1]}, "names 1 twice"),
        ({"op": "energy_matched", "treatment_channels": "3"}, "give a list of indices"),
        ({"op": "energy_matched", "treatment_channels": {}}, "names no block"),
        ({"op": "energy_matched", "treatment_channels": {"x": [1]}}, "blocks are whole numbers"),
        ({"op": "energy_matched", "treatment_channels": {"1": [-1]}}, "of block 1 holds -1"),
    ],
)
def test_bad_data_says_what_exists(data: Any, says: str) -> None:
    with pytest.raises(BadInput, match=f"(?s){says}"):
        from_data(data)


def test_the_schema_knows_every_field() -> None:
    names, *alternatives = json_schema()["oneOf"]
    by_name = {each["title"]: each for each in alternatives}
    assert set(by_name) == set(OPERATIONS)
    for name, kind in OPERATIONS.items():
        assert set(by_name[name]["properties"]) == {"op", *(each.name for each in dataclasses.fields(kind))}
    assert by_name["scale"]["required"] == ["op", "factor"]
    assert "zero" in names["enum"] and "scale" not in names["enum"]
    for name in names["enum"]:
        assert from_data(name).op == name


# ------------------------------------------------------------------------------------------------ refusals
X = activation(2, 5, 4, 0)


@pytest.mark.parametrize(
    ("op", "site", "given_", "says"),
    [
        (Zero(), Site(channels=(4,)), Material(), "Channel 4 was addressed; there are 4, 0 to 3"),
        (Zero(), Site(tokens=(1, 9)), Material(), "Token 9 was addressed; there are 5, 0 to 4"),
        (Patch(), Site(), Material(), "patch needs source"),
        (Resample(), Site(), Material(), "resample needs source"),
        (Clamp(0.9), Site(), Material(), "clamp needs quantiles"),
        (Noise(1), Site(), Material(), "noise needs generator"),
        (TokenShuffle(), Site(), Material(), "token_shuffle needs generator"),
        (Mean("dataset"), Site(), Material(), "mean needs source"),
        (Patch(), Site(), Material(source=torch.ones(3, 5, 4)), r"needs \[2, 5, 4\] or \[1, 5, 4\]"),
        (Patch(), Site(), Material(source=torch.ones(2, 6, 4)), r"source has shape \[2, 6, 4\]"),
        (Patch(), Site(), Material(source=torch.ones(5, 4)), r"source has shape \[5, 4\]"),
        (Mean("dataset"), Site(), Material(source=torch.ones(2, 5, 4)), r"needs \[4\] or \[5, 4\]"),
        (Clamp(0.9), Site(), Material(quantiles=torch.ones(2, 3)), r"needs \[2, 4\]"),
        (EnergyMatched((1,)), Site((0,)), Material(displaced=torch.ones(2, 5, 3)), "displaced has shape"),
        (Add((1, 2)), Site((0, 1, 2)), Material(), "2 values were given and 3 channels"),
        (Add((1, 2)), Site(), Material(), "2 values were given and 4 channels"),
    ],
)
def test_an_edit_that_cannot_be_applied_is_refused(
    op: Intervention, site: Site, given_: Material, says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        op.apply(X, site, given_)


@pytest.mark.parametrize(
    ("op", "site", "says"),
    [
        (Zero(part="mean"), Site(), "the mean part needs tokens"),
        (Zero(part="residual"), Site(), "the residual part needs tokens"),
        (TokenShuffle(), Site(), "token_shuffle needs tokens"),
        (Mean(), Site(), 'of="token" needs tokens'),
        (Zero(), Site(tokens=(0,)), "value without tokens"),
    ],
)
def test_where_there_are_no_tokens(op: Intervention, site: Site, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        op.require((2, 4), site)
    op.require((2, 3, 4), site)


def test_other_layouts_are_refused() -> None:
    with pytest.raises(BadInput, match=r"shape \(1, 4, 8, 8\)"):
        Zero().apply(torch.ones(1, 4, 8, 8))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"channels": 3}, "channels is 3; give a list"),
        ({"channels": "all"}, "give a list"),
        ({"channels": [1, 1]}, "names 1 twice"),
        ({"tokens": [-1]}, "holds -1"),
        ({"tokens": [0.0]}, "holds 0.0"),
        ({"tokens": np.array([True, False])}, "not the mask"),
        ({"tokens": [True, False]}, "not the mask"),
    ],
)
def test_a_site_holds_indices(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Site(**fields)


def test_sites_are_values() -> None:
    assert Site(np.array([3, 1]), range(2)) == Site([3, 1], (0, 1))
    assert hash(Site([3])) == hash(Site((3,)))


def test_edits_are_declared_without_torch() -> None:
    code = "import sys, dit_lens.graph.interventions as i; i.from_data('zero'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
