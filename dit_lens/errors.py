"""Errors a user can act on: what was asked, what exists, how to fix it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DitLensError(Exception):
    """Base of every error that the package raises on purpose.

    The message is all a user needs, so the command line prints it without a traceback and leaves with
    `exit_status`.
    """

    exit_status = 1


class BadInput(DitLensError, ValueError):
    """The request cannot be carried out; raised before any forward pass. Exit status 2."""

    exit_status = 2


class RunFailure(DitLensError, RuntimeError):
    """A valid request failed while it ran (NaN, full disk, unreachable hub). Exit status 1."""

    exit_status = 1


def as_sentence(text: str) -> str:
    """Return a message with a full stop at its end, or with the question mark that it ends in.

    >>> as_sentence("There is no edit 'zeroo'. Did you mean 'zero'?"), as_sentence("It is 3")
    ("There is no edit 'zeroo'. Did you mean 'zero'?", 'It is 3.')
    """
    text = text.rstrip(".")
    return text if text.endswith("?") else f"{text}."


def did_you_mean(asked: str, options: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest option, or an empty string.

    >>> did_you_mean("resid_pots", ["resid_pre", "resid_post"])
    " Did you mean 'resid_post'?"
    """
    close = get_close_matches(asked, list(options), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
