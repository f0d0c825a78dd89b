"""Detail Guidance as a stage of an analysis: its plan, and a resumable run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dit_lens.analysis.effects import naming

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.analysis.stage_context import Asked, Chosen, Found
    from dit_lens.methods.answers import Answer
    from dit_lens.methods.study import StudyPlan
    from dit_lens.methods.transport.guidance import GuidanceStudy, Guided
    from dit_lens.run.records import RunFolder


def plan_guidance(asked: Asked) -> StudyPlan:
    """Check `detail_guidance` against a model and price it; the transformer does not run.

    Raises:
        BadInput: naming the key under `guidance` that does not fit.
    """
    asked = asked.at_steps(asked.spec.guidance.steps)
    with naming("guidance"):
        return guidance_study(asked, asked.stand_in).plan()


def run_guidance(asked: Asked, found: Found) -> tuple[Answer, ...]:
    """Run what the folder does not hold yet; write tables and pictures, and return the answers.

    Tables: `guidance`, and every single value in `guidance_effects`.

    Raises:
        BadInput: naming the key that does not fit. RunFailure: what was finished is kept.
    """
    from dit_lens.methods.questions.detail_guidance import answer
    from dit_lens.run.cells import CellStore

    spec, folder = asked.spec.guidance, found.folder
    with naming("guidance"):
        study = guidance_study(asked.at_steps(spec.steps), found.chosen)
    found.say(f"Guidance: {len(study.guided)} guidances of {len(study.prompts)} prompts.")
    guided = {each.name: each for each in study.all()}
    gallery = GuidePictures(folder, study.prompts[: spec.gallery], study.cfg[0], guided)
    effects = study.run(
        CellStore(folder.path), on_image=gallery.keep, images=gallery.wants, progress=found.progress
    )
    folder.write_table("guidance_effects", effects)
    answered = answer(effects, metrics=study.measures.names)
    for name, table in answered.tables.items():
        folder.write_table(name, table)
    return answered.answers


def guidance_study(asked: Asked, chosen: Chosen) -> GuidanceStudy:
    """The study behind `detail_guidance`, on the first held-out prompts."""
    from dit_lens.methods.controls import controls, random_rank_window
    from dit_lens.methods.measures import default_measures
    from dit_lens.methods.metrics import in_guidance
    from dit_lens.methods.transport.guidance import GuidanceStudy, Guided
    from dit_lens.model.hook_points import parse_blocks

    spec, lens, sampling, massive = asked.spec.guidance, asked.lens, asked.sampling, chosen.massive
    every = default_measures(lens, spec.metrics, clip=spec.alignment, lpips=spec.lpips)
    wanted = spec.metrics or tuple(name for name in in_guidance() if name in every.names)
    blocks = parse_blocks(spec.blocks, lens.num_blocks)
    beside = random_rank_window.CONTROL.name
    window = controls(massive, chosen.stats, beside, seed=spec.draw_seed)[0].channels
    assert window is not None
    guided = tuple(
        Guided(family, float(weight), {b: tuple(held.blocks.get(b, ())) for b in blocks}, massive.stream)
        for family, held in (("massive", massive), (beside, window))
        for weight in spec.weights
    )
    cfg = tuple(on for on in spec.cfg if sampling.guided or not on) or (False,)
    return GuidanceStudy(
        lens,
        guided,
        asked.held_out[: spec.prompts],
        tuple(spec.seeds or asked.seeds),
        cfg,
        sampling,
        replace(every, names=tuple(wanted)),
        asked.spec.effects.arms_per_forward,
    )


@dataclass(eq=False)
class GuidePictures:
    """Pictures of guidance for the report: the unguided image, and every weight of every family."""

    folder: RunFolder
    prompts: tuple[str, ...]
    cfg: bool
    guided: Mapping[str, Guided]

    def __post_init__(self) -> None:
        self.there = {entry.file for entry in self.folder.images() if entry.kind == "guide"}

    def _file(self, name: str, prompt: str, seed: int) -> str:
        return f"{self._pair(prompt, seed)}-{name}"

    def _pair(self, prompt: str, seed: int) -> str:
        return f"guide-{self.prompts.index(prompt):02d}-seed-{seed}"

    def wants(self, name: str, prompt: str, seed: int, cfg: bool) -> bool:
        """Whether this picture belongs to the gallery and is not there yet."""
        shown = prompt in self.prompts and cfg == self.cfg
        return shown and f"{self._file(name, prompt, seed)}.png" not in self.there

    def keep(self, name: str, prompt: str, seed: int, cfg: bool, image: Image) -> None:
        """Write one picture."""
        file, guided = self._file(name, prompt, seed), self.guided[name]
        coords: dict[str, Any] = {"pair": self._pair(prompt, seed), "role": "target"}
        caption = "target"
        if guided.weight:
            coords |= {"role": "edited", "family": guided.family, "strength": guided.weight}
            caption = f"{guided.family} {guided.weight:g}"
        self.folder.write_image(
            file, image, prompt=prompt, seed=seed, caption=caption, kind="guide", coords=coords
        )
        self.there.add(f"{file}.png")
