"""What a report is made of: a section is a small value, and a function from a run to a section makes it.

To add a section, write one such function and put it into a list of sections:

    def my_question(run: RunView) -> Section:
        table = run.table("my_table")
        return Section(
            id="my-question", title="…", lead="…", table="my_table",
            views=(View("image · cond", plots.my_figure(table)),),
            reading="How to read it.", conclusion="One sentence from the numbers.",
        )

`run.table` raises `MissingTable` where the run has no such rows; the page then says why in the section's
place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dit_lens.errors import BadInput
from dit_lens.methods.answers import RESULTS, Answer, Results
from dit_lens.plain_yaml import load_yaml
from dit_lens.report.downloads import Download
from dit_lens.report.text import count, listing, number
from dit_lens.run.records import SPEC, RunFolder
from dit_lens.run.run_record import ImageEntry, RunRecord

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from PIL.Image import Image


class MissingTable(BadInput):
    """A section has nothing to show; the message says why, in words for the reader of the report."""


class AbsentTable(MissingTable):
    """There is no file of the table that is called `table`."""

    def __init__(self, message: str, table: str) -> None:
        super().__init__(message)
        self.table = table


class UnreadableTable(BadInput):
    """There is a file of the table that is called `table`, and it is damaged."""

    def __init__(self, message: str, table: str) -> None:
        super().__init__(message)
        self.table = table


SAMPLE = "sample"  # the kind of a plain image; those of every other kind belong to sections of their own
ARM = "arm"  # the kind of an image that an arm of a study made
CELL = "cell"  # the kind of a small image of one cell of a map


@dataclass(frozen=True)
class View:
    """One figure of a section, and what it is called where the reader chooses among several."""

    label: str
    figure: go.Figure


@dataclass(frozen=True)
class Tile:
    """One number for the first card of the report, and what it counts."""

    value: str
    label: str


@dataclass(frozen=True)
class Section:
    """One question of a report. All strings are plain text; only `extra` and `below` are HTML: the one stands
    above the figures, the other below them.

    `conclusion` is repeated on the first card, with `tiles`; `missing` stands in place of a figure.
    `table` names the rows behind it; `download` is a file to save where there is no such table.
    `answers` are the run's verdicts on this question, the primary one first; they stand before everything
    else on the first card. `exploratory` marks what looks at many places, none of
    them named beforehand. `damage` says what of the run's own files is lost. `parts` follow the section, each
    under a heading of its own.
    """

    id: str
    title: str
    lead: str
    views: tuple[View, ...] = ()
    extra: Markup = field(default_factory=Markup)
    below: Markup = field(default_factory=Markup)
    reading: str = ""
    conclusion: str = ""
    tiles: tuple[Tile, ...] = ()
    table: str = ""
    download: Download | None = None
    repeat: str = ""
    missing: str = ""
    damage: str = ""
    answers: tuple[Answer, ...] = ()
    exploratory: bool = False
    parts: tuple[Section, ...] = ()


@dataclass(frozen=True)
class RunView:
    """A run folder as the sections see it: its record, tables, channel set, images and results, each read
    once."""

    folder: RunFolder

    @cached_property
    def record(self) -> RunRecord:
        """The run's record."""
        return self.folder.record

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The resolved spec; empty where it cannot be read."""
        try:
            spec = load_yaml(self.folder.spec_text, SPEC)
        except BadInput:
            return {}
        return spec if isinstance(spec, dict) else {}

    @property
    def asked(self) -> tuple[str, ...]:
        """The questions that the spec names; none where it cannot be read."""
        asked = self.spec.get("sections")
        return tuple(map(str, asked)) if isinstance(asked, list) else ()

    @cached_property
    def channels(self) -> dict[str, Any] | None:
        """The channel set's JSON value, or None."""
        return self.folder.channels()

    @cached_property
    def images(self) -> tuple[ImageEntry, ...]:
        """The images whose files are there."""
        return tuple(entry for entry in self.folder.images() if self.folder.image_path(entry).is_file())

    @property
    def samples(self) -> tuple[ImageEntry, ...]:
        """The plain samples among the images: nothing was edited for them."""
        return self.images_of(SAMPLE)

    @property
    def arm_images(self) -> tuple[ImageEntry, ...]:
        """The images of arms; each entry's caption is the name of its arm."""
        return self.images_of(ARM)

    def images_of(self, kind: str) -> tuple[ImageEntry, ...]:
        """The images of one kind, in the order in which they were written."""
        return tuple(entry for entry in self.images if entry.kind == kind)

    @cached_property
    def _read_results(self) -> tuple[Results | None, str]:
        if not (self.folder.path / RESULTS).exists():
            return None, ""
        try:
            return Results.load(self.folder.path), ""
        except BadInput as error:
            # Figures need no verdicts, so damaged ones must not cost the reader the figures.
            return None, str(error)

    @property
    def results(self) -> Results | None:
        """What the run concluded (results.json), or None where it judged no claim or the file is damaged."""
        return self._read_results[0]

    @property
    def results_fault(self) -> str:
        """Why results.json cannot be read; empty where nothing is wrong."""
        return self._read_results[1]

    def answers(self, question: str) -> tuple[Answer, ...]:
        """The run's answers to a question, the primary one first."""
        return self.results.of(question) if self.results else ()

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        return {}

    def table(self, name: str) -> pd.DataFrame:
        """Return a table with at least one row, or raise `MissingTable` with the reason."""
        if name not in self.folder.table_names:
            raise AbsentTable(self._why_absent(name), name)
        if name not in self._tables:
            try:
                self._tables[name] = self.folder.table(name)
            except BadInput as error:
                raise UnreadableTable(str(error), name) from error
        if self._tables[name].empty:
            raise MissingTable(self._why_empty(name))
        return self._tables[name]

    def _why_absent(self, name: str) -> str:
        there = self.folder.table_names
        interrupted = self.record.interrupted
        ended = {
            "failed": " It was interrupted."
            if interrupted
            else f" It ended with an error: {self.record.failure}",
            "running": " It has not been finished.",
        }.get(self.record.status)
        if ended is None and self.has_no_channels:
            ended = f" {self._why_none} so there was nothing to edit or to follow."
        elif ended is None and name in self.asked:
            ended = " None of the blocks that it looked at holds a massive channel."
        ended = ended or " Its analysis does not ask for it."
        return (
            f"This run wrote no table “{name}”.{ended} "
            f"It has {count(len(there), 'table')}{': ' + listing(there) if there else ''}."
        )

    @property
    def has_no_channels(self) -> bool:
        """Whether no channel passes the run's rule; no where the set is not recorded."""
        return self.channels is not None and not any(self.channels.get("blocks", {}).values())

    @property
    def _why_none(self) -> str:
        return f"No channel passes the rule of this run ({selection_words(self.channels or {})}),"

    def _why_empty(self, name: str) -> str:
        if self.channels is not None and self.has_no_channels:
            return (
                f"{self._why_none} so the table “{name}” has no rows. A lower ratio or a top-k rule in the "
                f"spec would choose the strongest channels there are. {nearest_words(self.channels)}"
            )
        return f"The table “{name}” has no rows: nothing in this run had the coordinates that it describes."

    @property
    def statistic(self) -> str:
        """The statistic by which this run chose its channels."""
        return str((self.channels or {}).get("statistic", "abs_mean"))


def selection_words(channels: dict[str, Any]) -> str:
    """Return a channel set's selection as words: `top_k = 4, statistic abs_mean, image stream`."""
    rule = ", ".join(f"{key} = {value}" for key, value in dict(channels.get("selection", {})).items())
    parts = [rule, f"statistic {channels.get('statistic', '?')}", f"{channels.get('stream', '?')} stream"]
    return ", ".join(part for part in parts if part)


def nearest_words(channels: dict[str, Any]) -> str:
    """Return which channel comes nearest to a rule that none passes, as a sentence; empty where it is not
    recorded."""
    largest = dict(channels.get("provenance", {})).get("largest")
    if not isinstance(largest, dict):
        return ""
    return (
        f"The largest ratio is {number(largest['ratio'], 4)} times the median: "
        f"{channels.get('statistic', '')} {number(largest['value'], 4)} in block {largest['block']}, channel "
        f"{largest['channel']}."
    )


def picture(run: RunView, entry: ImageEntry) -> Image:
    """Return an image of a run; raises `MissingTable` where its file cannot be read."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    place = run.folder.image_path(entry)
    try:
        with Pillow.open(place) as opened:
            return opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise MissingTable(f"The image {place.name} cannot be read: {error}") from error


SectionBuilder = Callable[[RunView], Section]
