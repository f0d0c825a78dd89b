"""Metrics of pairs of images that need nothing else, without a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.methods.evidence import Evidence
from dit_lens.methods.frequency import CUTOFF
from dit_lens.methods.metrics import METRICS
from dit_lens.words import known_words

if TYPE_CHECKING:
    from dit_lens.methods.pixels import Images

Array = npt.NDArray[np.float64]


def image_metrics() -> tuple[str, ...]:
    """Names of the metrics that need an edited and an unedited image, and nothing else."""
    return tuple(name for name, metric in METRICS.items() if metric.needs == {"image", "clean"})


@known_words
def compare_images(
    edited: Images, reference: Images, metrics: Sequence[str] | None = None, *, cutoff: float = CUTOFF
) -> dict[str, Array]:
    """The image metrics by name, float64 [n] each, in the order asked for.

    Args:
        edited, reference: n pictures each, in pairs: PIL images, or arrays [H, W, 3].
        metrics: of `image_metrics()`, all of them by default; units and directions in `METRICS`.
        cutoff: cycles per pixel between low and high frequencies.

    Raises:
        BadInput: an unknown metric, or images that do not pair.

    >>> list(compare_images([np.zeros((16, 16, 3))], [np.ones((16, 16, 3))], ["psnr", "change_low"]))
    ['psnr', 'change_low']
    """
    there = image_metrics()
    for name in metrics or ():
        if name not in there:
            raise BadInput(
                f"There is no image metric {name!r}; there are {', '.join(there)}.{did_you_mean(name, there)}"
            )
    images: Any = edited
    rows = Evidence(prompts=[""] * len(images), images=images, clean_images=reference, cutoff=cutoff)  # type: ignore[arg-type]
    # Refused in any case, whatever is asked for.
    _ = rows.pairs
    return {name: METRICS[name].measure(rows) for name in (there if metrics is None else metrics)}
