"""Laws of the edits: what is exact, what is left alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dit_lens.graph.interventions import (
    PARTS,
    Add,
    Clamp,
    Identity,
    Intervention,
    Material,
    Mean,
    Noise,
    Patch,
    Resample,
    Scale,
    Site,
    TokenShuffle,
    Zero,
)
from tests.graph.edit_cases import (
    EDITS,
    TOLERANCE,
    activation,
    addressed,
    cases,
    close,
    dataset_mean,
    every_edit,
    every_part,
    material,
)

pytestmark = pytest.mark.pure


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
@example((torch.tensor([60.77, 59.46, 58.91, 60.28, 59.85, 59.30]).reshape(1, 6, 1), Site()), 0.8)
def test_clamping_to_measured_bounds(case: tuple[torch.Tensor, Site], quantile: float) -> None:
    x, site = case
    op = Clamp(quantile)
    bounds = op.bounds(x, site)
    values = site.read(x).flatten(0, 1).numpy().astype(np.float64)
    # Ranks of exact fractions: np.quantile's float arithmetic takes 0.2 of 5 for 0.9999999999999998, rank 0.
    rank = Fraction(str(quantile)) * (len(values) - 1)
    ordered = np.sort(values, axis=0)
    low, high = ordered[len(values) - 1 - math.ceil(rank)], ordered[math.ceil(rank)]
    chosen = list(range(x.shape[2])) if site.channels is None else list(site.channels)
    np.testing.assert_allclose(bounds[0, chosen].numpy(), low, rtol=1e-4)
    np.testing.assert_allclose(bounds[1, chosen].numpy(), high, rtol=1e-4)
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
