"""The edits: what can be done to an activation, each a frozen value. What they share is in `operation`.

Loads without torch, so that a spec can be read and checked in no time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.energy import EnergyMatched, PatchMatched
from dit_lens.graph.operation import (
    PARTS,
    Intervention,
    PartEdit,
    number,
    precise,
    split,
)
from dit_lens.graph.random_edits import Noise, TokenShuffle
from dit_lens.graph.site import EVERYTHING, NO_MATERIAL, Material, Site

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Site", "Material", "EVERYTHING", "NO_MATERIAL", "PARTS", "Intervention",
    "Identity", "Zero", "Mean", "Scale", "Clamp", "Add", "Noise", "Resample", "TokenShuffle", "Patch",
    "EnergyMatched", "PatchMatched", "OPERATIONS", "as_edit", "from_data", "json_schema",
]  # fmt: skip


@dataclass(frozen=True)
class Identity(PartEdit):
    """Leave everything as it is: the sham edit.

    >>> import torch
    >>> x = torch.ones(1, 2, 3)
    >>> Identity().apply(x) is x
    True
    """

    op: ClassVar[str] = "identity"
    verb: ClassVar[str] = "leaving"

    @property
    def changes_nothing(self) -> bool:
        return True

    def _change(self, value: Tensor, material: Material) -> Tensor:
        return value


@dataclass(frozen=True)
class Zero(PartEdit):
    """Set to zero. `part="mean"` leaves the spatial residual, `part="residual"` the token mean.

    >>> import torch
    >>> Zero().apply(torch.ones(1, 2, 3), Site(channels=(1,)))[0, 0].tolist()
    [1.0, 0.0, 1.0]
    """

    op: ClassVar[str] = "zero"
    verb: ClassVar[str] = "zeroing"

    def _change(self, value: Tensor, material: Material) -> Tensor:
        return value.new_zeros(()).expand_as(value)


@dataclass(frozen=True)
class Mean(PartEdit):
    """Replace by the mean over the addressed tokens, or by a mean over a dataset.

    `of="token"`: each row's own mean of each channel; the same as zeroing the residual, and with
    `part="mean"` nothing changes. `of="dataset"`: `Material.source`, [channels] or [tokens, channels]. That
    zeroing destroys a model and the dataset's mean does not marks a channel as a bias (arXiv 2402.17762).
    Raises `BadInput` for another `of`.

    >>> import torch
    >>> Mean().apply(torch.tensor([[[1.0, 5.0], [3.0, 5.0]]]), Site(channels=(0,))).tolist()
    [[[2.0, 5.0], [2.0, 5.0]]]
    """

    of: str = "token"

    op: ClassVar[str] = "mean"
    verb: ClassVar[str] = "averaging"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of not in ("token", "dataset"):
            raise BadInput(
                f"mean: of is {self.of!r}; there are: token, dataset."
                f"{did_you_mean(str(self.of), ('token', 'dataset'))}"
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"source"} if self.of == "dataset" else ())

    @property
    def changes_nothing(self) -> bool:
        return self.of == "token" and self.part == "mean"

    def require(self, shape: Sequence[int], site: Site = EVERYTHING) -> None:
        super().require(shape, site)
        if self.of == "token" and len(shape) == 2:
            raise BadInput(
                f'mean: of="token" needs tokens, and a value of shape {list(shape)} has none. '
                'Use of="dataset", or a stream such as resid_post.'
            )

    def _source_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (shape[-1:], shape[1:])

    def _change(self, value: Tensor, material: Material) -> Tensor:
        if self.of == "dataset":
            return _given(material.source)
        return value.mean(dim=1, keepdim=True).expand_as(value)


@dataclass(frozen=True)
class Scale(PartEdit):
    """Multiply by `factor`.

    Raises `BadInput` for a factor that is no finite number.

    >>> import torch
    >>> Scale(0.5).apply(torch.ones(1, 2, 2), Site(channels=(1,)))[0, 0].tolist()
    [1.0, 0.5]
    """

    factor: float

    op: ClassVar[str] = "scale"
    verb: ClassVar[str] = "scaling"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factor", number(self.op, "factor", self.factor))

    @property
    def changes_nothing(self) -> bool:
        return self.factor == 1

    def _change(self, value: Tensor, material: Material) -> Tensor:
        return value * self.factor


@dataclass(frozen=True)
class Clamp(PartEdit):
    """Limit to the range between two quantiles of each channel, 1 − `quantile` and `quantile`.

    The bounds come from `Material.quantiles`, [2, channels], measured by `bounds` on unedited activations.
    A clamped residual keeps a mean of zero: it may leave the bounds by the mean that clamping gave it.

    >>> import torch
    >>> x = torch.tensor([[[0.0], [1.0], [2.0], [50.0]]])
    >>> clamp = Clamp(0.7)
    >>> clamp.apply(x, material=Material(quantiles=clamp.bounds(x))).flatten().tolist()
    [0.0, 1.0, 2.0, 50.0]
    >>> clamp.apply(x * 9, material=Material(quantiles=clamp.bounds(x))).flatten().tolist()
    [0.0, 9.0, 18.0, 50.0]
    """

    quantile: float

    op: ClassVar[str] = "clamp"
    verb: ClassVar[str] = "clamping"
    recentred: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        value = number(self.op, "quantile", self.quantile, above=0.5, below=1.0, closed=True)
        object.__setattr__(self, "quantile", value)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"quantiles"})

    def bounds(self, x: Tensor, site: Site = EVERYTHING) -> Tensor:
        """Both quantiles of the edited part of each addressed channel, over rows and addressed tokens.

        `x`: [rows, tokens, channels] or [rows, channels]; `site` says what is addressed. Returns [2,
        channels], observed values (the next one outwards from each quantile); channels that are not
        addressed are unbounded. Raises `BadInput` for a site that does not fit.

        >>> import torch
        >>> Clamp(0.75).bounds(torch.arange(5.0)[None, :, None]).flatten().tolist()
        [1.0, 3.0]
        """
        import torch

        self.require(x.shape, site)
        bounds = torch.stack([torch.full((x.shape[-1],), sign * math.inf) for sign in (-1, 1)]).to(x.device)
        if site.is_empty:
            return bounds
        value = precise(site.read(x if x.ndim == 3 else x.unsqueeze(1)))
        if self.part != "all":
            value = split(value, self.part)[0]
        ordered = value.flatten(0, 1).sort(dim=0).values
        last = len(ordered) - 1
        # Counted from the near end, so that rounding cannot make the two bounds lie differently.
        within = math.floor((1 - self.quantile) * last + 1e-9)
        found = torch.stack([ordered[within], ordered[last - within]]).to(bounds)
        return Site(site.channels).write(bounds[None], found[None])[0]

    def _change(self, value: Tensor, material: Material) -> Tensor:
        low, high = _given(material.quantiles)
        return value.clamp(low, high)


@dataclass(frozen=True)
class Add(PartEdit):
    """Add `value`: one number, or one for each addressed channel in the site's order.

    A constant over tokens has no residual: with `part="residual"` nothing changes. Raises `BadInput` for a
    value that is not finite; `apply` for another number of values than of addressed channels.

    >>> import torch
    >>> Add((1.0, -1.0)).apply(torch.zeros(1, 2, 3), Site(channels=(0, 2)))[0, 0].tolist()
    [1.0, 0.0, -1.0]
    """

    value: float | tuple[float, ...]

    op: ClassVar[str] = "add"
    verb: ClassVar[str] = "shifting"

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.value
        if isinstance(given, (str, bytes, Mapping)) or not hasattr(given, "__iter__"):
            value: Any = number(self.op, "value", given)
        else:
            value = tuple(number(self.op, f"value[{i}]", each) for i, each in enumerate(given))
        object.__setattr__(self, "value", value)

    @property
    def changes_nothing(self) -> bool:
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        return self.part == "residual" or not any(values)

    def require(self, shape: Sequence[int], site: Site = EVERYTHING) -> None:
        super().require(shape, site)
        there = shape[-1] if site.channels is None else len(site.channels)
        if isinstance(self.value, tuple) and len(self.value) != there:
            raise BadInput(
                f"add: {len(self.value)} values were given and {there} channels are addressed. "
                "Give one value, or one for each channel."
            )

    def _change(self, value: Tensor, material: Material) -> Tensor:
        return value + value.new_tensor(self.value)


@dataclass(frozen=True)
class Resample(PartEdit):
    """Replace by the same entries of another prompt's run (`Material.source`).

    >>> import torch
    >>> x, donor = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    >>> Resample().apply(x, Site(tokens=(1,)), Material(source=donor))[0].tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """

    op: ClassVar[str] = "resample"
    verb: ClassVar[str] = "resampling"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"source"})

    def _change(self, value: Tensor, material: Material) -> Tensor:
        return _given(material.source)


@dataclass(frozen=True)
class Patch(PartEdit):
    """Move towards the same entries of a donor's run: x + `strength` · (source − x).

    0 is exactly the identity and 1 exactly the source (the hard swap of arXiv 2605.13974); between them lies
    a mixture, beyond them an extrapolation. Applied at n blocks of a residual stream it compounds: together
    they cover 1 − (1 − strength)ⁿ of a difference that stays the same.

    >>> import torch
    >>> x, donor = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    >>> Patch(0.5).apply(x, Site(channels=(1,)), Material(source=donor))[0, 0].tolist()
    [0.0, 0.5]
    """

    strength: float = 1.0

    op: ClassVar[str] = "patch"
    verb: ClassVar[str] = "patching"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "strength", number(self.op, "strength", self.strength))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"source"})

    @property
    def changes_nothing(self) -> bool:
        return self.strength == 0

    def _change(self, value: Tensor, material: Material) -> Tensor:
        source = _given(material.source)
        # x + (source − x) rounds; a full patch must not.
        return source if self.strength == 1 else value + self.strength * (source - value)


OPERATIONS: dict[str, type[Intervention]] = {
    kind.op: kind
    for kind in (
        Identity, Zero, Mean, Scale, Clamp, Add, Noise, Resample, TokenShuffle, Patch, EnergyMatched,
        PatchMatched,
    )
}  # fmt: skip
"""Name in a spec → edit."""


def require_value(op: Intervention) -> Intervention:
    """The edit, if its fields say all that it does: they are what is compared, hashed and written down.

    Raises `BadInput` for an edit whose class is no frozen dataclass of its own, or is not the one that its
    name stands for: two of different settings, or of different classes, would be written down alike, and
    share their graphs' hash and their stored results.
    """
    kind = type(op)
    # Looked up in the class itself: a class without the decorator has its parent's.
    made: Any = vars(kind).get("__dataclass_params__")
    if made is None or not (made.frozen and made.eq):
        raise BadInput(
            f"{kind.__name__} is no frozen dataclass, so two of them with different settings would count as "
            f"one edit. Write @dataclass(frozen=True) above class {kind.__name__}, and each setting as a "
            "field in its body, such as step: float."
        )
    name = getattr(kind, "op", None)
    registered = OPERATIONS.get(name) if isinstance(name, str) else None
    if registered is None:
        first = "" if name else 'give it a name in its body, op: ClassVar[str] = "mine", and '
        raise BadInput(
            f"{kind.__name__} is not registered as an edit, so a graph that holds it could not be read back: "
            f'{first}write OPERATIONS["{name or "mine"}"] = {kind.__name__} below the class (from '
            "dit_lens.graph.interventions import OPERATIONS)."
        )
    if registered is not kind:
        again = (
            f"The class was defined anew since this edit was made: make the edit again, of the new {name!r}."
            if registered.__qualname__ == kind.__qualname__
            else f'Give {kind.__name__} an op of its own, and write OPERATIONS["<its op>"] = {kind.__name__} '
            "below it (from dit_lens.graph.interventions import OPERATIONS)."
        )
        raise BadInput(
            f"{kind.__name__} has the op {name!r}, which is registered to another class, "
            f"{registered.__module__}.{registered.__qualname__}: both would be written down alike, and one "
            f"take the other's results. {again}"
        )
    return op


def as_edit(given: Any) -> Intervention:
    """An edit as users give it: a value, its name, or its data.

    Raises `BadInput` as `from_data`, and for a value whose class is no frozen dataclass or not registered.

    >>> as_edit("zero") == as_edit(Zero()) == as_edit({"op": "zero"})
    True
    """
    return require_value(given if isinstance(given, Intervention) else from_data(given))


def from_data(data: Any) -> Intervention:
    """The edit that `to_data` wrote; a bare name stands for an edit without fields.

    Raises `BadInput` for an unknown edit or field (naming the nearest), a missing field or a bad value.

    >>> from_data({"op": "patch", "strength": 0.5})
    Patch(part='all', ln_preserving=False, strength=0.5)
    >>> from_data("zero") == Zero()
    True
    """
    if isinstance(data, str):
        data = {"op": data}
    if isinstance(data, type) and issubclass(data, Intervention):
        value = f"{data.__name__}({', '.join(_required(data))})"
        raise BadInput(f"An edit is the class {data.__name__}; give a value of it, {value}.")
    if not isinstance(data, Mapping):
        raise BadInput(f"An edit is {data!r}; write its name, or a mapping such as {{op: zero, part: mean}}.")
    if "op" not in data:
        raise BadInput(f"An edit has no op, only {', '.join(map(repr, data))}; op is one of {_names()}.")
    name = data["op"]
    if not isinstance(name, str) or name not in OPERATIONS:
        hint = did_you_mean(str(name), OPERATIONS)
        raise BadInput(f"There is no edit {name!r}; there are: {_names()}.{hint}")
    kind = OPERATIONS[name]
    known = {each.name: each for each in fields(kind)}
    for key in data:
        if key != "op" and key not in known:
            hint = did_you_mean(str(key), known)
            raise BadInput(f"{name} has no field {key!r}; there are: op, {', '.join(known)}.{hint}")
    for key, each in known.items():
        if key not in data and each.default is MISSING:
            raise BadInput(f"{name} needs {key}, and it is not given. {_first_line(kind)}")
    return kind(**{str(key): value for key, value in data.items() if key != "op"})


def json_schema() -> dict[str, Any]:
    """JSON Schema of `from_data`'s argument, one alternative per edit."""
    from pydantic import TypeAdapter

    alternatives: list[dict[str, Any]] = [{"enum": [n for n, k in OPERATIONS.items() if not _required(k)]}]
    for name, kind in OPERATIONS.items():
        schema = TypeAdapter(kind).json_schema()
        properties = {"op": {"const": name}, **schema["properties"], "part": {"enum": list(PARTS)}}
        alternatives.append(
            {
                "title": name,
                "description": _first_line(kind),
                "type": "object",
                "properties": properties,
                "required": ["op", *_required(kind)],
                "additionalProperties": False,
            }
        )
    return {"oneOf": alternatives}


def _given(value: Tensor | None) -> Tensor:
    assert value is not None, "apply refuses missing material"
    return value


def _names() -> str:
    return ", ".join(OPERATIONS)


def _required(kind: type[Intervention]) -> list[str]:
    return [each.name for each in fields(kind) if each.default is MISSING]


def _first_line(kind: type[Intervention]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]
