"""Where a result came from: package versions, git state, the command that was given. No torch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

COMPUTING = ("torch", "diffusers", "transformers", "nnsight")
"""Packages whose version can change a number."""

PACKAGES = (
    "dit-lens",
    *COMPUTING,
    "numpy",
    "xarray",
    "pandas",
    "plotly",
)


class GitState(BaseModel):
    """The commit the package ran from, and whether tracked files differed from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str
    branch: str | None = None
    dirty: bool


def git_state(source: str | os.PathLike[str] | None = None) -> GitState | None:
    """Return the git state of `source` (default: this package), or None where git does not track it.

    An installed package inside somebody's own checkout is not that checkout's code, so an untracked source
    has no git state.
    """
    source = Path(source) if source is not None else Path(__file__)
    folder = source if source.is_dir() else source.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", "--", "." if source.is_dir() else source.name)
    commit = git("rev-parse", "HEAD")
    if not tracked or commit is None:
        return None
    changes = git("status", "--porcelain", "--untracked-files=no")
    branch = git("symbolic-ref", "--short", "HEAD")
    return GitState(commit=commit, branch=branch, dirty=changes is None or bool(changes))


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the installed version of each distribution, without importing it; absent ones are left out.

    >>> sorted(package_versions(["pydantic", "no-such-distribution"]))
    ['pydantic']
    """
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> datetime:
    """Return the present moment in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def command_line() -> str:
    """Return the command that started this process, quoted for a shell."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return shlex.join([program, *sys.argv[1:]])
