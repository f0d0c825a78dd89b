"""What is lost of a finished run: tables and verdicts that are gone, or cannot be read."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable

from dit_lens.errors import BadInput, as_sentence
from dit_lens.report.channel_sections import CHANNEL_SECTIONS
from dit_lens.report.section import AbsentTable, RunView, UnreadableTable
from dit_lens.run.records import RESULTS

_ALWAYS = {builder.__name__ for builder in CHANNEL_SECTIONS} - {"token_maps"}
"""Questions whose table discovery writes whatever it finds."""


TABLE_OF = {"spatial": "spatial_blocks", "transport_text": "transport", "detail_guidance": "guidance"}
"""Questions whose table has another name."""


def losses(run: RunView) -> tuple[str, ...]:
    """Return what a run lost of the tables that its spec asked for and of its verdicts, as sentences."""
    return tuple(dict.fromkeys(filter(None, (*_lost_tables(run), lost_verdicts(run)))))


def _lost_tables(run: RunView) -> Iterable[str]:
    for question in run.asked:
        try:
            run.table(TABLE_OF.get(question, question))
        except BadInput as error:
            yield damage(run, question, error)


def tell(run: RunView, lost: Iterable[str], say: Callable[[str], None] | None) -> None:
    """Call `say` with each loss of a run, once, or make it a Python warning."""
    for each in dict.fromkeys(filter(None, lost)):
        (say or _warn)(f"{run.folder.path}: {each}")


def _warn(text: str) -> None:
    """Warn in the name of the first caller outside the package, however deep in it this was called."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] == "dit_lens":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def damage(run: RunView, question: str, error: BadInput) -> str:
    """Return what a question lost; empty where the run is as its analysis left it."""
    if isinstance(error, UnreadableTable):
        return as_sentence(str(error).removeprefix(f"{run.folder.path}{os.sep}"))
    if isinstance(error, AbsentTable) and _was_written(run, question):
        file = run.folder.table_path(error.table).relative_to(run.folder.path).as_posix()
        return f"{file} is missing, although the analysis asked for this table and the run was finished."
    return ""


def damage_words(run: RunView, question: str, lost: str) -> str:
    """Return the same for the page: with how to get it back, and what is left of the question."""
    left = " The verdicts here are those of results.json." if run.answers(question) else ""
    return (
        f"{lost} Remove the file if there is one; `dit-lens run spec.yaml --out .` in the run folder then "
        f"writes the table again, and computes only what the folder does not keep.{left}"
    )


def lost_verdicts(run: RunView) -> str:
    """Return what became of the verdicts that a finished run wrote; empty where they are there."""
    if run.results_fault:
        return as_sentence(run.results_fault.removeprefix(f"{run.folder.path}{os.sep}"))
    judged = set(run.asked) - _ALWAYS - {"token_maps"}
    finished = run.record.status == "finished" and not run.has_no_channels
    if not judged or not finished or run.folder.results_path.exists():
        return ""
    return f"{RESULTS} is missing, although the analysis asked for verdicts and the run was finished."


def _was_written(run: RunView, question: str) -> bool:
    if run.record.status != "finished" or question not in run.asked:
        return False
    if question == "token_maps":
        # Whether the blocks that it looked at held a channel is known from its having taken time.
        return "token maps" in run.record.timings
    return question in _ALWAYS or not run.has_no_channels
