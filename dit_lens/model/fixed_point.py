"""Undoing a map that is close to the identity, row by row: accelerated fixed-point iteration.

Sources: arXiv:2312.12540 for the fixed-point view of inverting a denoising step, arXiv:2309.04907 for
Anderson's acceleration of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_MEMORY = 4
"""Entries that an acceleration looks back on."""


def undone(
    step: Callable[[Tensor], Tensor],
    after: Tensor,
    *,
    iterations: int,
    tolerance: float,
    on_step: Callable[[int], None] = lambda left: None,
) -> Tensor:
    """The x [rows, …] whose `step(x)` is `after`, float32; each row is solved by itself.

    `miss` = after − step(x) is both the error of an x and what a fixed-point iteration adds to it. The first
    x tried is `after`, so `iterations=0` gives after + miss from one call, and each further iteration is one
    call more. It ends where the miss of every row is within `tolerance`, relative to `after`. A proposal
    that misses by more than the best one before is taken back. `on_step` gets how many calls may follow,
    0 once there will be none.

    Raises:
        FloatingPointError: the very first miss of a row is not finite; its argument is the row's number.

    >>> undone(lambda x: 0.5 * x + 3, torch.full((1, 2), 6.0), iterations=4, tolerance=1e-6)
    tensor([[6., 6.]])
    """
    target = after.float()
    x = best = target
    best_miss = torch.zeros_like(target)
    least = torch.full((len(x),), torch.inf, device=x.device)
    damping = torch.ones_like(least)
    better = torch.ones_like(least, dtype=torch.bool)
    tried: list[tuple[Tensor, Tensor]] = []
    for left in range(iterations, -1, -1):
        miss = target - step(x).float()
        error = norms(miss) / norms(target).clamp(min=1e-12)
        sound = torch.isfinite(error)
        if not tried and not bool(sound.all()):
            raise FloatingPointError(int((~sound).nonzero()[0]))
        # NaN compares false, so a wild proposal never becomes the best, nor part of what is remembered.
        better = error < least
        best, best_miss = where_rows(better, x, best), where_rows(better, miss, best_miss)
        least = torch.where(better, error, least)
        if bool((least <= tolerance).all()):
            on_step(0)
            return best
        on_step(left)
        tried = [*tried, (where_rows(sound, x, best), where_rows(sound, miss, best_miss))][-_MEMORY:]
        # Where a proposal made things worse, the next is a shorter plain step from the best so far.
        damping = torch.where(better, torch.ones_like(damping), damping / 2)
        x = where_rows(better, accelerated(tried), best + per_row(damping, best) * best_miss)
        x = where_rows(least <= tolerance, best, x)
    # The last proposal was not tried. It is trusted where the one before it was an improvement.
    return where_rows(better, x, best)


def accelerated(tried: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The next x to try, from the last few (x, miss) of each row [rows, …]: Anderson's acceleration.

    Of all combinations of what was tried it takes the one whose miss would be least if the miss were affine
    in x, and adds that miss. With one entry this is the fixed-point iteration x + miss.

    >>> x = torch.full((1, 1), 4.0)          # the miss 3 − x/2 vanishes at 6
    >>> round(accelerated([(x, 3 - x / 2), (x + 1, 3 - (x + 1) / 2)]).item(), 4)
    6.0
    """
    x, miss = tried[-1]
    proposal = x + miss
    if len(tried) == 1:
        return proposal
    xs = torch.stack([each.flatten(1) for each, _ in tried]).diff(dim=0)
    misses = torch.stack([each.flatten(1) for _, each in tried]).diff(dim=0)
    # A system of at most three unknowns for each row; on the CPU, because not every device has float64.
    gram = torch.einsum("i r d, j r d -> r i j", misses, misses).double().cpu()
    right = torch.einsum("i r d, r d -> r i", misses, miss.flatten(1)).double().cpu()
    # Entries that (nearly) repeat make it singular; a ridge this small changes nothing else.
    ridge = 1e-10 * gram.diagonal(dim1=1, dim2=2).sum(dim=1) + 1e-30
    gram += ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype)
    weights = torch.linalg.solve(gram, right).to(x)
    return proposal - torch.einsum("r i, i r d -> r d", weights, xs + misses).view_as(x)


def norms(x: Tensor) -> Tensor:
    """Euclidean norm of each row: [rows]."""
    return x.float().flatten(1).norm(dim=1)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """One value per row, in the number of dimensions that rows [rows, …] have."""
    return values.view(-1, *[1] * (like.ndim - 1))


def where_rows(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Rows of x where `rows` is true, else of y."""
    return torch.where(per_row(rows, x), x, y)
