"""Reading declared analyses: YAML, overrides, prompt files, and messages that point at the fault.

Files are data: YAML goes through the safe loader, and nothing in a spec is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from dit_lens.analysis_spec import SELECTIONS, AnalysisSpec
from dit_lens.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

Key = tuple[str | int, ...]


# ------------------------------------------------------------------------------------------ finding
def packaged_folder() -> Path:
    """Where the packaged analyses lie: inside an installed package, beside it in a checkout."""
    here = Path(__file__).parent
    return here / "analyses" if (here / "analyses").is_dir() else here.parent / "analyses"


def packaged() -> dict[str, Path]:
    """Names and files of the packaged analyses."""
    return {path.stem: path for path in sorted(packaged_folder().glob("*.yaml"))}


def find_spec(source: str | Path) -> Path:
    """The file of a spec given by path, or by the name of a packaged analysis.

    Raises:
        BadInput: there is neither such a file nor such a name.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "spec.yaml").is_file():
            raise BadInput(f"{path} is a run folder. Its spec is {path / 'spec.yaml'}: name that file.")
        raise BadInput(f"{path} is a folder. Name a spec: a YAML file in it.")
    known = packaged()
    if str(source) in known:
        return known[str(source)]
    near = [entry.name for entry in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    raise BadInput(
        f"There is no spec {str(source)!r}: no such file, and the packaged analyses are "
        f"{', '.join(known) or 'none'}.{did_you_mean(path.name, [*near, *known])}"
    )


def is_graph(source: str | Path) -> bool:
    """Whether a file holds an intervention graph rather than an analysis: it lists trajectories."""
    path = Path(source).expanduser()
    if not path.is_file():
        return False
    data, _ = _load_yaml(path)
    return "trajectories" in data


# ------------------------------------------------------------------------------------------ reading
def read_spec(
    source: str | Path | Mapping[str, Any] | AnalysisSpec, overrides: Sequence[str] = ()
) -> AnalysisSpec:
    """Read, override and check a spec; its prompts are then the texts themselves.

    Args:
        source: a YAML file, the name of a packaged analysis, plain data, or a spec that is taken as it is.
        overrides: `key.path=value` each, the value read as YAML; a prompts file given so is relative to the
            current folder, one in a spec file to that file.

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
        data["prompts"] = read_prompts(folder / data["prompts"], asked_by=f"{place}: prompts")
    for (part, key), read in _FILES.items():
        inside = data.get(part)
        if isinstance(inside, dict) and isinstance(inside.get(key), str):
            inside[key] = read(folder / inside[key], asked_by=f"{place}: {part}.{key}")
    data.setdefault("name", stem)
    if isinstance(data["name"], str):
        data.setdefault("title", data["name"].replace("_", " ").capitalize())
    _pin_local_model(data)
    _pin_files(data, folder)
    try:
        return AnalysisSpec.model_validate(data)
    except ValidationError as error:
        overridden: dict[Key, str] = {
            tuple(text.partition("=")[0].split(".")): f"--set {text}: " for text in overrides
        }
        written: dict[Key, str] = {key: f"{place}:{line}: " for key, line in lines.items()}
        heads = {k: v for k, v in written.items() if not any(k[: len(o)] == o for o in overridden)}
        heads |= overridden
        raise BadInput("\n".join(_faults(error.errors(), data, heads, f"{place}: "))) from None


def _pin_local_model(data: dict[str, Any]) -> None:
    """Turn the relative folder of a model into an absolute one, so that the run folder's spec stays valid."""
    from dit_lens import zoo

    model = data.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("name"), str) or model["name"] in zoo.names():
        return
    folder = Path(model["name"]).expanduser()
    if folder.is_dir():
        data["model"] = {**model, "name": str(folder.resolve())}


def _pin_files(data: dict[str, Any], folder: Path) -> None:
    """Likewise a folder of masks, a picture and a mask, where the names are those of files."""
    for part, key in (("spatial", "truth"), ("source", "image"), ("source", "mask")):
        inside = data.get(part)
        if isinstance(inside, dict) and isinstance(inside.get(key), str):
            place = folder / Path(inside[key]).expanduser()
            if place.exists():
                inside[key] = str(place.resolve())


def _load_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """The file's mapping, and the line of every key in it."""
    text = read_text(path, what="spec")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines(node, (), path)) if node is not None else {}
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadInput(f"{path}{line}: this is no YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: this is no YAML: {error}.") from None
    if not isinstance(data, dict):
        raise BadInput(
            f"{path}: a spec is a mapping with at least model, prompts and seeds; "
            f"this file holds {'nothing' if data is None else 'a ' + type(data).__name__}."
        )
    return data, lines


def _lines(node: yaml.Node, at: Key, path: Path) -> Iterator[tuple[Key, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise BadInput(
                    f"{path}:{line}: {'.'.join(map(str, (*at, key.value)))}: the key stands twice, first in "
                    f"line {seen[key.value]}. YAML would silently take the last; keep one."
                )
            seen[key.value] = line
            yield (*at, key.value), line
            yield from _lines(value, (*at, key.value), path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(value, (*at, index), path)


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, written = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BadInput(f"--set {text}: write key.path=value, for example --set sampling.steps=8")
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError:
        raise BadInput(
            f"--set {text}: {written!r} is no YAML value. Quote it, or check its brackets."
        ) from None
    if parts == ["model"] and isinstance(value, str):
        value = {"name": value}
    if tuple(parts) in (("prompts",), ("source", "image"), *_FILES) and isinstance(value, str):
        value = str(Path(value).expanduser().absolute())
    if parts[0] == "channels" and parts[-1] in SELECTIONS and isinstance(data.get("channels"), dict):
        # They exclude each other, so choosing one takes back what the file chose.
        data["channels"] = {key: kept for key, kept in data["channels"].items() if key not in SELECTIONS}
    place: Any = data
    for depth, part in enumerate(parts[:-1]):
        place = place.setdefault(part, {}) if isinstance(place, dict) else _item(place, part, text)
        if not isinstance(place, dict | list):
            where = ".".join(parts[: depth + 1])
            raise BadInput(f"--set {text}: {where} is {place!r}, which has nothing inside it to set.")
    if isinstance(place, dict):
        place[parts[-1]] = value
    else:
        _item(place, parts[-1], text)
        place[int(parts[-1])] = value


def _item(place: list[Any], part: str, text: str) -> Any:
    if not part.isdigit() or int(part) >= len(place):
        raise BadInput(f"--set {text}: {part!r} is no place in a list of {len(place)}; count from 0.")
    return place[int(part)]


# ------------------------------------------------------------------------------------------ faults
def _faults(errors: list[ErrorDetails], data: Any, heads: Mapping[Key, str], elsewhere: str) -> Iterator[str]:
    """Each validation error as `file:line: key.path: what is wrong, what exists`."""
    located: dict[Key, ErrorDetails] = {}
    for error in errors:
        # One value refused by every member of a union is one fault.
        located.setdefault(_path_in_data(error, data), error)
    for at, error in located.items():
        if error["type"] == "too_short" and any(other[: len(at)] == at != other for other in located):
            continue  # its items were refused one by one
        head = max((key for key in heads if key == at[: len(key)]), key=len, default=None)
        yield (elsewhere if head is None else heads[head]) + _fault(error, at)


def _fault(error: ErrorDetails, at: Key) -> str:
    key = ".".join(map(str, at)) or "the spec"
    if error["type"] == "extra_forbidden":
        known = _known_keys(at[:-1])
        hint = did_you_mean(str(at[-1]), known)
        return f"{key}: there is no such key. Known: {', '.join(known)}.{hint}"
    if error["type"] == "missing":
        return f"{key} is missing. {_WHY_NEEDED.get(key, 'Add it.')}"
    if error["type"] == "value_error":
        said = f"{str(error['ctx']['error']).rstrip('.')}."
        return said if not at or said.startswith(str(at[0])) else f"{key}: {said}"
    if error["type"] == "too_short":
        return f"{key} is empty. {_WHY_NEEDED.get(key, 'Name at least one.')}"
    asked = error["input"]
    hint = ""
    if error["type"] == "literal_error" and error["loc"][-1] == "[key]":
        known = _expected(error)
        return f"{key}: there is no such key. Known: {', '.join(known)}.{did_you_mean(str(asked), known)}"
    if len(error["loc"]) > len(at):
        description = _field(at).description or ""
        return f"{key}: {_short(asked)} does not fit. {' '.join(description.split())}"
    if error["type"] in _KINDS:
        return f"{key}: must be {_KINDS[error['type']]}, not {_short(asked)}."
    message = error["msg"].replace("Input should be", "must be")
    if error["type"] == "literal_error" and isinstance(asked, str):
        hint = did_you_mean(asked, _expected(error))
    return f"{key}: {message}, not {_short(asked)}.{hint}"


def _expected(error: ErrorDetails) -> list[str]:
    """The values that a literal may have."""
    return [word.strip("' ") for word in str(error["ctx"]["expected"]).replace(" or ", ",").split(",")]


_KINDS = {
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-', beginning with a letter or a digit",
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


_WHY_NEEDED = {
    "seeds": "Without seeds nothing can be repeated: add for example seeds: [0, 1].",
    "model": "Name an embedded model, a folder or a hub id: model: shapes-sd3.",
    "prompts": "Give a list of prompts, or a text file of them: prompts: prompts/shapes.txt.",
}


def _path_in_data(error: ErrorDetails, data: Any) -> Key:
    """pydantic's location without the names of union members, which mean nothing to a reader."""
    path: list[str | int] = []
    for part in error["loc"]:
        inside = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        )
        if not inside:
            break
        path.append(part)
        data = data[part]
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    return tuple(path)


def _field(at: Key) -> FieldInfo:
    """The declared field that a path in the data leads to (or leads into)."""
    model: type[BaseModel] = AnalysisSpec
    for part in at:
        field = model.model_fields[str(part)]
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return field


def _known_keys(parent: Key) -> list[str]:
    annotation: Any = _field(parent).annotation if parent else AnalysisSpec
    return list(annotation.model_fields)


# ------------------------------------------------------------------------------------------ text files
def read_text(path: Path, *, what: str) -> str:
    """A file's text, UTF-8 with or without a byte order mark; raises `BadInput` when it is not."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise BadInput(f"There is no {what} {path}.{did_you_mean(path.name, near)}") from None
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}). "
            f"Save it as UTF-8, for example with: iconv -f latin1 -t utf-8"
        ) from None
    except OSError as error:
        raise BadInput(f"Cannot read the {what} {path}: {error.strerror or error}.") from None


def read_prompts(path: str | Path, *, asked_by: str = "") -> tuple[str, ...]:
    """Prompts from a text file: one per line; empty lines and lines that begin with `#` do not count.

    Raises:
        BadInput: the file is missing, not UTF-8, holds no prompt, or holds one twice.
    """
    path = Path(path).expanduser()
    text = _asked_text(path, "prompts file", asked_by)
    found: dict[str, int] = {}
    for number, prompt in _entries(text):
        if prompt in found:
            raise BadInput(
                f"{path}:{number}: the prompt of line {found[prompt]} stands here again; "
                "it would count double."
            )
        found[prompt] = number
    if not found:
        why = "only comments" if text.strip() else "nothing"
        raise BadInput(
            f"The prompts file {path} holds {why}. Write one prompt per line, for example: "
            "a large red plain star in the centre on a white background"
        )
    return tuple(found)


def read_pairs(path: str | Path, *, asked_by: str = "") -> tuple[tuple[str, str], ...]:
    """Pairs of prompts from a text file: `source -> target` on each line; `#` begins a comment line.

    Raises:
        BadInput: the file is missing, not UTF-8, holds no pair, or a line that is none.
    """
    path = Path(path).expanduser()
    text = _asked_text(path, "pairs file", asked_by)
    pairs = []
    for number, line in _entries(text):
        source, arrow, target = (part.strip() for part in line.partition("->"))
        if not (source and arrow and target) or "->" in target:
            raise BadInput(f"{path}:{number}: write `source prompt -> target prompt`, not {_short(line)}.")
        pairs.append((source, target))
    if not pairs:
        raise BadInput(
            f"The pairs file {path} holds no pair. Write `source prompt -> target prompt` per line."
        )
    return tuple(pairs)


def _entries(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if (entry := line.strip()) and not entry.startswith("#"):
            yield number, entry


def _asked_text(path: Path, what: str, asked_by: str) -> str:
    try:
        return read_text(path, what=what)
    except BadInput as error:
        raise BadInput(f"{asked_by}: {error}" if asked_by else str(error)) from None


_FILES = {
    ("effects", "prompts"): read_prompts,
    ("effects", "pairs"): read_pairs,
    ("transport", "pairs"): read_pairs,
    ("transport", "far_pairs"): read_pairs,
    ("source", "targets"): read_prompts,
}
"""Keys whose value may name a text file, and how it is read; it lies relative to the spec."""
