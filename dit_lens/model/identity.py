"""RunIdentity: everything that turns a prompt, a seed and an edit into numbers, as one value. No torch.

Stored results are addressed by it, records hold it, and comparisons name what differs in it. It is measured
by `dit_lens.model.state`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dit_lens.errors import BadInput

DECLARED = "lens_identity"
"""Attribute by which foreign code (a hook, a processor, a module) says what it does: a text that its owner
changes whenever its behaviour changes. The empty text says that it only watches and changes no number."""


class RunIdentity(BaseModel):
    """What the function from (prompt, seed, sampling, edit) to numbers depends on.

    `entries` maps what it is (`transformer weights`, `schedule`, `precision`, …) to its value, a readable
    text or a digest; two runs with equal entries compute the same. `about` holds what explains an entry and
    is not compared itself, such as the scheduler's settings behind a schedule. `untold` names code whose
    behaviour nothing here can tell; with it, no result may be stored or found.

    >>> a = RunIdentity(entries={"device": "cpu", "schedule": "20 steps"})
    >>> b = RunIdentity(entries={"device": "cpu", "schedule": "8 steps"})
    >>> a.differences(b), a.digest == b.digest
    ({'schedule': ('20 steps', '8 steps')}, False)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: dict[str, str]
    about: dict[str, str] = Field(default_factory=dict)
    untold: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """sha256 of the entries, 64 hex digits."""
        return digest_of(self.entries)

    @property
    def shown(self) -> tuple[tuple[str, str], ...]:
        """What of it a reader looks for: schedule, adapters, hooks, switches; then the digest of all."""
        words = ("schedule", "scheduler settings", "precision", "adapters", "hooks", "processors")
        all_of_it = {**self.entries, **self.about}
        rows = [(key, value) for key, value in all_of_it.items() if key.endswith(words)]
        return (*rows, ("identity", self.digest))

    def differences(self, other: RunIdentity) -> dict[str, tuple[str, str]]:
        """What differs → (here, there); "none" where one of them lacks it.

        Settings that explain an entry are named where that entry differs, so that a changed schedule is told
        by the scheduler's settings, too.
        """
        found = differing(self.entries, other.entries)
        return {**found, **differing(self.about, other.about)} if found else {}

    def told(self, to: str) -> RunIdentity:
        """This identity, if everything in it could be told; `to` says what it is needed for.

        Raises:
            BadInput: naming the foreign code and the ways out.
        """
        if self.untold:
            raise BadInput(
                f"It cannot be told what {'; '.join(self.untold)} does, so {to} could be taken for those of "
                f"something else. Remove it, or give it an attribute {DECLARED}: a text that changes "
                "whenever its behaviour does, or '' if it only watches. Without a store, it runs as it is."
            )
        return self


def digest_of(value: Any) -> str:
    """sha256 of canonical JSON, 64 hex digits.

    >>> digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differing(mine: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Keys whose texts differ → (here, there); "none" where one lacks the key."""
    return {
        key: (mine.get(key, "none"), theirs.get(key, "none"))
        for key in dict.fromkeys((*mine, *theirs))
        if mine.get(key) != theirs.get(key)
    }
