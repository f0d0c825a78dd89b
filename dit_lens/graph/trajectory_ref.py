"""Handles of trajectories: which trajectory, and of which graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

from dit_lens.errors import BadInput


@dataclass(frozen=True)
class TrajectoryRef:
    """A trajectory of a graph, to be named in its edits and reads, and in results of its runs.

    `graph` marks the graph that made it, so that no other graph takes it for one of its own: ids that are
    made up are the same in every graph. Empty, it is no more than the `id`, which is what equality looks at.
    """

    id: str
    graph: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return self.id


def new_mark() -> str:
    """A mark that no other graph has, in this process or another: a text, so that a handle keeps no graph."""
    return uuid4().hex


def id_here(trajectory: object, mark: str, *, place: str, owner: str) -> str:
    """The id that a handle, or a plain text, gives in the graph with this mark.

    `place` begins the message, `owner` says in it whose trajectories are asked for. Raises `BadInput` for a
    handle that another graph made.
    """
    made_by = trajectory.graph if isinstance(trajectory, TrajectoryRef) else ""
    if made_by and mark and made_by != mark:
        raise BadInput(
            f"{place}the handle of trajectory {str(trajectory)!r} was made by another graph than {owner}. "
            f"Take the handle that this one's g.trajectory(…) gave, or write the id: {str(trajectory)!r}."
        )
    return str(trajectory)
