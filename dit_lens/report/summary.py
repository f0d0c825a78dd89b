"""The first card of a report: what was run, the verdicts, a few numbers, and every section's sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dit_lens.methods.answers import Answer
from dit_lens.report.damage import lost_verdicts
from dit_lens.report.old_answers import findings_of_old
from dit_lens.report.section import RunView, Section, Tile
from dit_lens.report.text import count, number

SIGNS = {"supported": "✓", "not supported": "✗", "undecided": "?"}


@dataclass(frozen=True)
class Finding:
    """One sentence of the first card, and the section that it comes from."""

    anchor: str
    title: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """One answer of a run as a reader sees it: outcome (word and sign), claim, and the numbers behind it."""

    anchor: str
    title: str
    outcome: str
    sign: str
    claim: str
    findings: tuple[str, ...]
    primary: bool
    exploratory: bool
    sources: tuple[str, ...]

    @property
    def look(self) -> str:
        """The outcome as names of styles."""
        return self.outcome.replace(" ", "-") + (" tentative" if self.exploratory else "")

    @property
    def numbers(self) -> str:
        """All findings."""
        return " ".join(self.findings)

    @property
    def first(self) -> str:
        """The finding that decides: of the control that was beaten least."""
        return self.findings[0] if self.findings else ""


@dataclass(frozen=True)
class Summary:
    """The first card. `verdicts` are the primary ones; `others` counts those that only sections show."""

    lead: str
    tiles: tuple[Tile, ...]
    verdicts: tuple[Verdict, ...]
    others: int
    findings: tuple[Finding, ...]
    without: tuple[Finding, ...]
    fault: str


def summarise(run: RunView, sections: Sequence[Section]) -> Summary:
    """Return the first card of a run from its record and its sections."""
    led = {answer.question for section in sections for answer in section.answers if answer.primary}
    judged = {section.id: verdicts(section) for section in sections}
    leading = [verdict for section in sections for verdict in _leading(judged[section.id], section, led)]
    # Where a claim leads, its verdict is the section's sentence.
    told = {verdict.anchor for verdict in leading}
    findings = tuple(
        Finding(section.id, section.title, section.conclusion)
        for section in sections
        if section.conclusion and section.id not in told
    )
    without = tuple(
        Finding(section.id, section.title, section.missing) for section in sections if section.missing
    )
    tiles = [tile for section in sections for tile in section.tiles] + _of_the_run(run)
    return Summary(
        lead=_lead(run),
        tiles=tuple(tiles),
        verdicts=tuple(leading),
        others=sum(map(len, judged.values())) - len(leading),
        findings=findings,
        without=without,
        fault=lost_verdicts(run),
    )


def _leading(judged: tuple[Verdict, ...], section: Section, led: set[str]) -> tuple[Verdict, ...]:
    """Return a section's primary verdicts; all of them where its questions have no primary one anywhere."""
    primary = tuple(verdict for verdict in judged if verdict.primary)
    return primary if {answer.question for answer in section.answers} <= led else primary or judged


def verdicts(section: Section) -> tuple[Verdict, ...]:
    """Return a section's answers as a reader sees them."""
    return tuple(
        Verdict(
            section.id,
            section.title,
            answer.outcome,
            SIGNS[answer.outcome],
            *_told(answer),
            answer.primary,
            section.exploratory,
            answer.sources,
        )
        for answer in section.answers
    )


def _told(answer: Answer) -> tuple[str, tuple[str, ...]]:
    return (answer.stated, answer.findings) if answer.findings else findings_of_old(answer)


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
    }[record.status]
    ended = " This run was interrupted." if record.interrupted else ended
    return f"{model}{', ' + words if words else ''}.{ended}"


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
