"""Pairs of prompts that differ in one attribute, or in all: what is carried from one to the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dit_lens.errors import BadInput

DIRECTIONS = ("forward", "backward")
"""Source carried into target; target carried into source."""

EVERYTHING = "all"
"""Group of pairs that differ in more than one attribute, and of pairs whose attributes are not known."""


@dataclass(frozen=True)
class Pair:
    """Two prompts, `source` → `target`, and the group that their difference puts them in."""

    source: str
    target: str
    group: str = EVERYTHING

    def ends(self, direction: str) -> tuple[str, str]:
        """(the prompt that is edited, the prompt that it draws on)."""
        return (self.target, self.source) if direction == "forward" else (self.source, self.target)


def read_pairs(given: Iterable[Sequence[str]], *, attributes: bool = True) -> tuple[Pair, ...]:
    """Pairs with their groups.

    Args:
        given: (source, target) each.
        attributes: group pairs by the attribute of the shapes world in which their captions differ: one, its
            name; more, "all". Without, every pair is of the group "all".

    Raises:
        BadInput: a prompt that stands twice (each has one partner), two equal prompts, or, with attributes,
        captions that name none or differ in none.

    >>> read_pairs([("a red star", "a blue star")])[0].group
    'colour'
    """
    found: list[Pair] = []
    seen: set[str] = set()
    for source, target in given:
        for prompt in (source, target):
            if prompt in seen:
                raise BadInput(
                    f"{prompt!r} stands in two places of the pairs; every prompt has one partner, so each "
                    "stands once."
                )
            seen.add(prompt)
        found.append(Pair(source, target, _group(source, target) if attributes else EVERYTHING))
    if not found:
        raise BadInput("No pairs were given; carrying needs a source and a target prompt, at least one pair.")
    return tuple(found)


def _group(source: str, target: str) -> str:
    from dit_lens.methods.carried import differences

    differing, _ = differences(target, source)
    if not differing:
        raise BadInput(
            f"{source!r} and {target!r} differ in no attribute that both name, so nothing could move."
        )
    return next(iter(differing)) if len(differing) == 1 else EVERYTHING


def groups_of(pairs: Iterable[Pair]) -> tuple[str, ...]:
    """The groups that there are: single attributes in the world's order, then "all"."""
    from dit_lens.zoo.scenes import ATTRIBUTES

    there = {pair.group for pair in pairs}
    return tuple(name for name in (*ATTRIBUTES, EVERYTHING) if name in there)
