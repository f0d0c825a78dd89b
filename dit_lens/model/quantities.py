"""Sizes of memory and files, and times, for a reader. Loads without torch."""

from __future__ import annotations


def readable_bytes(count: float) -> str:
    """A number of bytes in decimal units, three digits: kB = 1,000 bytes, as disks and papers count.

    >>> readable_bytes(999), readable_bytes(1_320_000), readable_bytes(17e9)
    ('999 B', '1.32 MB', '17 GB')
    """
    size = float(count)
    for unit in ("B", "kB", "MB"):
        # 999.9 kB would be written as 1e+03 kB.
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB" if size < 999.5 else f"{size:,.0f} GB"


def readable_time(seconds: float) -> str:
    """A duration in the unit that a person would name, with about two digits.

    >>> readable_time(0.42), readable_time(12.4), readable_time(700), readable_time(20_000)
    ('0.42 s', '12 s', '12 min', '5.6 h')
    """
    if seconds < 90:
        return f"{seconds:.2g} s"
    minutes = seconds / 60
    if minutes < 9.95:
        return f"{minutes:.1f} min"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
