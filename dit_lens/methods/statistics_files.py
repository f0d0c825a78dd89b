"""Channel statistics on disk: safetensors for numbers, JSON for labels; nothing is executed by reading."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dit_lens.atomic import atomic_write
from dit_lens.errors import BadInput, RunFailure

SCHEMA_VERSION = 1
NUMBERS, LABELS = "statistics.safetensors", "statistics.json"


def save(folder: str | os.PathLike[str], data: xr.Dataset, about: dict[str, Any]) -> Path:
    """Write both files into a new folder beside `folder`, then put it in its place."""
    from safetensors.numpy import save as to_bytes

    folder = Path(folder)
    _require_replaceable(folder)
    labels = {
        "schema_version": SCHEMA_VERSION,
        **about,
        "variables": {str(name): list(map(str, data[name].dims)) for name in sorted(data.data_vars, key=str)},
        "coords": {
            str(name): {
                "dims": list(map(str, data.coords[name].dims)),
                "values": data.coords[name].values.tolist(),
            }
            for name in sorted(data.coords, key=str)
        },
    }
    numbers = to_bytes({str(name): np.ascontiguousarray(data[name].values) for name in data.data_vars})
    text = json.dumps(labels, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise RunFailure(f"Cannot write {folder}: {error.strerror or error}. Name another folder.") from error
    try:
        atomic_write(fresh / NUMBERS, numbers)
        atomic_write(fresh / LABELS, text)
        _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def load(folder: str | os.PathLike[str]) -> tuple[xr.Dataset, dict[str, Any]]:
    """Read both files; `BadInput` for what is missing, damaged or from another version."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    folder = Path(folder)
    try:
        labels = json.loads((folder / LABELS).read_text(encoding="utf-8"))
        numbers = from_bytes((folder / NUMBERS).read_bytes())
    except OSError as error:
        raise BadInput(
            f"{folder} holds no channel statistics: {error.strerror or error} ({error.filename}). "
            f"Name the folder that ChannelStatistics.save wrote, with {NUMBERS} and {LABELS} in it."
        ) from error
    except (ValueError, SafetensorError) as error:
        raise BadInput(f"{folder} is damaged: {error}. Run discovery again.") from error
    version = labels.get("schema_version") if isinstance(labels, dict) else None
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"{folder / LABELS} has schema_version {version!r}; this dit_lens reads {SCHEMA_VERSION}. "
            "Run discovery again, or update dit_lens."
        )
    try:
        variables = {name: (dims, numbers[name]) for name, dims in labels["variables"].items()}
        coords = {name: (coord["dims"], coord["values"]) for name, coord in labels["coords"].items()}
        about = {key: labels[key] for key in ("provenance", "top_k", "cost")}
        return xr.Dataset(variables, coords=coords), about
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"{folder} is damaged: its labels and numbers do not fit ({error}).") from error


def _require_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput(f"Cannot save statistics to {folder}: it is a file. Name a folder.")
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in (NUMBERS, LABELS))
    if others:
        raise BadInput(
            f"Cannot save statistics to {folder}: it holds other files ({', '.join(others[:4])}), and saving "
            "replaces the whole folder. Name a new folder."
        )


def _put_in_place(fresh: Path, folder: Path) -> None:
    fresh.chmod(0o755)
    try:
        if not folder.exists():
            fresh.replace(folder)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
        try:
            folder.replace(old)
            fresh.replace(folder)
        finally:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise RunFailure(f"Cannot put {folder} in its place: {error.strerror or error}.") from error
