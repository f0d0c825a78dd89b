"""A progress bar with an ETA for work that takes more than a moment; in a file, plain lines instead."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from importlib.util import find_spec
from types import TracebackType
from typing import Any

PATIENCE = 2.0
"""Seconds without a bar: shorter work would only make it flicker."""

INTERVAL = 30.0
"""Seconds between two lines, and before the first, where stderr is no terminal."""


class ProgressBar:
    """Counts to `total`; draws on stderr once the work has lasted longer than `PATIENCE`.

    Where stderr is a file or a pipe it says how far the work is in a plain line, at most every `INTERVAL`.

    >>> with ProgressBar(3, "denoising", enabled=False) as bar:
    ...     bar.advance()
    >>> bar.done
    1
    """

    def __init__(self, total: int, description: str, *, enabled: bool = True) -> None:
        self.total = total
        self.done = 0
        self._description = description
        self._enabled = enabled
        self._started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._in_lines = False
        self._said = self._started

    def __enter__(self) -> ProgressBar:
        self._started = self._said = time.monotonic()
        return self

    def advance(self, amount: int = 1) -> None:
        self.done += amount
        if not self._enabled:
            return
        now = time.monotonic()
        if self._bar is None and not self._in_lines and now - self._started > PATIENCE:
            self._draw()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif self._in_lines and now - self._said >= INTERVAL and self.done < self.total:
            self._said = now
            sys.stderr.write(self._line(now - self._started) + "\n")
            sys.stderr.flush()

    def _line(self, elapsed: float) -> str:
        left = elapsed / self.done * (self.total - self.done) if self.done else None
        remaining = f", about {_clock(left)} left" if left is not None else ""
        return f"{self._description}: {self.done:,}/{self.total:,}, {_clock(elapsed)} elapsed{remaining}"

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        if console.is_jupyter and find_spec("ipywidgets") is None:
            # rich would leave a warning in the cell in place of a bar.
            self._enabled = False
            return
        if not console.is_jupyter and (not console.is_terminal or console.is_dumb_terminal):
            self._in_lines = True
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._description, total=self.total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    """`0:01:05` for 65 seconds, as the bar has it."""
    return str(timedelta(seconds=round(seconds)))
