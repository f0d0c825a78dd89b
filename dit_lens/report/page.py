"""From a run folder to one HTML file that needs nothing else: no network, no torch, no second file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dit_lens.errors import BadInput
from dit_lens.report.carry_sections import CARRY_SECTIONS
from dit_lens.report.channel_sections import CHANNEL_SECTIONS
from dit_lens.report.damage import damage, damage_words, lost_verdicts, tell
from dit_lens.report.document import Figure, page
from dit_lens.report.downloads import Download, of_table
from dit_lens.report.effect_sections import EFFECT_SECTIONS, MAP_SECTIONS, sham_words, verdict_rule
from dit_lens.report.section import RunView, Section, SectionBuilder
from dit_lens.report.spatial_sections import SPATIAL_SECTIONS
from dit_lens.report.summary import Verdict, summarise, verdicts
from dit_lens.report.text import number
from dit_lens.run.records import RunFolder

CHAPTERS: tuple[tuple[str, tuple[SectionBuilder, ...]], ...] = (
    ("What they are", CHANNEL_SECTIONS),
    ("Where they point", SPATIAL_SECTIONS),
    ("What they do", tuple(builder for builder in EFFECT_SECTIONS if builder is not verdict_rule)),
    ("What they carry", CARRY_SECTIONS),
    ("Method", (verdict_rule,)),
)
"""What a report asks by default, in the order of its contents; last, how verdicts are made."""

SECTIONS: tuple[SectionBuilder, ...] = tuple(builder for _, own in CHAPTERS for builder in own)
"""The same without their chapters."""

SpecOf = Callable[[str], str]
"""From a question's name to the YAML of a run that asks it alone; "" where there is none."""

MOST_ROWS = 20  # rows of a table shown on the page


def build_report(
    run_dir: str | os.PathLike[str],
    sections: Sequence[SectionBuilder] = SECTIONS,
    *,
    spec_of: SpecOf | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write `report.html` into a run folder from its records alone, and return its path.

    A section whose table is absent or empty stays, and says why. `spec_of` gives the spec that repeats one
    question; without it, sections name the spec of the whole run. `say` is called with each table that the
    spec asked for, and with the verdicts, if they are lost or cannot be read; without it, these are Python
    warnings. Raises `BadInput` when `run_dir` is no run folder or its record is damaged, `RunFailure` when
    the page cannot be written.

    Example: `build_report("reports/massive_activations")`
    """
    folder = RunFolder.read(run_dir)
    return folder.write_report(render(RunView(folder), sections, spec_of=spec_of, say=say))


def render(
    run: RunView,
    sections: Sequence[SectionBuilder] = SECTIONS,
    *,
    spec_of: SpecOf | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """Return the page of a run as HTML; arguments as in `build_report`."""
    shown = [one for builder in sections for one in _shown(builder, run, spec_of)]
    made = [one.section for one in shown]
    names = [section.id for section in made]
    if len(set(names)) != len(names):
        raise BadInput(f"Two sections share an id: {', '.join(sorted(names))}.")
    tell(run, [*(section.damage for section in made), lost_verdicts(run)], say)
    return page(
        "report.html.j2",
        ("gallery.js", "cells.js", "page.js"),
        record=run.record,
        summary=summarise(run, made),
        chapters=_chapters(shown),
        sham=sham_words(run.results.sham_difference)
        if run.results and run.results.sham_difference is not None
        else "",
        provenance=_provenance(run),
        spec=run.folder.spec_text,
    )


def _shown(builder: SectionBuilder, run: RunView, spec_of: SpecOf | None) -> Iterator[_Shown]:
    section = _made(builder, run)
    question = builder.__name__
    spec = spec_of(question) if spec_of is not None and question in run.asked else ""
    for part in (replace(section, parts=()), *section.parts):
        rows = _Rows.of(part.table, run) if part.table and not part.missing else None
        # Figures move into `figures`; a section keeps only its words.
        figures = tuple(Figure.of(view) for view in part.views)
        # Parts of a question are repeated with it.
        yield _Shown(builder, question, replace(part, views=()), figures, rows, verdicts(part), spec)


def _made(builder: SectionBuilder, run: RunView) -> Section:
    try:
        return builder(run)
    except BadInput as error:
        # One absent or foreign table must not cost the reader the rest of the report.
        name = builder.__name__
        heading = (builder.__doc__ or name).strip().splitlines()[0].rstrip(".")
        lost = damage(run, name, error)
        return Section(
            id=name.replace("_", "-"),
            title=heading,
            lead="",
            missing=damage_words(run, name, lost) if lost else str(error),
            damage=lost,
            answers=run.answers(name) if lost else (),
            exploratory=bool(lost) and builder in MAP_SECTIONS,
        )


# ---------------------------------------------------------------------------------------- what is on the page
@dataclass(frozen=True)
class _Rows:
    """The rows behind a section: where they lie, a download of them, and the first few to look at."""

    file: str
    total: int
    download: Download | None
    columns: tuple[str, ...]
    first: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, name: str, run: RunView) -> _Rows:
        table = run.table(name)
        return cls(
            file=run.folder.table_path(name).relative_to(run.folder.path).as_posix(),
            total=len(table),
            download=of_table(name, table),
            columns=tuple(str(column) for column in table.columns),
            first=tuple(
                tuple(number(cell, 4) if isinstance(cell, float) else str(cell) for cell in row)
                for row in table.head(MOST_ROWS).itertuples(index=False)
            ),
        )


@dataclass(frozen=True)
class _Shown:
    """A section with its figures, rows and spec in the form the template needs."""

    builder: SectionBuilder
    question: str
    section: Section
    figures: tuple[Figure, ...]
    rows: _Rows | None
    verdicts: tuple[Verdict, ...] = ()
    spec: str = ""


@dataclass(frozen=True)
class _Chapter:
    """Sections that stand together in the contents; those that belong nowhere have no title."""

    title: str
    sections: tuple[_Shown, ...]


def _chapters(shown: Sequence[_Shown]) -> tuple[_Chapter, ...]:
    chapters = [_Chapter(title, tuple(one for one in shown if one.builder in own)) for title, own in CHAPTERS]
    elsewhere = tuple(one for one in shown if one.builder not in SECTIONS)
    return tuple(chapter for chapter in (_Chapter("", elsewhere), *chapters) if chapter.sections)


# ------------------------------------------------------------------------------------------------ provenance
def _provenance(run: RunView) -> list[tuple[str, str]]:
    record = run.record
    lasted = (record.finished - record.started).total_seconds() if record.finished else None
    git = record.git
    rows = [
        ("command", record.command),
        ("status", record.status + (f": {record.failure}" if record.failure else "")),
        ("started", f"{record.started:%Y-%m-%d %H:%M:%S} UTC"),
        ("took", f"{number(lasted)} s" if lasted is not None else "not finished"),
        *((f"… {stage}", f"{number(seconds)} s") for stage, seconds in record.timings.items()),
        ("model", f"{record.model}, fingerprint {record.fingerprint}"),
        ("device", f"{record.device}, {record.dtype}"),
        *(identity.shown if (identity := record.identity) is not None else ()),
        ("seeds", ", ".join(map(str, record.seeds)) or "none"),
        ("prompts", f"{len(record.prompts)}" if record.prompts else "not recorded"),
        *((f"sampling: {key}", str(value)) for key, value in record.sampling.items()),
        (
            "code",
            f"{git.commit}{' with uncommitted changes' if git.dirty else ''}"
            if git
            else "not a git checkout",
        ),
        ("Python", f"{record.python} on {record.platform}"),
        *((f"package: {name}", version) for name, version in record.packages.items()),
    ]
    return [(name, value) for name, value in rows if value]
