"""Entries of images of before they had `coords`: what caption and file name say, so that old runs still open.

Pictures of one pair shared the beginning of their file name up to the seed
(`carry-00-seed-0-massive-0.25.png`); where names have no such beginning, they share prompt and seed. A
caption is "source", "target", or a family and its strength: "massive 0.25".
"""

from __future__ import annotations

import re

from dit_lens.run.run_record import ImageEntry

SOURCE, TARGETS = "source", ("target", "clean", "unguided", "unedited")


def pair_of_old(entry: ImageEntry) -> object:
    """Return what the pictures of one pair have in common."""
    shared = re.match(r".+?-seed-\d+(?=[-.])", entry.file)
    return shared.group() if shared else (entry.prompt, entry.seed)


def role_of_old(entry: ImageEntry) -> str:
    """Return whether a picture is the source, the target or an edited target."""
    if entry.caption == SOURCE:
        return "source"
    return "target" if entry.caption in TARGETS else "edited"


def family_and_strength_of_old(entry: ImageEntry) -> tuple[str, str]:
    """Return family and strength; the caption and "" where it names no strength.

    >>> family_and_strength_of_old(ImageEntry(file="a.png", prompt="", seed=0, caption="random-0 0.25"))
    ('random-0', '0.25')
    """
    found = re.fullmatch(r"(\S.*?)\s+(-?\d+(?:\.\d+)?)", entry.caption)
    return (found[1], found[2]) if found else (entry.caption, "")


def family_of_old(entry: ImageEntry) -> str:
    """Return the family without the number of its draw."""
    return re.sub(r"-\d+$", "", family_and_strength_of_old(entry)[0])
