"""Edits that cannot be carried out together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dit_lens.errors import BadInput
from dit_lens.graph.spec import GraphSpec
from dit_lens.model.hook_points import HookPoint

if TYPE_CHECKING:
    from dit_lens.graph.checked import CheckedEdit


def refuse_cycles(spec: GraphSpec, edits: Sequence[CheckedEdit]) -> None:
    """Raise `BadInput` if trajectories draw on each other in a circle: none of them could be run first."""
    names = [each.id for each in spec.trajectories]
    sources: dict[int, dict[int, int]] = {}
    for edit in edits:
        if edit.source is not None:
            sources.setdefault(edit.into, {}).setdefault(edit.source, edit.index)
    done: set[int] = set()
    for root in sources:
        # Depth first without recursion: chains of patches may be long.
        path, stack = [root], [iter(sources[root])]
        while path:
            following = next((s for s in stack[-1] if s not in done), None)
            if following is None:
                done.add(path.pop())
                stack.pop()
            elif following in path:
                loop = [*path[path.index(following) :], following]
                raise BadInput.at(
                    ("edits", sources[path[-1]][following], "source"),
                    "the patches form a cycle, "
                    f"{' ← '.join(names[i] for i in loop)}. Each trajectory must be run before those that "
                    "draw on it: patch from an unedited trajectory of the same prompt and seed instead.",
                )
            else:
                path.append(following)
                stack.append(iter(sources.get(following, {})))


def refuse_ambiguous_patches(spec: GraphSpec, edits: Sequence[CheckedEdit]) -> None:
    """Raise `BadInput` if two trajectories are patched into the same entries of a third, in no order."""
    patches: dict[int, list[CheckedEdit]] = {}
    for edit in edits:
        if edit.source is not None:
            patches.setdefault(edit.into, []).append(edit)
    for here in patches.values():
        for i, one in enumerate(here):
            for two in here[i + 1 :]:
                if one.source != two.source and one.order == two.order and (at := _both(one, two)):
                    names = [spec.trajectories[each.source or 0].id for each in (one, two)]
                    raise BadInput.at(
                        ("edits", two.index),
                        f"{names[0]!r} (edits.{one.index}) and {names[1]!r} are both "
                        f"patched into {spec.trajectories[one.into].id!r} at {at}. Say which "
                        "comes first: give them different `order`.",
                    )


def _both(one: CheckedEdit, two: CheckedEdit) -> HookPoint | None:
    """A hook point at which both edits touch the same entries."""
    if not set(one.steps) & set(two.steps) or not set(one.branches) & set(two.branches):
        return None
    for point in one.sites.keys() & two.sites.keys():
        a, b = one.sites[point][0], two.sites[point][0]
        if _overlap(a.channels, b.channels) and _overlap(a.tokens, b.tokens):
            return point
    return None


def _overlap(a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> bool:
    return a is None or b is None or bool(set(a) & set(b))
