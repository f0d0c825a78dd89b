"""What all edits share: parts, checks, the one place where an activation is taken apart and put together.

**Parts.** At a site, every channel of every row is its token mean plus a spatial residual, h = m + r. The
mean is taken over the *addressed* tokens, not over all: an edit then depends on nothing outside its site, and
zeroing the mean and then the residual is zeroing. With `part="mean"` the residual stays as it is, with
`part="residual"` the mean does (both up to rounding). An entry whose part an edit leaves alone keeps its
bits.

**Precision.** Arithmetic runs in float32 for half-precision activations, else in the activation's dtype.

**LayerNorm.** `ln_preserving` is a wish that `apply` only carries. The statistics that a later LayerNorm
takes of a token cannot be kept by changing the token, so whoever runs the edit has to compute them from the
token as it was.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, cast

from dit_lens.errors import BadInput, RunFailure, did_you_mean
from dit_lens.graph.site import EVERYTHING, NO_MATERIAL, Material, Site
from dit_lens.words import require_known

if TYPE_CHECKING:
    from torch import Generator, Tensor

PARTS = ("all", "mean", "residual")


@dataclass(frozen=True)
class Intervention(ABC):
    """An edit of an activation: a frozen value with a pure `apply`.

    Fields of every edit: `part` ("all", "mean" or "residual" of the addressed entries, see the module's text)
    and `ln_preserving` (the run keeps the LayerNorm statistics of the rest of the token). Raises `BadInput`
    for a field that makes no sense.
    """

    part: str = field(default="all", kw_only=True)
    ln_preserving: bool = field(default=False, kw_only=True)

    op: ClassVar[str]
    """Name in a spec."""

    verb: ClassVar[str] = ""
    """What it does to the addressed entries, in a sentence: "zeroing"; by default "the edit <op> of"."""

    needs_tokens: ClassVar[bool] = False
    """Whether the edit makes no sense where there are no tokens, whatever the part."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Intervention:
        # Beside the constructor that a dataclass makes, so that every edit refuses a word in the same way.
        require_known(cls.__name__, kwargs, (each.name for each in fields(cls) if each.init))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise BadInput(
                f"{self.op}: part is {self.part!r}; there are: {', '.join(PARTS)}."
                f"{did_you_mean(str(self.part), PARTS)}"
            )
        if not isinstance(self.ln_preserving, bool):
            raise BadInput(f"{self.op}: ln_preserving is {self.ln_preserving!r}; it is true or false.")

    @property
    def needs(self) -> frozenset[str]:
        """Names of the `Material` without which the edit cannot be applied."""
        return frozenset()

    @property
    def welcomes(self) -> frozenset[str]:
        """Names of the `Material` that the edit uses where it is given."""
        return frozenset()

    @property
    def changes_nothing(self) -> bool:
        """Whether the edit is the identity by declaration, as `Scale(1)` is."""
        return False

    def at_block(self, block: int | None) -> Intervention:
        """The edit as it is at one `block`; only edits that hold a value per block differ.

        Raises `BadInput` where such an edit holds none for that block.

        >>> from dit_lens.graph.energy import EnergyMatched
        >>> EnergyMatched({2: (60, 34), 3: (60, 0)}).at_block(3).treatment_channels
        (60, 0)
        """
        return self

    def require(self, shape: Sequence[int], site: Site = EVERYTHING) -> None:
        """Raise `BadInput` if the edit cannot act at this `site` of an activation of this `shape`.

        >>> from dit_lens.graph.interventions import Add
        >>> Add((1.0, 2.0)).require((1, 144, 128), Site(channels=(60, 34)))
        """
        site.require(shape)
        if len(shape) == 2 and (self.needs_tokens or self.part != "all"):
            what = self.op if self.part == "all" else f"the {self.part} part"
            raise BadInput(
                f"{self.op}: {what} needs tokens, and a value of shape [rows, channels] = {list(shape)} has "
                'none. Use part="all" and an edit without tokens, or a stream such as resid_post.'
            )

    def apply(self, x: Tensor, site: Site = EVERYTHING, material: Material = NO_MATERIAL) -> Tensor:
        """The edited activation.

        Args:
            x: [rows, tokens, channels], or [rows, channels] for values without tokens; never changed. Rows
                are edited alike and independently.
            site: what to edit; every other entry of the result equals that of `x`.
            material: what `needs` names.

        Returns:
            A tensor of the shape, dtype and device of `x`; `x` itself if nothing is to be changed.

        Raises:
            BadInput: a site outside the activation, material that is missing or of another shape.
            RunFailure: the rule of an op returned another shape than it was given.
        """
        self.require(x.shape, site)
        self._require_material(tuple(x.shape), material)
        site = self._where(site, x.shape[-1])
        if self.changes_nothing or site.is_empty:
            return x
        tokens = x if x.ndim == 3 else x.unsqueeze(1)
        edited = site.write(tokens, self._at_site(tokens, site, material).to(x.dtype))
        return edited if x.ndim == 3 else edited.squeeze(1)

    def to_data(self) -> dict[str, Any]:
        """The edit as plain data, every field included: `{"op": "zero", "part": "all", …}`.

        >>> from dit_lens.graph.interventions import Scale
        >>> Scale(0.5).to_data()
        {'op': 'scale', 'factor': 0.5, 'part': 'all', 'ln_preserving': False}
        """
        values = ((each.name, getattr(self, each.name)) for each in sorted(fields(self), key=_own_first))
        return {"op": self.op, **{k: list(v) if isinstance(v, tuple) else v for k, v in values}}

    @property
    def written(self) -> str:
        """The edit as one writes it in a spec, without fields that are as they would be by default.

        >>> from dit_lens.graph.interventions import Scale, Zero
        >>> Zero().written, Scale(0.5, part="mean").written
        ('zero', '{op: scale, factor: 0.5, part: mean}')
        """
        unsaid = {each.name: each.default for each in fields(self)}
        said = [f"{k}: {v}" for k, v in self.to_data().items() if k == "op" or unsaid[k] != v]
        return self.op if len(said) == 1 else f"{{{', '.join(said)}}}"

    def _where(self, site: Site, channels: int) -> Site:
        return site

    @abstractmethod
    def _at_site(self, x: Tensor, site: Site, material: Material) -> Tensor:
        """New values of the addressed entries of [rows, tokens, channels]."""

    def _source_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (shape, (1, *shape[1:]))

    def _require_material(self, shape: tuple[int, ...], material: Material) -> None:
        for name in sorted(self.needs):
            if getattr(material, name) is None:
                raise BadInput(f"{self.op} needs {name}, and none was given: {_WHERE_FROM[name]}.")
        expected = {
            "source": self._source_shapes(shape),
            "quantiles": ((2, shape[-1]),),
            "displaced": (shape,),
            "owed": (shape,),
        }
        for name, allowed in expected.items():
            value = getattr(material, name)
            if name in self.needs | self.welcomes and value is not None and tuple(value.shape) not in allowed:
                raise BadInput(
                    f"{self.op}: {name} has shape {list(value.shape)}; an activation of shape {list(shape)} "
                    f"needs {' or '.join(str(list(each)) for each in dict.fromkeys(allowed))}."
                )


@dataclass(frozen=True)
class PartEdit(Intervention):
    """An edit of each addressed entry, or of one part of it, by a rule that is the same for every part."""

    recentred: ClassVar[bool] = False
    """Whether edited residuals may have a mean, which is then taken out again."""

    @abstractmethod
    def _change(self, value: Tensor, material: Material) -> Tensor:
        """Edit one part at a site. `value` is [rows, tokens, channels], one token for a mean, and so is what
        is returned; `material` holds the same part of the source, and the quantiles of the addressed channels
        [2, channels]."""

    def _at_site(self, x: Tensor, site: Site, material: Material) -> Tensor:
        import torch

        value = precise(site.read(x))
        source = None if material.source is None else as_tokens_like(material.source, x)
        if source is not None:
            source = site.read(source).to(value)
        quantiles = material.quantiles
        if quantiles is not None:
            quantiles = Site(site.channels).read(quantiles[None])[0].to(value)
        generator = None if material.generator is None else self._own(material.generator)
        if self.part == "all":
            return self._changed(value, Material(source, quantiles, generator))
        edited, kept = split(value, self.part)
        donor = None if source is None else split(source, self.part)[0]
        changed = self._changed(edited, Material(donor, quantiles, generator))
        if self.recentred and self.part == "residual":
            changed = changed - (changed - edited).mean(dim=1, keepdim=True)
        # Taking apart and putting together rounds; what was not edited must not pay for it.
        return torch.where(changed == edited, value, kept + changed)

    def _changed(self, value: Tensor, material: Material) -> Tensor:
        """What `_change` makes of a part. Any other shape would be stretched over rows and tokens in silence,
        and the edit be another than its author meant."""
        changed: Any = self._change(value, material)
        if tuple(getattr(changed, "shape", ())) == tuple(value.shape):
            return cast("Tensor", changed)
        found = f"shape {list(changed.shape)}" if hasattr(changed, "shape") else f"{changed!r:.60}"
        raise RunFailure(
            f"{self.op}: _change of {type(self).__name__} was given shape {list(value.shape)}, which is "
            f"[rows, tokens, channels], and returned {found}. It must return a tensor of the shape it was "
            "given; one value per row and channel (value.mean(dim=1, keepdim=True)) gets it by "
            ".expand_as(value)."
        )

    def _own(self, generator: Generator) -> Generator:
        """A fresh generator, from a copy of the given one and the edit's own seed."""
        import torch

        copy = torch.Generator().set_state(generator.get_state())
        start = int(torch.randint(2**62, (1,), generator=copy))
        return torch.Generator().manual_seed(start + int(getattr(self, "seed", 0)))


_WHERE_FROM = {
    "source": "give the trajectory, or the dataset mean, that it comes from",
    "quantiles": "give bounds of each channel, [2, channels], such as Clamp.bounds measures",
    "generator": "give a torch.Generator on the CPU",
}


def split(value: Tensor, part: str) -> tuple[Tensor, Tensor]:
    """(the part, the rest) of [rows, tokens, channels]; means keep one token."""
    mean = value.mean(dim=1, keepdim=True)
    residual = value - mean
    return (mean, residual) if part == "mean" else (residual, mean)


def precise(value: Tensor) -> Tensor:
    """The value in a dtype that arithmetic can be trusted in: half precision becomes float32."""
    return value.float() if value.element_size() < 4 else value


def number(
    op: str, name: str, value: Any, *, above: float = -math.inf, below: float = math.inf, closed: bool = False
) -> float:
    """A finite number between the bounds (inclusive if `closed`); else `BadInput`."""
    try:
        found = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or not (above <= found <= below if closed else above < found < below):
        bounds = [
            f"{'at least' if closed else 'above'} {above:g}" if above > -math.inf else "",
            f"{'at most' if closed else 'below'} {below:g}" if below < math.inf else "",
        ]
        limits = " and ".join(bound for bound in bounds if bound)
        raise BadInput(f"{op}: {name} is {value!r}; it must be a finite number{' ' * bool(limits)}{limits}.")
    return found


def seed_number(op: str, value: Any) -> int:
    """A whole number from 0 up that fits 62 bits; else `BadInput`."""
    whole = not isinstance(value, bool) and isinstance(value, Integral)
    if not whole or not 0 <= int(value) < 2**62:
        raise BadInput(f"{op}: seed is {value!r}; seeds are whole numbers from 0 up.")
    return int(value)


def as_tokens_like(value: Tensor, x: Tensor) -> Tensor:
    """A value shaped like `x` [rows, tokens, channels]; given with one row for all, or without tokens."""
    if value.ndim == 2 and x.shape[1] == 1 and value.shape[0] in (1, x.shape[0]):
        value = value.unsqueeze(1)
    return value.expand(x.shape)


def _own_first(each: Any) -> bool:
    return each.name in ("part", "ln_preserving")
