"""Compare what was frozen with what is found: a list of differences with their places, empty where equal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

_NUMBER = re.compile(r"[−-]?\d+(?:\.\d+)?(?:e[−-]?\d+)?")


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may lie apart that are no whole numbers: `relative` of the frozen one, plus `absolute`.

    Both 0, the default, compares bit for bit. Bounds of intervals, and what sentences repeat of them, may lie
    `bounds` times as far apart: which resamples tie is decided by last bits.
    """

    relative: float = 0.0
    absolute: float = 0.0
    bounds: float = 1.0

    @property
    def exact(self) -> bool:
        return self.relative == self.absolute == 0

    def close(self, frozen: float, found: float) -> bool:
        if math.isnan(frozen) or math.isnan(found):
            return math.isnan(frozen) and math.isnan(found)
        if self.exact or math.isinf(frozen):
            return frozen == found and math.copysign(1, frozen) == math.copysign(1, found)
        return abs(found - frozen) <= self.absolute + self.relative * abs(frozen)

    def at(self, place: str) -> Tolerance:
        """The tolerance of the numbers at a place."""
        return self.of_bounds if place.endswith(("ci_low", "ci_high")) else self

    @property
    def of_bounds(self) -> Tolerance:
        return Tolerance(self.relative * self.bounds, self.absolute * self.bounds)


EXACT = Tolerance()


def differences(
    frozen: Any, found: Any, tolerance: Tolerance = EXACT, place: str = "", *, may_grow: bool = False
) -> list[str]:
    """Differences of plain data, as JSON holds it.

    With `may_grow`, fields that the frozen data lacks are none: a later version may record more about the
    same run, as long as it says all that was said.
    """
    return [text for text, new in _differences(frozen, found, tolerance, place) if not (new and may_grow)]


def _differences(frozen: Any, found: Any, tolerance: Tolerance, place: str) -> Iterator[tuple[str, bool]]:
    """Each difference, and whether it is a field that the frozen data lacks."""
    if isinstance(frozen, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys((*frozen, *found)):
            where = f"{place}.{key}" if place else str(key)
            if key not in found:
                yield f"{where} is gone", False
            elif key not in frozen:
                yield f"{where} is new", True
            else:
                yield from _differences(frozen[key], found[key], tolerance, where)
    elif isinstance(frozen, list) and isinstance(found, list):
        if len(frozen) != len(found):
            yield f"{place} has {len(found)} entries, had {len(frozen)}", False
        for number, (before, now) in enumerate(zip(frozen, found, strict=False)):
            yield from _differences(before, now, tolerance, f"{place}[{number}]")
    elif not _same(frozen, found, tolerance.at(place)):
        yield f"{place} is {found!r}, was {frozen!r}", False


def _same(frozen: Any, found: Any, tolerance: Tolerance) -> bool:
    if type(frozen) is not type(found):
        return False
    if isinstance(frozen, float):
        return tolerance.close(frozen, found)
    if isinstance(frozen, str) and frozen != found and not tolerance.exact:
        return sentences_agree(frozen, found, tolerance)
    return bool(frozen == found)


def sentences_agree(frozen: str, found: str, tolerance: Tolerance) -> bool:
    """Whether two sentences say the same in the same words, with numbers that are as close as their digits.

    A written number is rounded, so that it may differ by one in its last digit besides.
    """
    if " " not in frozen or _NUMBER.sub("#", frozen) != _NUMBER.sub("#", found):
        return False  # a hash or a name is no sentence
    pairs = zip(_NUMBER.findall(frozen), _NUMBER.findall(found), strict=True)
    tolerance = tolerance.of_bounds
    return all(
        Tolerance(tolerance.relative, tolerance.absolute + _last_digit(before)).close(
            _value(before), _value(now)
        )
        for before, now in pairs
    )


def _value(written: str) -> float:
    return float(written.replace("−", "-"))


def _last_digit(written: str) -> float:
    """What one in the last digit is worth; whole numbers are counts, and may not move."""
    digits, _, exponent = written.partition("e")
    _, point, decimals = digits.partition(".")
    if not point and not exponent:
        return 0.0
    return 1.001 * 10.0 ** (_value(exponent or "0") - len(decimals))


def table_differences(
    frozen: pd.DataFrame, found: pd.DataFrame, tolerance: Tolerance = EXACT, place: str = "table"
) -> list[str]:
    """Differences of two tables: columns, their order and types, rows and their order, values."""
    return list(_table_differences(frozen, found, tolerance, place))


def _table_differences(
    frozen: pd.DataFrame, found: pd.DataFrame, tolerance: Tolerance, place: str
) -> Iterator[str]:
    if list(frozen.columns) != list(found.columns):
        yield f"{place} has the columns {list(found.columns)}, had {list(frozen.columns)}"
    if len(frozen) != len(found):
        yield f"{place} has {len(found)} rows, had {len(frozen)}"
        return
    for column in (each for each in frozen.columns if each in found.columns):
        before, now = frozen[column], found[column]
        if str(before.dtype) != str(now.dtype):
            yield f"{place}.{column} is of {now.dtype}, was of {before.dtype}"
        elif before.dtype.kind == "f":
            yield from _moved(before.to_numpy(), now.to_numpy(), tolerance.at(column), f"{place}.{column}")
        else:
            values = (plain(before.tolist()), plain(now.tolist()))
            yield from differences(*values, tolerance, f"{place}.{column}")


def _moved(frozen: np.ndarray, found: np.ndarray, tolerance: Tolerance, place: str) -> Iterator[str]:
    if tolerance.exact:
        missing = np.isnan(frozen) & np.isnan(found)
        same = missing | (frozen.view(f"u{frozen.itemsize}") == found.view(f"u{found.itemsize}"))
    else:
        same = np.isclose(found, frozen, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True)
    wrong = np.flatnonzero(~same)
    if len(wrong):
        row = wrong[0]
        yield (
            f"{place} differs in {len(wrong)} of {len(frozen)} rows, first in row {row}: is "
            f"{found[row]!r}, was {frozen[row]!r}"
        )


def plain(value: Any) -> Any:
    """The value with arrays as lists and what is missing as None, as a table's cells may hold them."""
    if value is pd.NA:
        return None
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
