"""Undoing a map: exact where it can be, never poisoned by a wild proposal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.model.fixed_point import accelerated, undone

pytestmark = pytest.mark.pure


def affine(rows: int, width: int, seed: int, strength: float):
    """A map x → x + strength · Q x + b of each row, Q orthogonal and b random, and its random target."""
    g = torch.Generator().manual_seed(seed)
    q = torch.stack([torch.linalg.qr(torch.randn(width, width, generator=g))[0] for _ in range(rows)])
    b, x = torch.randn(2, rows, width, generator=g).unbind()

    def step(x: torch.Tensor) -> torch.Tensor:
        return x + strength * torch.einsum("rij,rj->ri", q, x) + b

    return step, x


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 10**6), st.floats(0.01, 0.6))
def test_a_contraction_is_undone(rows, width, seed, strength):
    step, x = affine(rows, width, seed, strength)
    found = undone(step, step(x), iterations=60, tolerance=1e-6)
    # The map is at least (1 − strength) steep, and the miss is relative to the map's value.
    allowed = 2e-6 * step(x).norm(dim=1) / (1 - strength) + 1e-5
    assert ((found - x).norm(dim=1) <= allowed).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_rows_do_not_know_each_other(seed, iterations):
    step, x = affine(3, 4, seed, 0.5)
    after = step(x)

    def alone(row):
        def one(y):
            return step(y.expand(3, -1))[row : row + 1]

        return undone(one, after[row : row + 1], iterations=iterations, tolerance=1e-6)

    together = undone(step, after, iterations=iterations, tolerance=1e-6)
    torch.testing.assert_close(together, torch.cat([alone(r) for r in range(3)]), rtol=1e-4, atol=1e-4)


def test_no_iteration_is_one_call_and_the_step_taken_back():
    calls = []

    def step(x):
        calls.append(x)
        return 1.5 * x

    after = torch.full((1, 2), 6.0)
    assert undone(step, after, iterations=0, tolerance=1e-6).tolist() == [[3.0, 3.0]]
    assert len(calls) == 1


def test_acceleration_solves_what_plain_iteration_cannot():
    # x + 2x moves by more than it is: plain iterations x ← x + miss run away from 1.
    found = undone(lambda x: 3 * x, torch.full((1, 3), 3.0), iterations=3, tolerance=1e-6)
    torch.testing.assert_close(found, torch.ones(1, 3))


def test_acceleration_beats_plain_iteration_where_both_converge():
    step, x = affine(4, 3, 0, 0.7)
    after = step(x)
    plain = after
    for _ in range(6):
        plain = plain + after - step(plain)
    fast = undone(step, after, iterations=5, tolerance=1e-9)
    assert ((fast - x).norm() / (plain - x).norm()).item() < 0.1


def test_a_wild_proposal_is_taken_back():
    # Below 0 the map is not a number; the first proposal, 1.5 − 3, goes there.
    seen = []

    def step(x):
        seen.append(x.item())
        return torch.where(x < 0, torch.full_like(x, torch.nan), 3 * x)

    found = undone(step, torch.full((1, 1), 1.5), iterations=5, tolerance=1e-6)
    assert min(seen) < 0
    assert found.item() == pytest.approx(0.5, abs=1e-5)


def test_a_settled_row_stays_while_another_goes_on():
    def step(x):
        return torch.cat([x[:1], 0.5 * x[1:]])

    found = undone(step, torch.tensor([[2.0], [3.0]]), iterations=10, tolerance=1e-6)
    assert found[0].item() == 2.0
    assert found[1].item() == pytest.approx(6.0, abs=1e-4)


def test_a_first_miss_that_is_not_finite_names_its_row():
    def step(x):
        return torch.cat([x[:1], x[1:] * torch.inf])

    with pytest.raises(FloatingPointError) as error:
        undone(step, torch.ones(2, 1), iterations=3, tolerance=1e-6)
    assert error.value.args == (1,)


@pytest.mark.parametrize(("iterations", "tolerance"), [(0, 1e-6), (4, 1e-12), (9, 0.3)])
def test_what_is_left_is_counted_down_to_the_end(iterations, tolerance):
    left = []
    undone(
        lambda x: 0.9 * x, torch.ones(1, 1), iterations=iterations, tolerance=tolerance, on_step=left.append
    )
    assert left[-1] == 0
    assert left == sorted(left, reverse=True)


def test_repeated_entries_are_no_trouble():
    x, miss = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(accelerated([(x, miss)] * 4), x + miss)
