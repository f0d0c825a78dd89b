"""What is wrong with a spec, in words: `file:line: key.path: what is wrong, what exists`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from dit_lens.analysis.spec import AnalysisSpec
from dit_lens.errors import as_sentence, did_you_mean
from dit_lens.plain_yaml import Key

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails


def explained(
    errors: list[ErrorDetails], data: Any, heads: Mapping[Key, str], elsewhere: str
) -> Iterator[str]:
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
        fault = error["ctx"]["error"]
        said, inside = as_sentence(str(fault)), getattr(fault, "path", ())
        return said if not at or inside[:1] == at[:1] else f"{key}: {said}"
    if error["type"] == "too_short":
        return f"{key} is empty. {_WHY_NEEDED.get(key, 'Name at least one.')}"
    asked = error["input"]
    hint = ""
    if error["type"] == "literal_error" and error["loc"][-1] == "[key]":
        known = _expected(error)
        return f"{key}: there is no such key. Known: {', '.join(known)}.{did_you_mean(str(asked), known)}"
    if len(error["loc"]) > len(at):
        description = _field(at).description or ""
        return f"{key}: {short(asked)} does not fit. {' '.join(description.split())}"
    if error["type"] in _KINDS:
        return f"{key}: must be {_KINDS[error['type']]}, not {short(asked)}."
    message = error["msg"].replace("Input should be", "must be")
    if error["type"] == "literal_error" and isinstance(asked, str):
        hint = did_you_mean(asked, _expected(error))
    return f"{key}: {message}, not {short(asked)}.{hint}"


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


def short(value: Any) -> str:
    """A value as it is quoted in a message, cut where it is long."""
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
