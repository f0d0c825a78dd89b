"""What a stage of an analysis is told before anything runs, what it plans, and what it is given later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from dit_lens.analysis.spec import AnalysisSpec, judged_seeds, split

if TYPE_CHECKING:
    from dit_lens.methods.channels import ChannelSet, ChannelStatistics
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.records import RunFolder


class StagePlan(Protocol):
    """What a stage will do; `str()` of it is for a reader."""

    def as_data(self) -> dict[str, Any]: ...

    def minutes(self, lens: DiTLens) -> float: ...


@dataclass(frozen=True)
class Asked:
    """What every stage is told before anything has run."""

    spec: AnalysisSpec
    lens: DiTLens
    sampling: Sampling

    @property
    def seeds(self) -> tuple[int, ...]:
        return judged_seeds(self.spec)

    @property
    def held_out(self) -> tuple[str, ...]:
        return split(self.spec)[1]

    @property
    def top_k(self) -> int:
        """Channels per block; where a rule will find any number, as many as stand in for them."""
        return self.spec.channels.most

    def at_steps(self, steps: int | None) -> Asked:
        """The same with a stage's own number of steps; None keeps the analysis' number."""
        return replace(self, sampling=self.sampling.overridden({"steps": steps}))

    @property
    def stand_in(self) -> Chosen:
        """Channels that cost what those that discovery will choose cost; any do, to be planned with."""
        import numpy as np

        from dit_lens.methods.placeholder_statistics import placeholder_statistics

        levels = np.linspace(1.0, 0.0, self.sampling.steps + 1)
        stats = placeholder_statistics(self.lens, self.sampling, levels)
        return Chosen(stats, stats.select(top_k=self.top_k))


@dataclass(frozen=True)
class Chosen:
    """Massive channels, and the statistics that they were chosen by."""

    stats: ChannelStatistics
    massive: ChannelSet


@dataclass(frozen=True)
class Found:
    """What a stage is given to run with."""

    stats: ChannelStatistics
    massive: ChannelSet
    folder: RunFolder
    progress: bool
    say: Callable[[str], None]

    @property
    def chosen(self) -> Chosen:
        return Chosen(self.stats, self.massive)
