"""Latents of a run at the noise levels of another: whose they are, and which noise they have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.run.matching import RULES, matched

pytestmark = pytest.mark.pure


def falling(draw_size):
    levels = st.lists(st.integers(1, 1000), unique=True, min_size=1, max_size=draw_size)
    return levels.map(lambda found: [n / 1000 for n in sorted(found, reverse=True)] + [0.0])


@given(falling(12), falling(12))
@settings(max_examples=60, deadline=None)
def test_nearest_takes_latents_of_the_run_that_no_other_is_nearer_to(own, target):
    latents = torch.arange(len(own), dtype=torch.float32).view(-1, 1, 1, 1)
    found = matched(latents, own, target).flatten().long().tolist()
    for sigma, chosen in zip(target, found, strict=True):
        assert abs(own[chosen] - sigma) <= min(abs(each - sigma) for each in own) + 1e-6
    assert found == sorted(found) and found[-1] == len(own) - 1


@given(falling(12), falling(12))
@settings(max_examples=60, deadline=None)
def test_linear_has_the_very_noise(own, target):
    target = [s for s in target if s <= own[0]]
    if len(target) < 2:
        target = own
    clean, noise = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
    mixed = [torch.stack([(1 - s) * clean + s * noise for s in each]) for each in (own, target)]
    torch.testing.assert_close(matched(mixed[0], own, target, rule="linear"), mixed[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_a_runs_own_sigmas_give_its_latents_bit_for_bit(rule):
    own = [0.98, 0.7, 0.31, 0.02, 0.0]
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(matched(latents, own, own, rule=rule), latents)
    assert torch.equal(matched(latents, own, [*own[1::2], 0.0], rule=rule), latents[[1, 3, 4]])


@pytest.mark.parametrize(
    ("args", "rule", "says"),
    [
        ((torch.zeros(2, 1), [1.0, 0.0], [1.0, 0.0]), "nearst", "there are: nearest, linear"),
        ((torch.zeros(2, 1), [1.0, 0.5], [1.0, 0.0]), "nearest", "sigmas must fall to 0; got 1, 0.5"),
        ((torch.zeros(2, 1), [1.0, 0.0], [0.5, 1.0, 0.0]), "nearest", "target_sigmas must fall to 0"),
        ((torch.zeros(2, 1), [1.0, 0.0], []), "nearest", "target_sigmas must fall to 0"),
        ((torch.zeros(3, 1), [1.0, 0.0], [1.0, 0.0]), "nearest", "3 latents need as many sigmas; got 2"),
        ((torch.zeros(2, 1), [0.5, 0.0], [1.0, 0.0]), "linear", "begin at 0.5, and 1 was asked for"),
    ],
)
def test_what_cannot_be_matched_is_refused(args, rule, says):
    with pytest.raises(BadInput, match=says):
        matched(*args, rule=rule)
