"""What carrying from prompts and from pictures share: metrics, setting, running, pictures for the report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.analysis.stage_context import Asked, Chosen, Found
    from dit_lens.methods.measures import Measures
    from dit_lens.methods.questions import Setting
    from dit_lens.methods.transport import CarryResult, CarryStudy, Case
    from dit_lens.model.lens import DiTLens
    from dit_lens.run.records import RunFolder

KIND = "carry"
"""Of the pictures that these stages keep."""


def carry_measures(lens: DiTLens, clip: str | None, lpips: str | None) -> Measures:
    """The metrics of carrying that can be measured on a model; the rest as in `default_measures`."""
    from dit_lens.methods.measures import default_measures
    from dit_lens.methods.metrics import METRICS, in_transport

    every = default_measures(lens, clip=clip, lpips=lpips)
    # A mask is known here, and whether there is one is the case's.
    ordered = [name for name in in_transport() if name in every.names or "mask" in METRICS[name].needs]
    return replace(every, names=tuple(ordered))


def setting_of(asked: Asked, chosen: Chosen) -> Setting:
    """What the arms of carrying are declared for.

    Raises:
        BadInput: no massive channel, or a branch that the sampling does not have.
    """
    from dit_lens.methods.questions import Setting

    spec, massive, branches = asked.spec.transport, chosen.massive, asked.sampling.branches
    if massive.is_empty:
        raise BadInput(
            "The rule finds no massive channel in any block, so there is nothing to carry. Choose channels "
            "by top_k, or by a lower ratio."
        )
    if spec.branch not in ("both", *branches):
        raise BadInput.at(
            ("transport", "branch"),
            f"without guidance there is no branch {spec.branch!r} to carry channels in, "
            f"only {', '.join(branches)}. Leave it out, or set sampling.guidance_scale above 1.",
        )
    return Setting(
        massive=massive,
        stats=chosen.stats,
        num_blocks=asked.lens.num_blocks,
        num_steps=asked.sampling.steps,
        stream=massive.stream,
        branch=spec.branch,
        controls=dict(spec.controls),
        seed=spec.draw_seed,
    )


def run_study_of(study: CarryStudy, found: Found, gallery: CarryPictures, what: str) -> CarryResult:
    """Run what the folder does not hold of a study, and keep the pictures that the gallery wants."""
    from dit_lens.run.cells import CellStore

    each = len(study.cases[0].carries)
    found.say(f"Carrying {what}: {len(study.bundles)} bundles, about {each} ways each.")
    result = study.run(
        CellStore(found.folder.path),
        on_image=gallery.keep,
        images=gallery.wants,
        progress=found.progress,
        say=found.say,
    )
    if result.known:
        found.say(f"{result.known} of {result.known + result.computed} results were known.")
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
        return f"{self._pair(case)}-{name}"

    def _pair(self, case: Case) -> str:
        """What the pictures of one source and target have in common."""
        return f"{self.prefix}-{case.unit}-{case.side}-seed-{case.seed}"

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

    def _coords(self, case: Case, name: str) -> dict[str, Any]:
        """The caption for code, and which pictures stand together."""
        pair = {"pair": self._pair(case)}
        if name in ("target", "source"):
            return {**pair, "role": name}
        carry = next(each for each in case.carries if each.name == name)
        return {**pair, "role": "edited", "family": carry.family, "strength": carry.strength}

    def keep(self, case: Case, name: str, image: Image) -> None:
        """Write one picture."""
        file = self._file(case, name)
        self.folder.write_image(
            file,
            image,
            prompt=(case.donor.shows or "") if name == "source" else case.target,
            seed=case.seed,
            caption=self._caption(case, name) or "",
            kind=KIND,
            coords=self._coords(case, name),
        )
        self.there.add(f"{file}.png")
