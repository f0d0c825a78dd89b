"""How much of a change is layout and how much is fine detail: a radial split of the spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput
from dit_lens.methods.pixels import pixel_pairs

if TYPE_CHECKING:
    from dit_lens.methods.pixels import Images

Array = npt.NDArray[np.float64]

CUTOFF = 0.125
"""Cycles per pixel between low and high: structure of 8 pixels a period and more is low."""


@dataclass(frozen=True)
class BandChange:
    """Change of n images by spatial frequency; float64 [n] each.

    `low` and `high` are root mean square differences in pixel values (0 to 1); their squares sum to that of
    the whole difference. `detail_ratio` is the high-frequency magnitude of the edited image over that of the
    reference: 1 keeps the amount, 0 has none left; NaN where the reference has none. Sharp edges count as
    well as texture, so in pictures of flat shapes it moves little.
    """

    low: Array
    high: Array
    detail_ratio: Array


def band_change(edited: Images, reference: Images, *, cutoff: float = CUTOFF) -> BandChange:
    """Split the change between images into low and high spatial frequencies.

    Each colour channel is Fourier transformed; frequencies up to `cutoff` cycles per pixel from the origin
    count as low. The cut-off is in pixels, not in image widths, since detail is judged at the size at which
    the image is seen; state it with every number.

    Args:
        edited, reference: n images each, see `as_pixels`.
        cutoff: between 0 and 0.5 (the Nyquist frequency along an axis).

    Raises:
        BadInput: images that do not pair, or a cut-off out of range.

    >>> flat, brighter = np.full((16, 16, 3), 0.25), np.full((16, 16, 3), 0.75)
    >>> change = band_change([brighter], [flat])
    >>> float(change.low[0]), float(change.high[0])
    (0.5, 0.0)
    """
    if not 0 < cutoff < 0.5:
        raise BadInput(f"The cut-off is {cutoff}; it must lie between 0 and 0.5 cycles per pixel.")
    first, second = pixel_pairs(edited, reference)
    high = _radius(first.shape[1], first.shape[2]) > cutoff
    difference = _power(first - second)
    return BandChange(
        low=np.sqrt(_share(difference, ~high)),
        high=np.sqrt(_share(difference, high)),
        detail_ratio=_ratio(_share(_power(first), high), _share(_power(second), high)),
    )


def _radius(height: int, width: int) -> Array:
    """Distance of each Fourier coefficient from the origin, in cycles per pixel [H, W]."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])


def _power(pixels: Array) -> Array:
    """Mean power per coefficient over colours [n, H, W]; it sums to the mean square of the pixels."""
    spectrum = np.fft.fft2(pixels, axes=(1, 2), norm="forward")
    power: Array = (np.abs(spectrum) ** 2).mean(axis=-1)
    return power


def _share(power: Array, band: npt.NDArray[np.bool_]) -> Array:
    return np.asarray(power[:, band].sum(axis=1), dtype=np.float64)


def _ratio(edited: Array, reference: Array) -> Array:
    # Below rounding of 8-bit pixels there is no detail to compare with.
    known = reference > 1e-12
    ratio = np.divide(edited, reference, out=np.full_like(edited, np.nan), where=known)
    return np.sqrt(ratio)
