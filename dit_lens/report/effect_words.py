"""What arms and outcomes are called where a reader meets them, and in which order metrics stand there.

Controls say themselves what they are called. Names that nobody knows are shown as they stand in the table.
"""

from __future__ import annotations

from collections.abc import Iterable

from dit_lens.methods.control_labels import control_title, controls_shown
from dit_lens.methods.metrics import quantity

_MASSIVE = {"massive": "massive channels"}

# What massive channels are compared with beside their controls, which say themselves what they are called.
_BESIDE = {
    "all": "all channels",
    "all_but_massive": "all other channels",
    "latent_blend": "latents blended",
    "pixel_blend": "pixels blended",
    "prompt_blend": "prompts blended",
}

OUTCOMES = ("supported", "not supported", "undecided")


def metrics_in_order(names: Iterable[str], first: str | None = None) -> list[str]:
    """Return different metrics in the order of a report: `first`, the most telling ones, attributes, others.

    >>> metrics_in_order(["zeal", "attribute.shape", "psnr", "ssim"], first="psnr")
    ['psnr', 'ssim', 'attribute.shape', 'zeal']
    """
    return sorted(set(names), key=lambda name: (name != first, quantity(name).place, name))


def family_name(kind: str) -> str:
    """Return what a family of arms is called.

    >>> family_name("energy_matched"), family_name("my_control")
    ('energy matched', 'my control')
    """
    named = _MASSIVE | _BESIDE
    return named.get(kind) or control_title(kind) or kind.replace("_", " ")


def families_in_order(kinds: Iterable[str]) -> list[str]:
    """Return different families in the order of a report: massive, then its controls.

    >>> families_in_order(["random", "mine", "massive", "low"])
    ['massive', 'low', 'random', 'mine']
    """
    return sorted(set(kinds), key=family_place)


def family_place(kind: str) -> tuple[int, str]:
    """Return where a family stands in the order of a report, as a key to sort by."""
    known = [*_MASSIVE, *controls_shown(), *_BESIDE]
    return known.index(kind) if kind in known else len(known), kind


def p_words(value: float | None) -> str:
    """Return a p-value as words.

    >>> p_words(0.0312), p_words(0.00001), p_words(None)
    ('p = 0.031', 'p < 0.0001', 'no p-value')
    """
    if value is None or value != value:
        return "no p-value"
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"
