"""What controls are called and how they look in a report, by name. Loads without torch and pandas."""

from __future__ import annotations

from dit_lens.methods.controls import CONTROLS, control_kinds


def control_title(name: str) -> str | None:
    """What a figure calls this kind of control; None for what is no control.

    >>> control_title("low"), control_title("massive")
    ('weakest', None)
    """
    return CONTROLS[name].title if name in CONTROLS else None


def control_colour(name: str) -> int | None:
    """Its place in the palette; None for what has none of its own.

    >>> control_colour("low"), control_colour("massive")
    (4, None)
    """
    return CONTROLS[name].colour if name in CONTROLS else None


def controls_shown() -> tuple[str, ...]:
    """The kinds that a report can show, in its order.

    >>> controls_shown()[:2]
    ('low', 'random')
    """
    return tuple(name for name in control_kinds() if CONTROLS[name].serves)
