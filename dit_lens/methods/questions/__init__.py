"""The questions about effects, by the name of their section; each module says what it claims and by whom.

Modules load when their question is first asked for.

>>> tuple(QUESTIONS)[:3]
('disruption', 'bias_or_carrier', 'semantics_or_detail')
>>> QUESTIONS["disruption"].title
'Do massive channels hold the image together?'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.methods.questions.question import (
    DOSES,
    Answered,
    Judging,
    Question,
    Setting,
)

__all__ = ["QUESTIONS", "DOSES", "Answered", "Judging", "Question", "Setting"]

# Name → module and attribute.
_HOMES = {
    "disruption": ("disruption", "QUESTION"),
    "bias_or_carrier": ("bias_or_carrier", "QUESTION"),
    "semantics_or_detail": ("semantics_or_detail", "QUESTION"),
    "single_or_all": ("single_or_all", "QUESTION"),
    "dose": ("dose", "QUESTION"),
    "step_map": ("maps", "STEP_MAP"),
    "final_map": ("maps", "FINAL_MAP"),
    "patch_map": ("maps", "PATCH_MAP"),
}


class _Questions(Mapping[str, Question]):
    """Name → question, in the order in which a report asks them."""

    def __getitem__(self, name: str) -> Question:
        if name not in _HOMES:
            raise BadInput(
                f"There is no question {name!r}; there are: {', '.join(_HOMES)}.{did_you_mean(name, _HOMES)}"
            )
        module, attribute = _HOMES[name]
        found = getattr(import_module(f"{__name__}.{module}"), attribute)
        assert isinstance(found, Question)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)

    def __contains__(self, name: object) -> bool:
        return name in _HOMES


QUESTIONS: Mapping[str, Question] = _Questions()
