"""Keywords of public functions: one that does not exist is refused in the package's own words."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from dit_lens.errors import BadInput, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

_ELSEWHERE = {
    "heads": "An edit acts on channels of a hook point; attention heads are no coordinate of an address.",
    "head": "An edit acts on channels of a hook point; attention heads are no coordinate of an address.",
    "prompt_embeds": "Prompts are text here, so that a run can be repeated from its record.",
    "generator": "Noise comes from seeds: seeds=[0, 1].",
    "num_inference_steps": "The number of denoising steps is called steps.",
    "layers": "Blocks are named in the hook point: at='blocks.4-11.resid_post.image'.",
}
"""Words that users bring from other libraries, and where to go with them."""


def require_known(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise BadInput for a keyword that `name` does not take.

    >>> require_known("edit", ["heads"], ["at", "op"])
    Traceback (most recent call last):
    dit_lens.errors.BadInput: edit takes no 'heads'. An edit acts on channels of a hook point...
    """
    known = tuple(known)
    for word in given:
        if word not in known:
            hint = f" {_ELSEWHERE[word]}" if word in _ELSEWHERE else did_you_mean(word, known)
            raise BadInput(f"{name} takes no {word!r}.{hint} It takes {', '.join(known)}.")


def known_words(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: an unknown keyword is a `BadInput` that says what there is, not a `TypeError`."""
    parameters = inspect.signature(function).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return function
    known = tuple(name for name, each in parameters.items() if each.kind is not each.POSITIONAL_ONLY)

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if not kwargs.keys() <= set(known):
            require_known(function.__name__, kwargs, (name for name in known if name != "self"))
        return function(*args, **kwargs)

    return guarded


def methods_know_words(cls: C) -> C:
    """Class decorator: `known_words` for every public method."""
    for name, value in list(vars(cls).items()):
        if inspect.isfunction(value) and not name.startswith("_"):
            setattr(cls, name, known_words(value))
    return cls


def shown(value: Any, most: int = 60) -> str:
    """A value in a message: an array by its shape, anything else by the beginning of its repr.

    >>> shown("a red circle"), shown([0] * 100)[-1]
    ("'a red circle'", '…')
    """
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {type(value).__name__} of shape {list(shape)}"
    if isinstance(value, list | tuple) and any(getattr(each, "shape", None) is not None for each in value):
        return f"a {type(value).__name__} of {len(value)} arrays"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return f"a list of {len(value)} lists"
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"
