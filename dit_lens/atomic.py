"""Writing a file whole or not at all, and saying so plainly when the disk is full."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from dit_lens.errors import RunFailure

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write a file so that a reader sees the old content or the new, never a part of it.

    Text is written as UTF-8. Raises `RunFailure` when the disk is full (with the bytes free and needed) or
    the place cannot be written; the file that was there before is then untouched and nothing else is left.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(Path(folder) / "note.txt", "whole").read_text()
    'whole'
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files that only their owner can read; a result is meant to be shared.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise _write_failure(path, len(data), error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_failure(path: Path, needed: int, error: OSError) -> RunFailure:
    if error.errno in _FULL_DISK:
        home = path.parent
        while not home.exists() and home != home.parent:
            home = home.parent
        free = shutil.disk_usage(home).free
        return RunFailure(
            f"Cannot write {path}: the disk is full. It needs {needed:,} bytes, {free:,} are free in {home}. "
            "Free some space, or choose a place on another disk."
        )
    return RunFailure(
        f"Cannot write {path} ({needed:,} bytes): {error.strerror or error}. "
        "Choose a place that can be written."
    )
