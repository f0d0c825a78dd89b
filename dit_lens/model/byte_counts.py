"""Sizes of memory and files for a reader. Loads without torch."""

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
