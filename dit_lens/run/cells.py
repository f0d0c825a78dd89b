"""One measured result, one file: what a run has finished, so that no second run needs to. No torch.

A cell is what was measured of one arm on one prompt and seed. Its address is a hash of all that determines
the result, so that a run finds what it knows already by asking for it, and results of another model, sampling
or edit can never be mistaken for its own.

Cells that were computed together are stored together. How rows are batched changes the last bits of a result;
a run that was killed between two cells of a batch would compute the rest in another batch than an undisturbed
one. `put` therefore writes all of them to one file in `journal/` first. That file's appearance is the moment
at which the cells exist: what was not yet copied to its place then is copied when the store is opened next.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from dit_lens.atomic import atomic_write
from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.identity import RunIdentity, digest_of

SCHEMA_VERSION = 2
"""Of cells and their addresses. Version 1 knew the weights by a sample and not the schedule, so that a result
could be taken for another's; its cells stay where they are and are never read."""

CELLS, JOURNAL, IDENTITIES, SCHEMA = "cells", "journal", "identities", "schema.json"

MEANING = 1
"""Counted up when the same declared edits come to give other numbers: older results are then unknown."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CellKey(_Frozen):
    """Everything that determines a cell's result.

    `identity` is the digest of `DiTLens.identity`, `arm` what `Arm.as_data()` gives, `donor` the prompt that
    the arm draws on, `material` a hash of what was measured for its edits, `meaning` the version of what
    edits do. Names and purposes of arms are no part.

    >>> key = CellKey(identity="00", sampling={}, arm={"edits": []}, prompt="a", seed=0)
    >>> len(key.address)
    64
    """

    identity: str
    sampling: dict[str, JsonValue]
    arm: dict[str, JsonValue]
    prompt: str
    seed: int
    donor: str | None = None
    material: str | None = None
    meaning: int = MEANING

    @cached_property
    def address(self) -> str:
        """sha256 of the canonical JSON, 64 hex digits."""
        return digest_of(self.model_dump(mode="json"))


class Measured(_Frozen):
    """A metric's value, and the definition by which it was measured; None where it has none (NaN)."""

    definition: str
    value: float | None

    @classmethod
    def of(cls, definition: str, value: float) -> Measured:
        """The value as it is stored: what is not finite has no place in JSON and becomes None."""
        return cls(definition=definition, value=float(value) if math.isfinite(value) else None)

    @property
    def number(self) -> float:
        """The value, NaN where there is none."""
        return math.nan if self.value is None else self.value


class Cell(_Frozen):
    """One result: the key, the metrics by name, and what the sham of the same batch differed by.

    `sham_difference` is None where nothing was edited, so that no sham ran.
    """

    schema_version: int = SCHEMA_VERSION
    key: CellKey
    metrics: dict[str, Measured] = Field(default_factory=dict)
    sham_difference: float | None = None

    def lacks(self, definitions: Mapping[str, str]) -> bool:
        """Whether a metric is missing, or was measured by another definition."""
        return any(
            name not in self.metrics or self.metrics[name].definition != definition
            for name, definition in definitions.items()
        )


@dataclass(frozen=True)
class Damaged:
    """A file in the place of a cell that is none, and why; its result has to be computed again."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


def require_unchanged(before: RunIdentity, now: RunIdentity) -> None:
    """Raise RunFailure if what results were asked of is no longer what they were computed on."""
    found = before.differences(now)
    if found:
        what = "; ".join(f"{key} ({a} → {b})" for key, (a, b) in found.items())
        raise RunFailure(
            f"The model changed while it ran: {what}. What was measured meanwhile was not stored; run again."
        )


def tell_older(store: CellStore, say: Callable[[str], None]) -> None:
    """Say that a store holds results whose addresses say too little to be used, if it does."""
    if store.older:
        say(
            f"{store.folder} holds {store.older} results of an earlier version of dit_lens, which did not "
            "record the "
            "schedule, adapters or precision they depend on. They stay where they are and are not used."
        )


class CellStore:
    """Cells in a folder, `cells/<2 hex>/<address>.json`; opening it finishes what an earlier run began.

    Args:
        folder: made when the first cells are written.

    Raises:
        BadInput: the folder is a file. RunFailure: it cannot be written.

    >>> import tempfile
    >>> key = CellKey(identity="00", sampling={}, arm={}, prompt="a", seed=0)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     store = CellStore(place)
    ...     store.put([Cell(key=key, metrics={"ssim": Measured.of("ssim/1", 0.5)})])
    ...     CellStore(place).get(key).metrics["ssim"].number
    0.5
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{self.folder} is a file; cells are kept in a folder. Name another place.")
        self._finish_journal()

    @property
    def older(self) -> int:
        """How many results an earlier version of dit_lens left here, under addresses that say too little to
        be used.

        0 once something was stored by this version.
        """
        return 0 if (self.folder / IDENTITIES / SCHEMA).exists() else len(self)

    def __repr__(self) -> str:
        return f"CellStore({str(self.folder)!r})"

    def __len__(self) -> int:
        return sum(1 for _ in self._files())

    def _files(self) -> Iterator[Path]:
        return (self.folder / CELLS).glob("??/*.json")

    def path(self, key: CellKey) -> Path:
        """Where the cell of a key lies, or would."""
        return self.folder / CELLS / key.address[:2] / f"{key.address}.json"

    def get(self, key: CellKey) -> Cell | Damaged | None:
        """The cell of a key, or None where there is none.

        What lies in its place but is truncated, changed by hand, of a newer version or of another key is
        `Damaged`.
        """
        place = self.path(key)
        try:
            cell = _cell(place.read_text(encoding="utf-8"))
            if cell.key != key:
                raise ValueError("it is the result of something else")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return Damaged(str(place.relative_to(self.folder)), str(error))
        return cell

    def put(self, cells: Sequence[Cell], identity: RunIdentity | None = None) -> None:
        """Store cells that were computed together: all of them or, if the process dies, none.

        `identity` is the one that their keys name by its digest; it is kept beside them, for whoever asks
        what a result was computed on.

        Raises:
            RunFailure: the disk is full, or the folder cannot be written.
        """
        if not cells:
            return
        if not (self.folder / IDENTITIES / SCHEMA).exists():
            atomic_write(
                self.folder / IDENTITIES / SCHEMA, json.dumps({"schema_version": SCHEMA_VERSION}) + "\n"
            )
        if identity is not None and not self._identity_file(identity.digest).exists():
            about = {"digest": identity.digest, **identity.model_dump(mode="json")}
            text = json.dumps(about, ensure_ascii=False, indent=1) + "\n"
            atomic_write(self._identity_file(identity.digest), text)
        texts = {str(self.path(cell.key).relative_to(self.folder)): _text(cell) for cell in cells}
        body = json.dumps({"cells": texts, "checksum": digest_of(texts)}, ensure_ascii=False)
        name = hashlib.sha256(body.encode()).hexdigest()[:32]
        entry = atomic_write(self.folder / JOURNAL / f"{name}.json", body)
        self._copy(texts)
        entry.unlink(missing_ok=True)

    def _identity_file(self, digest: str) -> Path:
        return self.folder / IDENTITIES / f"{digest[:16]}.json"

    def _copy(self, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            place = self.folder / name
            # The same name every time: what a dying process leaves half written, its successor replaces.
            temporary = place.with_name(f".{place.name}.tmp")
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                # Not synced to the disk, unlike the journal: the checksum finds what a power cut destroys.
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(place)
            except OSError as error:
                raise RunFailure(
                    f"Cannot write {place}: {error.strerror or error}. What was measured is safe in "
                    f"{self.folder / JOURNAL}; free some space and continue the run with --resume."
                ) from error

    def _finish_journal(self) -> None:
        journal = self.folder / JOURNAL
        for place in (journal, self.folder / IDENTITIES):
            for left in place.glob(".*.tmp"):
                left.unlink(missing_ok=True)
        for entry in sorted(journal.glob("*.json")):
            texts = _journal(entry)
            if texts is not None:
                self._copy(texts)
            entry.unlink(missing_ok=True)


def _journal(entry: Path) -> dict[str, str] | None:
    """The cells of a journal entry; None if it is damaged, so that they are computed again."""
    try:
        body = json.loads(entry.read_text(encoding="utf-8"))
        texts = body["cells"]
        if body["checksum"] != digest_of(texts):
            return None
        # An entry may be somebody else's: it must not write outside the store.
        good = all(
            name == f"{CELLS}/{address[:2]}/{address}.json"
            for name, address in ((name, Path(name).stem) for name in texts)
        )
        return dict(texts) if good else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _text(cell: Cell) -> str:
    body = cell.model_dump(mode="json")
    return json.dumps({**body, "checksum": digest_of(body)}, ensure_ascii=False) + "\n"


def _cell(text: str) -> Cell:
    """The cell of a file's text; ValueError, whose message is the reason, if it is none."""
    try:
        body = json.loads(text)
    except ValueError:
        raise ValueError("it is truncated or no JSON") from None
    if not isinstance(body, dict):
        raise ValueError("it holds no cell")
    version = body.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(f"it has schema_version {version}, and this dit_lens reads up to {SCHEMA_VERSION}")
    if body.pop("checksum", None) != digest_of(body):
        raise ValueError("its checksum does not fit its content")
    try:
        return Cell.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
