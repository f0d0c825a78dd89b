"""The kinds of control by name, and the choices among them that questions, specs and messages need."""

from __future__ import annotations

from dit_lens.methods.controls._parts import ControlKind, Place
from dit_lens.registry import Registry

CONTROLS: Registry[ControlKind] = Registry(
    "control", "dit_lens.methods.controls", "CONTROL", "dit_lens.controls"
)
"""Every kind of control by name; `CONTROLS.add(name, kind)` adds one to this process."""


def control_kinds() -> tuple[str, ...]:
    """All kinds, in the order of messages and reports.

    >>> control_kinds()[:2]
    ('low', 'random')
    """
    return tuple(sorted(CONTROLS, key=lambda name: (CONTROLS[name].order, name)))


def serving(place: Place) -> tuple[str, ...]:
    """The kinds that may be asked for there, in the order of reports.

    >>> serving("spatial")
    ('low', 'random', 'random_rank_window')
    """
    return tuple(name for name in control_kinds() if place in CONTROLS[name].serves)


def fairest_first(place: Place) -> tuple[str, ...]:
    """The kinds with other channels that may be asked for there, fairest first.

    >>> fairest_first("effects")[-1]
    'low'
    """
    found = [name for name in serving(place) if CONTROLS[name].other_channels]
    return tuple(sorted(found, key=lambda name: CONTROLS[name].fairness))


def channels_alone(place: Place) -> tuple[str, ...]:
    """Those of `fairest_first` that edit as the treatment does.

    They can be patched like massive channels, and drawn anew for any number of channels.

    >>> channels_alone("maps")
    ('random_rank_window', 'random', 'low')
    """
    return tuple(name for name in fairest_first(place) if CONTROLS[name].channels_alone)


def default_draws(place: Place, most: int | None = None) -> dict[str, int]:
    """Kind → draws where nobody asks for others, at most `most` of each.

    >>> default_draws("spatial")
    {'low': 1, 'random': 5, 'random_rank_window': 5}
    """
    usual = {name: CONTROLS[name].default_draws for name in serving(place)}
    return {name: min(draws, most or draws) for name, draws in usual.items() if draws}


def is_drawn(name: str) -> bool:
    """Whether this is a kind of control that chance draws; False for what is no control."""
    return name in CONTROLS and CONTROLS[name].drawn
