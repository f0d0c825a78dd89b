"""Carrying from one prompt's run into another's, as a stage of an analysis: its plan, and a resumable run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from dit_lens.analysis.effects import naming
from dit_lens.analysis.transport_shared import (
    CarryPictures,
    carry_measures,
    run_study_of,
    setting_of,
)
from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph

if TYPE_CHECKING:
    from dit_lens.analysis.stage_context import Asked, Chosen, Found
    from dit_lens.analysis.transport_spec import TransportSpec
    from dit_lens.methods.answers import Answer
    from dit_lens.methods.study import StudyPlan
    from dit_lens.methods.transport import Carry, CarryStudy, Case, Pair
    from dit_lens.methods.transport.subjects import Masks


def plan_text(asked: Asked) -> StudyPlan:
    """Check `transport_text` against a model and price it; the transformer does not run.

    All tokens stand in for masks, which cost the same; the runs that masks are read off are counted.

    Raises:
        BadInput: naming the key under `transport` that does not fit.
    """
    asked = asked.at_steps(asked.spec.transport.steps)
    _require_blocks(asked)
    _require_image_tokens(asked)
    study = text_study(asked, asked.stand_in)
    with naming("transport"):
        plan = study.plan()
    if asked.spec.transport.tokens == "all":
        return plan
    case = study.cases[0]
    one = InterventionGraph(sampling=asdict(asked.sampling))
    one.trajectory(prompt=case.target, seed=case.seed, until="end")
    return plan.with_more(one.plan(asked.lens, sham=False), len(set(_runs(study))))


def run_text(asked: Asked, found: Found) -> tuple[Answer, ...]:
    """Run what the folder does not hold yet; write tables and pictures, and return the answers.

    Tables: `transport`, `transport_curves`, and every single value in `transport_effects`.

    Raises:
        BadInput: naming the key that does not fit. RunFailure: what was finished is kept.
    """
    from dit_lens.methods.questions.arm_sets import edited_blocks
    from dit_lens.methods.questions.transport import Transport
    from dit_lens.report.text import count

    _require_blocks(asked)
    spec, held = asked.spec.transport, len(edited_blocks(found.massive))
    if spec.curve_pairs and spec.block_ranges > held:
        found.say(
            f"transport.block_ranges is {spec.block_ranges}, and {count(held, 'block')} "
            f"{'holds' if held == 1 else 'hold'} massive channels: depth is cut into {held}."
        )
    asked = asked.at_steps(spec.steps)
    study = text_study(asked, found.chosen)
    if spec.tokens != "all":
        study = text_study(asked, found.chosen, _masks(asked, found, study), found.say)
    far = [case.unit for case in study.cases if case.group == _widest(study)]
    units = tuple(dict.fromkeys(far))[: spec.gallery]
    result = run_study_of(study, found, CarryPictures(found.folder, units, side="forward"), "from prompts")
    found.folder.write_table("transport_effects", result.effects)
    answered = Transport("transport_text").answer(result.effects, metrics=study.measures.names)
    for name, table in answered.tables.items():
        found.folder.write_table(name, table)
    return answered.answers


def _require_blocks(asked: Asked) -> None:
    """Raise BadInput for more ranges of depth than a model has blocks; the default fits every model."""
    spec, blocks = asked.spec.transport, asked.lens.num_blocks
    if spec.curve_pairs and spec.block_ranges > max(blocks, type(spec)().block_ranges):
        raise BadInput.at(
            ("transport", "block_ranges"),
            f"{asked.lens.name} has {blocks} blocks, which cannot be cut into "
            f"{spec.block_ranges} ranges; ask for at most {blocks}.",
        )


def _require_image_tokens(asked: Asked) -> None:
    """Raise BadInput for a subject's tokens in a stream that has no image."""
    from dit_lens.methods.transport.subjects import require_image_stream

    if asked.spec.transport.tokens != "all":
        with naming("transport.tokens"):
            require_image_stream(asked.spec.channels.stream)


def _runs(study: CarryStudy) -> list[tuple[str, int]]:
    """(prompt, seed) of every target; every source is one in the other direction."""
    return [(case.target, case.seed) for case in study.cases]


def _masks(asked: Asked, found: Found, study: CarryStudy) -> Masks:
    """The subject in every unedited run of a study."""
    from dit_lens.methods.transport.subjects import subjects

    prompts, seeds = (list(dict.fromkeys(each)) for each in zip(*_runs(study), strict=True))
    found.say(f"Subjects: masks of {len(prompts) * len(seeds)} unedited runs, by massive channels.")
    return subjects(asked.lens, found.massive, prompts, seeds, asked.sampling, progress=found.progress)


def text_study(
    asked: Asked, chosen: Chosen, masks: Masks | None = None, say: Callable[[str], None] | None = None
) -> CarryStudy:
    """The study behind `transport_text`: a bundle for every pair and seed, with both directions.

    `masks` are of the runs of all prompts, where `transport.tokens` asks for some; without, all tokens stand
    in for them. `say` is told of pairs without a subject.

    Raises:
        BadInput: naming the key under `transport` that does not fit.
    """
    from dit_lens import zoo
    from dit_lens.methods.transport import Blend, Carry, CarryStudy, Case, Donor, curve_carries
    from dit_lens.methods.transport.arms import BOUNDS, MASSIVE, family_carries
    from dit_lens.methods.transport.cases import SUBJECT
    from dit_lens.methods.transport.pairs import DIRECTIONS, EVERYTHING, read_pairs
    from dit_lens.methods.transport.subjects import tokens_between
    from dit_lens.zoo.scenes import IMAGE_SIZE

    spec, lens, sampling = asked.spec.transport, asked.lens, asked.sampling
    with naming("transport"):
        measures = carry_measures(lens, spec.alignment, spec.lpips)
    given = (*(spec.pairs or ()), *(spec.far_pairs or ()))
    with naming("transport.pairs"):
        pairs = read_pairs(given, attributes="moved" in measures.names)
    setting = setting_of(asked, chosen)
    axes = {"blocks": [spec.block_ranges], "steps": spec.step_ranges, "k": spec.ks, "part": spec.parts}

    @cache
    def edits(tokens: Any) -> tuple[tuple[Carry, ...], ...]:
        """Massive channels and all others, at more strengths, and along the curves."""
        with naming("transport"):
            return (
                family_carries(setting, (MASSIVE, *spec.controls, *BOUNDS), tokens=tokens),
                family_carries(setting, [MASSIVE], strengths=spec.strengths, tokens=tokens),
                curve_carries(setting, axes, k_families=(MASSIVE, _fair_for_k(spec)), tokens=tokens),
            )

    edits("all")  # a fault of theirs is found here, whatever is masked
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
        tokens: Any = "all"
        if masks is not None:
            ends = masks[source, seed], masks[target, seed]
            tokens = tokens_between(spec.tokens, *ends, say=say, name=f"{source} → {target}")
        core, partial, curve = edits(tokens)
        carries = (*core, *blends, *(partial if pair in graded else ()), *(curve if pair in curved else ()))
        unit = f"pair-{number:03d}"
        return Case(target, seed, Donor.of_prompt(source), carries, unit, pair.group, direction, mask)

    bundles = tuple(
        tuple(case(pair, number, seed, direction) for direction in DIRECTIONS)
        for number, pair in enumerate(pairs)
        for seed in spec.seeds or asked.seeds
    )
    return CarryStudy(lens, bundles, sampling, measures, asked.spec.effects.arms_per_forward)


def _fair_for_k(spec: TransportSpec) -> str:
    """The control along k: one that is drawn anew for every k."""
    from dit_lens.methods.controls import channels_alone

    kinds = channels_alone("transport")
    return next((kind for kind in kinds if kind in spec.controls), kinds[0])


def _widest(study: CarryStudy) -> str:
    from dit_lens.methods.transport.pairs import EVERYTHING

    groups = [case.group for case in study.cases]
    return EVERYTHING if EVERYTHING in groups else groups[0]
