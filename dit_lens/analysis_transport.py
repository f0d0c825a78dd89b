"""Carrying over from prompts and from pictures, as stages of an analysis: plans, and resumable runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dit_lens.analysis_effects import naming
from dit_lens.analysis_transport_spec import GuidanceSpec, SourceSpec, TransportSpec
from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.methods.answers import Answer
    from dit_lens.methods.channels import ChannelSet, ChannelStatistics
    from dit_lens.methods.measures import Measures
    from dit_lens.methods.questions import Setting
    from dit_lens.methods.study import StudyPlan
    from dit_lens.methods.transport import CarryResult, CarryStudy, Case, Pair
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.records import RunFolder

__all__ = ["GuidanceSpec", "SourceSpec", "TransportSpec", "plan_text", "run_text"]

Say = Callable[[str], None]

KIND = "carry"
"""Of the pictures that these stages keep."""


# --------------------------------------------------------------------------------------- text: from a prompt
def plan_text(
    spec: TransportSpec,
    lens: DiTLens,
    sampling: Sampling,
    *,
    seeds: Sequence[int] = (0,),
    top_k: int = 4,
    arms_per_forward: int | None = None,
) -> StudyPlan:
    """Check `transport_text` against a model and price it; the transformer does not run.

    Raises:
        BadInput: naming the key under `transport` that does not fit.
    """
    sampling, stats, massive = _stand_ins(spec.steps, lens, sampling, top_k)
    study = text_study(spec, lens, sampling, stats, massive, seeds=seeds, arms_per_forward=arms_per_forward)
    with naming("transport"):
        return study.plan()


def run_text(
    spec: TransportSpec,
    lens: DiTLens,
    sampling: Sampling,
    stats: ChannelStatistics,
    massive: ChannelSet,
    folder: RunFolder,
    *,
    seeds: Sequence[int] = (0,),
    arms_per_forward: int | None = None,
    progress: bool = True,
    say: Say | None = None,
) -> tuple[Answer, ...]:
    """Run what the folder does not hold yet; write tables and pictures, and return the answers.

    Tables: `transport`, `transport_curves`, and every single value in `transport_effects`.

    Args:
        seeds: taken where the spec names none.

    Raises:
        BadInput: naming the key that does not fit. RunFailure: what was finished is kept.
    """
    from dit_lens.methods.questions.transport import Transport

    sampling = sampling.overridden({"steps": spec.steps})
    study = text_study(spec, lens, sampling, stats, massive, seeds=seeds, arms_per_forward=arms_per_forward)
    far = [case.unit for case in _cases(study) if case.group == _widest(study)]
    gallery = CarryPictures(folder, tuple(dict.fromkeys(far))[: spec.gallery], side="forward")
    result = _run(study, folder, gallery, progress, say, "Carrying from prompts")
    folder.write_table("transport_effects", result.effects)
    answered = Transport("transport_text").answer(result.effects, metrics=study.measures.names)
    for name, table in answered.tables.items():
        folder.write_table(name, table)
    return answered.answers


def text_study(
    spec: TransportSpec,
    lens: DiTLens,
    sampling: Sampling,
    stats: ChannelStatistics,
    massive: ChannelSet,
    *,
    seeds: Sequence[int] = (0,),
    arms_per_forward: int | None = None,
) -> CarryStudy:
    """The study behind `transport_text`: a bundle for every pair and seed, with both directions.

    Raises:
        BadInput: naming the key under `transport` that does not fit.
    """
    from dit_lens.methods.transport import Blend, Carry, CarryStudy, Case, Donor, curve_carries
    from dit_lens.methods.transport.arms import BOUNDS, MASSIVE, family_carries
    from dit_lens.methods.transport.pairs import DIRECTIONS, EVERYTHING, read_pairs

    with naming("transport"):
        measures = carry_measures(lens, spec.alignment)
    given = (*(spec.pairs or ()), *(spec.far_pairs or ()))
    with naming("transport.pairs"):
        pairs = read_pairs(given, attributes="moved" in measures.names)
    setting = _setting(spec, lens, sampling, stats, massive)
    with naming("transport"):
        core = family_carries(setting, (MASSIVE, *spec.controls, *BOUNDS))
        partial = family_carries(setting, [MASSIVE], strengths=spec.strengths)
        curve = curve_carries(
            setting,
            {
                "blocks": [spec.block_ranges],
                "steps": spec.step_ranges,
                "k": spec.ks,
                "part": spec.parts,
            },
            k_families=(MASSIVE, _fair_for_k(spec)),
        )
    mixtures = {
        "latent_blend": (0.0, *spec.strengths, 1.0),
        "pixel_blend": (0.0, *spec.strengths, 1.0),
        "prompt_blend": (0.0, *spec.prompt_strengths, 1.0),
    }
    blends = [Carry(Blend(kind, float(s)), kind, float(s)) for kind, each in mixtures.items() for s in each]
    widest = sorted(pairs, key=lambda pair: pair.group != EVERYTHING)
    graded, curved = set(widest[: spec.strength_pairs]), set(widest[: spec.curve_pairs])

    def case(pair: Pair, number: int, seed: int, direction: str) -> Case:
        target, source = pair.ends(direction)
        carries = (*core, *blends, *(partial if pair in graded else ()), *(curve if pair in curved else ()))
        unit = f"pair-{number:03d}"
        return Case(target, seed, Donor.of_prompt(source), carries, unit, pair.group, direction)

    bundles = tuple(
        tuple(case(pair, number, seed, direction) for direction in DIRECTIONS)
        for number, pair in enumerate(pairs)
        for seed in spec.seeds or seeds
    )
    return CarryStudy(lens, bundles, sampling, measures, arms_per_forward)


def _fair_for_k(spec: TransportSpec) -> str:
    """The control along k: one that is drawn anew for every k."""
    kinds = ("random_rank_window", "random", "low")
    return next((kind for kind in kinds if kind in spec.controls), kinds[0])


def _cases(study: CarryStudy) -> list[Case]:
    return [case for bundle in study.bundles for case in bundle]


def _widest(study: CarryStudy) -> str:
    from dit_lens.methods.transport.pairs import EVERYTHING

    groups = [case.group for case in _cases(study)]
    return EVERYTHING if EVERYTHING in groups else groups[0]


# ----------------------------------------------------------------------------------------------- shared
def carry_measures(lens: DiTLens, clip: str | None) -> Measures:
    """The metrics of carrying that can be measured on a model; `clip` as in `default_measures`."""
    from dit_lens.methods.measures import default_measures
    from dit_lens.methods.transport.study import METRICS

    every = default_measures(lens, clip=clip)
    names = [name for name in every.names if name in METRICS or name.startswith("moved.")]
    ordered = sorted(names, key=lambda name: METRICS.index(name) if name in METRICS else len(METRICS))
    return replace(every, names=tuple(ordered))


def _setting(
    spec: TransportSpec, lens: DiTLens, sampling: Sampling, stats: ChannelStatistics, massive: ChannelSet
) -> Setting:
    from dit_lens.methods.questions import Setting

    if massive.is_empty:
        raise BadInput(
            "The rule finds no massive channel in any block, so there is nothing to carry. Choose channels "
            "by top_k, or by a lower ratio."
        )
    return Setting(
        massive=massive,
        stats=stats,
        num_blocks=lens.num_blocks,
        num_steps=sampling.steps,
        stream=massive.stream,
        controls={str(kind): draws for kind, draws in spec.controls.items()},
        seed=spec.draw_seed,
    )


def _stand_ins(
    steps: int | None, lens: DiTLens, sampling: Sampling, top_k: int
) -> tuple[Sampling, ChannelStatistics, ChannelSet]:
    """The stage's sampling, and channels that cost what those that discovery will choose cost."""
    import numpy as np

    from dit_lens.methods.placeholder_statistics import placeholder_statistics

    sampling = sampling.overridden({"steps": steps})
    stats = placeholder_statistics(lens, sampling, np.linspace(1.0, 0.0, sampling.steps + 1))
    return sampling, stats, stats.select(top_k=top_k)


def _run(
    study: CarryStudy,
    folder: RunFolder,
    gallery: CarryPictures,
    progress: bool,
    say: Say | None,
    what: str,
) -> CarryResult:
    from dit_lens.run.cells import CellStore

    if say is not None:
        each = len(_cases(study)[0].carries)
        say(f"{what}: {len(study.bundles)} bundles, about {each} ways each.")
    result = study.run(
        CellStore(folder.path), on_image=gallery.keep, images=gallery.wants, progress=progress, say=say
    )
    if say is not None and result.known:
        say(f"{result.known} of {result.known + result.computed} results were known.")
    return result


@dataclass(eq=False)
class CarryPictures:
    """Pictures for the report, kept in the run folder as they are made.

    Per unit: both unedited ends, massive channels at every strength, and every other way at strength 1; of
    the blends the middle strength.
    """

    folder: RunFolder
    units: tuple[str, ...]
    side: str
    prefix: str = "carry"
    middle: float = 0.5

    def __post_init__(self) -> None:
        self.there = {entry.file for entry in self.folder.images() if entry.kind == KIND}

    def _file(self, case: Case, name: str) -> str:
        return f"{self.prefix}-{case.unit}-{case.side}-seed-{case.seed}-{name}"

    def wants(self, case: Case, name: str) -> bool:
        """Whether this picture belongs to the gallery and is not there yet."""
        if case.unit not in self.units or case.side != self.side:
            return False
        if self._caption(case, name) is None:
            return False
        return f"{self._file(case, name)}.png" not in self.there

    def _caption(self, case: Case, name: str) -> str | None:
        """The picture's caption; None for what the gallery does not show."""
        from dit_lens.methods.transport.blends import KINDS

        if name in ("target", "source"):
            return name
        carry = next(each for each in case.carries if each.name == name)
        if carry.axis or carry.draw:
            return None
        if carry.family in KINDS:
            return carry.caption if carry.strength == self.middle else None
        return carry.caption

    def keep(self, case: Case, name: str, image: Image) -> None:
        """Write one picture."""
        file = self._file(case, name)
        self.folder.write_image(
            file,
            image,
            prompt=case.target,
            seed=case.seed,
            caption=self._caption(case, name) or "",
            kind=KIND,
        )
        self.there.add(f"{file}.png")
