"""Distances: of tensors at each step, along a line, and of pairs of images; `along_steps` has whole runs.

Everything is measured pairwise between an edited run and its reference (same prompt, seed and schedule) and
comes back as float64 numpy arrays with one entry per row. Inputs may be numpy arrays or tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput
from dit_lens.methods.pixels import as_array, pixel_pairs

if TYPE_CHECKING:
    from dit_lens.methods.pixels import Images

Array = npt.NDArray[np.float64]
Distance = Literal["relative", "rms", "cosine"]

PSNR_CAP = 100.0
"""Decibels given to images that are equal or closer than this, so that a mean over prompts stays finite."""

_SSIM_WINDOW = 11


# ------------------------------------------------------------------------------------------ along the steps
def step_distance(edited: Any, reference: Any, kind: Distance = "relative") -> Array:
    """Distance of two tensors at each step: float64 [rows, steps].

    Args:
        edited, reference: [rows, steps, …], equal shapes; the rest is one vector per row and step.
        kind: `relative` ‖a − b‖ / ‖b‖; `rms` root mean square of a − b in the inputs' unit; `cosine`
            1 − cos(a, b). Relative to a zero reference, and the cosine with a zero vector, are NaN.

    Raises:
        BadInput: shapes that differ, fewer than three axes, or an unknown kind.

    >>> step_distance(np.full((1, 2, 4), 3.0), np.full((1, 2, 4), 2.0))
    array([[0.5, 0.5]])
    """
    if kind not in ("relative", "rms", "cosine"):
        raise BadInput(f"There is no distance {kind!r}; there are relative, rms and cosine.")
    a, b = as_array(edited), as_array(reference)
    if a.shape != b.shape or a.ndim < 3:
        raise BadInput(
            f"Shapes {list(a.shape)} and {list(b.shape)} cannot be compared step by step; both must be "
            "the same [rows, steps, …]."
        )
    a, b = (x.reshape(*x.shape[:2], -1) for x in (a, b))
    if kind == "rms":
        return np.sqrt(((a - b) ** 2).mean(axis=-1))
    if kind == "relative":
        return _divided(np.linalg.norm(a - b, axis=-1), np.linalg.norm(b, axis=-1))
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return 1.0 - np.clip(_divided((a * b).sum(axis=-1), norms), -1.0, 1.0)


def _divided(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def share_of_the_way(edited: Any, reference: Any, donor: Any) -> Array:
    """How far edits moved a reference toward a donor, along the line between the two: float64 [rows].

    ⟨edited − reference, donor − reference⟩ / ‖donor − reference‖²: 0 for the reference, 1 for the donor, 0
    for what moved at right angles; NaN where reference and donor are equal. The normalised effect of
    activation patching (arXiv 2309.16042), with a direction in place of a logit difference.

    Args:
        edited: [rows, …]. reference, donor: of the same shape, or with one row for all.

    Raises:
        BadInput: shapes that do not fit.

    >>> share_of_the_way(np.array([[1.0, 5.0]]), np.zeros((1, 2)), np.array([[4.0, 0.0]]))
    array([0.25])
    """
    x, start, end = as_array(edited), as_array(reference), as_array(donor)
    for name, value in (("reference", start), ("donor", end)):
        if x.ndim < 2 or value.shape not in (x.shape, (1, *x.shape[1:])):
            raise BadInput(
                f"Edited {list(x.shape)} and {name} {list(value.shape)} cannot be compared; both must be the "
                f"same [rows, …], or the {name} one row for all."
            )
    moved = (x - start).reshape(len(x), -1)
    way = np.broadcast_to(end - start, x.shape).reshape(len(x), -1)
    return _divided((moved * way).sum(axis=-1), (way**2).sum(axis=-1))


# ------------------------------------------------------------------------------------------------ pictures
def psnr(edited: Images, reference: Images) -> Array:
    """Peak signal-to-noise ratio in dB, float64 [n]; at most `PSNR_CAP`, which equal images get.

    Raises:
        BadInput: images that do not pair; see `as_pixels` for what images may be.

    >>> float(psnr([np.full((2, 2, 3), 0.1)], [np.zeros((2, 2, 3))])[0].round(9))
    20.0
    """
    a, b = pixel_pairs(edited, reference)
    error = ((a - b) ** 2).mean(axis=(1, 2, 3))
    return -10.0 * np.log10(np.maximum(error, 10.0 ** (-PSNR_CAP / 10)))


def ssim(edited: Images, reference: Images) -> Array:
    """Structural similarity, float64 [n]: 1 for equal images. Computed by torchmetrics.

    Gaussian window of 11 pixels, σ = 1.5, data range 1, edges mirrored, colours averaged (Wang et al. 2004).

    Raises:
        BadInput: images that do not pair or are smaller than the window.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = pixel_pairs(edited, reference)
    require_ssim_window(*a.shape[1:3])
    first, second = (torch.from_numpy(np.moveaxis(x, -1, 1).copy()) for x in (a, b))
    scores = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    # torchmetrics squeezes a batch of one.
    return as_array(scores).reshape(len(a))


def require_ssim_window(height: int, width: int) -> None:
    """Raise BadInput for images that are smaller than SSIM's window."""
    if min(height, width) < _SSIM_WINDOW:
        raise BadInput(
            f"SSIM looks through a window of {_SSIM_WINDOW} pixels; the images are {height} × {width}."
        )
