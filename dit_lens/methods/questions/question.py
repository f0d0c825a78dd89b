"""What a question of an analysis is: it declares arms, and later answers itself from what they did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dit_lens.graph.interventions import Intervention, Zero
from dit_lens.methods.controls import default_draws
from dit_lens.methods.resampling import RESAMPLES
from dit_lens.methods.verdicts import ALPHA

if TYPE_CHECKING:
    import pandas as pd

    from dit_lens.methods.answers import Answer
    from dit_lens.methods.arms import Arm
    from dit_lens.methods.channels import ChannelSet, ChannelStatistics

DOSES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Setting:
    """What a question may need to declare its arms.

    Args:
        massive: the treatment's channels, chosen on calibration prompts.
        stats: the statistics they were chosen from.
        num_blocks, num_steps: of the model, and of the sampling.
        stream: "image" or "context", where the edits act.
        op, steps, branch: the edit of the massive channels, and where it acts.
        controls: kind of control → draws, by default `default_draws("effects")`; kinds that a question has no
            use for are left alone.
        doses: numbers of channels per block for dose–response.
        seed: of the controls' draws.

    >>> setting = dl.Setting(massive, stats, num_blocks=8, num_steps=4, controls={"random": 2})
    >>> [arm.name for arm in dl.QUESTIONS["disruption"].arms(setting)]
    ['clean', 'massive', 'random-0', 'random-1']
    """

    massive: ChannelSet
    stats: ChannelStatistics
    num_blocks: int
    num_steps: int
    stream: str = "image"
    op: Intervention = field(default_factory=Zero)
    steps: Any = "all"
    branch: str = "both"
    controls: Mapping[str, int] = field(default_factory=lambda: default_draws("effects"))
    doses: tuple[int, ...] = DOSES
    seed: int = 0


@dataclass(frozen=True)
class Judging:
    """How effects are resampled and judged; the defaults are what a published verdict uses."""

    alpha: float = ALPHA
    confidence: float = 0.95
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Answered:
    """A question's tables, by name, and its answers, the primary one first."""

    tables: dict[str, pd.DataFrame]
    answers: tuple[Answer, ...]


class AnswerFunction(Protocol):
    """Answer a question.

    Args:
        effects: tidy table with the columns arm, prompt, seed, metric, value; more arms do no harm.
        arms: what was run; more than the question declared do no harm.
        metrics: those that were measured, in the order in which tables show them.
    """

    def __call__(
        self,
        effects: pd.DataFrame,
        arms: Sequence[Arm],
        *,
        metrics: Sequence[str],
        judging: Judging | None = None,
    ) -> Answered: ...


@dataclass(frozen=True)
class Question:
    """One section of an analysis: `name` is also the name of its table.

    `sources` are arXiv ids. `arms` declares what has to be run; equal arms of different questions have equal
    names and run once.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    arms: Callable[[Setting], tuple[Arm, ...]]
    answer: AnswerFunction
