"""Which pictures of judged runs a run folder keeps, for the report to show.

A picture is kept where a run makes one anyway. The gallery alone may ask for a run again: it promises every
arm of a prompt, and an interrupted run may have lost some.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from dit_lens.methods.arms import CLEAN

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.methods.arms import Arm
    from dit_lens.run.records import RunFolder
    from dit_lens.run.run_record import ImageEntry

Keeper = TypeVar("Keeper", bound="Kept")

MOST_CELL_PROMPTS = 2  # prompts of a map whose cells are pictured
MOST_CELLS = 1500  # pictures of one map; the first prompt is always pictured
CELL_SIDE = 96  # pixels of the longer side of a cell's picture


class Kept:
    """Pictures that are written as they come, and enter the run folder's index once per prompt.

    To be used as a context: what was written is in the index when it ends, by an error too.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._written: list[ImageEntry] = []

    def __enter__(self: Keeper) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self._enter()

    def _write(self, name: str, image: Image, *, prompt: str, seed: int, caption: str, kind: str) -> None:
        if self._written and self._written[-1].prompt != prompt:
            self._enter()
        about: dict[str, Any] = {"prompt": prompt, "seed": seed, "caption": caption, "kind": kind}
        self._written.append(self.folder.write_picture(name, image, **about))

    def _enter(self) -> None:
        written, self._written = self._written, []
        self.folder.index_images(written)


class Gallery(Kept):
    """Pictures of every arm for a few prompts, kept in the run folder as they are made."""

    KIND = "arm"

    def __init__(self, folder: RunFolder, prompts: tuple[str, ...]) -> None:
        super().__init__(folder)
        self.prompts = prompts
        self.there = {
            (entry.caption, entry.prompt, entry.seed) for entry in folder.images() if entry.kind == self.KIND
        }

    def wants(self, arm: Arm, prompt: str, seed: int) -> bool:
        """Whether this picture belongs to the gallery and is not there yet."""
        return (
            prompt in self.prompts
            and arm.readout == "final"
            and arm.protocol != "single_cell"
            and (arm.name, prompt, seed) not in self.there
        )

    def keep(self, arm: Arm, prompt: str, seed: int, image: Image) -> None:
        """Write one picture."""
        number = self.prompts.index(prompt)
        self._write(
            f"arm-{number:02d}-seed-{seed}-{arm.name}",
            image,
            prompt=prompt,
            seed=seed,
            caption=arm.name,
            kind=self.KIND,
        )
        self.there.add((arm.name, prompt, seed))


class CellPictures(Kept):
    """Small pictures of a map's cells for its first prompts, beside the unedited one.

    Nothing is asked of the study: `keep` takes what it is offered, and leaves the rest.
    """

    KIND = "cell"

    def __init__(
        self, folder: RunFolder, study: str, prompts: Iterable[str], arms: Iterable[Arm], most: int
    ) -> None:
        super().__init__(folder)
        self.study = study
        cells = sum(arm.protocol == "single_cell" and arm.readout == "final" for arm in arms)
        amount = min(most, MOST_CELL_PROMPTS, max(1, MOST_CELLS // max(1, cells)))
        self.prompts = tuple(prompts)[:amount] if cells else ()

    def keep(self, arm: Arm, prompt: str, seed: int, image: Image) -> None:
        """Write one picture, if it is one of these."""
        wanted = arm.name == CLEAN.name or (arm.protocol == "single_cell" and arm.readout == "final")
        if prompt not in self.prompts or not wanted:
            return
        small = image.copy()
        small.thumbnail((CELL_SIDE, CELL_SIDE))
        self._write(
            f"cell-{self.study}-{self.prompts.index(prompt):02d}-seed-{seed}-{arm.name}",
            small,
            prompt=prompt,
            seed=seed,
            caption=arm.name,
            kind=self.KIND,
        )
