"""A graph that fits a model, as frozen values: every name resolved. `check` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dit_lens.graph.borrowing import RULE
from dit_lens.graph.interventions import Intervention
from dit_lens.graph.site import Site
from dit_lens.model.hook_points import HookPoint

if TYPE_CHECKING:
    from dit_lens.model.sampling import Sampling


@dataclass(frozen=True)
class CheckedTrajectory:
    """A trajectory; `finishes` says whether it is denoised to the end, or stops after its last read.

    `follows` is the trajectory whose latents it takes, which follows none itself, and `path` the name of the
    latents that it goes along: given ones, or those of a run with `own_steps`, matched by `rule`. All three
    are None where it has its own latents.
    """

    id: str
    prompt: str
    seed: int
    finishes: bool
    follows: int | None = None
    path: str | None = None
    own_steps: int | None = None
    rule: str = RULE


@dataclass(frozen=True)
class CheckedEdit:
    """An edit with every pattern resolved; trajectories are positions in the graph's list.

    `sites` holds the places at which some token is addressed.
    """

    index: int
    into: int
    source: int | None
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    sites: Mapping[HookPoint, tuple[Site, Intervention]]
    order: int


@dataclass(frozen=True)
class CheckedRead:
    """A read with every pattern resolved."""

    index: int
    name: str
    of: int
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    sites: Mapping[HookPoint, Site]
    reduce: str


@dataclass(frozen=True)
class CheckedGraph:
    """A graph that fits a model, and what the plan has to know of that model.

    `shapes` holds the shape of one row at every hook point, without the row itself; `element_size` is bytes
    per activation value; `default_rows` is how many rows one forward pass takes where nobody chose; `mark` is
    that of the graph's handles.
    """

    hash: str
    sampling: Sampling
    sigmas: tuple[float, ...]
    branches: tuple[str, ...]
    num_blocks: int
    trajectories: tuple[CheckedTrajectory, ...]
    edits: tuple[CheckedEdit, ...]
    reads: tuple[CheckedRead, ...]
    shapes: Mapping[HookPoint, tuple[int, ...]]
    element_size: int
    default_rows: int
    mark: str = field(default="", repr=False, compare=False)

    @property
    def path_names(self) -> tuple[str, ...]:
        """Names of the given latents that a run needs."""
        given = (each for each in self.trajectories if each.path is not None and each.own_steps is None)
        return tuple(dict.fromkeys(each.path for each in given if each.path is not None))

    @property
    def own_runs(self) -> tuple[tuple[str, int, int], ...]:
        """(prompt, seed, steps) of every run that goes before, for trajectories with steps of their own."""
        return tuple(
            dict.fromkeys(
                (each.prompt, each.seed, each.own_steps)
                for each in self.trajectories
                if each.own_steps is not None
            )
        )
