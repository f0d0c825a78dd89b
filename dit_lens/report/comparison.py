"""What two runs have in common and where they part: claims, channels, pictures, specs, versions.

Claims are matched by name, channels by block, pictures by prompt, seed and edit. Nothing is tested here: two
verdicts that differ do not mean that the effects differ, so effects are shown beside each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dit_lens.errors import BadInput
from dit_lens.methods.answers import Answer, judge_all
from dit_lens.methods.stats import Effect
from dit_lens.model.identity import RunIdentity
from dit_lens.plain_yaml import load_yaml
from dit_lens.report.damage import losses
from dit_lens.report.section import RunView
from dit_lens.report.text import count, listing
from dit_lens.run.records import SPEC, RunFolder
from dit_lens.run.run_record import ImageEntry

Key = tuple[str, str]


@dataclass(frozen=True)
class SharedClaim:
    """A claim that both runs judged, with each run's answer."""

    a: Answer
    b: Answer

    @property
    def changed(self) -> bool:
        """Whether the verdicts differ."""
        return self.a.outcome != self.b.outcome

    @property
    def primary(self) -> bool:
        """Whether it answers its question first, in either run."""
        return self.a.primary or self.b.primary

    @cached_property
    def deciding(self) -> tuple[Effect, Effect]:
        """One effect of each run, of the same control and place where they share one.

        A claim that every effect must bear out rests on the one that comes out worst in either run. One that
        some place must bear out, such as a single block, rests on the best place, and there on its worst
        control. Effects are weighed in standard deviations of their paired differences. Without a shared one,
        each run's own deciding effect.
        """
        first, second = _by_key(self.a), _by_key(self.b)
        shared = [key for key in first if key in second]
        if not shared:
            return _weakest(self.a), _weakest(self.b)

        def size(key: Key) -> float:
            return min(_size(self.a, first[key]), _size(self.b, second[key]))

        by_place: dict[str, Key] = {}
        for key in sorted(shared, key=size):
            by_place.setdefault(key[0], key)
        choose = min if all(map(_rests_on_all, (self.a, self.b))) else max
        key = choose(by_place.values(), key=size)
        return first[key], second[key]

    def pairs(self) -> Iterator[tuple[Effect, Effect]]:
        """Return all effects that both runs have: of the same control and place."""
        second = _by_key(self.b)
        for key, effect in _by_key(self.a).items():
            if key in second:
                yield effect, second[key]


def _by_key(answer: Answer) -> dict[Key, Effect]:
    return {(effect.name, effect.control): effect for effect in answer.effects}


def _size(answer: Answer, effect: Effect) -> float:
    """Return an effect in the claimed direction, in standard deviations where there are any."""
    if effect.estimate is None:
        return float("-inf")
    sign = 1.0 if answer.direction == "greater" else -1.0
    return sign * effect.estimate / (effect.sd or 1.0)


def _rests_on_all(answer: Answer) -> bool:
    """Return whether an answer is what its effects say together, rather than what the best of them says."""
    return judge_all(answer.effects, direction=answer.direction).outcome == answer.outcome


def _weakest(answer: Answer) -> Effect:
    return judge_all(answer.effects, direction=answer.direction).weakest


@dataclass(frozen=True)
class Difference:
    """One thing that two runs do not share, as words for each."""

    what: str
    a: str
    b: str


@dataclass(frozen=True)
class Overlap:
    """The massive channels of one block in both runs."""

    block: int
    shared: tuple[int, ...]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]

    @property
    def jaccard(self) -> float:
        """Shared channels over all: 1 is the same set."""
        total = len(self.shared) + len(self.only_a) + len(self.only_b)
        return len(self.shared) / total if total else 1.0


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other; `Comparison.of` refuses what cannot be compared."""

    a: RunView
    b: RunView

    @classmethod
    def of(cls, run_a: str | Path, run_b: str | Path) -> Comparison:
        """Open two run folders.

        Raises:
            BadInput: one is no run folder, is damaged, or comes from a newer version; both are the same
                folder; they share no question.
        """
        a, b = RunFolder.read(run_a), RunFolder.read(run_b)
        if a.path.resolve() == b.path.resolve():
            raise BadInput(
                f"{run_a} and {run_b} are the same folder. Name two runs; `dit-lens report {run_a}` shows "
                "one."
            )
        found = cls(RunView(a), RunView(b))
        for view in (found.a, found.b):
            if view.results_fault:
                raise BadInput(view.results_fault)
        if not found.questions:
            raise BadInput(
                f"These runs share no question: {a.path} asks {listing(_questions(found.a)) or 'none'}; "
                f"{b.path} asks {listing(_questions(found.b)) or 'none'}. Compare runs that have at least "
                "one section in common."
            )
        return found

    @cached_property
    def questions(self) -> tuple[str, ...]:
        """The questions that both runs asked, in the order of the first."""
        second = set(_questions(self.b))
        return tuple(question for question in _questions(self.a) if question in second)

    # -- claims
    @cached_property
    def claims(self) -> tuple[SharedClaim, ...]:
        """Claims that both runs judged: those whose verdicts differ first, then primary ones."""
        if self.a.results is None or self.b.results is None:
            return ()
        second = {answer.name: answer for answer in self.b.results.answers}
        shared = [
            SharedClaim(answer, second[answer.name])
            for answer in self.a.results.answers
            if answer.name in second
        ]
        return tuple(sorted(shared, key=lambda one: (not one.changed, not one.primary)))

    @property
    def changed(self) -> tuple[SharedClaim, ...]:
        """Claims whose verdicts differ."""
        return tuple(claim for claim in self.claims if claim.changed)

    @property
    def alone(self) -> tuple[tuple[Answer, ...], tuple[Answer, ...]]:
        """Claims that only the first run judged, and those that only the second did."""
        shared = {claim.a.name for claim in self.claims}
        first, second = (
            tuple(
                answer
                for answer in (view.results.answers if view.results else ())
                if answer.name not in shared
            )
            for view in (self.a, self.b)
        )
        return first, second

    # -- channels
    @cached_property
    def overlaps(self) -> tuple[Overlap, ...]:
        """Channels block by block; nothing where the runs have different blocks, streams or no set."""
        first, second = self.a.channels, self.b.channels
        if first is None or second is None or first.get("stream") != second.get("stream"):
            return ()
        sets = [
            {int(block): list(map(int, chosen)) for block, chosen in one.get("blocks", {}).items()}
            for one in (first, second)
        ]
        if set(sets[0]) != set(sets[1]):
            return ()
        return tuple(
            Overlap(
                block,
                tuple(channel for channel in sets[0][block] if channel in sets[1][block]),
                tuple(channel for channel in sets[0][block] if channel not in sets[1][block]),
                tuple(channel for channel in sets[1][block] if channel not in sets[0][block]),
            )
            for block in sorted(sets[0])
        )

    @cached_property
    def lost(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What each run lost of its tables and verdicts since it was finished."""
        return losses(self.a), losses(self.b)

    @property
    def same_weights(self) -> bool:
        """Whether both runs opened the same weights."""
        first, second = (view.record.identity for view in (self.a, self.b))
        if first is None or second is None:
            # A record of an earlier version knows a sample of them.
            return self.a.record.fingerprint == self.b.record.fingerprint
        return not any(key.endswith(" weights") for key in first.differences(second))

    @cached_property
    def of_models(self) -> dict[str, tuple[str, str]]:
        """What differs in the state of the models → (first run, second): schedule, adapters, precision, …

        Empty where a record of an earlier version does not say.
        """
        first, second = (view.record.identity for view in (self.a, self.b))
        return {} if first is None or second is None else first.differences(second)

    # -- pictures
    @cached_property
    def pictures(self) -> dict[tuple[str, int], list[tuple[ImageEntry, ImageEntry]]]:
        """Pictures of edits that both runs kept, by prompt and seed, in the order of the first run."""
        second = {(entry.prompt, entry.seed, entry.caption): entry for entry in self.b.arm_images}
        found: dict[tuple[str, int], list[tuple[ImageEntry, ImageEntry]]] = {}
        for entry in self.a.arm_images:
            other = second.get((entry.prompt, entry.seed, entry.caption))
            if other is not None:
                found.setdefault((entry.prompt, entry.seed), []).append((entry, other))
        return found

    # -- what differs
    @cached_property
    def of_specs(self) -> tuple[Difference, ...]:
        """Keys of the resolved specs whose values differ."""
        first, second = (_flat(_spec(view)) for view in (self.a, self.b))
        return tuple(
            Difference(key, *_words_of(first.get(key), second.get(key)))
            for key in dict.fromkeys((*first, *second))
            if first.get(key) != second.get(key)
        )

    @cached_property
    def of_versions(self) -> tuple[Difference, ...]:
        """Model, machine, packages and code that differ."""
        # A record of an earlier version says nothing of its model's state: that is no difference.
        whole = all(view.record.identity is not None for view in (self.a, self.b))
        first, second = (_provenance(view, whole) for view in (self.a, self.b))
        return tuple(
            Difference(key, first.get(key, "–"), second.get(key, "–"))
            for key in dict.fromkeys((*first, *second))
            if first.get(key) != second.get(key)
        )

    def as_data(self) -> dict[str, Any]:
        """Everything above but pictures, as plain JSON values."""
        only_a, only_b = self.alone
        return {
            "a": str(self.a.folder.path),
            "b": str(self.b.folder.path),
            "questions": list(self.questions),
            "claims": [
                {
                    "name": claim.a.name,
                    "claim": claim.a.claim,
                    "a": claim.a.outcome,
                    "b": claim.b.outcome,
                    "changed": claim.changed,
                    "effects": [_effect_data(effect) for effect in claim.deciding],
                }
                for claim in self.claims
            ],
            "only_a": [answer.name for answer in only_a],
            "only_b": [answer.name for answer in only_b],
            "channels": [
                {"block": one.block, "jaccard": one.jaccard, "shared": list(one.shared)}
                for one in self.overlaps
            ],
            "same_weights": self.same_weights,
            "model": [{"key": key, "a": a, "b": b} for key, (a, b) in self.of_models.items()],
            "lost": dict(zip("ab", map(list, self.lost), strict=True)),
            "spec": [{"key": one.what, "a": one.a, "b": one.b} for one in self.of_specs],
            "versions": [{"key": one.what, "a": one.a, "b": one.b} for one in self.of_versions],
        }


def _effect_data(effect: Effect) -> dict[str, Any]:
    fields = ("name", "control", "estimate", "ci_low", "ci_high", "n", "p", "p_adjusted")
    return {name: getattr(effect, name) for name in fields}


# ------------------------------------------------------------------------------------------------------ specs
def _spec(view: RunView) -> dict[str, Any]:
    try:
        value = load_yaml(view.folder.spec_text, SPEC)
    except BadInput:
        return {}
    return value if isinstance(value, dict) else {}


def _questions(view: RunView) -> tuple[str, ...]:
    asked = _spec(view).get("sections")
    # A folder from another version still has its tables.
    return tuple(map(str, asked)) if isinstance(asked, list) else view.folder.table_names


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted path; lists are leaves.

    >>> _flat({"sampling": {"steps": 20}, "seeds": [0]})
    {'sampling.steps': 20, 'seeds': [0]}
    """
    if not isinstance(value, Mapping) or not value:
        return {path: value} if path else {}
    found: dict[str, Any] = {}
    for key, each in value.items():
        found |= _flat(each, f"{path}.{key}" if path else str(key))
    return found


MOST_SHOWN = 120  # characters of a value that are written out


def _words_of(first: Any, second: Any) -> tuple[str, str]:
    """Return two values as words; long lists by their length and by what the other lacks.

    >>> _words_of(20, None), _words_of(list(range(60)), list(range(2, 60)))
    (('20', 'absent'), ('60 entries, 2 of them not in the other', '58 entries'))
    """
    return _value(first, second), _value(second, first)


def _value(value: Any, other: Any) -> str:
    if value is None:
        return "absent"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= MOST_SHOWN:
        return text
    if not isinstance(value, list):
        return text[: MOST_SHOWN - 1] + "…"
    others = other if isinstance(other, list) else []
    missing = sum(each not in others for each in value)
    return count(len(value), "entry", "entries") + (
        f", {missing} of them not in the other" if missing else ""
    )


def _shown(identity: RunIdentity) -> dict[str, str]:
    """An identity's entries, without those that a record says in words of its own."""
    entries = {**identity.entries, **identity.about}
    return {key: value for key, value in entries.items() if key not in ("device", "dtype")}


def _provenance(view: RunView, whole: bool) -> dict[str, str]:
    record = view.record
    git = record.git
    prompts = record.prompts
    return {
        "title": record.title,
        "model": record.model,
        "fingerprint": record.fingerprint,
        **(_shown(record.identity) if whole and record.identity is not None else {}),
        "device": f"{record.device}, {record.dtype}",
        "prompts that choose": f"{len(prompts)}",
        "seeds": ", ".join(map(str, record.seeds)) or "none",
        **{f"sampling: {key}": str(value) for key, value in record.sampling.items()},
        "code": f"{git.commit[:12]}{' with uncommitted changes' if git.dirty else ''}" if git else "no git",
        "Python": record.python,
        "platform": record.platform,
        **{f"package: {name}": version for name, version in record.packages.items()},
    }
