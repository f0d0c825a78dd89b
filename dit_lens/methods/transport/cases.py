"""What a transport study runs: targets, each with its donor and what is to be carried."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from dit_lens.errors import BadInput
from dit_lens.methods.transport.arms import Carry

if TYPE_CHECKING:
    from dit_lens.methods.spatial import Mask
    from dit_lens.model.given import GivenPath

ENDS = ("target", "source")
"""Names of the two unedited pictures of a case."""

SUBJECT = "subject"
"""In place of a mask: the subject of the source's unedited picture, which the embedded world can tell."""


@dataclass(frozen=True)
class Donor:
    """Where a case draws from: the run of another prompt with the target's seed, or a picture's latents.

    `prompt` conditions the donor's forwards; `shows` says in words what it shows, for alignment and attribute
    read-out, and is None where nobody said. `path` holds a picture's latents before every step.
    """

    prompt: str
    shows: str | None
    path: GivenPath | None = None

    @classmethod
    def of_prompt(cls, prompt: str) -> Donor:
        """The unedited run of a prompt, which shows what the prompt says."""
        return cls(prompt, prompt)

    @property
    def identity(self) -> str:
        """What of a donor determines a result, and what it is compared with."""
        if self.path is None:
            return self.prompt
        return f"path {self.path.digest}" + ("" if self.shows is None else f" shows {self.shows}")


@dataclass(frozen=True)
class Case:
    """One target (prompt and seed), its donor, what is carried; and its place in the tables.

    `unit` is what counts once in the statistics (a pair, a picture), `group` and `side` are columns of the
    tables: the attribute that differs, and the direction or the picture's origin. `mask` says inside and
    outside of what change is measured: a `Mask`, `SUBJECT`, or None where no mask is known.
    """

    target: str
    seed: int
    donor: Donor
    carries: tuple[Carry, ...]
    unit: str
    group: str
    side: str
    mask: Mask | str | None = None

    def __post_init__(self) -> None:
        if self.donor.path is None and self.donor.prompt == self.target:
            raise BadInput(
                f"{self.target!r} is its own source, with the same noise: nothing would move. Name another "
                "source prompt."
            )
        names = [carry.name for carry in self.carries]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BadInput(f"Two arms are called {twice!r}; names must differ.")
        if isinstance(self.mask, str) and self.mask != SUBJECT:
            raise BadInput(f"There is no mask {self.mask!r}; give a Mask, {SUBJECT!r} or None.")

    @property
    def mask_identity(self) -> str:
        """Which mask change is measured by."""
        if self.mask is None or isinstance(self.mask, str):
            return self.mask or "none"
        digest = sha256(self.mask.values.tobytes()).hexdigest()[:16]
        return f"{self.mask.grid[0]}×{self.mask.grid[1]} {digest}"


Bundle = tuple[Case, ...]
"""Cases that run as one graph, so that their unedited runs are computed once."""


def runs_of(bundle: Bundle) -> dict[tuple[str, int], str]:
    """(prompt, seed) of every unedited run of a bundle → its name in the graph."""
    wanted: dict[tuple[str, int], None] = {}
    for case in bundle:
        wanted[case.target, case.seed] = None
        if case.donor.path is None:
            wanted[case.donor.prompt, case.seed] = None
    return {run: f"run-{i}" for i, run in enumerate(wanted)}
