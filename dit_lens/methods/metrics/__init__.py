"""What is measured of an edited run: a module for each quantity, which describes and measures it.

Another package adds one through the entry point group `dit_lens.metrics`; it names a `Metric`. Order, words,
units, directions and needs are the metrics' own.
"""

from __future__ import annotations

from dit_lens.methods.metric import LAST, Metric, Quantity
from dit_lens.registry import Registry

METRICS: Registry[Metric] = Registry(
    "metric", __name__, "METRIC", "dit_lens.metrics", order=lambda metric: metric.row
)
"""Every metric by name, in the order of tables."""


def in_transport() -> tuple[str, ...]:
    """Names of the metrics that are measured where activations are patched, in their order there."""
    found = {name: metric.in_transport.place for name, metric in METRICS.items() if metric.in_transport}
    return tuple(sorted(found, key=lambda name: found[name]))


def in_guidance() -> tuple[str, ...]:
    """Names of the metrics that are measured of Detail Guidance, in their order there."""
    found = {name: metric.in_guidance for name, metric in METRICS.items() if metric.in_guidance is not None}
    return tuple(sorted(found, key=lambda name: found[name]))


def quantity(name: str) -> Quantity:
    """A metric, or what can be said of a score from outside: its name, and that it falls when images suffer.

    >>> quantity("attribute.shape").title, quantity("my_score").title
    ('shape as asked', 'my score')
    """
    return METRICS[name] if name in METRICS else Quantity(name, name.replace("_", " "))


__all__ = ["LAST", "METRICS", "Metric", "Quantity", "quantity"]
