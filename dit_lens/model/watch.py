"""Noticing, in about a millisecond, that modules are no longer what they were.

Everything that a part's behaviour hangs on is a dictionary, a list or a tensor. Copies of the dictionaries
and lists are compared with the live ones, which Python does by identity and in C. Tensors are watched by
their version counters, their addresses, and some of their values: writes through `.data` leave no other
trace.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from itertools import count as count_up
from typing import Any

import torch
from torch import Tensor, nn

_SAMPLES = 512
"""Values of a tensor that are compared. Of a matrix of up to 256 × 256 they lie in every row and every
column.
"""

_DEPTH = 4

_OTHERS = ("__nnsight__", "forward", "_old_forward")
"""Entries of a module that are replaced while it is the same; what replaces them is a change of the module.
"""

_BITS: dict[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Watch:
    """The state of some modules at one moment.

    Args:
        modules: parts of a pipeline, with all that is inside them.
        tensors: what they store; anything but plain tensors is passed over.
        values: whether values are compared, too. Not where weights move between devices: what is held here
            would keep the place they moved from occupied.

    >>> layer = torch.nn.Linear(2, 2)
    >>> watch = Watch([layer], layer.parameters())
    >>> watch.changed(), layer.weight.data.zero_().sum().item(), watch.changed()
    (False, 0.0, True)
    """

    def __init__(self, modules: Iterable[nn.Module], tensors: Iterable[Any], *, values: bool = True) -> None:
        self._live: list[Any] = []
        seen: set[int] = set()
        classes: dict[type, None] = {}
        for part in modules:
            for module in part.modules():
                self._live += _containers(module, seen)
                classes[type(module)] = None
        self._classes: tuple[Any, ...] = tuple(classes)
        self._forwards = self._of_classes()
        self._copies = [type(each)(each) if type(each) in (list, set) else dict(each) for each in self._live]
        self._tensors = [each for each in tensors if isinstance(each, Tensor) and not each.is_meta]
        self._state = self._now()
        self._views = _views(self._tensors) if values else ()
        self._values = self._read()

    def changed(self) -> bool:
        """Whether anything is not what it was."""
        try:
            if self._live != self._copies:
                return True
            if self._now() != self._state or self._of_classes() != self._forwards:
                return True
            return not all(map(torch.equal, self._read(), self._values))
        except (RuntimeError, ValueError, TypeError):
            # Two values that cannot be compared are not one and the same.
            return True

    @torch.no_grad()
    def touched(self) -> set[int]:
        """Ids of the tensors that changed: by their counters or addresses, or by the values that are
        compared.
        """
        pairs = zip(self._tensors, self._now(), self._state, strict=True)
        found = {id(tensor) for tensor, now, before in pairs if now != before}
        for views, before in zip(self._views, self._values, strict=True):
            parts = before.split([len(view) for view in views.values()])
            for (tensor, view), part in zip(views.items(), parts, strict=True):
                if not torch.equal(view, part):
                    found.add(tensor)
        return found

    def _of_classes(self) -> list[Any]:
        return [each.forward for each in self._classes]

    def _now(self) -> list[Any]:
        return [(each._version, each.dtype, _address(each)) for each in self._tensors]

    @torch.no_grad()
    def _read(self) -> list[Tensor]:
        return [torch.cat(list(views.values())) for views in self._views]


def _address(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # a tensor that is made of others has none
        return 0


def _containers(value: Any, seen: set[int], depth: int = _DEPTH) -> Iterator[Any]:
    """The dictionaries, lists and sets in which an object keeps its state, its own and those inside."""
    inside: Iterable[Any]
    if isinstance(value, dict | list | set):
        own, inside = value, list(value.values() if isinstance(value, dict) else value)
    elif hasattr(value, "__dict__") and not hasattr(value, "__qualname__"):  # functions and classes have both
        own = vars(value)
        inside = [each for key, each in own.items() if key not in _OTHERS]
    else:
        return
    if id(own) in seen:
        return
    seen.add(id(own))
    yield own
    for each in inside if depth else ():
        # Modules are walked through by whoever asked; what they hold is theirs.
        if not isinstance(each, nn.Module | Tensor) and type(each) not in _PLAIN:
            yield from _containers(each, seen, depth - 1)


_PLAIN = (bool, int, float, str, bytes, tuple, type(None), torch.dtype, torch.device)


def _views(tensors: Iterable[Tensor]) -> tuple[dict[int, Tensor], ...]:
    """Some values of every plain tensor by its id, as views of their bits, by device and width."""
    found: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = {}
    for each in tensors:
        bits = _bits(each)
        if bits is not None:
            found.setdefault((bits.device, bits.dtype), {})[id(each)] = bits
    return tuple(found.values())


def _bits(tensor: Tensor) -> Tensor | None:
    """Values of a plain tensor as whole numbers of the same width; None where there are none to look at."""
    plain = type(tensor) in (Tensor, nn.Parameter, nn.Buffer) and tensor.layout == torch.strided
    if not plain or tensor.is_quantized or tensor.numel() == 0 or tensor.element_size() not in _BITS:
        return None
    flat = tensor.detach()
    try:
        # In the order of the memory, as far as it is dense.
        flat = flat.view(-1) if flat.is_contiguous() else flat.as_strided((flat.numel(),), (1,))
    except RuntimeError:
        return None
    return flat[:: _stride(tensor)].view(_BITS[tensor.element_size()])


def _stride(tensor: Tensor) -> int:
    """A distance between values at which they fall into every row and column, or as few as are looked at."""
    count = tensor.numel()
    least = max(1, -(-count // _SAMPLES))
    if tensor.ndim < 2:
        return least
    rows, columns = tensor.shape[0], count // tensor.shape[0]
    # Numbers without a common divisor run through all columns before they come back to the first.
    down, up = range(min(rows, columns), least - 1, -1), count_up(least)
    return next(stride for stride in chain(down, up) if math.gcd(stride, columns) == 1)


def moving(modules: Mapping[str, nn.Module]) -> bool:
    """Whether libraries move these modules' weights between devices as they are needed."""
    return any(
        "_hf_hook" in vars(each) or _group_offloaded(each)
        for part in modules.values()
        for each in part.modules()
    )


def _group_offloaded(module: nn.Module) -> bool:
    registry = vars(module).get("_diffusers_hook")
    return registry is not None and any("offload" in name for name in registry.hooks)
