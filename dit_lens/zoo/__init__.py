"""The trained small SD3 that ships with the package: its world, its training recipe, its weights, its card.

This module only knows where things lie; it imports neither torch nor diffusers.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Names of the embedded pipelines that `dit_lens.load` accepts.

    >>> import dit_lens.zoo
    >>> "shapes-sd3" in dit_lens.zoo.names()
    True
    """
    return tuple(sorted(p.parent.name for p in _HERE.glob("*/model_index.json")))


def path(name: str = "shapes-sd3") -> Path:
    """Folder of an embedded diffusers pipeline; it need not exist yet (training creates it)."""
    return _HERE / name


def card_path() -> Path:
    """The model card of the embedded models, which lists the words of their world."""
    return _HERE / "README.md"


def scorer_path(name: str = "shapes-clip") -> Path:
    """Folder of the embedded CLIP that scores prompt alignment and reads attributes."""
    return _HERE / name
