"""What the spatial question leaves in a run folder while it runs: rows of masks, and pictures of a few."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from dit_lens.methods.spatial import Clustering, Harvest, Mask, MeasuredSample, Truth
    from dit_lens.model.lens import DiTLens
    from dit_lens.run.records import RunFolder

TABLE = "spatial"
"""Every mask of every sample; `spatial_blocks` and `spatial_k` are means of it."""

CALIBRATION, FAMILIES, OVER_K = "calibration", "families", "over_k"
"""What a row of the table belongs to: its column `study`."""

MASK = "mask"
"""The kind of the pictures that show masks."""

THUMBNAIL = 192
"""Longest side of these pictures, in pixels; larger ones are reduced to it."""

Sample = tuple[str, int]
Row = tuple[Any, ...]


class MaskRows:
    """The rows of the table, on disk after every batch; what an earlier run left of this question is kept."""

    def __init__(self, folder: RunFolder, how: Clustering) -> None:
        from dit_lens.methods.spatial.study import COLUMNS

        self.folder, self.how = folder, how
        self.columns = ["study", *COLUMNS]
        self.held: dict[tuple[str, Sample], list[Row]] = {}
        if TABLE in folder.table_names:
            self._load(folder.table(TABLE))

    def _load(self, frame: pd.DataFrame) -> None:
        if list(frame.columns) != self.columns:
            return  # another version's: made again
        how = self.how
        for name, value in (
            ("normalise", how.normalise),
            ("method", how.method),
            ("clusters", how.clusters),
            ("rule", how.rule),
        ):
            frame = frame[frame[name] == value]
        for row in frame.itertuples(index=False, name=None):
            self.held.setdefault((row[0], (row[1], row[2])), []).append(row)

    def fill(
        self,
        lens: DiTLens,
        harvest: Harvest,
        truth: Truth,
        *,
        studies: tuple[str, ...],
        overlays: Overlays | None = None,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> int:
        """Measure the samples that are not there completely, in the harvest's order; says how many were."""
        from dit_lens.methods.spatial import measured_samples
        from dit_lens.methods.spatial.harvest import ROWS
        from dit_lens.model.sampling import default_batch_size

        complete = {
            (*_named(place.family, studies), place.draw, place.k, place.block, place.step, place.branch)
            for place in harvest.places
        }
        # What is not asked for (any more) must not be judged.
        asked = set(harvest.samples)
        self.held = {key: rows for key, rows in self.held.items() if key[0] not in studies or key[1] in asked}
        pending = tuple(
            sample
            for sample in harvest.samples
            if self._places(sample, studies) != complete or (overlays is not None and overlays.wants(sample))
        )
        size = batch_size or default_batch_size(ROWS, harvest.grid[0] * harvest.grid[1])
        measured = measured_samples(
            lens,
            replace(harvest, samples=pending),
            truth,
            self.how,
            pictures=any(overlays.wants(sample) for sample in pending) if overlays else False,
            batch_size=size,
            progress=progress,
        )
        for number, each in enumerate(measured if pending else (), start=1):
            self._take(each, studies)
            if overlays is not None:
                overlays.keep(each)
            if number % size == 0 or number == len(pending):
                # Pictures come first: rows on disk mean that the sample is done.
                self._save(harvest, studies)
        return len(harvest.samples) - len(pending)

    def table(self, *studies: str) -> pd.DataFrame:
        """The rows of these studies, of all without a name."""
        import pandas as pd

        rows = [
            row for (study, _), held in self.held.items() if study in (studies or (study,)) for row in held
        ]
        return pd.DataFrame(rows, columns=self.columns)

    def _take(self, each: MeasuredSample, studies: tuple[str, ...]) -> None:
        sample = (each.sample.prompt, each.sample.seed)
        found: dict[str, list[Row]] = {study: [] for study in studies}
        for prompt, seed, name, *rest in each.rows:
            study, family = _named(name, studies)
            found[study].append((study, prompt, seed, family, *rest))
        for study in studies:
            self.held[study, sample] = found[study]

    def _save(self, harvest: Harvest, studies: tuple[str, ...]) -> None:
        """Write all rows, those of these studies in the harvest's order, so that a resumed run ends alike."""
        others = {key: rows for key, rows in self.held.items() if key[0] not in studies}
        own = {
            (study, sample): self.held[study, sample]
            for study in studies
            for sample in harvest.samples
            if (study, sample) in self.held
        }
        self.held = {**others, **own}
        self.folder.write_table(TABLE, self.table())

    def _places(self, sample: Sample, studies: tuple[str, ...]) -> set[tuple[Any, ...]]:
        at = [
            self.columns.index(name) for name in ("study", "family", "draw", "k", "block", "step", "branch")
        ]
        return {tuple(row[i] for i in at) for study in studies for row in self.held.get((study, sample), ())}


def _named(family: str, studies: tuple[str, ...]) -> tuple[str, str]:
    """(study, family): families over k bear their study and place before their own name."""
    study, slash, rest = family.partition("/")
    return (study, rest.partition("/")[2]) if slash else (studies[0], family)


@dataclass
class Overlays:
    """Pictures of a few prompts: as generated, with the true mask, and with the massive channels' masks after
    every block at one step. Their captions say which."""

    folder: RunFolder
    prompts: tuple[str, ...]
    seed: int
    step: int

    def __post_init__(self) -> None:
        self.there = {(entry.prompt, entry.seed) for entry in self.folder.images() if entry.kind == MASK}

    def wants(self, sample: Sample) -> bool:
        """Whether this sample is shown and its pictures are not there yet."""
        return sample[0] in self.prompts and sample[1] == self.seed and sample not in self.there

    def keep(self, measured: MeasuredSample) -> None:
        """Write the pictures of one sample, where it is wanted."""
        sample = measured.sample
        if not self.wants((sample.prompt, sample.seed)):
            return
        picture = sample.picture
        assert picture is not None
        ious = {(row[2], row[4], row[5]): row[12] for row in measured.rows}
        shown: list[tuple[str, str, Mask | None]] = [("0-picture", "generated image", None)]
        if measured.truth is not None:
            shown.append(("1-truth", "true mask", measured.truth))
        for place, found in sample.masks.items():
            if (place.family, place.step) == ("massive", self.step):
                iou = ious["massive", place.block, place.step]
                overlap = f", IoU {iou:.2f}" if iou == iou else ""
                caption = f"after block {place.block}, step {place.step}{overlap}"
                shown.append((f"2-block-{place.block:03d}", caption, found.mask))
        number = self.prompts.index(sample.prompt)
        for name, caption, mask in shown:
            self.folder.write_image(
                f"{MASK}-{number:02d}-seed-{self.seed}-{name}",
                thumbnail(picture if mask is None else mask.overlay(picture)),
                prompt=sample.prompt,
                seed=sample.seed,
                caption=caption,
                kind=MASK,
            )
        self.there.add((sample.prompt, sample.seed))


def thumbnail(picture: Image) -> Image:
    """The picture at `THUMBNAIL` pixels where it is larger."""
    from PIL import Image as images

    longest = max(picture.size)
    if longest <= THUMBNAIL:
        return picture
    width, height = (max(1, round(side * THUMBNAIL / longest)) for side in picture.size)
    return picture.resize((width, height), images.Resampling.LANCZOS)
