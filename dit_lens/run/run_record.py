"""What a run was, as values: its record (`run.json`), the entries of its image index. Needs no torch."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dit_lens.model.identity import RunIdentity
from dit_lens.run.provenance import GitState, command_line, git_state, now, package_versions

SCHEMA_VERSION = 1
"""Of every file of a run folder that says one; a reader refuses higher ones."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


INTERRUPTED = "interrupted"
"""The reason in the record of a run that someone ended."""


class RunRecord(_Frozen):
    """What was run, on what, by which code, how long each stage took (seconds), and how it ended.

    `RunRecord.start(...)` fills in everything that the process itself knows.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    title: str
    question: str = ""
    spec_hash: str = ""
    """The hash of the spec under which the run began; empty in a record of before there was one."""
    command: str
    status: Literal["running", "finished", "failed"] = "running"
    failure: str | None = None
    started: datetime
    finished: datetime | None = None
    model: str
    fingerprint: str
    device: str
    dtype: str
    identity: RunIdentity | None = None
    """What its numbers depend on; None in a record of before there was one."""
    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    sampling: dict[str, JsonValue] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)
    git: GitState | None = None
    python: str = ""
    platform: str = ""

    @classmethod
    def start(cls, *, name: str, title: str, model: str, fingerprint: str, **fields: Any) -> RunRecord:
        """Return the record of a run that begins now, with this process's provenance.

        >>> record = RunRecord.start(name="demo", title="Demo", model="shapes-sd3", fingerprint="00",
        ...                          device="cpu", dtype="float32", seeds=(0,))
        >>> record.status, record.finish({"discover": 1.5}).status
        ('running', 'finished')
        """
        provenance: dict[str, Any] = {
            "command": command_line(),
            "started": now(),
            "packages": package_versions(),
            "git": git_state(),
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
        return cls(name=name, title=title, model=model, fingerprint=fingerprint, **{**provenance, **fields})

    @property
    def interrupted(self) -> bool:
        """Whether someone ended the run, and no error did."""
        return self.status == "failed" and self.failure == INTERRUPTED

    def finish(self, timings: Mapping[str, float] | None = None) -> RunRecord:
        """Return the record of the same run, ended well; `timings` are seconds by stage."""
        return self._ended("finished", None, timings)

    def fail(self, reason: str, timings: Mapping[str, float] | None = None) -> RunRecord:
        """Return the record of the same run, ended by `reason`."""
        return self._ended("failed", reason, timings)

    def _ended(self, status: str, failure: str | None, timings: Mapping[str, float] | None) -> RunRecord:
        merged = {**self.timings, **(timings or {})}
        return self.model_copy(
            update={"status": status, "failure": failure, "finished": now(), "timings": merged}
        )


class ImageEntry(_Frozen):
    """One image of a run: its file name inside `images/`, and what it shows.

    `caption` is for people; `coords` says the same to code, such as `{"family": "massive", "strength": 0.5}`.
    It is empty in a record of before there was one.
    """

    file: str
    prompt: str
    seed: int
    caption: str = ""
    kind: str = "sample"
    coords: dict[str, JsonValue] = Field(default_factory=dict)
