"""Measured quantities that describe themselves. What there is: `dit_lens.methods.metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from dit_lens.methods.evidence import Evidence

Need = Literal["image", "clean", "source", "mask", "reader", "clip", "lpips", "path"]
"""What a metric may need: the images; the unedited run; a source run; a mask of pixels; what reads
attributes, rates alignment or measures LPIPS; the latents of every step."""

LAST = 1_000
"""The place of a metric that names none."""


@dataclass(frozen=True)
class InTransport:
    """What a quantity is where activations are patched from a source run into a target.

    `place` is its order there; `title` what it is called there, where that differs; `unmoved` its value for
    the target itself, None where none can be drawn.
    """

    place: int
    title: str = ""
    unmoved: float | None = None


@dataclass(frozen=True)
class Quantity:
    """What a reader sees of a measured quantity, be it measured here or a score from outside.

    Args:
        name: in tables and specs; for a metric the name of its module.
        title: what a reader calls it; `unit`: "" where it has none.
        disrupted: the side of a control on which a more disruptive edit lies.
        unchanged: its value for the unedited run itself; None where none can be drawn.
        group: what the report draws together.
        place: its order in a report, the most telling first.
        in_transport: what it is where activations are patched; None where it is not measured there.
        in_guidance: its order where Detail Guidance is measured; None where it is not.

    >>> Quantity("hps", "HPS", unit="score").axis
    'HPS (score)'
    """

    name: str
    title: str
    unit: str = ""
    disrupted: Literal["greater", "less"] = "less"
    unchanged: float | None = field(default=0.0, kw_only=True)
    group: str = field(default="others", kw_only=True)
    place: int = field(default=LAST, kw_only=True)
    in_transport: InTransport | None = field(default=None, kw_only=True)
    in_guidance: int | None = field(default=None, kw_only=True)

    @property
    def axis(self) -> str:
        """The title with its unit, for an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True, kw_only=True)
class Metric(Quantity):
    """A quantity that this package, or another one, measures of edited runs.

    Args:
        measure: evidence of some rows → float64 [rows]; NaN where there is no value. needs: see `Need`.
        Without "clean" it is a quantity of a run by itself, which the unedited run has, too. readout:
        "final", the finished run; or "step", the velocity at one step. rule: by which rule it is measured;
        counted up when the same evidence comes to give other numbers. require_size: raises BadInput for
        images of a height and width that it cannot look at. unasked: whether it is measured where nobody
        names metrics, and what it needs is there. row: its order in tables.

    >>> from dit_lens.methods.metrics import METRICS
    >>> METRICS["psnr"].axis, METRICS["psnr"].definition
    ('PSNR to the clean image (dB)', 'psnr/1')
    """

    measure: Callable[[Evidence], npt.NDArray[np.float64]]
    needs: frozenset[Need]
    readout: Literal["final", "step"] = "final"
    rule: str = "1"
    require_size: Callable[[int, int], None] | None = None
    unasked: bool = True
    row: int = LAST

    @property
    def absolute(self) -> bool:
        """Whether it is a quantity of a run by itself."""
        return "clean" not in self.needs

    @property
    def definition(self) -> str:
        """Which numbers are the same quantity: stored with each of them."""
        return f"{self.name}/{self.rule}"
