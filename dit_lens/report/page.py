"""From a run folder to one HTML file that needs nothing else: no network, no torch, no second file.

The page forbids itself everything but its own scripts (a content security policy with their hashes), so
text that slipped through escaping could still not run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import plotly.io as pio
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dit_lens.errors import BadInput
from dit_lens.report.carry_sections import CARRY_SECTIONS
from dit_lens.report.channel_sections import CHANNEL_SECTIONS
from dit_lens.report.effect_sections import EFFECT_SECTIONS, sham_words, verdict_rule
from dit_lens.report.section import RunView, Section, SectionBuilder, View
from dit_lens.report.spatial_sections import SPATIAL_SECTIONS
from dit_lens.report.summary import Verdict, summarise, verdicts
from dit_lens.report.text import encoded, number, script_json
from dit_lens.report.theme import template
from dit_lens.run.records import RunFolder

SECTIONS: tuple[SectionBuilder, ...] = (
    *CHANNEL_SECTIONS,
    *SPATIAL_SECTIONS,
    *(builder for builder in EFFECT_SECTIONS if builder is not verdict_rule),
    *CARRY_SECTIONS,
    verdict_rule,
)
"""What a report asks by default: what massive channels are, where they point, what they do, and whether they
can be carried; last, how verdicts are made."""

TITLE_ROOM = 28  # pixels of a figure's top margin that its title takes; the page shows the title as text
MOST_CSV = 256 * 1024  # bytes of rows that a page carries with it; larger tables stay beside it
MOST_ROWS = 20  # rows of a table shown on the page


def build_report(run_dir: str | os.PathLike[str], sections: Sequence[SectionBuilder] = SECTIONS) -> Path:
    """Write `report.html` into a run folder from its records alone, and return its path.

    A section whose table is absent or empty stays, and says why. Raises `BadInput` when `run_dir` is no run
    folder or is damaged, `RunFailure` when the page cannot be written.

    Example: `build_report("reports/massive_activations")`
    """
    folder = RunFolder.read(run_dir)
    return folder.write_report(render(RunView(folder), sections))


def render(run: RunView, sections: Sequence[SectionBuilder] = SECTIONS) -> str:
    """Return the page of a run as HTML."""
    made = [section for builder in sections for section in _with_parts(_made(builder, run))]
    names = [section.id for section in made]
    if len(set(names)) != len(names):
        raise BadInput(f"Two sections share an id: {', '.join(sorted(names))}.")
    environment = Environment(
        loader=PackageLoader("dit_lens.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_script(get_plotlyjs()), _script(_asset("report.js")), _script(_asset("gallery.js"))]
    return environment.get_template("report.html.j2").render(
        run=run,
        record=run.record,
        summary=summarise(run, made),
        sections=[_Shown.of(section, run) for section in made],
        sham=sham_words(run.results.sham_difference)
        if run.results and run.results.sham_difference is not None
        else "",
        provenance=_provenance(run),
        spec=run.folder.spec_text,
        templates=Markup(script_json(encoded(_templates()))),
        style=Markup(_asset("report.css")),
        scripts=[Markup(text) for text in scripts],
        policy=_policy(scripts),
    )


def _made(builder: SectionBuilder, run: RunView) -> Section:
    try:
        return builder(run)
    except BadInput as error:
        # One absent or foreign table must not cost the reader the rest of the report.
        name = builder.__name__
        heading = (builder.__doc__ or name).strip().splitlines()[0].rstrip(".")
        return Section(id=name.replace("_", "-"), title=heading, lead="", missing=str(error))


def _with_parts(section: Section) -> tuple[Section, ...]:
    return (replace(section, parts=()), *section.parts)


# ------------------------------------------------------------------------------------------ figures and rows
@dataclass(frozen=True)
class _Figure:
    """A view, ready for the page: its title as text, its data as JSON for a script element."""

    label: str
    title: str
    height: int
    data: Markup

    @classmethod
    def of(cls, view: View) -> _Figure:
        figure: dict[str, Any] = json.loads(pio.to_json(view.figure, validate=False))
        layout = figure["layout"]
        # The page owns the title (it wraps, and can be found and read aloud) and the template (it changes
        # with the mode), so neither is repeated in every figure.
        title = html.unescape(str(layout.pop("title", {}).get("text", "")))
        layout.pop("template", None)
        layout.setdefault("margin", {})["t"] = layout.get("margin", {}).get("t", 56) - TITLE_ROOM
        arrangements = (layout.get("meta") or {}).get("arrangements", {})
        for sized in (layout, arrangements.get("wide", {}), arrangements.get("narrow", {})):
            if "height" in sized:
                sized["height"] -= TITLE_ROOM
        text = json.dumps(figure, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return cls(view.label, title, int(layout.get("height", 420)), Markup(script_json(encoded(text))))


@dataclass(frozen=True)
class _Rows:
    """The rows behind a section: where they lie, a download of them, and the first few to look at."""

    file: str
    total: int
    csv: str
    columns: tuple[str, ...]
    first: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, name: str, run: RunView) -> _Rows:
        table = run.table(name)
        data = b""
        # Counting rows first spares writing out a table that could not be carried anyway.
        if len(table) * len(table.columns) * 2 <= MOST_CSV:
            data = table.to_csv(index=False).encode()
        carried = "data:text/csv;base64," + base64.b64encode(data).decode("ascii")
        return cls(
            file=run.folder.table_path(name).relative_to(run.folder.path).as_posix(),
            total=len(table),
            csv=carried if 0 < len(data) <= MOST_CSV else "",
            columns=tuple(str(column) for column in table.columns),
            first=tuple(
                tuple(number(cell, 4) if isinstance(cell, float) else str(cell) for cell in row)
                for row in table.head(MOST_ROWS).itertuples(index=False)
            ),
        )


@dataclass(frozen=True)
class _Shown:
    """A section with its figures and rows in the form the template needs."""

    section: Section
    figures: tuple[_Figure, ...]
    rows: _Rows | None
    verdicts: tuple[Verdict, ...] = ()

    @classmethod
    def of(cls, section: Section, run: RunView) -> _Shown:
        rows = _Rows.of(section.table, run) if section.table and not section.missing else None
        # Figures move into `figures`; a section keeps only its words.
        figures = tuple(_Figure.of(view) for view in section.views)
        return cls(replace(section, views=()), figures, rows, verdicts(section))


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


# ---------------------------------------------------------------------------------------------------- assets
@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    # A parser turns CR into LF before it hashes a script.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "</script" in text.lower():
        raise ValueError("a script of the page would close its own element")
    return text


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
        for text in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _templates() -> str:
    return json.dumps({mode: json.loads(template(mode).to_json()) for mode in ("light", "dark")})
