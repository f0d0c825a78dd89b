"""The first card of a report: what was run, a few numbers, and every section's sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dit_lens.report.section import RunView, Section, Tile
from dit_lens.report.text import count, number


@dataclass(frozen=True)
class Finding:
    """One sentence of the first card, and the section that it comes from."""

    anchor: str
    title: str
    sentence: str


@dataclass(frozen=True)
class Summary:
    """The first card."""

    lead: str
    tiles: tuple[Tile, ...]
    findings: tuple[Finding, ...]
    without: tuple[Finding, ...]


def summarise(run: RunView, sections: Sequence[Section]) -> Summary:
    """Return the first card of a run from its record and its sections."""
    findings = tuple(
        Finding(section.id, section.title, section.conclusion) for section in sections if section.conclusion
    )
    without = tuple(
        Finding(section.id, section.title, section.missing) for section in sections if section.missing
    )
    tiles = [tile for section in sections for tile in section.tiles] + _of_the_run(run)
    return Summary(_lead(run), tuple(tiles), findings, without)


def _lead(run: RunView) -> str:
    record = run.record
    amount = [
        count(len(record.prompts), "prompt") if record.prompts else "",
        count(len(record.seeds), "seed") if record.seeds else "",
    ]
    words = " × ".join(part for part in amount if part)
    model = f"{record.model} ({record.dtype}, {record.device})"
    ended = {
        "finished": "",
        "running": " This run is not finished.",
        "failed": " This run ended with an error.",
    }
    return f"{model}{', ' + words if words else ''}.{ended[record.status]}"


def _of_the_run(run: RunView) -> list[Tile]:
    record = run.record
    tiles = []
    if "steps" in record.sampling:
        tiles.append(Tile(str(record.sampling["steps"]), "denoising steps"))
    if record.finished is not None:
        seconds = (record.finished - record.started).total_seconds()
        lasted = f"{number(seconds / 60, 2)} min" if seconds >= 90 else f"{number(seconds)} s"
        tiles.append(Tile(lasted, "of computing"))
    return tiles
