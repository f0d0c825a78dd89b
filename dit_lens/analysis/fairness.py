"""What keeps a spec fair: who judges chose no channels, and no control is asked for in vain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dit_lens.methods.controls import CONTROLS, fairest_first, token_shuffle

if TYPE_CHECKING:
    from dit_lens.analysis.spec import AnalysisSpec


def used() -> dict[str, tuple[str, ...]]:
    """Sections, and the kinds of `effects.controls` that they can compare with.

    Maps have `effects.maps.control`, and the other sections controls of their own.
    """
    others = fairest_first("effects")
    sections = ("disruption", "semantics_or_detail", "single_or_all", "dose")
    return {**dict.fromkeys(sections, others), "bias_or_carrier": (token_shuffle.CONTROL.name,)}


def require_held_out_pairs(spec: AnalysisSpec) -> None:
    """Raise ValueError for a pair with a prompt that chooses the channels."""
    asked = {
        "effects.pairs": spec.effects.pairs if "patch_map" in spec.sections else None,
        "transport.pairs": spec.transport.pairs if "transport_text" in spec.sections else None,
        "transport.far_pairs": spec.transport.far_pairs if "transport_text" in spec.sections else None,
    }
    if not any(asked.values()):
        return
    from dit_lens.analysis.effects import split

    choosing = set(split(spec)[0])
    stands = "stands in prompts too"
    if spec.effects.prompts is None:
        stands = "is in that half of prompts which chooses the channels, since effects.prompts is absent"
    for key, pairs in asked.items():
        both = sorted({prompt for pair in pairs or () for prompt in pair} & choosing)
        if both:
            raise ValueError(
                f"{key} holds {both[0]!r}, which {stands}: prompts choose the channels, and what judges them "
                "must be held out"
            )


def require_useful_controls(spec: AnalysisSpec) -> None:
    """Raise ValueError for controls of effects that no asked section compares with.

    The defaults are never refused: nobody asked for them.
    """
    controls = spec.effects.controls
    useless = sorted(set(controls) - set(useful(controls, spec.sections)))
    if not useless or controls == type(spec.effects)().controls:
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
