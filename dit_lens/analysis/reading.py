"""Reading declared analyses: YAML, overrides, and the files that a spec names.

Files are data: YAML goes through the safe loader, and nothing in a spec is executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from unicodedata import combining, normalize

from pydantic import ValidationError

from dit_lens.analysis.faults import explained
from dit_lens.analysis.files import find_spec, named_text_file, read_pairs, read_prompts, read_text
from dit_lens.analysis.spec import SELECTIONS, AnalysisSpec
from dit_lens.errors import BadInput
from dit_lens.paths import named_path
from dit_lens.plain_yaml import Key, load_yaml, load_yaml_and_lines

_FILES = {
    ("effects", "prompts"): read_prompts,
    ("effects", "pairs"): read_pairs,
    ("transport", "pairs"): read_pairs,
    ("transport", "far_pairs"): read_pairs,
    ("source", "targets"): read_prompts,
}
"""Keys whose value may name a text file, and how it is read; it lies relative to the spec, or is packaged."""

_PLACES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("spatial", "truth"): ("picture", "caption", "transformers:"),
    ("source", "image"): (),
    ("source", "mask"): ("segment", "whole"),
    **{(part, "lpips"): ("cached",) for part in ("effects", "transport", "guidance")},
}
"""Keys whose value names a file or folder that stays where it is, and the words that name none; a word that
ends in a colon begins one. A spec holds these paths in full, so that it can be repeated from anywhere."""


def is_graph(source: str | Path) -> bool:
    """Whether a file holds an intervention graph rather than an analysis: it lists trajectories."""
    path = named_path(source, asked_by="spec")
    if not path.is_file():
        return False
    data, _ = _load_yaml(path)
    return "trajectories" in data


def read_spec(
    source: str | Path | Mapping[str, Any] | AnalysisSpec, overrides: Sequence[str] = ()
) -> AnalysisSpec:
    """Read, override and check a spec; its prompts are then the texts themselves.

    Args:
        source: a YAML file, the name of a packaged analysis, plain data, or a spec that is taken as it is.
        overrides: `key.path=value` each, the value read as YAML; a prompts file given so is relative to the
            current folder, one in a spec file to that file. `key=null` takes a key back to its default.

    Raises:
        BadInput: with the file, the line and the key of the fault.

    >>> spec = read_spec({"model": "shapes-sd3", "prompts": ["a star"], "seeds": [0]}, ["sampling.steps=8"])
    >>> spec.sampling.steps, spec.channels.selection
    (8, {'top_k': 4})
    """
    if isinstance(source, AnalysisSpec):
        if not overrides:
            return source
        source = source.as_data()
    if isinstance(source, Mapping):
        return _build(
            deepcopy(dict(source)), overrides, place="spec", folder=Path(), stem="analysis", lines={}
        )
    path = find_spec(source)
    data, lines = _load_yaml(path)
    return _build(data, overrides, place=str(path), folder=path.parent, stem=path.stem, lines=lines)


def _build(
    data: dict[str, Any],
    overrides: Sequence[str],
    *,
    place: str,
    folder: Path,
    stem: str,
    lines: Mapping[Key, int],
) -> AnalysisSpec:
    if isinstance(data.get("model"), str):
        data["model"] = {"name": data["model"]}
    for text in overrides:
        _override(data, text)
    if isinstance(data.get("prompts"), str):
        data["prompts"] = _read(read_prompts, data["prompts"], folder, f"{place}: prompts")
    for (part, key), read in _FILES.items():
        inside = data.get(part)
        if isinstance(inside, dict) and isinstance(inside.get(key), str):
            inside[key] = _read(read, inside[key], folder, f"{place}: {part}.{key}")
    _read_channels(data, folder, place)
    title = data.setdefault("name", None)
    if data["name"] is None:
        title, data["name"] = stem, _slug(stem)
    if isinstance(title, str):
        data.setdefault("title", title.replace("_", " ").capitalize())
    _pin_local_folders(data, place)
    _pin_places(data, folder, place)
    try:
        return AnalysisSpec.model_validate(data)
    except ValidationError as error:
        overridden: dict[Key, str] = {
            tuple(text.partition("=")[0].split(".")): f"--set {text}: " for text in overrides
        }
        written: dict[Key, str] = {key: f"{place}:{line}: " for key, line in lines.items()}
        heads = {k: v for k, v in written.items() if not any(k[: len(o)] == o for o in overridden)}
        heads |= overridden
        raise BadInput("\n".join(explained(error.errors(), data, heads, f"{place}: "))) from None


def _slug(stem: str) -> str:
    """A file's stem as the name of a run: accents are left out, and what else no name may hold is a hyphen.

    >>> _slug("my spec"), _slug("Größe (2)"), _slug("figure_1")
    ('my-spec', 'Gro-e-2', 'figure_1')
    """
    plain = "".join(each for each in normalize("NFKD", stem) if not combining(each))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._") or "analysis"


def _read(read: Callable[..., Any], written: str, folder: Path, asked_by: str) -> Any:
    return read(named_text_file(written, asked_by=asked_by, folder=folder), asked_by=asked_by)


def _read_channels(data: dict[str, Any], folder: Path, place: str) -> None:
    """Put the channels of a file that `dit-lens discover` wrote in the place of its name."""
    if isinstance(data.get("channels"), str):
        data["channels"] = {"file": data["channels"]}
    inside = data.get("channels")
    if not isinstance(inside, dict) or not isinstance(inside.get("file"), str):
        return
    from dit_lens.methods.channel_sets import ChannelSet

    asked_by = f"{place}: channels.file"
    try:
        found = ChannelSet.load(named_path(inside.pop("file"), asked_by=asked_by, folder=folder))
    except BadInput as error:
        raise BadInput(f"{asked_by}: {error}") from None
    read = {
        "chosen": {block: list(channels) for block, channels in found.blocks.items() if channels},
        "stream": found.stream,
        "found_in": [found.model, str(found.provenance.get("fingerprint"))],
    }
    twice = sorted(read.keys() & inside.keys())
    if twice:
        raise BadInput(f"{asked_by} says {', '.join(twice)} already; leave {', '.join(twice)} out beside it.")
    data["channels"] = {**inside, **read}


def _pin_local_folders(data: dict[str, Any], place: str) -> None:
    """Turn relative folders of models into absolute ones, so that the run folder's spec stays valid.

    They lie relative to the current folder, and what is no folder is a hub id.
    """
    from dit_lens import zoo

    ratings = ((part, "alignment") for part in ("effects", "transport", "guidance"))
    for part, key in (("model", "name"), *ratings):
        inside = data.get(part)
        if isinstance(inside, dict) and isinstance(inside.get(key), str) and inside[key] not in zoo.names():
            folder = named_path(inside[key], asked_by=f"{place}: {part}.{key}")
            if inside[key] and folder.is_dir():
                data[part] = {**inside, key: str(folder.resolve())}


def _pin_places(data: dict[str, Any], folder: Path, place: str) -> None:
    """Likewise masks, pictures and weights, whether they exist or not; they lie relative to the spec."""
    for (part, key), words in _PLACES.items():
        inside = data.get(part)
        if isinstance(inside, dict) and _names_a_place(inside.get(key), words):
            named = named_path(inside[key], asked_by=f"{place}: {part}.{key}", folder=folder)
            inside[key] = str(named.resolve())


def _names_a_place(value: Any, words: Sequence[str]) -> bool:
    if not isinstance(value, str) or not value:
        return False
    return not any(value.startswith(word) if word.endswith(":") else value == word for word in words)


def _load_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """The file's mapping, and the line of every key in it."""
    data, lines = load_yaml_and_lines(read_text(path, what="spec"), str(path))
    if not isinstance(data, dict):
        raise BadInput(
            f"{path}: a spec is a mapping with at least model, prompts and seeds; "
            f"this file holds {'nothing' if data is None else 'a ' + type(data).__name__}."
        )
    return data, lines


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, written = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BadInput(f"--set {text}: write key.path=value, for example --set sampling.steps=8")
    try:
        value = load_yaml(written, f"--set {text}")
    except BadInput as error:
        raise BadInput(f"{error} Quote the value if it is a text, or check its brackets.") from None
    if parts == ["model"] and isinstance(value, str):
        value = {"name": value}
    if value is None and len(parts) == 1 and parts[0] in AnalysisSpec.model_fields:
        # Taking a key out, or a whole part that the remaining sections have no use for.
        data.pop(parts[0], None)
        return
    if parts == ["channels"] and isinstance(value, str):
        parts, value = ["channels", "file"], value
    texts = tuple(parts) in (("prompts",), *_FILES)
    if texts and isinstance(value, str) and value:
        value = str(named_text_file(value, asked_by=f"--set {key.strip()}").absolute())
    elif tuple(parts) in _PLACES and _names_a_place(value, _PLACES[tuple(parts)]):
        value = str(named_path(value, asked_by=f"--set {key.strip()}").absolute())
    if parts[0] == "channels" and parts[-1] in SELECTIONS and isinstance(data.get("channels"), dict):
        # They exclude each other, so choosing one takes back what the file chose.
        ways = (*SELECTIONS, "found_in")
        data["channels"] = {key: kept for key, kept in data["channels"].items() if key not in ways}
    place: Any = data
    for depth, part in enumerate(parts[:-1]):
        place = place.setdefault(part, {}) if isinstance(place, dict) else _item(place, part, text)
        if not isinstance(place, dict | list):
            where = ".".join(parts[: depth + 1])
            raise BadInput(f"--set {text}: {where} is {place!r}, which has nothing inside it to set.")
    if isinstance(place, dict) and value is None and parts[-1] in place:
        del place[parts[-1]]
    elif isinstance(place, dict):
        place[parts[-1]] = value
    else:
        _item(place, parts[-1], text)
        place[int(parts[-1])] = value


def _item(place: list[Any], part: str, text: str) -> Any:
    if not part.isdigit() or int(part) >= len(place):
        raise BadInput(f"--set {text}: {part!r} is no place in a list of {len(place)}; count from 0.")
    return place[int(part)]
