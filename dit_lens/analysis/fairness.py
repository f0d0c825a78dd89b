"""What keeps a spec fair: who judges chose no channels, and no control is asked for in vain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import AfterValidator

Controls = TypeVar("Controls", bound=Mapping[Any, int])

_OTHER_CHANNELS = ("low", "random", "random_rank_window", "energy_matched")

USED: dict[str, tuple[str, ...]] = {
    "disruption": _OTHER_CHANNELS,
    "bias_or_carrier": ("token_shuffle",),
    "semantics_or_detail": _OTHER_CHANNELS,
    "single_or_all": _OTHER_CHANNELS,
    "dose": _OTHER_CHANNELS,
}
"""Sections, and the kinds of `effects.controls` that they can compare with. Maps have `effects.maps.control`,
and the other sections controls of their own."""

WITHOUT_CHANCE = ("low", "mean_set", "ln_preserving")
"""Kinds of which there is one, however many draws are asked for."""


_INSTEAD = {
    "mean_set": "bias_or_carrier sets the token mean by itself",
    "ln_preserving": "bias_or_carrier keeps LayerNorm statistics by itself",
}


def require_held_out_pairs(
    asked: Mapping[str, Iterable[Iterable[str]] | None], choosing: Iterable[str], *, halved: bool
) -> None:
    """Raise ValueError for a pair with a prompt that chooses the channels.

    `asked` holds pairs by their key in the spec; `halved`: `choosing` are one half of its prompts.
    """
    choosing = set(choosing)
    stands = "stands in prompts too"
    if halved:
        stands = "is in that half of prompts which chooses the channels, since effects.prompts is absent"
    for key, pairs in asked.items():
        both = sorted({prompt for pair in pairs or () for prompt in pair} & choosing)
        if both:
            raise ValueError(
                f"{key} holds {both[0]!r}, which {stands}: prompts choose the channels, and what judges them "
                "must be held out"
            )


def require_useful_controls(
    controls: Mapping[Any, int], sections: Sequence[str], *, by_default: Mapping[Any, int]
) -> None:
    """Raise ValueError for controls of effects that no asked section compares with.

    The defaults are never refused: nobody asked for them.
    """
    useless = sorted(set(controls) - set(useful(controls, sections)))
    if not useless or controls == by_default:
        return
    kind = useless[0]
    by = [section for section, kinds in USED.items() if kind in kinds]
    users = f"only {', '.join(by)} would" if by else f"no section does; {_INSTEAD[kind]}"
    remove = "--set effects.controls=null" if set(useless) == set(controls) else f"leave {kind} out"
    raise ValueError(
        f"effects.controls holds {kind}, and none of the sections that are asked for compares with it: "
        f"{users}. Remove it ({remove}); maps name their control in effects.maps.control"
    )


def useful(controls: Mapping[Any, int], sections: Iterable[str]) -> dict[str, int]:
    """Those of the controls that the sections can compare with."""
    used = {kind for section in sections for kind in USED.get(section, ())}
    return {kind: draws for kind, draws in controls.items() if kind in used}


def _require_draws(controls: Controls) -> Controls:
    """Raise ValueError for more than one draw of a kind that involves no chance."""
    for kind, draws in controls.items():
        if kind in WITHOUT_CHANCE and draws > 1:
            raise ValueError(
                f"{draws} draws of {kind} were asked for, and nothing in it is drawn: there is one. "
                f"Write {kind}: 1"
            )
    return controls


DrawsFit = AfterValidator(_require_draws)
"""Of a spec's `controls`: one draw of what involves no chance."""
