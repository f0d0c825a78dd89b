"""Questions of an analysis that bring a plan and a run of their own: masks, carrying, guidance.

Each is a stage: planned before anything runs, then run with the channels that discovery chose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from dit_lens.analysis.effects import judged_seeds, split

if TYPE_CHECKING:
    from dit_lens.analysis.spec import AnalysisSpec
    from dit_lens.methods.answers import Answer
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


@dataclass(frozen=True)
class Stage:
    """One such question: `name` is its section and its place among the run's timings."""

    name: str
    plan: Callable[[Asked], StagePlan]
    run: Callable[[Asked, Found], tuple[Answer, ...]]


def stages(spec: AnalysisSpec) -> tuple[Stage, ...]:
    """The stages that a spec asks for, in the order in which they run."""
    return tuple(stage for stage in _STAGES if stage.name in spec.sections)


def _plan_spatial(asked: Asked) -> StagePlan:
    from dit_lens.analysis.spatial import plan_spatial

    spec = asked.spec
    return plan_spatial(
        spec.spatial,
        asked.lens,
        asked.sampling,
        *split(spec),
        asked.seeds,
        top_k=asked.top_k,
        stream=spec.channels.stream,
        batch_size=spec.batch_size,
    )


def _run_spatial(asked: Asked, found: Found) -> tuple[Answer, ...]:
    from dit_lens.analysis.spatial import run_spatial

    spec = asked.spec
    return run_spatial(
        spec.spatial,
        asked.lens,
        asked.sampling,
        found.stats,
        found.massive,
        *split(spec),
        asked.seeds,
        found.folder,
        batch_size=spec.batch_size,
        progress=found.progress,
        say=found.say,
    )


def _plan_text(asked: Asked) -> StagePlan:
    from dit_lens.analysis.transport import plan_text

    return plan_text(asked)


def _run_text(asked: Asked, found: Found) -> tuple[Answer, ...]:
    from dit_lens.analysis.transport import run_text

    return run_text(asked, found)


def _plan_image(asked: Asked) -> StagePlan:
    from dit_lens.analysis.transport_image import plan_image

    return plan_image(asked)


def _run_image(asked: Asked, found: Found) -> tuple[Answer, ...]:
    from dit_lens.analysis.transport_image import run_image

    return run_image(asked, found)


def _plan_guidance(asked: Asked) -> StagePlan:
    from dit_lens.analysis.guidance import plan_guidance

    return plan_guidance(asked)


def _run_guidance(asked: Asked, found: Found) -> tuple[Answer, ...]:
    from dit_lens.analysis.guidance import run_guidance

    return run_guidance(asked, found)


_STAGES = (
    Stage("spatial", _plan_spatial, _run_spatial),
    Stage("transport_text", _plan_text, _run_text),
    Stage("transport_image", _plan_image, _run_image),
    Stage("detail_guidance", _plan_guidance, _run_guidance),
)
