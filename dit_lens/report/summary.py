"""The first card of a report: what was run, a few numbers, and every section's sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dit_lens.report.section import RunView, Section
from dit_lens.report.text import count, number


@dataclass(frozen=True)
class Tile:
    """One number of the first card, and what it counts."""

    value: str
    label: str


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
    return Summary(_lead(run), tuple(_tiles(run)), findings, without)


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


def _tiles(run: RunView) -> list[Tile]:
    record = run.record
    tiles = []
    if "ratio_map" in run.folder.table_names and len(table := run.folder.table("ratio_map")):
        own = table[table["statistic"] == run.statistic]
        peak = (own if len(own) else table).nlargest(1, "ratio").iloc[0]
        place = f"highest ratio to the median ({peak['stream']} stream, block {int(peak['block'])})"
        tiles.append(Tile(f"{number(peak['ratio'])} ×", place))
        tiles.append(Tile(f"{int(peak['channel'])}", "the channel that reaches it"))
    if run.channels is not None:
        blocks = run.channels.get("blocks", {})
        distinct = {channel for chosen in blocks.values() for channel in chosen}
        tiles.append(Tile(str(len(distinct)), f"different massive channels in {count(len(blocks), 'block')}"))
    if "steps" in record.sampling:
        tiles.append(Tile(str(record.sampling["steps"]), "denoising steps"))
    if record.finished is not None:
        seconds = (record.finished - record.started).total_seconds()
        tiles.append(
            Tile(
                f"{number(seconds / 60, 2)} min" if seconds >= 90 else f"{number(seconds)} s", "of computing"
            )
        )
    return tiles
