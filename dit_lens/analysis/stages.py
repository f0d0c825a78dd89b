"""Questions of an analysis that bring a plan and a run of their own: masks, carrying, guidance.

Each is a stage: planned before anything runs, then run with the channels that discovery chose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dit_lens.analysis.spec import AnalysisSpec, split
from dit_lens.analysis.stage_context import Asked, Found, StagePlan

if TYPE_CHECKING:
    from dit_lens.methods.answers import Answer


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
