"""What a run leaves on disk: the run folder, and what may be written to and read from it.

Nothing here needs torch, so a report can be rebuilt on any machine. Every file appears whole or not at all:
it is written beside its place and then renamed over it. JSON, YAML, parquet and PNG only; reading executes
nothing.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, JsonValue, ValidationError

from dit_lens.atomic import atomic_write
from dit_lens.errors import BadInput, did_you_mean
from dit_lens.plain_yaml import load_yaml
from dit_lens.run.run_record import SCHEMA_VERSION, ImageEntry, RunRecord

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

SPEC, RECORD, CHANNELS, REPORT = "spec.yaml", "run.json", "channels.json", "report.html"
TABLES, IMAGES, IMAGE_INDEX = "tables", "images", "index.json"
RESULTS, CELLS = "results.json", ("cells", "journal", "identities")
LOCK = ".lock"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


class RunFolder:
    """A run on disk. `RunFolder.create` opens one for writing, `RunFolder.read` a finished one.

    Layout: `spec.yaml`, `run.json`, `tables/<name>.parquet`, `channels.json`, `images/<name>.png`,
    `images/index.json`, `results.json` (verdicts), `cells/` (what each edited run measured), `report.html`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = RunFolder.create(Path(place) / "run", "seeds: [0]")
    ...     folder.spec_text
    'seeds: [0]\\n'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # -- opening
    @classmethod
    def create(cls, path: str | os.PathLike[str], spec_text: str, *, resume: bool = False) -> RunFolder:
        """Open a folder for the run of one spec (YAML text).

        A folder that holds a run of the same spec is emptied of that run, or kept with `resume=True`.
        Raises `BadInput` when the folder holds the run of another spec or of a newer version, or files that
        are no run, or when another process is writing to it.
        """
        folder = cls(path)
        if folder.path.exists() and not folder.path.is_dir():
            raise BadInput(f"Cannot write a run to {folder.path}: it is a file. Name a folder with --out.")
        folder._refuse_newer_version()
        folder._require_possible()
        present = sorted(entry.name for entry in folder.path.iterdir()) if folder.path.exists() else []
        if (folder.path / SPEC).exists():
            folder._refuse_another_spec(spec_text)
            with folder.held():
                if not resume:
                    folder._clear()
        elif present:
            raise BadInput(
                f"Cannot write a run to {folder.path}: it holds {len(present)} other file(s) "
                f"({', '.join(present[:4])}) and no {SPEC}. Name a new or empty folder with --out."
            )
        if not (resume and (folder.path / SPEC).exists()):
            atomic_write(folder.path / SPEC, spec_text if spec_text.endswith("\n") else spec_text + "\n")
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from writing a run here; a process that is killed lets go by itself.

        Raises `BadInput` when another process holds the folder.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BadInput(
                f"Another process is writing a run to {self.path}. Wait until it ends, or name another "
                "folder with --out DIR."
            ) from None
        try:
            yield
        finally:
            lock.release()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open an existing run; raises `BadInput` for what is no run folder or comes from a newer version."""
        folder = cls(path)
        if not folder.path.exists():
            siblings = folder.path.parent.iterdir() if folder.path.parent.is_dir() else iter(())
            hint = did_you_mean(folder.path.name, [entry.name for entry in siblings])
            raise BadInput(f"There is no run folder {folder.path}.{hint}")
        if not (folder.path / RECORD).is_file():
            raise BadInput(
                f"{folder.path} is no run folder: it has no {RECORD}. "
                f"A run folder is what `dit-lens run` leaves behind; name the folder, not a file in it."
            )
        _ = folder.record
        return folder

    def _require_possible(self) -> None:
        """Raise `BadInput` where no folder can be made at this path."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"Cannot make the folder {self.path}: {error.strerror or error}. Name another with --out."
            ) from None

    def _refuse_newer_version(self) -> None:
        """Nothing that a newer version wrote is destroyed, whatever else lies beside it."""
        for name in (RECORD, CHANNELS, RESULTS):
            place = self.path / name
            try:
                version = _read_json(place).get("schema_version") if place.is_file() else None
            except BadInput:
                continue  # damaged, and the user is told when the run is taken over
            if isinstance(version, int | float) and version > SCHEMA_VERSION:
                raise BadInput(
                    f"{place} has schema_version {version}, and this dit_lens writes {SCHEMA_VERSION}: the "
                    "run of a newer version is neither continued nor replaced. Name another folder with "
                    "--out DIR, or update: pip install --upgrade dit-lens"
                )

    def _refuse_another_spec(self, spec_text: str) -> None:
        if _same_yaml(self.spec_text, spec_text):
            return
        raise BadInput(
            f"{self.path} holds the run of another spec (its {SPEC} differs), and a run never overwrites "
            f"another. Name another folder with --out DIR, or remove {self.path} first. "
            f"A run goes on only under the spec that it began with: {self.path / SPEC}"
        )

    def _clear(self) -> None:
        """Remove an earlier run's files, and only those: a reader's own notes in the folder stay."""
        for name in CELLS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.forget()

    def forget(self) -> None:
        """Remove what an earlier run concluded, and not its cells, which are found by what they were computed
        on.
        """
        for name in (RECORD, CHANNELS, RESULTS, REPORT):
            (self.path / name).unlink(missing_ok=True)
        for stale in (*self.path.glob(f"{TABLES}/*.parquet"), *self.path.glob(f"{IMAGES}/*.png")):
            stale.unlink()
        (self.path / IMAGES / IMAGE_INDEX).unlink(missing_ok=True)

    # -- record and spec
    @property
    def record(self) -> RunRecord:
        """The run's record; raises `BadInput` when it is damaged or from a newer version."""
        value = _read_json(self.path / RECORD)
        _refuse_newer(value, self.path / RECORD)
        try:
            return RunRecord.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadInput(
                f"{self.path / RECORD} is damaged: {where}: {first['msg']}. Run the analysis again."
            ) from error

    def write_record(self, record: RunRecord) -> Path:
        """Write `run.json`."""
        return atomic_write(self.path / RECORD, _json_text(record.model_dump(mode="json")))

    @property
    def spec_text(self) -> str:
        """The resolved spec as YAML text; empty when the folder has none."""
        place = self.path / SPEC
        return place.read_text(encoding="utf-8") if place.exists() else ""

    # -- tables
    @property
    def table_names(self) -> tuple[str, ...]:
        """The names of the tables on disk, sorted."""
        return tuple(sorted(place.stem for place in self.path.glob(f"{TABLES}/*.parquet")))

    def table_path(self, name: str) -> Path:
        """Where the table of that name lies, or would."""
        return self.path / TABLES / f"{_checked_name(name)}.parquet"

    def write_table(self, name: str, frame: pd.DataFrame) -> Path:
        """Write one tidy table as parquet (its index is dropped)."""
        place = self.table_path(name)
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return atomic_write(place, buffer.getvalue())

    def table(self, name: str) -> pd.DataFrame:
        """Read one table; raises `BadInput` naming the tables there are."""
        import pandas as pd

        place = self.table_path(name)
        if not place.exists():
            there = ", ".join(self.table_names) or "none"
            hint = did_you_mean(name, self.table_names)
            raise BadInput(f"{self.path} has no table {name!r}; there are: {there}.{hint}")
        try:
            return pd.read_parquet(io.BytesIO(place.read_bytes()))
        except (OSError, ValueError) as error:
            raise BadInput(f"{place} is no parquet file that can be read: {error}") from error

    # -- channel set
    def write_channels(self, channels: BaseModel | Mapping[str, Any]) -> Path:
        """Write `channels.json` from a channel set or its JSON value."""
        value = channels.model_dump(mode="json") if isinstance(channels, BaseModel) else dict(channels)
        return atomic_write(self.path / CHANNELS, _json_text(value))

    def channels(self) -> dict[str, Any] | None:
        """The channel set's JSON value, or None when the run made none."""
        place = self.path / CHANNELS
        if not place.exists():
            return None
        value = _read_json(place)
        _refuse_newer(value, place)
        return value

    # -- effects
    @property
    def results_path(self) -> Path:
        """Where the verdicts lie, or would."""
        return self.path / RESULTS

    # -- images
    def write_image(
        self,
        name: str,
        image: Image.Image,
        *,
        prompt: str,
        seed: int,
        caption: str = "",
        kind: str = "sample",
        coords: Mapping[str, JsonValue] | None = None,
    ) -> ImageEntry:
        """Write `images/<name>.png` and its entry in the index; an image of that name is replaced."""
        about: dict[str, Any] = {"caption": caption, "kind": kind, "coords": coords}
        entry = self.write_picture(name, image, prompt=prompt, seed=seed, **about)
        self.index_images([entry])
        return entry

    def write_picture(
        self,
        name: str,
        image: Image.Image,
        *,
        prompt: str,
        seed: int,
        caption: str = "",
        kind: str = "sample",
        coords: Mapping[str, JsonValue] | None = None,
    ) -> ImageEntry:
        """Write the file alone and return its entry, for many to enter the index at once (`index_images`)."""
        entry = ImageEntry(
            file=f"{_checked_name(name)}.png",
            prompt=prompt,
            seed=seed,
            caption=caption,
            kind=kind,
            coords=dict(coords or {}),
        )
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        atomic_write(self.path / IMAGES / entry.file, buffer.getvalue())
        return entry

    def index_images(self, entries: Iterable[ImageEntry]) -> None:
        """Add written pictures to the index, which is read and written once; the same files are replaced."""
        new = {entry.file: entry for entry in entries}
        if not new:
            return
        kept = [old for old in self.images() if old.file not in new]
        index = [item.model_dump(mode="json") for item in (*kept, *new.values())]
        atomic_write(self.path / IMAGES / IMAGE_INDEX, _json_text(index))

    def images(self) -> tuple[ImageEntry, ...]:
        """The images of the run in the order written; raises `BadInput` for an index that leads elsewhere."""
        place = self.path / IMAGES / IMAGE_INDEX
        if not place.exists():
            return ()
        try:
            entries = tuple(ImageEntry.model_validate(item) for item in _read_json(place, list))
        except ValidationError as error:
            raise BadInput(f"{place} is damaged: {error.errors()[0]['msg']}") from error
        for entry in entries:
            # An index may come from somebody else's folder: it must not make a report inline other files.
            if Path(entry.file).name != entry.file or entry.file in {"", ".", ".."}:
                raise BadInput(f"{place} names {entry.file!r}, which is no plain file name inside {IMAGES}/.")
        return entries

    def image_path(self, entry: ImageEntry) -> Path:
        """Where an image of the index lies."""
        return self.path / IMAGES / entry.file

    # -- report
    @property
    def report_path(self) -> Path:
        """Where the report lies, or will."""
        return self.path / REPORT

    def write_report(self, html: str) -> Path:
        """Write `report.html`."""
        return atomic_write(self.report_path, html)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} cannot name a file in a run folder: use letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit."
        )
    return name


def _read_json(place: Path, kind: type = dict) -> Any:
    try:
        value = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{place} cannot be read as JSON: {error}. Run the analysis again.") from error
    if not isinstance(value, kind):
        raise BadInput(f"{place} is damaged: it holds a {type(value).__name__}, not a {kind.__name__}.")
    return value


def _refuse_newer(value: Mapping[str, Any], place: Path) -> None:
    version = value.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BadInput(f"{place} is damaged: its schema_version is {version!r}, not a number.")
    if version > SCHEMA_VERSION:
        raise BadInput(
            f"{place} has schema_version {version}; this dit_lens reads up to {SCHEMA_VERSION}. "
            "Update it: pip install --upgrade dit-lens"
        )


def _same_yaml(first: str, second: str) -> bool:
    """Whether two YAML texts say the same; comments and layout do not make another spec."""
    try:
        return bool(load_yaml(first, SPEC) == load_yaml(second, SPEC))
    except BadInput:
        return first == second
