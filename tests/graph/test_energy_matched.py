"""The control of zeroing: as large as what zeroing removes, in other channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import (
    EnergyMatched,
    Material,
    Site,
    Zero,
)
from tests.graph.edit_cases import (
    activation,
    addressed,
    every_part,
)

pytestmark = pytest.mark.pure


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
