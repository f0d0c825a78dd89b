"""What metrics, arms and outcomes are called where a reader meets them.

Controls say themselves what they are called. Names that nobody knows are shown as they stand in the table, so
a new metric needs no change to be drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dit_lens.methods.control_labels import control_title, controls_shown


@dataclass(frozen=True)
class MetricWords:
    """A metric's title and its unit ("" for none)."""

    title: str
    unit: str = ""

    @property
    def axis(self) -> str:
        """The title with its unit, for an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


# Most telling for a reader first; sections and views keep this order.
_METRICS = {
    "alignment": MetricWords("prompt alignment", "cosine"),
    "semantics": MetricWords("semantic attributes as asked", "share"),
    "detail": MetricWords("surface detail as asked", "share"),
    "ssim": MetricWords("SSIM with the clean image"),
    "lpips": MetricWords("LPIPS distance to the clean image"),
    "change_low": MetricWords("change at low frequencies", "pixel value, 0 to 1"),
    "change_high": MetricWords("change at high frequencies", "pixel value, 0 to 1"),
    "change_inside": MetricWords("change inside the mask", "pixel value, 0 to 1"),
    "change_outside": MetricWords("change outside the mask", "pixel value, 0 to 1"),
    "detail_ratio": MetricWords("high-frequency magnitude over the clean image's", "ratio"),
    "latent": MetricWords("latent distance", "share of the reference's norm"),
    "predicted_x0": MetricWords("mean drift of the predicted image", "share of the reference's norm"),
    "velocity": MetricWords("velocity distance", "share of the reference's norm"),
    "psnr": MetricWords("PSNR to the clean image", "dB"),
    "toward": MetricWords("velocity's way to the donor's", "share of the way"),
    "toward_latent": MetricWords("final latent's way to the donor's", "share of the way"),
    "margin": MetricWords("alignment with the source's prompt over the target's", "cosine"),
    "moved": MetricWords("differing attributes that read as the source's", "share"),
    "kept": MetricWords("shared attributes that read as before", "share"),
}

_ATTRIBUTE = "attribute."
_MOVED = "moved."

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


def metric_words(name: str) -> MetricWords:
    """Return what a metric is called.

    >>> metric_words("psnr").axis, metric_words("attribute.shape").title, metric_words("my_score").title
    ('PSNR to the clean image (dB)', 'shape as asked', 'my score')
    """
    if name.startswith(_ATTRIBUTE):
        return MetricWords(f"{name.removeprefix(_ATTRIBUTE).replace('_', ' ')} as asked", "share")
    if name.startswith(_MOVED):
        return MetricWords(
            f"{name.removeprefix(_MOVED).replace('_', ' ')} that reads as the source's", "share"
        )
    return _METRICS.get(name) or MetricWords(name.replace("_", " "))


def metrics_in_order(names: Iterable[str], first: str | None = None) -> list[str]:
    """Return different metrics in the order of a report: `first`, those known here, attributes, others.

    >>> metrics_in_order(["zeal", "attribute.shape", "psnr", "ssim"], first="psnr")
    ['psnr', 'ssim', 'attribute.shape', 'zeal']
    """
    known = list(_METRICS)

    def place(name: str) -> tuple[bool, int, str]:
        if name in known:
            return name != first, known.index(name), name
        return name != first, len(known) + (not name.startswith(_ATTRIBUTE)), name

    return sorted(set(names), key=place)


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
