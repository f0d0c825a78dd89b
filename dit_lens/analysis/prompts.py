"""A spec's prompts as its model receives them: what it cannot tell apart is one prompt, and held out is held
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dit_lens.analysis.effects import naming
from dit_lens.analysis.spec import split
from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from dit_lens.analysis.spec import AnalysisSpec
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

Pairs = Sequence[tuple[str, str]]


def as_received(spec: AnalysisSpec, lens: DiTLens) -> AnalysisSpec:
    """The spec with each prompt that reaches the model as an earlier one left out, and notice given of it.

    Raises:
        BadInput: too few prompts remain for a verdict; a prompt that judges reaches the model as one that
            chooses the channels; a pair whose two prompts reach it as one.
    """
    from dit_lens.methods.units import units

    with naming("sampling"):
        sampling = lens.sampling(**spec.sampling.given())
    judged = bool(spec.judged_sections)
    # Half of them judges, where nothing else does.
    prompts = units(lens, spec.prompts, sampling, judged=judged and spec.effects.prompts is None)
    found = _replaced(spec, prompts=prompts)
    if judged and found.effects.prompts is not None:
        held_out = units(lens, found.effects.prompts, sampling, what="effects.prompts")
        found = _replaced(found, effects=_replaced(found.effects, prompts=held_out))
    if "transport_image" in found.sections and found.source.targets is not None:
        targets = units(lens, found.source.targets, sampling, what="source.targets", judged=False)
        found = _replaced(found, source=_replaced(found.source, targets=targets))
    if judged:
        choosing, judging = split(found)
        _require_apart(lens, sampling, choosing, judging, "effects.prompts")
        for key, pairs in _pairs(found).items():
            _require_two(lens, sampling, pairs, key)
            _require_apart(lens, sampling, choosing, [text for pair in pairs for text in pair], key)
    return found


def _replaced(value: Any, **fields: Any) -> Any:
    """A frozen part of a spec with other fields; itself where it has these already."""
    if all(getattr(value, name) == given for name, given in fields.items()):
        return value
    return value.model_copy(update=fields)


def _pairs(spec: AnalysisSpec) -> dict[str, Pairs]:
    asked = {
        "effects.pairs": spec.effects.pairs if "patch_map" in spec.sections else None,
        "transport.pairs": spec.transport.pairs if "transport_text" in spec.sections else None,
        "transport.far_pairs": spec.transport.far_pairs if "transport_text" in spec.sections else None,
    }
    return {key: pairs for key, pairs in asked.items() if pairs}


def _require_two(lens: DiTLens, sampling: Sampling, pairs: Pairs, key: str) -> None:
    from dit_lens.methods.units import require_two

    for source, target in pairs:
        require_two(lens, source, target, sampling, what=key)


def _require_apart(
    lens: DiTLens, sampling: Sampling, choosing: Iterable[str], judging: Iterable[str], key: str
) -> None:
    """Raise BadInput for a prompt that judges and that the model cannot tell from one that chooses."""
    known = {each.tokens: each for each in lens.read_prompts(tuple(choosing), sampling)}
    for each in lens.read_prompts(tuple(judging), sampling):
        first = known.get(each.tokens)
        if first is not None:
            from dit_lens.model.prompts import alike_in_words

            raise BadInput(
                f"{key}: {alike_in_words([first, each])} The first chooses the channels, so that the second "
                "is not held out. Leave one of them out."
            )
