"""A spec against its model: everything that can be wrong is found here, and what is left gets a price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from dit_lens.analysis.effects import EffectStudies, Study, naming
from dit_lens.analysis.memory import statistics_bytes
from dit_lens.analysis.spec import split
from dit_lens.analysis.stage_context import Asked, StagePlan
from dit_lens.analysis.stages import stages
from dit_lens.errors import BadInput
from dit_lens.methods.channel_sets import by_hand, require_found_in
from dit_lens.methods.paired_effects import counted
from dit_lens.model.hook_points import parse_blocks, select_steps
from dit_lens.model.quantities import readable_bytes, readable_time

if TYPE_CHECKING:
    from dit_lens.analysis.spec import AnalysisSpec
    from dit_lens.methods.study import StudyPlan
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import SampleBatch, Sampling

ROWS = 8
"""Images sampled together where the spec names no number, fewer where they are large."""


@dataclass(frozen=True)
class Plan:
    """What an analysis will do on a model, and what that costs. `str()` of it is for a reader.

    `prompts` choose the channels. `effects` are the studies of edited runs; they are priced for channels that
    stand in for those that discovery will choose.
    """

    spec: AnalysisSpec
    model: str
    fingerprint: str
    sampling: Sampling
    batch_size: int
    sample_steps: tuple[int, ...]
    sample_blocks: tuple[int, ...]
    forwards: int
    sample_forwards: int
    rows_per_forward: int
    tokens: int
    statistics_bytes: int
    prompts: tuple[str, ...]
    effects: tuple[tuple[Study, StudyPlan], ...] = ()
    stages: tuple[tuple[str, StagePlan], ...] = ()

    @property
    def samples(self) -> int:
        """Images that discovery samples: prompts × seeds."""
        return len(self.prompts) * len(self.spec.seeds)

    @property
    def shown_prompts(self) -> tuple[str, ...]:
        """Prompts whose image and token maps the report shows."""
        return self.prompts[: self.spec.samples.count]

    def minutes(self, lens: DiTLens) -> float:
        """Minutes that all forwards will take on this machine, measured on a few denoising steps."""
        from dit_lens.run.estimate import step_seconds

        rows = min(self.batch_size, self.samples)
        each = step_seconds(lens, self.prompts[0], self.spec.seeds[0], self.sampling, rows)
        own = (self.forwards + self.sample_forwards) * each / 60
        edited = sum(plan.minutes(lens) for _, plan in self.effects)
        return own + edited + sum(plan.minutes(lens) for _, plan in self.stages)

    def time_line(self, minutes: float, lens: DiTLens) -> str:
        """The line that goes below the plan's others: how long it will take on this machine."""
        took = readable_time(minutes * 60)
        return f"  time        about {took} on {lens.device}, images and figures not counted"

    def as_data(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "name": self.spec.name,
            "hash": self.spec.hash,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "prompts": len(self.prompts),
            "seeds": list(self.spec.seeds),
            "sampling": asdict(self.sampling),
            "samples": self.samples,
            "batch_size": self.batch_size,
            "rows_per_forward": self.rows_per_forward,
            "tokens_per_row": self.tokens,
            "forwards": {"discovery": self.forwards, "samples": self.sample_forwards},
            "statistics_bytes": self.statistics_bytes,
            "effects": {
                study.name: {"prompts": len(study.prompts), "seeds": list(study.seeds), **plan.as_data()}
                for study, plan in self.effects
            },
            "stages": {name: plan.as_data() for name, plan in self.stages},
            "sections": list(self.spec.sections),
        }

    def __str__(self) -> str:
        sampling = self.sampling
        asked = f"{counted(len(self.prompts), 'prompt')} × {counted(len(self.spec.seeds), 'seed')}"
        rows = f"{self.rows_per_forward} rows{' (both branches)' if sampling.guided else ''}"
        return "\n".join(
            [
                f"{self.spec.name} ({self.spec.hash}) on {self.model}",
                f"  sampling    {sampling.steps} steps, guidance {sampling.guidance_scale:g}, "
                f"{sampling.height} × {sampling.width} px, {self.tokens} image tokens",
                f"  discovery   {asked} = {self.samples} samples: {self.forwards} forwards of {rows}",
                f"  images      {len(self.shown_prompts)} with token maps: {self.sample_forwards} forwards",
                f"  statistics  {readable_bytes(self.statistics_bytes)}, whatever the number of samples",
                *(_effects_line(study, plan) for study, plan in self.effects),
                *_too_few([study for study, _ in self.effects]),
                *(f"  {name:<11} {_one_line(plan)}" for name, plan in self.stages),
            ]
        )


def _effects_line(study: Study, plan: StudyPlan) -> str:
    arms = plan.cells // (len(study.prompts) * len(study.seeds))
    share = plan.block_passes / max(plan.passes_without_reuse, 1)
    return (
        f"  {study.name:<11} {counted(arms, 'arm')} on {counted(len(study.prompts), 'prompt')} × "
        f"{counted(len(study.seeds), 'seed')}: {plan.forwards} forwards of at most "
        f"{plan.arms_per_forward} arms, {plan.block_passes} block passes "
        f"({share:.2f} of those without reuse), {readable_bytes(plan.held_bytes)} held"
    )


def _too_few(studies: Sequence[Study]) -> Iterator[str]:
    """A line about the studies whose prompts are too few for any verdict: before they are paid for."""
    from dit_lens.methods.questions import Judging
    from dit_lens.methods.resampling import smallest_p

    alpha = Judging().alpha
    few = [each for each in studies if smallest_p(len(each.prompts)) > alpha]
    if few:
        least = next(n for n in count(1) if smallest_p(n) <= alpha)
        named = ", ".join(f"{each.name} {len(each.prompts)}" for each in few)
        yield f"  too few     no p-value can reach {alpha:g} on fewer than {least} prompts: {named}"


def _one_line(plan: StagePlan) -> str:
    return "; ".join(" ".join(line.split()) for line in str(plan).splitlines())


def make_plan(spec: AnalysisSpec, lens: DiTLens) -> Plan:
    """Check what only the model can judge, and count the work; the transformer does not run.

    Raises:
        BadInput: naming the key of the spec, what the model has, and what to write instead.
    """
    from dit_lens.model.sampling import default_batch_size

    with naming("sampling"):
        sampling = lens.sampling(**spec.sampling.given())
        # One prompt's start shows whether model, scheduler and size go together, and holds the noise levels.
        start = lens.prepare_rows(spec.prompts[:1], spec.seeds[:1], sampling)
        rows, columns = lens.token_grid(sampling.height, sampling.width)
    _check_channels(spec, lens, start)
    sample_steps, sample_blocks = _check_samples(spec, lens, start)
    batch = spec.batch_size or default_batch_size(ROWS, rows * columns)
    prompts, _ = split(spec)
    samples = len(prompts) * len(spec.seeds)
    shown = min(spec.samples.count, len(prompts))
    per_image = sampling.steps + (sample_steps[-1] + 1 if sample_steps else 0)
    return Plan(
        spec=spec,
        model=lens.name,
        fingerprint=lens.fingerprint,
        sampling=sampling,
        batch_size=batch,
        sample_steps=sample_steps,
        sample_blocks=sample_blocks,
        forwards=-(-samples // batch) * sampling.steps,
        sample_forwards=-(-shown // batch) * per_image,
        rows_per_forward=min(batch, samples) * len(sampling.branches),
        tokens=rows * columns,
        statistics_bytes=statistics_bytes(
            lens.hook_points, lens.num_channels, sampling.steps * len(sampling.branches)
        ),
        prompts=prompts,
        effects=_effects(spec, lens, sampling, start) if spec.effect_sections else (),
        stages=tuple((stage.name, stage.plan(Asked(spec, lens, sampling))) for stage in stages(spec)),
    )


def _effects(
    spec: AnalysisSpec, lens: DiTLens, sampling: Sampling, start: SampleBatch
) -> tuple[tuple[Study, StudyPlan], ...]:
    """The studies, declared for channels that stand in for those that discovery will choose."""
    from dit_lens.methods.placeholder_statistics import placeholder_statistics

    stats = placeholder_statistics(lens, sampling, start.sigmas)
    # A ratio or rule may choose any number of channels; how many are edited costs nothing.
    massive = stats.select(top_k=spec.channels.most, stream=spec.channels.stream)
    return EffectStudies.of(spec, lens, sampling, massive, stats).plans()


def _check_channels(spec: AnalysisSpec, lens: DiTLens, start: SampleBatch) -> None:
    channels, sampling = spec.channels, start.sampling
    k = channels.selection.get("top_k", 1)
    if k > lens.num_channels:
        raise BadInput.at(
            ("channels", "top_k"),
            f"{k} channels were asked for; {lens.name} has {lens.num_channels}. "
            f"Use 1 to {lens.num_channels}.",
        )
    if channels.found_in is not None:
        with naming("channels"):
            require_found_in(lens, *channels.found_in)
    if channels.chosen is not None:
        blocks = range(lens.num_blocks - (channels.stream == "context"))
        by_hand(channels.chosen, blocks, lens.num_channels, place="channels.chosen")
    there = (*sampling.branches, "both")
    if channels.branch not in there:
        raise BadInput.at(
            ("channels", "branch"),
            f"there is no branch {channels.branch!r} at guidance "
            f"{sampling.guidance_scale:g}; there is {', '.join(sampling.branches)}. "
            f"Raise sampling.guidance_scale above 1, or use branch: cond.",
        )
    with naming("channels.steps"):
        _steps(channels.steps, start)


def _check_samples(
    spec: AnalysisSpec, lens: DiTLens, start: SampleBatch
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(steps, blocks) of the token maps; both empty where none were asked for."""
    with naming("samples.steps"):
        steps = _steps(spec.samples.steps, start)
    with naming("samples.blocks"):
        blocks = parse_blocks(spec.samples.blocks, lens.num_blocks)
    if "token_maps" not in spec.sections or spec.samples.count == 0:
        return (), ()
    if spec.channels.stream != "image":
        raise BadInput.at(
            ("sections",),
            f"token_maps shows channels over the image, and channels.stream is "
            f"{spec.channels.stream!r}, whose tokens are words. Remove token_maps, or use stream: image.",
        )
    return steps, blocks


def _steps(chosen: Any, start: SampleBatch) -> tuple[int, ...]:
    return select_steps(chosen, start.sampling.steps, start.sigmas.tolist())
