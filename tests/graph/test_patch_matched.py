"""The control of a patch: as large as the patch, token by token and block by block, in other channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import (
    PARTS,
    Material,
    Patch,
    PatchMatched,
    Site,
    from_data,
)

pytestmark = pytest.mark.pure

every_part = pytest.mark.parametrize("part", PARTS)
strengths = st.sampled_from([-1.0, -0.3, 0.25, 0.5, 1.0, 1.5])


def activation(rows: int, tokens: int, channels: int, seed: int) -> torch.Tensor:
    """Ordinary channels beside one that is large and nearly constant."""
    x = torch.randn(rows, tokens, channels, generator=torch.Generator().manual_seed(seed))
    x[..., seed % channels] = x[..., seed % channels] * 0.5 + 60
    return x


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...], Site]:
    """An activation, a donor, treatment channels, and a control site of other channels, fewer or more."""
    channels, tokens = draw(st.integers(3, 12)), draw(st.integers(2, 6))
    rows, seed = draw(st.integers(1, 3)), draw(st.integers(0, 99))
    order = draw(st.permutations(range(channels)))
    k = draw(st.integers(1, channels - 1))
    control = draw(st.sampled_from([None, tuple(order[k : k + draw(st.integers(1, channels - k))])]))
    where = draw(st.none() | st.lists(st.integers(0, tokens - 1), unique=True, min_size=2))
    x, source = activation(rows, tokens, channels, seed), activation(rows, tokens, channels, seed + 1)
    return x, source, tuple(order[:k]), Site(control, where)


def addressed(x: torch.Tensor, treatment: tuple[int, ...], site: Site) -> torch.Tensor:
    mask = torch.zeros(x.shape, dtype=torch.bool)
    for token in range(x.shape[1]) if site.tokens is None else site.tokens:
        for channel in range(x.shape[2]) if site.channels is None else site.channels:
            mask[:, token, channel] = channel not in treatment
    return mask


@every_part
@settings(max_examples=40, deadline=None)
@given(cases(), strengths)
def test_it_changes_each_token_by_what_the_patch_would(part: str, case, strength: float) -> None:
    x, source, treatment, site = case
    before = x.clone(), source.clone()
    op = PatchMatched(treatment, strength, part=part)
    found = op.apply(x, site, Material(source=source))
    assert torch.equal(x, before[0]) and torch.equal(source, before[1])
    mask = addressed(x, treatment, site)
    assert torch.equal(found[~mask], x[~mask])
    patched = Patch(strength, part=part).apply(x, Site(treatment, site.tokens), Material(source=source))
    # One factor for all tokens where the mean has to stay; else one for each.
    over = (1, 2) if part == "residual" else (2,)
    expected = (patched.double() - x.double()).norm(dim=over)
    changed = (found.double() - x.double()).norm(dim=over)
    assert ((changed - expected).abs() <= 0.01 * expected + 1e-4).all()
    for row in range(len(x)):
        alone = op.apply(x[[row]], site, Material(source=source[[row]]))[0]
        torch.testing.assert_close(alone, found[row], rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(cases(), strengths)
def test_it_moves_straight_towards_the_donor_or_away(case, strength: float) -> None:
    x, source, treatment, site = case
    found = PatchMatched(treatment, strength).apply(x, site, Material(source=source))
    mask = addressed(x, treatment, site)
    change, way = ((each * mask).double() for each in (found - x, source - x))
    cosine = torch.nn.functional.cosine_similarity(change, way, dim=-1)[mask.any(-1)]
    assert (cosine * (1 if strength > 0 else -1) > 0.999).all()


@settings(max_examples=20, deadline=None)
@given(cases(), strengths)
def test_a_part_leaves_the_other_part_alone(case, strength: float) -> None:
    x, source, treatment, site = case
    for part in ("mean", "residual"):
        op = PatchMatched(treatment, strength, part=part)
        before, after = (site.read(each) for each in (x, op.apply(x, site, Material(source=source))))
        size = 1e-5 * max(x.abs().max(), source.abs().max())
        if part == "residual":
            assert (after.mean(1) - before.mean(1)).abs().max() <= size
        else:
            own = [each - each.mean(1, keepdim=True) for each in (before, after)]
            assert (own[0] - own[1]).abs().max() <= size


@every_part
@settings(max_examples=20, deadline=None)
@given(cases())
def test_strength_zero_and_a_donor_like_oneself_are_exact(part: str, case) -> None:
    x, source, treatment, site = case
    assert PatchMatched(treatment, 0, part=part).apply(x, site, Material(source=source)) is x
    assert torch.equal(PatchMatched(treatment, 0.7, part=part).apply(x, site, Material(source=x)), x)
    assert PatchMatched((), part=part).apply(x, site, Material(source=source)) is x


def test_where_there_is_no_direction_or_no_distance_nothing_moves() -> None:
    x = torch.zeros(1, 3, 4)
    source = torch.tensor([[[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [3.0, 4.0, 0.0, 2.0]]])
    found = PatchMatched((0, 1)).apply(x, Site((2, 3)), Material(source=source))
    assert found[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 5]]


def test_values_without_tokens_and_half_precision() -> None:
    x, source = activation(2, 1, 6, 3)[:, 0], activation(2, 1, 6, 4)[:, 0]
    op = PatchMatched((0, 1), 0.5)
    found = op.apply(x, Site((3, 4)), Material(source=source))
    assert found.shape == x.shape
    expected = 0.5 * (source - x)[:, :2].norm(dim=-1)
    torch.testing.assert_close((found - x).norm(dim=-1), expected)
    torch.testing.assert_close(
        op.owes(x, Site((3, 4)), Material(source=source))[:, :2], (source - x)[:, :2] / 2
    )
    low = op.apply(x.bfloat16(), Site((3, 4)), Material(source=source.bfloat16()))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(
        (low.float() - x.bfloat16().float()).norm(dim=-1), expected, rtol=0.05, atol=0.05
    )


@every_part
@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0, 1.5, -0.5])
def test_through_blocks_it_stays_as_far_as_patched_channels_do(part: str, strength: float) -> None:
    """A residual stream whose writes do not depend on it: a patch at every block against its control."""
    treatment, site = (2, 4), Site((7, 9, 0))
    x, source = activation(1, 6, 10, 2), activation(1, 6, 10, 3)
    plain, patched, control = x, x, x
    displaced = owed = None
    patch, op = Patch(strength, part=part), PatchMatched(treatment, strength, part=part)
    for block in range(5):
        written, donors = activation(1, 6, 10, 20 + block), activation(1, 6, 10, 40 + block)
        plain, patched, control, source = (
            plain + written,
            patched + written,
            control + written,
            source + donors,
        )
        patched = patch.apply(patched, Site(treatment), Material(source=source))
        given_ = Material(source=source, displaced=displaced, owed=owed)
        new, owed = op.apply(control, site, given_), op.owes(control, site, given_)
        displaced = new - control if displaced is None else displaced + (new - control)
        control = new
        over = (1, 2) if part == "residual" else (2,)
        expected = (patched.double() - plain.double()).norm(dim=over)
        found = (control.double() - plain.double()).norm(dim=over)
        assert ((found / expected - 1).abs() <= 0.01).all(), block
        torch.testing.assert_close(
            owed[..., list(treatment)], (patched - plain)[..., list(treatment)], rtol=1e-3, atol=1e-3
        )
        assert torch.equal(control[..., [1, 2, 3, 4, 5, 6, 8]], plain[..., [1, 2, 3, 4, 5, 6, 8]])


def test_channels_may_change_from_block_to_block() -> None:
    """Channels that the control moved at one block and the treatment patches at the next are seen unmoved."""
    x, source = activation(1, 4, 6, 1), activation(1, 4, 6, 2)
    op = PatchMatched({0: (0,), 1: (3,)}, 0.5)
    assert op.blocks == {0: (0,), 1: (3,)} and op.at_block(1) == PatchMatched((3,), 0.5)
    first = op.at_block(0)
    once = first.apply(x, Site((3,)), Material(source=source))
    given_ = Material(
        source=source, displaced=once - x, owed=first.owes(x, Site((3,)), Material(source=source))
    )
    again = op.at_block(1).apply(once, Site((5,)), given_)
    torch.testing.assert_close(
        (again - once)[..., 5].abs(), 0.5 * (source - x)[..., 3].abs(), rtol=1e-4, atol=1e-4
    )
    owed = op.at_block(1).owes(once, Site((5,)), given_)
    torch.testing.assert_close(owed[..., [0, 3]], 0.5 * (source - x)[..., [0, 3]], rtol=1e-4, atol=1e-4)
    with pytest.raises(BadInput, match="no channels at block 2; it has some at 0, 1"):
        op.at_block(2)
    with pytest.raises(BadInput, match="at_block"):
        op.apply(x, Site((5,)), Material(source=source))


@pytest.mark.parametrize(
    ("op", "site", "says"),
    [
        (PatchMatched((0, 1)), Site((1, 2)), r"patch_matched: \[1\] are channels of the treatment"),
        (PatchMatched(range(6)), Site(), "has 6 channels and its control 0; address at least 1"),
        (PatchMatched((9,)), Site((1,)), "treatment channel 9 was named; there are 6"),
    ],
)
def test_what_cannot_be_matched_is_refused(op: PatchMatched, site: Site, says: str) -> None:
    x = activation(1, 3, 6, 0)
    with pytest.raises(BadInput, match=says):
        op.apply(x, site, Material(source=x))


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        (Material(), "patch_matched needs source"),
        (Material(source=torch.ones(1, 3, 6), owed=torch.ones(1, 3, 5)), "owed has shape"),
    ],
)
def test_material_has_to_fit(given_: Material, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        PatchMatched((0,)).apply(activation(1, 3, 6, 0), Site((1,)), given_)


def test_bad_fields_say_what_is_wrong() -> None:
    for data, says in (
        ({"treatment_channels": [1], "strength": "1"}, "strength is '1'"),
        ({"treatment_channels": {"x": [1]}}, "patch_matched: treatment_channels of block x: blocks are"),
        ({"strength": 1}, "patch_matched needs treatment_channels"),
    ):
        with pytest.raises(BadInput, match=says):
            from_data({"op": "patch_matched", **data})
