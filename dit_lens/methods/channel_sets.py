"""A named set of channels per block: the rules that choose one, and its JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictInt, ValidationError, field_validator

from dit_lens.atomic import atomic_write
from dit_lens.display import Summarised
from dit_lens.errors import BadInput
from dit_lens.summary import Facts, Note, Part, Summary, Table, shortened

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens

SCHEMA_VERSION = 1

Values = npt.NDArray[np.floating[Any]]

_OWN_SET = "Channels of your own become one by stats.select(chosen={4: [0, 34]}), where discover gives stats."


class _ReadOnly(dict[int, tuple[int, ...]]):
    """The channels of each block, as nobody may change it: the provenance would be another set's."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise BadInput(f"The channels of a channel set cannot be changed. {_OWN_SET}")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (dict(self),))


class ChannelSet(BaseModel, Summarised):
    """Channels chosen in each block of one stream; strongest first; a block may have none.

    Fields: `model` (its name), `statistic` and `selection` (how the channels were chosen), `stream`,
    `provenance` (prompts, seeds, sampling, fingerprint), `blocks` (block index → channel indices),
    `schema_version` of its file. Frozen, `blocks` too, and hashable. The JSON of equal sets is equal byte for
    byte.

    A `positional` value, and a field that is missing or does not fit, raises `BadInput`.

    >>> chosen = ChannelSet(model="shapes-sd3", statistic="abs_mean", stream="image",
    ...                     selection={"top_k": 2}, blocks={0: (7, 3), 1: (7, 5)})
    >>> chosen.channels
    (3, 5, 7)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    model: str
    statistic: str
    stream: str
    selection: dict[str, JsonValue]
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    blocks: dict[int, tuple[StrictInt, ...]]

    if not TYPE_CHECKING:  # a checker takes the arguments from the fields

        def __init__(self, *positional: Any, **values: Any) -> None:
            """All fields, by name; raises `BadInput`, which says how channels of one's own become a set."""
            if positional:
                raise BadInput(f"A channel set takes its fields by name. {_OWN_SET}")
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise BadInput(f"This makes no channel set: {_faults(error)}. {_OWN_SET}") from None

        # Only calls come here: what pydantic itself validates reports its faults to `load`.
        __init__.__pydantic_base_init__ = True

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != SCHEMA_VERSION:
            raise ValueError(f"is {value}; this dit_lens reads {SCHEMA_VERSION}")
        return value

    @field_validator("selection", "provenance")
    @classmethod
    def _in_order(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return {key: _sorted(value[key]) for key in sorted(value)}

    @field_validator("blocks")
    @classmethod
    def _plausible(cls, value: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
        for block, channels in value.items():
            if block < 0 or any(channel < 0 for channel in channels):
                raise ValueError(f"block {block} holds {list(channels)}: blocks and channels count from 0")
            if len(set(channels)) != len(channels):
                raise ValueError(f"block {block} names a channel twice: {list(channels)}")
        return _ReadOnly({block: value[block] for block in sorted(value)})

    def __hash__(self) -> int:
        return hash((self.model, self.statistic, self.stream, frozenset(self.blocks.items())))

    if not TYPE_CHECKING:  # a checker knows that it is frozen

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "blocks":
                raise BadInput(f"The channels of a channel set cannot be changed. {_OWN_SET}")
            super().__setattr__(name, value)

    @property
    def channels(self) -> tuple[int, ...]:
        """Every channel that some block holds, sorted."""
        return tuple(sorted({channel for channels in self.blocks.values() for channel in channels}))

    def require_found_in(self, lens: DiTLens) -> None:
        """Raise `BadInput` if these are channels of another model than that of `lens`.

        The same weights may go by another name, and the same name may be open in another dtype.

        >>> massive.require_found_in(lens)
        """
        require_found_in(lens, self.model, self.provenance.get("fingerprint"))

    @property
    def is_empty(self) -> bool:
        """Whether no block holds a channel (a rule may find none: a legal answer)."""
        return not any(self.blocks.values())

    @property
    def nearest(self) -> str:
        """Which channel comes nearest to a rule that none passes, as a sentence; else empty.

        >>> stats.select(ratio=5000).nearest
        'The largest ratio is 37.71 times the median: abs_mean 17.98 in block 7, channel 0.'
        """
        largest = self.provenance.get("largest")
        if not isinstance(largest, dict):
            return ""
        return (
            f"The largest ratio is {largest['ratio']:.4g} times the median: {self.statistic} "
            f"{largest['value']:.4g} in block {largest['block']}, channel {largest['channel']}."
        )

    def jaccard(self, other: ChannelSet) -> float:
        """Mean over blocks common with `other` of |A ∩ B| / |A ∪ B|; NaN where both are empty in every block.

        From 0 to 1. Blocks that are empty in both are left out. Raises `BadInput` when no block is in both
        sets.

        >>> round(massive.jaccard(stats.select(top_k=4, statistic="mean_abs")), 2)
        0.72
        """
        common = sorted(self.blocks.keys() & other.blocks.keys())
        if not common:
            raise BadInput(
                f"Cannot compare channel sets without a common block: one has {list(self.blocks)}, "
                f"the other {list(other.blocks)}. Select both from the same model."
            )
        overlaps = [
            len(a & b) / len(a | b)
            for a, b in ((set(self.blocks[i]), set(other.blocks[i])) for i in common)
            if a | b
        ]
        return sum(overlaps) / len(overlaps) if overlaps else math.nan

    def to_json(self) -> str:
        """The set as JSON text, keys in a fixed order, ending in a newline.

        >>> ChannelSet.model_validate_json(massive.to_json()) == massive
        True
        """
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON to `path`, whole or not at all.

        Raises `RunFailure` when the place cannot be written.

        >>> massive.save("massive.json").name
        'massive.json'
        """
        return atomic_write(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ChannelSet:
        """Read the set saved at `path`; raises `BadInput` for what is missing, no JSON, or no channel set.

        >>> ChannelSet.load(massive.save("massive.json")) == massive
        True
        """
        path = Path(path)
        try:
            value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=partial(_once, path))
        except OSError as error:
            raise BadInput(
                f"Cannot read the channel set {path}: {error.strerror or error}. "
                "`dit-lens discover MODEL --prompts FILE --out FILE` writes one."
            ) from error
        except BadInput:
            raise
        except ValueError as error:
            raise BadInput(
                f"{path} is not JSON ({error}). A channel set is what `dit-lens discover` writes."
            ) from error
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise BadInput(
                f"{path} is not a channel set: {_faults(error)}. Expected the fields "
                f"{', '.join(cls.model_fields)}; write it again with `dit-lens discover`."
            ) from error

    def summary(self) -> Summary:
        """The channels of every block, strongest first, and the rule that chose them."""
        how = ", ".join(f"{key} = {value}" for key, value in self.selection.items())
        about = Facts({"model": self.model, "chosen by": f"{self.statistic}: {how}"})
        shown: Part
        if self.is_empty:
            nothing = f"Empty: no channel of any of the {len(self.blocks)} blocks meets this rule."
            shown = Note(f"{nothing} {self.nearest}")
        else:
            rows = [
                (block, shortened(", ".join(map(str, channels)), 300) or "–")
                for block, channels in self.blocks.items()
            ]
            shown = Table(("block", "channels"), rows)
        count = len(self.channels)
        title = f"ChannelSet: {count} different {'channel' if count == 1 else 'channels'}"
        return Summary(f"{title}, {self.stream} stream", (about, shown))

    def __repr__(self) -> str:
        how = ", ".join(f"{key}={value}" for key, value in self.selection.items())
        head = f"ChannelSet({self.model}, {self.stream} stream, {self.statistic}: {how})"
        if self.is_empty:
            nearest = f"\n  {self.nearest}" if self.nearest else ""
            none = f"empty: no channel of any of the {len(self.blocks)} blocks meets this rule"
            return f"{head}\n  {none}{nearest}"
        lines = [
            f"  block {block:>2}: {', '.join(map(str, channels)) or '–'}"
            for block, channels in self.blocks.items()
        ]
        return "\n".join([head, *lines])

    __str__ = __repr__


def require_found_in(lens: DiTLens, model: str | None, fingerprint: object) -> None:
    """Raise `BadInput` if channels found in a model of this name and fingerprint are foreign here."""
    # A pipeline that was handed over as an object is named after its class: that says nothing.
    named_alike = model == lens.name != type(lens.pipeline).__name__
    if not named_alike and fingerprint != lens.fingerprint:
        raise BadInput(
            f"The channel set was found in {model!r} (fingerprint {str(fingerprint)[:12]}), and this model "
            f"is {lens.name!r} ({lens.fingerprint[:12]}). Channel numbers mean nothing in another model: "
            "discover them here."
        )


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of a file; `BadInput` for a key that stands twice, of which JSON would take the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadInput(f"{path}: the key {key!r} stands twice in a mapping. Keep one.")
        found[key] = value
    return found


def _faults(error: ValidationError) -> str:
    """The first faults of what is no channel set."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'the file'}: {item['msg']}"
        for item in error.errors()[:3]
    )


def strongest(values: Values, k: int) -> tuple[int, ...]:
    """The `k` largest of `[channels]`, largest first, equal values by lower index.

    Raises `BadInput` when `k` is below 1 or above the number of channels.

    >>> strongest(np.array([1.0, 9.0, 9.0]), 2)
    (1, 2)
    """
    require_k(k, len(values))
    return _ranked(values)[:k]


def at_least_ratio(values: Values, ratio: float) -> tuple[int, ...]:
    """Channels of at least `ratio` times the channel median, largest first; possibly none.

    >>> at_least_ratio(np.array([1.0, 1.0, 8.0]), 4)
    (2,)
    """
    threshold = ratio * float(np.median(values))
    return tuple(channel for channel in _ranked(values) if values[channel] >= threshold)


def massive_2402_17762(
    max_abs: Values, mean_abs: Values, *, min_abs: float = 100.0, min_ratio: float = 1000.0
) -> tuple[int, ...]:
    """The rule of arXiv 2402.17762: |x| above `min_abs` and at least `min_ratio` times the median |x|.

    Args:
        max_abs: largest magnitude of each channel, `[channels]`.
        mean_abs: mean magnitude of each channel; its channel median stands for the median magnitude of the
            hidden state, which no streaming pass keeps (it is the same up to the shape of a typical channel's
            distribution; 0.67 / 0.80 of it for a Gaussian one).

    Returns:
        Channels, largest first. On a small model: most likely none.

    >>> massive_2402_17762(np.array([3000.0, 2.0, 1.0]), np.array([2900.0, 0.7, 0.5]))
    (0,)
    """
    median = float(np.median(mean_abs))
    return tuple(
        channel
        for channel in _ranked(max_abs)
        if max_abs[channel] > min_abs and max_abs[channel] >= min_ratio * median
    )


def largest_ratio(blocks: Mapping[int, tuple[Values, Values]]) -> dict[str, JsonValue] | None:
    """Which channel comes nearest to a rule that none passes: `ratio`, `value`, `block`, `channel`.

    `blocks` holds, per block, a magnitude of each channel and the one whose channel median is the measure,
    `[channels]` both. None where no ratio is finite.

    >>> largest_ratio({3: (np.array([1.0, 9.0]), np.array([1.0, 2.0]))})
    {'ratio': 6.0, 'value': 9.0, 'block': 3, 'channel': 1}
    """
    found = [
        (float(values[channel] / median), float(values[channel]), block, channel)
        for block, (values, typical) in blocks.items()
        if (median := float(np.median(typical))) > 0
        for channel in _ranked(values)[:1]
    ]
    finite = [each for each in found if math.isfinite(each[0])]
    return dict(zip(("ratio", "value", "block", "channel"), max(finite), strict=True)) if finite else None


def by_hand(
    chosen: Mapping[int, Sequence[int]], blocks: Sequence[int], channels: int, place: str = "chosen"
) -> dict[int, set[int]]:
    """Channels of the caller's own, block → channels, each of which a model of this size has.

    Raises `BadInput` that begins with `place` for any other block or channel, and where none is named.

    >>> by_hand({4: [0, 34]}, blocks=range(8), channels=128)
    {4: {0, 34}}
    """
    if not isinstance(chosen, Mapping) or not any(map(len, chosen.values())):
        raise BadInput(f"{place}: {chosen!r} names no channel; write for example {{4: [0, 34]}}.")
    for block, asked in chosen.items():
        if block not in blocks:
            raise BadInput(
                f"{place}: there is no block {block!r} in this stream; there are {blocks[0]} to {blocks[-1]}."
            )
        wrong = [channel for channel in asked if isinstance(channel, bool) or channel not in range(channels)]
        if wrong:
            raise BadInput(
                f"{place}.{block}: there is no channel {wrong[0]!r} in block {block}; there are 0 to "
                f"{channels - 1}."
            )
    return {int(block): {int(channel) for channel in asked} for block, asked in chosen.items()}


def require_k(k: object, channels: int, limit: str = "channels") -> int:
    """Return `k` if it is a whole number from 1 to `channels`; else raise `BadInput`."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise BadInput(f"top_k = {k!r} is no whole number. Use 1 to {channels}.")
    if not 1 <= k <= channels:
        raise BadInput(f"top_k = {k} was asked for; there are {channels} {limit}. Use 1 to {channels}.")
    return int(k)


def _ranked(values: Values) -> tuple[int, ...]:
    return tuple(int(channel) for channel in np.argsort(-values, kind="stable"))


def _sorted(value: JsonValue) -> JsonValue:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_sorted(item) for item in value]
    return value
