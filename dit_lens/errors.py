"""Errors a user can act on: what was asked, what exists, how to fix it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self

Place = tuple[str | int, ...]
"""Keys and positions that lead to a value, from the outside in: `("edits", 3, "into")`."""


class DitLensError(Exception):
    """Base of every error that the package raises on purpose.

    The message is all a user needs, so the command line prints it without a traceback and leaves with
    `exit_status`. `path` is where the fault lies in what was given, empty where nobody said: code asks it and
    does not read the message.
    """

    exit_status = 1

    def __init__(self, message: str = "", *, path: Place = ()) -> None:
        super().__init__(message)
        self.path: Place = tuple(path)

    @classmethod
    def at(cls, path: Place, message: object) -> Self:
        """Return an error whose message begins with the place of the fault.

        Args:
            path: where the fault lies.
            message: what is wrong there; an error stands for its message.

        >>> error = BadInput.at(("edits", 3, "into"), "there is no trajectory 'b'.")
        >>> str(error), error.path[:2]
        ("edits.3.into: there is no trajectory 'b'.", ('edits', 3))
        """
        return cls(f"{dotted(path)}: {message}", path=path)


class BadInput(DitLensError, ValueError):
    """The request cannot be carried out; raised before any forward pass. Exit status 2."""

    exit_status = 2


class RunFailure(DitLensError, RuntimeError):
    """A valid request failed while it ran (NaN, full disk, unreachable hub). Exit status 1."""

    exit_status = 1


def dotted(path: Place) -> str:
    """Return a place as messages write it.

    >>> dotted(("edits", 3, "into"))
    'edits.3.into'
    """
    return ".".join(map(str, path))


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
