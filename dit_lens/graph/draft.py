"""A graph while it is being built: members so far, names that are taken, and the frozen value they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dit_lens.errors import BadInput, Place, did_you_mean, dotted
from dit_lens.graph.named_sets import NamedSets
from dit_lens.graph.spec import (
    EditSpec,
    GraphSpec,
    ReadSpec,
    TrajectorySpec,
    free_name,
    plain_numbers,
    spec_from_data,
    validated,
)
from dit_lens.graph.trajectory_ref import TrajectoryRef, id_here, new_mark

Trajectory = TrajectoryRef | str


class Draft:
    """What a graph's methods have added so far. Members enter it only when they are valid by themselves.

    `mark` is what handles of its trajectories carry, see `TrajectoryRef`.
    """

    def __init__(self, sampling: Mapping[str, Any]) -> None:
        self._start(spec_from_data({"sampling": {key: plain_numbers(sampling[key]) for key in sampling}}))

    @classmethod
    def of(cls, spec: GraphSpec) -> Draft:
        """A draft that holds `spec` already."""
        draft = cls.__new__(cls)
        draft._start(spec)
        return draft

    def _start(self, spec: GraphSpec) -> None:
        self.mark = new_mark()
        self._sampling = spec.sampling
        self.trajectories, self.edits, self.reads = (
            list(spec.trajectories),
            list(spec.edits),
            list(spec.reads),
        )
        self._ids = {each.id for each in self.trajectories}
        self._read_names = {each.name for each in self.reads}
        self._sets = NamedSets(spec.channel_sets, spec.masks)
        self._spec: GraphSpec | None = spec

    @property
    def spec(self) -> GraphSpec:
        """The frozen value of all members."""
        if self._spec is None:
            self._spec = GraphSpec(
                sampling=self._sampling,
                channel_sets=dict(self._sets.channel_sets),
                masks=dict(self._sets.masks),
                trajectories=tuple(self.trajectories),
                edits=tuple(self.edits),
                reads=tuple(self.reads),
            )
        return self._spec

    def add_trajectory(self, id: str | None, *, follows: Trajectory | None, **fields: Any) -> TrajectoryRef:
        """Add a trajectory, named `id` or by the next free name; the other fields are `TrajectorySpec`'s."""
        place = ("trajectories", len(self.trajectories))
        name = free_name("trajectory", id, self._ids, "trajectories")
        if follows is not None:
            fields["follows"] = self.known(follows, (*place, "follows"))
        plain = {key: plain_numbers(value) for key, value in fields.items()}
        self._add(self.trajectories, validated(TrajectorySpec, place, id=name, **plain))
        self._ids.add(name)
        return TrajectoryRef(name, self.mark)

    def add_edit(self, into: Trajectory, *, source: Trajectory | None, **fields: Any) -> None:
        """Add an edit; the other fields are those of `EditSpec`, channels, tokens and steps in any form."""
        place = ("edits", len(self.edits))
        ends = {"into": self.known(into, (*place, "into"))}
        if source is not None:
            ends["source"] = self.known(source, (*place, "source"))
        self._add(self.edits, validated(EditSpec, place, **ends, **self._plain(fields)))

    def add_read(self, of: Trajectory, name: str | None, **fields: Any) -> str:
        """Add a read and return its name; the other fields as in `add_edit`."""
        place = ("reads", len(self.reads))
        free = free_name("read", name, self._read_names, "reads")
        whose = self.known(of, (*place, "of"))
        self._add(self.reads, validated(ReadSpec, place, name=free, of=whose, **self._plain(fields)))
        self._read_names.add(free)
        return free

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Take back the trajectories and edits that were added inside, where one of them is refused."""
        kept = len(self.trajectories), len(self.edits)
        try:
            yield
        except BadInput:
            del self.trajectories[kept[0] :], self.edits[kept[1] :]
            self._ids = {each.id for each in self.trajectories}
            self._spec = None
            raise

    def known(self, trajectory: Trajectory, place: Place) -> str:
        """The id of a trajectory of this draft. Raises `BadInput` where there is none."""
        name = id_here(trajectory, self.mark, place=f"{dotted(place)}: ", owner="this one")
        if name not in self._ids:
            raise BadInput.at(
                place,
                f"there is no trajectory {name!r}; there are: "
                f"{', '.join(sorted(self._ids)) or 'none'}.{did_you_mean(name, self._ids)}",
            )
        return name

    def _plain(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **fields,
            "channels": self._sets.channels(fields["channels"]),
            "tokens": self._sets.tokens(fields["tokens"]),
            "steps": plain_numbers(fields["steps"]),
        }

    def _add(self, members: list[Any], member: Any) -> None:
        members.append(member)
        self._spec = None
