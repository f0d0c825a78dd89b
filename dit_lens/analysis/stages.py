"""Questions of an analysis that bring a plan and a run of their own: masks, carrying, guidance.

Each is a stage: planned before anything runs, then run with the channels that discovery chose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
        return int(self.spec.channels.selection.get("top_k", 4))

    @property
    def shared(self) -> dict[str, Any]:
        """What plan and run of every carrying stage take alike."""
        return {"seeds": self.seeds, "arms_per_forward": self.spec.effects.arms_per_forward}


@dataclass(frozen=True)
class Found:
    """What a stage is given to run with."""

    stats: ChannelStatistics
    massive: ChannelSet
    folder: RunFolder
    progress: bool
    say: Callable[[str], None]

    @property
    def telling(self) -> dict[str, Any]:
        return {"progress": self.progress, "say": self.say}


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
        **found.telling,
    )


def _plan_text(asked: Asked) -> StagePlan:
    from dit_lens.analysis.transport import plan_text

    return plan_text(asked.spec.transport, asked.lens, asked.sampling, top_k=asked.top_k, **asked.shared)


def _run_text(asked: Asked, found: Found) -> tuple[Answer, ...]:
    from dit_lens.analysis.transport import run_text

    return run_text(
        asked.spec.transport,
        asked.lens,
        asked.sampling,
        found.stats,
        found.massive,
        found.folder,
        **asked.shared,
        **found.telling,
    )


def _plan_image(asked: Asked) -> StagePlan:
    from dit_lens.analysis.transport import plan_image

    spec = asked.spec
    return plan_image(
        spec.transport, spec.source, asked.lens, asked.sampling, top_k=asked.top_k, **asked.shared
    )


def _run_image(asked: Asked, found: Found) -> tuple[Answer, ...]:
    from dit_lens.analysis.transport import run_image

    return run_image(
        asked.spec.transport,
        asked.spec.source,
        asked.lens,
        asked.sampling,
        found.stats,
        found.massive,
        found.folder,
        **asked.shared,
        **found.telling,
    )


def _plan_guidance(asked: Asked) -> StagePlan:
    from dit_lens.analysis.transport import plan_guidance

    return plan_guidance(
        asked.spec.guidance,
        asked.lens,
        asked.sampling,
        prompts=asked.held_out,
        top_k=asked.top_k,
        **asked.shared,
    )


def _run_guidance(asked: Asked, found: Found) -> tuple[Answer, ...]:
    from dit_lens.analysis.transport import run_guidance

    return run_guidance(
        asked.spec.guidance,
        asked.lens,
        asked.sampling,
        found.stats,
        found.massive,
        found.folder,
        prompts=asked.held_out,
        **asked.shared,
        **found.telling,
    )


_STAGES = (
    Stage("spatial", _plan_spatial, _run_spatial),
    Stage("transport_text", _plan_text, _run_text),
    Stage("transport_image", _plan_image, _run_image),
    Stage("detail_guidance", _plan_guidance, _run_guidance),
)
