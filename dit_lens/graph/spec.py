"""The graph as data: frozen values whose YAML and JSON say everything that a run does.

Nothing here knows a model; `check` holds a graph against one. Loads without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from dit_lens.errors import BadInput, Place, as_sentence, did_you_mean, dotted
from dit_lens.graph.interventions import as_edit, json_schema
from dit_lens.plain_yaml import load_yaml
from dit_lens.words import shown

SCHEMA_VERSION = 1

Text = Annotated[StrictStr, Field(min_length=1)]
Index = Annotated[StrictInt, Field(ge=0)]
Number = StrictInt | StrictFloat
Steps = StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]]
Branch = Literal["both", "cond", "uncond"]


def _listed(value: Any) -> Any:
    return (
        [str(value)] if isinstance(value, str) or not isinstance(value, Sequence) else list(map(str, value))
    )


Addresses = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]
Operation = Annotated[
    Any,
    BeforeValidator(as_edit),
    PlainSerializer(lambda value: value.to_data()),
    WithJsonSchema(json_schema()),
]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TrajectorySpec(_Spec):
    """One denoising run from one prompt and seed; edits and reads name it by its `id`."""

    id: Text
    prompt: StrictStr
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)]
    """Of the starting noise. Mandatory: what is edited must be compared with the same noise."""
    until: Literal["auto", "end", "last_read"] = "auto"
    """`end` denoises to the end, `last_read` stops when all reads are done. `auto`: `last_read` in a graph
    that only reads, else `end`."""
    follows: Text | None = None
    """Another trajectory whose latents this one takes before every step, whatever it predicts itself: with
    edits of its own, what the edited model would say at the very latents of the other. Such a shadow has no
    image; patches from it and reads of it are what it is for."""
    path: Text | None = None
    """Name of given latents, such as a picture's at every noise level, that this one takes before every step;
    `run(…, paths={name: GivenPath})` hands them over. Like a shadow, it is only drawn on and read."""
    steps: Annotated[StrictInt, Field(ge=1)] | None = None
    """Denoising steps of its own, where they differ from the graph's: it is denoised first, unedited, and at
    each of the graph's steps has its latents of about the same noise. Like a shadow, it is only drawn on and
    read."""
    match: Literal["nearest", "linear"] | None = None
    """How those latents are found: at the `nearest` noise level of its own run (default), or on the `linear`
    way between the two around it."""


class ChannelSetSpec(_Spec):
    """Channels per block, as `ChannelSet` holds them; `model` and `stream` are checked where given."""

    blocks: dict[Annotated[int, Field(ge=0)], tuple[Index, ...]]
    model: StrictStr | None = None
    stream: StrictStr | None = None


class MaskSpec(_Spec):
    """A named set of tokens; `grid` (rows, columns) ties it to images of so many tokens, `image_size`
    (height, width) to those of so many pixels."""

    tokens: tuple[Index, ...]
    grid: tuple[Index, Index] | None = None
    image_size: tuple[Index, Index] | None = None

    @model_serializer(mode="wrap")
    def _as_ever(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A mask that no image size ties down is written, and hashed, as before there were any.
        data: dict[str, Any] = written(self)
        if self.image_size is None:
            data.pop("image_size", None)
        return data


class BoxSpec(_Spec):
    """Image tokens in a rectangle of the token grid: [top, left, bottom, right], ends excluded."""

    box: tuple[Index, Index, Index, Index]


class EditSpec(_Spec):
    """An edit of one trajectory; with `source`, one that draws on another trajectory's activation."""

    into: Text
    at: Addresses
    """Hook points: one pattern or several, such as `blocks.4-11.resid_post.image`."""
    op: Operation
    source: Text | None = None
    """Trajectory whose activation at the same place, step and branch is patched in or resampled."""
    channels: Literal["all"] | Text | tuple[Index, ...] = "all"
    """`all`, channel numbers, or the name of one of the graph's `channel_sets`."""
    tokens: Literal["all"] | Text | tuple[Index, ...] | BoxSpec = "all"
    """`all`, token numbers, `{box: [top, left, bottom, right]}`, or the name of one of the `masks`."""
    steps: Steps = "all"
    """`all`, a number, a list, a slice `2:8`, `{fraction: [0, 0.5]}` or `{sigma: [low, high]}`."""
    branch: Branch = "both"
    order: StrictInt = 0
    """Edits of one address apply by rising order, equal ones as they are listed."""


class ReadSpec(_Spec):
    """What is kept of a trajectory; at an edited address, the value after all edits."""

    name: Text
    of: Text
    at: Addresses
    reduce: Literal["none", "mean", "abs_mean", "mean_abs", "max_abs", "norm"] = "none"
    """`none`: the activation itself. Over tokens, one number per channel: `mean`, `abs_mean` (size of the
    mean), `mean_abs` (mean of the sizes), `max_abs`. `norm`: one number, the Frobenius norm."""
    channels: Literal["all"] | Text | tuple[Index, ...] = "all"
    tokens: Literal["all"] | Text | tuple[Index, ...] | BoxSpec = "all"
    steps: Steps = "all"
    branch: Branch = "both"


class GraphSpec(_Spec):
    """An intervention graph: trajectories, what is edited in them and carried between them, what is read."""

    schema_version: StrictInt = SCHEMA_VERSION
    sampling: dict[StrictStr, StrictBool | StrictInt | StrictFloat | StrictStr] = Field(default_factory=dict)
    """Steps, guidance_scale, height, width, …; what is absent is the model's default."""
    channel_sets: dict[Text, ChannelSetSpec] = Field(default_factory=dict)
    masks: dict[Text, MaskSpec] = Field(default_factory=dict)
    trajectories: tuple[TrajectorySpec, ...] = ()
    edits: tuple[EditSpec, ...] = ()
    reads: tuple[ReadSpec, ...] = ()

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != SCHEMA_VERSION:
            raise ValueError(f"the graph has schema version {value}; this dit_lens reads {SCHEMA_VERSION}")
        return value

    @model_validator(mode="after")
    def _names_are_unique(self) -> GraphSpec:
        for what, names in (
            ("trajectories", [each.id for each in self.trajectories]),
            ("reads", [each.name for each in self.reads]),
        ):
            seen: set[str] = set()
            for name in names:
                if name in seen:
                    raise ValueError(f"{what}: {name!r} stands twice; names must differ")
                seen.add(name)
        return self

    @property
    def hash(self) -> str:
        """The graph's identity: sha256 over its canonical JSON, the first 16 hex digits."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_data(self) -> dict[str, Any]:
        """Plain data, without what is as it would be by default."""
        return {
            "schema_version": self.schema_version,
            **self.model_dump(mode="json", exclude_defaults=True, exclude={"schema_version"}),
        }


_MEMBERS: dict[str, type[BaseModel]] = {
    "trajectories": TrajectorySpec,
    "edits": EditSpec,
    "reads": ReadSpec,
    "channel_sets": ChannelSetSpec,
    "masks": MaskSpec,
}


def plain_numbers(value: Any) -> Any:
    """Arrays, tensors, ranges and tuples as lists of Python numbers; anything else as it is."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, range | tuple | list | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain_numbers(each) for each in items]
    if hasattr(value, "__index__") and not isinstance(value, bool):
        return int(value)
    return value


def spec_from_data(data: Any, place: str = "graph") -> GraphSpec:
    """The graph that plain data describes.

    Raises:
        BadInput: with the path of each fault, what is expected there, and the nearest known name.
    """
    if not isinstance(data, Mapping):
        raise BadInput(f"{place}: a graph is a mapping with trajectories, edits and reads, not {data!r:.60}.")
    try:
        return GraphSpec.model_validate(data)
    except ValidationError as error:
        raise BadInput("\n".join(dict.fromkeys(_faults(error, place)))) from None


def validated(kind: type[BaseModel], place: Place, **values: Any) -> Any:
    """One member of a graph; `BadInput` with its path if the values do not make one."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = dict.fromkeys(_faults(error, dotted(place), kind))
        raise BadInput("\n".join(faults), path=place) from None


def spec_from_yaml(source: str | Path) -> GraphSpec:
    """Read a graph from YAML (or JSON, which is YAML): a text, or the path of a file."""
    place = "graph"
    text = str(source)
    if isinstance(source, Path) or ("\n" not in text and text.endswith((".yaml", ".yml", ".json"))):
        place = text
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"Cannot read the graph {place}: {error}.") from None
    return spec_from_data(load_yaml(text, place), place)


def free_name(kind: str, name: str | None, taken: Container[str], place: str) -> str:
    """The name, if it is still free; a new one for None."""
    if name is None:
        return next(each for n in count(1) if (each := f"{kind}-{n}") not in taken)
    if name in taken:
        raise BadInput(f"{place}: {name!r} stands twice; names must differ.")
    return name


_SHARED = ("sampling", "guidance_scale", "height", "width", "max_sequence_length", "negative_prompt")

# What pydantic calls things that are written in YAML.
_WORDS = (
    ("a valid tuple", "a list"),
    ("a valid dictionary", "a mapping"),
    (" or instance of TrajectorySpec", ""),
    (" or instance of EditSpec", ""),
    (" or instance of ReadSpec", ""),
    (" or instance of ChannelSetSpec", ""),
    (" or instance of MaskSpec", ""),
    (" or instance of BoxSpec", ""),
)


def _faults(error: ValidationError, place: str, kind: type[BaseModel] = GraphSpec) -> Iterator[str]:
    paths = [_path(each["loc"]) for each in error.errors()]
    # Of a list's wrong item all is said; that the list is no text, say, would lead away from it.
    with_wrong_items = {path[:-1] for path in paths if path and isinstance(path[-1], int)}
    for each, path in zip(error.errors(), paths, strict=True):
        if path in with_wrong_items:
            continue
        at = ".".join(map(str, path)) or "the graph"
        if each["type"] == "extra_forbidden":
            known = _known(kind, each["loc"])
            hint = did_you_mean(str(each["loc"][-1]), known)
            if each["loc"][0] == "trajectories" and each["loc"][-1] in _SHARED:
                hint = (
                    " All trajectories of a graph have the same size and guidance, so that activations can "
                    "be carried between them: write it under the graph's sampling."
                )
            yield f"{place}: {at}: there is no such key. Known: {', '.join(known)}.{hint}"
        elif each["type"] == "missing":
            hint = " Without seeds nothing can be repeated." if each["loc"][-1] == "seed" else ""
            yield f"{place}: {at} is missing.{hint}"
        elif each["type"] == "value_error":
            yield f"{place}: {at}: {as_sentence(str(each['ctx']['error']))}"
        else:
            said = each["msg"].replace("Input should", "it should").rstrip(".")
            for theirs, ours in _WORDS:
                said = said.replace(theirs, ours)
            yield f"{place}: {at}: {shown(each['input'])} does not fit: {said}."


def _path(loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """Where a fault is, without names of union members, which say nothing to a reader."""
    return tuple(
        part for part in loc if isinstance(part, int) or (part.isidentifier() and part != BoxSpec.__name__)
    )


def _known(kind: type[BaseModel], at: Sequence[int | str]) -> list[str]:
    if kind is GraphSpec and len(at) > 1:
        kind = _MEMBERS.get(str(at[0]), GraphSpec)
    return list(kind.model_fields)
