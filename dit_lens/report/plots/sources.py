"""Where a figure's rows come from: a table, or whatever holds tables under their names.

Every figure takes any of these as its first argument, so that nobody has to know which table it is drawn
from:

- a pandas table with the columns that the figure names;
- a run folder: its path, or an opened `RunFolder`;
- a value with a method `table(name)`: `ChannelStatistics`, `EffectMap`, `StudyResult`. A class of your own
  joins by having that method; it raises `BadInput` for a name that it does not know. `table_names` lists what
  it has, for `tables` and `from_run`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.run.records import RunFolder


@runtime_checkable
class HasTables(Protocol):
    """What holds tidy tables under their names."""

    @property
    def table_names(self) -> Sequence[str]:
        """The tables it has."""

    def table(self, name: str) -> pd.DataFrame:
        """One of them; raises `BadInput` for a name that it does not know."""


Source: TypeAlias = pd.DataFrame | HasTables | str | os.PathLike[str]
"""What every figure is drawn from; see the module."""


def table_of(source: Source, *names: str) -> pd.DataFrame:
    """Return the table of the first of these names that there is; a table stands for itself.

    Raises `BadInput` for what is neither a table nor holds one, and for a holder without such a table.
    """
    if isinstance(source, pd.DataFrame):
        return source
    holder = holder_of(source)
    refused: BadInput | None = None
    for name in names:
        try:
            return holder.table(name)
        except BadInput as error:
            refused = refused or error
    assert refused is not None, "a figure names its table"
    raise refused


def tables(source: Source) -> dict[str, pd.DataFrame]:
    """Return every table of a run folder, or of a value that holds tables, by name.

    `source` is a run folder's path or the value. Raises `BadInput` for what holds no tables.

    >>> dl.plots.tables("reports/massive_activations")["disruption"].columns[:3].tolist()
    ['metric', 'control', 'draws']
    >>> dl.plots.tables(stats)["spectrum"].to_csv("spectrum.csv")
    """
    holder = holder_of(source)
    return {name: holder.table(name) for name in holder.table_names}


def holder_of(source: Any) -> HasTables:
    """Return what holds the tables: the opened folder of a path, or the value itself."""
    if isinstance(source, str | os.PathLike):
        return RunFolder.read(source)
    if isinstance(source, HasTables):
        return source
    raise BadInput(
        f"A {type(source).__name__} holds no tables. Give a pandas table, the path of a run folder, or a "
        "value that has them: ChannelStatistics, EffectMap, StudyResult."
    )
