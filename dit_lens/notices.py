"""Notices: what a user should know and nothing is wrong with. Python's warnings, which the command line
prints.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


class Notice(UserWarning):
    """Something that a request implies and that its author may not expect, such as words that are cut off."""


def notice(text: str) -> None:
    """Warn of something, at the line outside this package from which it came.

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     notice("guidance 1 ignores the negative prompt")
    >>> caught[0].category.__name__
    'Notice'
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, Notice, stacklevel=level)
