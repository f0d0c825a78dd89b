"""The spatial question of an analysis: what it costs, and carrying it out.

Where to look (block, step) is chosen on calibration prompts; held-out prompts judge. Every prompt's masks are
on disk before the next batch begins, so that a run that was cut off continues there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dit_lens.analysis.effects import naming
from dit_lens.analysis.spatial_files import CALIBRATION, FAMILIES, OVER_K, MaskRows, Overlays
from dit_lens.analysis.spatial_spec import SpatialSpec
from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from dit_lens.methods.answers import Answer
    from dit_lens.methods.channels import ChannelSet, ChannelStatistics
    from dit_lens.methods.questions.spatial import ChosenPlace
    from dit_lens.methods.spatial import ChannelFamily, Clustering, Harvest
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.records import RunFolder

__all__ = ["SpatialSpec", "SpatialPlan", "plan_spatial", "run_spatial"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class SpatialPlan:
    """What the question will do on a model, resolved and checked. `str()` of it is one line for a reader.

    `clusterings` is the most there can be: one place fewer is judged where the best step is the last.
    """

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]
    seeds: tuple[int, ...]
    blocks: tuple[int, ...]
    steps: tuple[int, ...]
    branch: str
    how: Clustering
    truth: str
    sampling: Sampling
    batch_size: int
    forwards: int
    clusterings: int

    def minutes(self, lens: DiTLens) -> float:
        """Minutes that it will take on this machine, from a few denoising steps and one clustering."""
        from dit_lens.run.estimate import step_seconds

        samples = len(self.held_out) * len(self.seeds)
        rows = min(self.batch_size, samples)
        each = step_seconds(lens, self.held_out[0], self.seeds[0], self.sampling, rows)
        grid = lens.token_grid(self.sampling.height, self.sampling.width)
        return (self.forwards * each + self.clusterings * _clustering_seconds(grid, self.how)) / 60

    def as_data(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "calibration_prompts": len(self.calibration),
            "prompts": len(self.held_out),
            "seeds": list(self.seeds),
            "blocks": list(self.blocks),
            "steps": list(self.steps),
            "branch": self.branch,
            "clustering": str(self.how),
            "truth": self.truth,
            "batch_size": self.batch_size,
            "forwards": self.forwards,
            "clusterings": self.clusterings,
        }

    def __str__(self) -> str:
        return (
            f"{len(self.held_out)} prompts, {len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, "
            f"places chosen on {len(self.calibration)} others: {len(self.blocks)} blocks, "
            f"{len(self.steps)} steps, "
            f"{self.forwards} forwards, at most {self.clusterings} masks ({self.how}); truth: {self.truth}"
        )


def plan_spatial(
    spec: SpatialSpec,
    lens: DiTLens,
    sampling: Sampling,
    calibration: Sequence[str],
    held_out: Sequence[str],
    seeds: Sequence[int],
    *,
    top_k: int = 4,
    stream: str = "image",
    batch_size: int | None = None,
) -> SpatialPlan:
    """Check the question against a model and count its work; the transformer does not run.

    Args:
        calibration, held_out: the prompts that chose the channels, and all that may judge.
        seeds: taken where the spec names none.
        top_k, stream: how the analysis will choose its channels.

    Raises:
        BadInput: naming the key under `spatial` that does not fit.
    """
    from dit_lens.methods.placeholder_statistics import placeholder_statistics
    from dit_lens.methods.questions.spatial import ChosenPlace
    from dit_lens.methods.spatial import Subject, as_truth
    from dit_lens.model.sampling import default_batch_size

    if stream != "image":
        raise BadInput.at(
            ("spatial",),
            f"channels.stream is {stream!r}, whose tokens are words and have no place in the image. "
            "Use stream: image, or remove spatial from sections.",
        )
    chosen, judged = _prompts(spec, calibration, held_out)
    taken = tuple(int(seed) for seed in spec.seeds or seeds)
    steps = _steps(spec, lens, sampling, judged[0])
    how = _clustering(spec)
    grid = lens.token_grid(sampling.height, sampling.width)
    with naming("spatial.clusters"):
        how.require_tokens(grid[0] * grid[1])
    # Any channels do: what it costs depends on how many there are, not on which.
    stats = placeholder_statistics(lens, sampling, _noise_levels(sampling))
    massive = stats.select(top_k=min(top_k, stats.num_channels))
    study = _Study(spec, lens, sampling, stats, massive, steps)
    first, last = study.blocks[0], steps[-1]
    there = [ChosenPlace("outline", first, steps[0], 0.0), ChosenPlace("last_step", first, last, 0.0)]
    places = there if len(steps) > 1 else there[:1]
    harvests = [study.calibration(chosen, taken), study.judged(judged, taken, places)]
    with naming("spatial.truth", "Or leave spatial out of sections."):
        truth = as_truth(spec.truth)
        samples = [each for harvest in harvests for each in harvest.samples]
        truth.require([Subject(p, s, None, grid, harvests[0].image_size) for p, s in samples])
    rows = batch_size or default_batch_size(_rows(), grid[0] * grid[1])
    return SpatialPlan(
        calibration=chosen,
        held_out=judged,
        seeds=taken,
        blocks=study.blocks,
        steps=steps,
        branch=spec.branch,
        how=how,
        truth=truth.name,
        sampling=sampling,
        batch_size=rows,
        forwards=sum(-(-len(harvest.samples) // rows) for harvest in harvests) * sampling.steps,
        clusterings=sum(harvest.clusterings for harvest in harvests),
    )


def run_spatial(
    spec: SpatialSpec,
    lens: DiTLens,
    sampling: Sampling,
    stats: ChannelStatistics,
    massive: ChannelSet,
    calibration: Sequence[str],
    held_out: Sequence[str],
    seeds: Sequence[int],
    folder: RunFolder,
    *,
    batch_size: int | None = None,
    progress: bool = True,
    say: Say | None = None,
) -> tuple[Answer, ...]:
    """Make the masks that the folder does not hold yet; write tables and pictures, and give the answers.

    Tables: `spatial` (one row per mask), `spatial_blocks` and `spatial_k` (means with intervals). Pictures:
    the first prompts' image, true mask, and mask after every block at the step chosen for it.

    Raises:
        BadInput: what `plan_spatial` refuses, or a truth that finds no subject in any calibration picture.
        RunFailure: an activation is NaN or infinite. What was finished is kept.
    """
    from dit_lens.methods.questions import spatial
    from dit_lens.methods.spatial import as_truth

    say = say or _silent
    if massive.is_empty:
        say("Spatial: no channel passes the rule, so there is nothing to cluster by.")
        return ()
    chosen, judged = _prompts(spec, calibration, held_out)
    taken = tuple(int(seed) for seed in spec.seeds or seeds)
    study = _Study(spec, lens, sampling, stats, massive, _steps(spec, lens, sampling, judged[0]))
    with naming("spatial.truth"):
        truth = as_truth(spec.truth)
    how = _clustering(spec)
    rows = MaskRows(folder, how)
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}

    calibrating = study.calibration(chosen, taken)
    kept = rows.fill(lens, calibrating, truth, studies=(CALIBRATION,), **options)
    table = rows.table(CALIBRATION)
    if not table["iou"].notna().any():
        raise BadInput.at(
            ("spatial", "truth"),
            f"{truth.name} finds no subject in any of the {len(calibrating.samples)} "
            "calibration pictures, so no place can be chosen. Name another label or model, or give masks.",
        )
    places = spatial.places(table)
    say(f"Spatial: {len(chosen)} prompts choose {_spoken(places)}.")
    judging = study.judged(judged, taken, places)
    overlays = Overlays(folder, judged[: spec.overlays], taken[0], places[0].step)
    kept += rows.fill(
        lens,
        judging,
        truth,
        studies=(FAMILIES, OVER_K),
        overlays=overlays,
        **options,
    )
    answered = spatial.answer(rows.table(FAMILIES), places, over_k=rows.table(OVER_K))
    for name, frame in answered.tables.items():
        folder.write_table(name, frame)
    of_earlier = f", {kept} samples kept from the earlier run" if kept else ""
    say(f"Spatial: {len(rows.table())} masks on {len(judged)} held-out prompts{of_earlier}.")
    return answered.answers


# ------------------------------------------------------------------------------------------ what to look at
@dataclass(frozen=True)
class _Study:
    """The two harvests of the question, for one channel set."""

    spec: SpatialSpec
    lens: DiTLens
    sampling: Sampling
    stats: ChannelStatistics
    massive: ChannelSet
    steps: tuple[int, ...]

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks looked after, of those with massive channels."""
        from dit_lens.model.hook_points import parse_blocks

        with naming("spatial.blocks"):
            asked = parse_blocks(self.spec.blocks, self.lens.num_blocks)
            found = tuple(block for block in asked if self.massive.blocks.get(block))
            if not found:
                there = ", ".join(str(block) for block, held in self.massive.blocks.items() if held)
                raise BadInput(f"no massive channel in {self.spec.blocks!r}; there are in blocks {there}.")
        return found

    def calibration(self, prompts: Sequence[str], seeds: Sequence[int]) -> Harvest:
        """The massive channels alone, everywhere."""
        from dit_lens.methods.spatial import ChannelFamily

        return self._harvest([ChannelFamily("massive", self.massive.blocks)], prompts, seeds)

    def judged(self, prompts: Sequence[str], seeds: Sequence[int], places: Sequence[ChosenPlace]) -> Harvest:
        """Every family everywhere, further draws at the steps of the places, other numbers at the places."""
        from dit_lens.methods.questions import spatial
        from dit_lens.methods.questions.question import Setting

        spec = self.spec
        controls = dict(spec.controls)
        setting = Setting(
            self.massive,
            self.stats,
            num_blocks=self.lens.num_blocks,
            num_steps=self.sampling.steps,
            controls=controls,
            doses=tuple(sorted(spec.doses)),
            seed=spec.draw_seed,
        )
        at = tuple(sorted({place.step for place in places}))
        with naming("spatial.controls"):
            found: list[ChannelFamily] = [
                replace(each, steps=at) if each.draw else each for each in spatial.families(setting)
            ]
        fewer = {kind: min(draws, spec.dose_draws) for kind, draws in controls.items()}
        with naming("spatial.doses"):
            over_k = spatial.k_families(replace(setting, controls=fewer))
        for place in places:
            for each in over_k:
                here = {place.block: each.blocks[place.block]}
                name = f"{OVER_K}/{place.name}/{each.name}"
                found.append(replace(each, name=name, blocks=here, steps=(place.step,)))
        return self._harvest(found, prompts, seeds)

    def _harvest(
        self, families: Sequence[ChannelFamily], prompts: Sequence[str], seeds: Sequence[int]
    ) -> Harvest:
        from dit_lens.methods.spatial import plan_harvest

        with naming("spatial"):
            return plan_harvest(
                self.lens,
                families,
                prompts,
                seeds,
                blocks=list(self.blocks),
                steps=list(self.steps),
                branch=self.spec.branch,
                sampling=self.sampling,
            )


def _prompts(
    spec: SpatialSpec, calibration: Sequence[str], held_out: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prompts that choose places and those that judge."""
    both = set(calibration) & set(held_out)
    if both:
        raise BadInput.at(
            ("spatial", "prompts"),
            f"{sorted(both)[0]!r} stands among the prompts that choose and among those that "
            "judge; what judges must be held out.",
        )
    for key, given in (("calibration", calibration), ("prompts", held_out)):
        if not given:
            raise BadInput.at(
                ("spatial", key), "there is no prompt for it; give prompts and held-out prompts."
            )
    return tuple(calibration[: spec.calibration]), tuple(held_out[: spec.prompts])


def _steps(spec: SpatialSpec, lens: DiTLens, sampling: Sampling, prompt: str) -> tuple[int, ...]:
    from dit_lens.methods.questions.spatial import steps_of
    from dit_lens.model.hook_points import select_steps

    if spec.steps is None:
        return steps_of(sampling.steps)
    with naming("spatial.steps"):
        by_noise = isinstance(spec.steps, Mapping) and "sigma" in spec.steps
        sigmas = lens.prepare_rows([prompt], [0], sampling).sigmas.tolist() if by_noise else None
        chosen = select_steps(spec.steps, sampling.steps, sigmas)
    return tuple(sorted({*chosen, sampling.steps - 1}))


def _clustering(spec: SpatialSpec) -> Clustering:
    from dit_lens.methods.spatial import Clustering

    return Clustering(spec.normalise, spec.method, spec.clusters, spec.rule, spec.draw_seed)


def _noise_levels(sampling: Sampling) -> Any:
    import numpy as np

    return np.linspace(1.0, 0.0, sampling.steps + 1)


def _rows() -> int:
    from dit_lens.methods.spatial.harvest import ROWS

    return ROWS


def _clustering_seconds(grid: tuple[int, int], how: Clustering) -> float:
    """Seconds that one clustering takes, measured on noise with a blob in it."""
    import time

    import numpy as np

    from dit_lens.methods.spatial import segmentation

    values = np.random.default_rng(0).normal(size=(grid[0] * grid[1], 8))
    values[: len(values) // 4] += 3
    segmentation(values, grid, how, nothing="empty")  # the first call loads the library
    started = time.perf_counter()
    segmentation(values, grid, how, nothing="empty")
    return time.perf_counter() - started


def _spoken(places: Sequence[ChosenPlace]) -> str:
    return " and ".join(
        f"block {place.block} at step {place.step} (IoU {place.calibration_iou:.2f})" for place in places
    )


def _silent(_: str) -> None:
    return None
