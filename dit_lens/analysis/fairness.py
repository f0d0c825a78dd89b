"""What keeps a spec fair: who judges chose no channels, and no control is asked for in vain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dit_lens.methods.controls import CONTROLS, fairest_first, token_shuffle


def used() -> dict[str, tuple[str, ...]]:
    """Sections, and the kinds of `effects.controls` that they can compare with.

    Maps have `effects.maps.control`, and the other sections controls of their own.
    """
    others = fairest_first("effects")
    sections = ("disruption", "semantics_or_detail", "single_or_all", "dose")
    return {**dict.fromkeys(sections, others), "bias_or_carrier": (token_shuffle.CONTROL.name,)}


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
    by = [section for section, kinds in used().items() if kind in kinds]
    nobody = "; ".join(filter(None, ("no section does", CONTROLS[kind].instead)))
    users = f"only {', '.join(by)} would" if by else nobody
    remove = "--set effects.controls=null" if set(useless) == set(controls) else f"leave {kind} out"
    raise ValueError(
        f"effects.controls holds {kind}, and none of the sections that are asked for compares with it: "
        f"{users}. Remove it ({remove}); maps name their control in effects.maps.control"
    )


def useful(controls: Mapping[Any, int], sections: Iterable[str]) -> dict[str, int]:
    """Those of the controls that the sections can compare with."""
    compared = used()
    kinds = {kind for section in sections for kind in compared.get(section, ())}
    return {kind: draws for kind, draws in controls.items() if kind in kinds}
