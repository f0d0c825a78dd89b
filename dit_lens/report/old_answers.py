"""Answers of before there were findings: what their sentence holds, so that old runs still open."""

from __future__ import annotations

import re

from dit_lens.methods.answers import Answer


def findings_of_old(answer: Answer) -> tuple[str, tuple[str, ...]]:
    """Return the claim as a sentence, and the findings, of an answer that has its sentence alone."""
    claim, numbers = _in_two(_without_outcome(answer.sentence, answer.outcome), answer.claim)
    return claim, _parted(numbers)


def _in_two(sentence: str, claim: str) -> tuple[str, str]:
    """Return a verdict's claim, and the numbers that follow it; all of it where it does not begin so.

    >>> _in_two("Exploratory map: it does. By 0.3 (n = 24).", "it does")
    ('Exploratory map: it does.', 'By 0.3 (n = 24).')
    """
    start = sentence.lower().find(claim.lower())
    end = start + len(claim)
    if start < 0 or not claim:
        return sentence, ""
    return sentence[:end].rstrip(".") + ".", sentence[end:].lstrip(". ")


def _parted(text: str) -> tuple[str, ...]:
    """Return the first sentence of a text, and the others where there are some.

    >>> _parted("By 0.3 (95 % CI 0.1 to 0.5, p = 0.02). Mean: 0.4.")
    ('By 0.3 (95 % CI 0.1 to 0.5, p = 0.02).', 'Mean: 0.4.')
    """
    return tuple(filter(None, re.split(r"(?<=\.) (?=[A-Z])", text, maxsplit=1)))


def _without_outcome(sentence: str, outcome: str) -> str:
    """Return a sentence without the outcome that its badge already says.

    >>> _without_outcome("Supported: it does.", "supported")
    'It does.'
    >>> _without_outcome("Undecided (exploratory map): it may.", "undecided")
    'Exploratory map: it may.'
    """
    found = re.match(rf"{outcome}(?: \(([^)]*)\))?: ", sentence, flags=re.IGNORECASE)
    if found is None:
        return sentence
    rest = sentence[found.end() :]
    rest = f"{found[1]}: {rest}" if found[1] else rest
    return rest[:1].upper() + rest[1:]
