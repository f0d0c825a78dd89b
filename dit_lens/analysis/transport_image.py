"""Carrying from pictures into a prompt's run, as a stage of an analysis: its plan, and a resumable run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dit_lens.analysis.effects import naming
from dit_lens.analysis.transport_shared import CarryPictures, carry_measures, run_study_of, setting_of
from dit_lens.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from dit_lens.analysis.stage_context import Asked, Chosen, Found
    from dit_lens.methods.answers import Answer
    from dit_lens.methods.spatial import Mask
    from dit_lens.methods.study import StudyPlan
    from dit_lens.methods.transport import CarryStudy, Case
    from dit_lens.methods.transport.pictures import Picture
    from dit_lens.model.given import GivenPath

Made = tuple["Picture", int, str, "GivenPath", Any]
"""A picture, the seed of its noise, the origin of its path, the path, and the tokens to carry."""


def plan_image(asked: Asked) -> StudyPlan:
    """Check `transport_image` against a model and price it; the transformer does not run.

    The pictures are read and checked, and stand in for their latents; undoing the sampler from them comes on
    top, about as many forwards for a picture as for an image, eight times.

    Raises:
        BadInput: naming the key under `transport` or `source` that does not fit.
    """
    asked = asked.at_steps(asked.spec.transport.steps)
    pictures = source_pictures(asked)
    _mask_block(asked)
    _mask_file(asked)
    made: list[Made] = [
        (picture, seed, origin, _stand_in_path(asked, picture), "all")
        for picture in pictures
        for seed in _seeds(asked)
        for origin in asked.spec.source.origins
    ]
    study = image_study(asked, asked.stand_in, made)
    with naming("transport"):
        return study.plan()


def run_image(asked: Asked, found: Found) -> tuple[Answer, ...]:
    """Run what the folder does not hold yet; write tables and pictures, and return the answers.

    Tables: `transport_image`, every single value in `transport_image_effects`, and `inversions`: for every
    picture, how well sampling from its inverted path leads back to it (psnr, dB).

    Raises:
        BadInput: naming the key that does not fit. RunFailure: what was finished is kept.
    """
    from dit_lens.methods.questions.transport import Transport
    from dit_lens.report.inversions import inversions_said
    from dit_lens.report.text import count

    asked = asked.at_steps(asked.spec.transport.steps)
    source, folder = asked.spec.source, found.folder
    pictures = source_pictures(asked)
    targets = f", carried into {count(len(pictures), 'target')}" if source.image is not None else ""
    shown = 1 if source.image is not None else len(pictures)
    found.say(f"Pictures: {shown}, {' and '.join(source.origins)}{targets}.")
    given = _mask_file(asked)
    if given is not None and given.is_full:
        found.say(
            f"{source.mask} covers every token, so nothing lies outside of it: change inside and outside of "
            "it cannot be compared."
        )
    made, inversions = _made(asked, found, pictures, given)
    folder.write_table("inversions", inversions)
    if len(inversions):
        found.say(inversions_said(inversions))
    study = image_study(asked, found.chosen, made)
    units = tuple(dict.fromkeys(picture.unit for picture in pictures))[: asked.spec.transport.gallery]
    gallery = CarryPictures(folder, units, side=source.origins[0], prefix="carry-image")
    result = run_study_of(study, found, gallery, "from pictures")
    folder.write_table("transport_image_effects", result.effects)
    unit = "picture" if source.image is None else "target"
    answered = Transport("transport_image", unit).answer(result.effects, metrics=study.measures.names)
    for name, table in answered.tables.items():
        folder.write_table(name, table)
    return answered.answers


def _made(
    asked: Asked, found: Found, pictures: Sequence[Picture], given: Mask | None
) -> tuple[list[Made], pd.DataFrame]:
    """Every picture's paths with the tokens to carry, and the table `inversions`: a row per picture."""
    from dit_lens.methods.transport.pictures import FOLDER, Paths, inversions, subject, tokens_of

    source, seeds, block = asked.spec.source, _seeds(asked), _mask_block(asked)
    paths = Paths(asked.lens, asked.sampling, found.folder.path / FOLDER)
    made: list[Made] = []
    psnr: dict[str, float] = {}
    masks: dict[Any, Any] = {}  # of a picture that goes into several targets, found once
    for picture in pictures:
        for seed in seeds:
            for origin in source.origins:
                # No noise is mixed into an inverted picture, so that its path is the same for every seed.
                drawn = seed if origin == "noised" else seeds[0]
                path, psnr_of_it = paths.of(picture, origin, drawn)
                if psnr_of_it is not None:
                    psnr[picture.digest] = psnr_of_it
                tokens: Any = "all" if given is None else given
                if source.mask == "segment":
                    key = (picture.digest, drawn, origin)
                    if key not in masks:
                        with naming("source.mask_block"):
                            mask = subject(
                                asked.lens,
                                path,
                                found.massive,
                                block=block,
                                seed=drawn,
                                sampling=asked.sampling,
                            )
                        masks[key] = tokens_of(mask, picture, found.say)
                    tokens = masks[key]
                made.append((picture, seed, origin, path, tokens))
    return made, inversions(pictures, psnr, asked.sampling.steps)


def _seeds(asked: Asked) -> tuple[int, ...]:
    """Seeds of the noise that pictures are mixed with, and of the targets' runs."""
    return asked.spec.transport.seeds or asked.seeds


def image_study(asked: Asked, chosen: Chosen, made: Sequence[Made]) -> CarryStudy:
    """The study behind `transport_image`: a bundle for every picture, target and seed, with all its origins.

    Raises:
        BadInput: naming the key under `transport` that does not fit.
    """
    from dit_lens.methods.spatial import Mask
    from dit_lens.methods.transport import Blend, Carry, CarryStudy, Case, Donor
    from dit_lens.methods.transport.arms import BOUNDS, MASSIVE, family_carries
    from dit_lens.methods.transport.pairs import EVERYTHING

    spec, lens = asked.spec.transport, asked.lens
    with naming("transport"):
        measures = carry_measures(lens, spec.alignment, spec.lpips)
    setting = setting_of(asked, chosen)
    graded = set(list(dict.fromkeys(picture.unit for picture, *_ in made))[: spec.strength_pairs])
    mixtures = [
        Carry(Blend(kind, float(s)), kind, float(s))
        for kind in ("latent_blend", "pixel_blend")
        for s in (0.0, *spec.strengths, 1.0)
    ]
    bundles: dict[tuple[str, int], list[Case]] = {}
    for picture, seed, origin, path, tokens in made:
        with naming("transport"):
            core = family_carries(setting, (MASSIVE, *spec.controls, *BOUNDS), tokens=tokens)
            partial = family_carries(setting, [MASSIVE], strengths=spec.strengths, tokens=tokens)
        carries = (*core, *mixtures, *(partial if picture.unit in graded else ()))
        donor = Donor(picture.prompt, picture.shows, path)
        mask = tokens if isinstance(tokens, Mask) else None
        case = Case(picture.target, seed, donor, carries, picture.unit, EVERYTHING, origin, mask)
        bundles.setdefault((picture.unit, seed), []).append(case)
    grouped = tuple(map(tuple, bundles.values()))
    return CarryStudy(lens, grouped, asked.sampling, measures, asked.spec.effects.arms_per_forward)


def source_pictures(asked: Asked) -> tuple[Picture, ...]:
    """The pictures that a spec names, each with its target.

    Raises:
        BadInput: a picture that cannot be read or is of another size, scenes on another model.
    """
    from dit_lens import zoo
    from dit_lens.methods.transport.pictures import Picture, rendered
    from dit_lens.model.pictures import read_picture

    source, lens = asked.spec.source, asked.lens
    size = (asked.sampling.height, asked.sampling.width)
    if source.image is not None:
        with naming("source.image"):
            pixels = read_picture(source.image, size, background=source.background, resize=source.resize)
        targets = source.targets
        if targets is None:
            if lens.name not in zoo.names():
                raise BadInput(
                    f"source.targets is missing: name prompts of {lens.name} into whose runs "
                    f"{source.image} is carried."
                )
            targets = tuple(p.target for p in rendered(source.scenes, source.scene_seed, size))
        return tuple(
            Picture(f"target-{i:03d}", pixels, source.shows, source.prompt or "", target)
            for i, target in enumerate(targets)
        )
    if lens.name not in zoo.names():
        raise BadInput(
            f"source.image is missing: scenes can be rendered for the embedded models alone, and this is "
            f"{lens.name}. Name a picture, and source.targets."
        )
    with naming("source.scenes"):
        found = rendered(source.scenes, source.scene_seed, size, prompt=source.prompt)
    if source.targets is None:
        return found
    if len(source.targets) != len(found):
        raise BadInput.at(
            ("source", "targets"),
            f"{len(source.targets)} prompts for {len(found)} scenes; give one for each, or none.",
        )
    return tuple(replace(p, target=target) for p, target in zip(found, source.targets, strict=True))


def _mask_block(asked: Asked) -> int:
    from dit_lens.model.hook_points import parse_blocks

    source = asked.spec.source
    with naming("source.mask_block"):
        blocks = parse_blocks(source.mask_block, asked.lens.num_blocks)
        if len(blocks) != 1:
            raise BadInput(f"{source.mask_block!r} names {len(blocks)} blocks; name one.")
    return blocks[0]


def _mask_file(asked: Asked) -> Mask | None:
    """The mask of a file; None where none was named.

    Raises:
        BadInput: no mask, of another size, or empty.
    """
    from dit_lens.methods.spatial import Mask

    source, sampling = asked.spec.source, asked.sampling
    if source.mask in ("segment", "whole"):
        return None
    with naming("source.mask"):
        mask = Mask.load(source.mask, asked.lens.token_grid(sampling.height, sampling.width))
        if mask.is_empty:
            raise BadInput(f"{source.mask} covers no token, so nothing would be carried.")
        size = (sampling.height, sampling.width)
        if mask.image_size is not None and mask.image_size != size:
            raise BadInput(
                f"{source.mask} was made for pictures of {mask.image_size[0]} × {mask.image_size[1]} pixels, "
                f"and the run's are {size[0]} × {size[1]}. Make it for this size; nothing is resized."
            )
    return mask


def _stand_in_path(asked: Asked, picture: Picture) -> GivenPath:
    """A path of the right shape and no meaning, to be planned with."""
    import torch

    from dit_lens.model.given import GivenPath

    start = asked.lens.prepare_rows([picture.target], [0], asked.sampling)
    shape = (asked.sampling.steps + 1, *start.latents.shape[1:])
    return GivenPath(torch.zeros(shape), tuple(start.sigmas.tolist()), picture.prompt, seed=0)
