"""Trajectories with latents from elsewhere: shadows, given paths, runs with steps of their own."""

from __future__ import annotations

from dit_lens.errors import BadInput, Place
from dit_lens.graph.spec import TrajectorySpec

RULE = "nearest"
"""How latents of a run with steps of its own are found at the graph's noise levels, unless told otherwise."""


def path_of(each: TrajectorySpec) -> str | None:
    """The name of the latents that a trajectory goes along: given ones, or a run with steps of its own."""
    if each.steps is not None:
        return f"{each.id}, {each.steps} steps of its own, {each.match or RULE}"
    return each.path


def borrowed_by(each: TrajectorySpec) -> str | None:
    """Whose latents a trajectory takes, as messages name it; None where it makes its own."""
    return each.follows or path_of(each)


def require_one_kind(each: TrajectorySpec, place: Place) -> None:
    """Raise `BadInput` for a trajectory that takes latents from two places, or ends where it has no end."""
    kinds = [name for name in ("follows", "path", "steps") if getattr(each, name) is not None]
    if kinds and each.until == "end":
        raise BadInput.at(
            (*place, "until"),
            f"{each.id!r} takes the latents of {borrowed_by(each)!r} and has no end of its "
            "own. Leave out until.",
        )
    if len(kinds) > 1:
        raise BadInput.at(
            (*place, kinds[1]),
            f"{each.id!r} would take its latents from two places, by "
            f"{' and '.join(kinds)}. Leave out {' or '.join(kinds)}.",
        )
    if each.match is not None and each.steps is None:
        raise BadInput.at(
            (*place, "match"),
            f"{each.id!r} has the graph's own steps, so there is nothing to match. Give it "
            "steps, or leave out match.",
        )
