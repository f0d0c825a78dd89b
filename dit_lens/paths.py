"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path

from dit_lens.errors import BadInput

_MOST = 60  # characters of a path that are quoted in a message


def named_path(written: str | os.PathLike[str], *, asked_by: str, folder: Path = Path()) -> Path:
    """Return the path that a user named, relative to a folder, with ~ expanded; nothing need lie there.

    Raises:
        BadInput: no system could open it: nobody has that home, the name is too long, …

    >>> named_path("mine.txt", asked_by="prompts", folder=Path("prompts")).name
    'mine.txt'
    """
    try:
        path = folder / Path(written).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        quoted = repr(str(written))
        quoted = quoted if len(quoted) <= _MOST else quoted[: _MOST - 3] + "…"
        raise BadInput(f"{asked_by}: {quoted} cannot be opened as a path: {why}.") from None
    return path
