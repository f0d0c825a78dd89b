"""Objects as plain data: settings and code, so that two of them can be held equal across processes.

Code of libraries is told by its name, since their versions are recorded. Code of anybody else is foreign:
unless it declares what it does, nothing here can tell.
"""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dit_lens.model.identity import DECLARED, digest_of
from dit_lens.model.weights import content

LIBRARIES = frozenset(
    {
        "accelerate", "bitsandbytes", "builtins", "collections", "dataclasses", "diffusers", "dit_lens",
        "einops", "functools", "gguf", "hqq", "huggingface_hub", "math", "nnsight", "numpy", "operator",
        "optimum", "peft", "PIL", "sageattention", "safetensors", "tokenizers", "torch", "torchao",
        "torchmetrics", "transformers", "xformers", "flash_attn",
    }
)  # fmt: skip
"""Packages whose code is told by its name."""

_DEPTH = 4


@dataclass
class Teller:
    """Turns values into plain data, and notes in `untold` whatever it cannot tell.

    With `own_code`, functions and classes outside the libraries are told by their bytecode, which is right
    for what a user hands over on purpose, such as a scorer.

    >>> teller = Teller()
    >>> teller.tell({"heads": 4, "eps": 1e-06}, "norm"), teller.untold
    ({'heads': 4, 'eps': '1e-06'}, [])
    """

    own_code: bool = False
    untold: list[str] = field(default_factory=list)

    def tell(self, value: Any, where: str, depth: int = _DEPTH) -> Any:
        """A value as JSON data; `where` names it in `untold`."""
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float | complex | torch.dtype | np.generic):
            return str(value)
        if isinstance(value, torch.device):
            return value.type
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, Tensor):
            return content(value)
        if isinstance(value, np.ndarray):
            return [str(value.dtype), list(value.shape), digest_of(value.tobytes().hex())]
        if isinstance(value, Mapping):
            return {str(k): self.tell(v, f"{where}.{k}", depth) for k, v in value.items()}
        if isinstance(value, set | frozenset):
            return sorted((self.tell(each, where, depth) for each in value), key=str)
        if isinstance(value, tuple | list):
            return [self.tell(each, where, depth) for each in value]
        declared = getattr(value, DECLARED, None)
        if isinstance(declared, str):
            return declared
        if isinstance(value, functools.partial):
            return [self.tell(part, where, depth) for part in (value.func, value.args, value.keywords)]
        if isinstance(value, type | FunctionType | BuiltinFunctionType | MethodType):
            return self.code(value, where)
        return self._object(value, where, depth)

    def _object(self, value: Any, where: str, depth: int) -> Any:
        named = self.code(type(value), where)
        if depth == 0 or isinstance(value, nn.Module):
            return named
        return [named, self.tell(getattr(value, "__dict__", {}), where, depth - 1)]

    def code(self, value: Any, where: str) -> Any:
        """What names a function or a class; what is foreign is noted, or told by its bytecode."""
        declared = getattr(value, DECLARED, None)
        if isinstance(declared, str):
            return declared
        name = name_of(value)
        if is_library(value):
            return name
        if not self.own_code:
            self.untold.append(f"{where} ({name})")
            return name
        if isinstance(value, type):
            bases = [each for each in value.__mro__ if not is_library(each)]
            members = [vars(each).items() for each in bases]
            return [name, *(_bytecode(v) for items in members for _, v in sorted(items, key=_key))]
        return [name, _bytecode(value)]


def _key(item: tuple[str, Any]) -> str:
    return item[0]


def _bytecode(value: Any) -> Any:
    """What a function or another member of a class does, as far as its code shows it."""
    function = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)) or value)
    if isinstance(function, FunctionType):
        cells = [each.cell_contents for each in function.__closure__ or () if _plain(each.cell_contents)]
        return [_code(function.__code__), repr(function.__defaults__), repr(cells)]
    return repr(value) if _plain(value) else type(value).__qualname__


def _code(code: CodeType) -> list[Any]:
    constants = [_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | tuple | None)


def name_of(value: Any) -> str:
    """Module and qualified name of a class, a function or an object's class."""
    if not hasattr(value, "__qualname__"):
        value = type(value)
    return f"{getattr(value, '__module__', '?')}.{value.__qualname__}"


def is_library(value: Any) -> bool:
    """Whether a class, a function or an object's class comes from one of the `LIBRARIES`.

    >>> is_library(torch.nn.Linear), is_library(type("Mine", (), {"__module__": "mine"}))
    (True, False)
    """
    if not hasattr(value, "__qualname__"):
        value = type(value)
    return str(getattr(value, "__module__", None) or "builtins").partition(".")[0] in LIBRARIES
