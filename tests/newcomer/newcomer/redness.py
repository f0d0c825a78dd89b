"""A metric of somebody else's: how much red an image gained."""

from __future__ import annotations

from dit_lens.methods.metrics import Metric


def gained(rows):
    """Mean red of the edited image minus that of the unedited one: float64 [rows], 0 to 1."""
    edited, clean = rows.pairs
    return (edited - clean)[..., 0].mean(axis=(1, 2))


METRIC = Metric(
    "redness",
    "red that was gained",
    "pixel value",
    "greater",
    measure=gained,
    needs=frozenset({"image", "clean"}),
    group="image",
)
