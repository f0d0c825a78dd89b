"""Carrying from one prompt's run into another's, as a stage of an analysis: its plan, and a resumable run.

Carrying from pictures and Detail Guidance have modules of their own; all are named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dit_lens.analysis.effects import naming
from dit_lens.analysis.guidance import plan_guidance, run_guidance
from dit_lens.analysis.transport_image import plan_image, run_image
from dit_lens.analysis.transport_shared import (
    CarryPictures,
    Say,
    carry_measures,
    cases_of,
    run_study_of,
    setting_of,
    stand_ins,
)
from dit_lens.analysis.transport_spec import GuidanceSpec, SourceSpec, TransportSpec

if TYPE_CHECKING:
    from dit_lens.methods.answers import Answer
    from dit_lens.methods.channels import ChannelSet, ChannelStatistics
    from dit_lens.methods.study import StudyPlan
    from dit_lens.methods.transport import CarryStudy, Case, Pair
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.records import RunFolder

__all__ = [
    "GuidanceSpec", "SourceSpec", "TransportSpec",
    "plan_text", "run_text", "plan_image", "run_image", "plan_guidance", "run_guidance",
]  # fmt: skip


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
    sampling, stats, massive = stand_ins(spec.steps, lens, sampling, top_k)
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
    far = [case.unit for case in cases_of(study) if case.group == _widest(study)]
    gallery = CarryPictures(folder, tuple(dict.fromkeys(far))[: spec.gallery], side="forward")
    result = run_study_of(study, folder, gallery, progress, say, "Carrying from prompts")
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
    from dit_lens import zoo
    from dit_lens.methods.transport import Blend, Carry, CarryStudy, Case, Donor, curve_carries
    from dit_lens.methods.transport.arms import BOUNDS, MASSIVE, family_carries
    from dit_lens.methods.transport.cases import SUBJECT
    from dit_lens.methods.transport.pairs import DIRECTIONS, EVERYTHING, read_pairs
    from dit_lens.zoo.scenes import IMAGE_SIZE

    with naming("transport"):
        measures = carry_measures(lens, spec.alignment, spec.lpips)
    given = (*(spec.pairs or ()), *(spec.far_pairs or ()))
    with naming("transport.pairs"):
        pairs = read_pairs(given, attributes="moved" in measures.names)
    setting = setting_of(spec, lens, sampling, stats, massive)
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

    size = (sampling.height, sampling.width)
    mask = SUBJECT if lens.name in zoo.names() and size == (IMAGE_SIZE, IMAGE_SIZE) else None

    def case(pair: Pair, number: int, seed: int, direction: str) -> Case:
        target, source = pair.ends(direction)
        carries = (*core, *blends, *(partial if pair in graded else ()), *(curve if pair in curved else ()))
        unit = f"pair-{number:03d}"
        return Case(target, seed, Donor.of_prompt(source), carries, unit, pair.group, direction, mask)

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


def _widest(study: CarryStudy) -> str:
    from dit_lens.methods.transport.pairs import EVERYTHING

    groups = [case.group for case in cases_of(study)]
    return EVERYTHING if EVERYTHING in groups else groups[0]
