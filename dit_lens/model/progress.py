"""A progress bar with an ETA for work that takes more than a moment."""

from __future__ import annotations

import time
from importlib.util import find_spec
from types import TracebackType
from typing import Any

PATIENCE = 2.0
"""Seconds without a bar: shorter work would only make it flicker."""


class ProgressBar:
    """Counts to `total`; draws on stderr once the work has lasted longer than `PATIENCE`.

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

    def __enter__(self) -> ProgressBar:
        self._started = time.monotonic()
        return self

    def advance(self, amount: int = 1) -> None:
        self.done += amount
        if self._bar is None and self._enabled and time.monotonic() - self._started > PATIENCE:
            self._draw()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)

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
