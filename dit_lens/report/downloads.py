"""Files that a page carries with it, as links that save them: what stays when the page leaves its folder."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MOST_CSV = 256 * 1024  # bytes of rows that are carried as they are; more are compressed
MOST_BYTES = 300 * 1024  # of the link of a compressed table; a larger one stays beside the page
MOST_VALUES = 1_000_000  # of a table; compressing more of them would not make them fit
DIGITS = 7  # significant ones of a number in a compressed table: those of float32


@dataclass(frozen=True)
class Download:
    """A file inside the page: its name, its content as a `data:` address, and what the link says of it."""

    name: str
    address: str
    words: str
    note: str = ""


def of_table(name: str, table: pd.DataFrame) -> Download | None:
    """Return a table as CSV, compressed where it is long; None where it is too long even so."""
    values = len(table) * len(table.columns)
    # Counting first spares writing out a table that could not be carried anyway.
    if values * 2 <= MOST_CSV:
        data = table.to_csv(index=False).encode()
        if len(data) <= MOST_CSV:
            return Download(f"{name}.csv", _address("text/csv", data), "download them as CSV")
    if values > MOST_VALUES:
        return None
    data = table.to_csv(index=False, float_format=f"%.{DIGITS}g").encode()
    # Without a time inside, the same rows are the same bytes.
    address = _address("application/gzip", gzip.compress(data, mtime=0))
    if len(address) > MOST_BYTES:
        return None
    note = f"compressed by gzip, with numbers to {DIGITS} digits"
    return Download(f"{name}.csv.gz", address, "download them as CSV", note)


def of_json(name: str, value: Any, words: str) -> Download:
    """Return a value as a JSON file."""
    data = json.dumps(value, ensure_ascii=False, indent=2).encode()
    return Download(name, _address("application/json", data), words)


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode("ascii")
