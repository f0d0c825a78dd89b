"""YAML as plain data: nothing in it is executed, and no key of a mapping may stand twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from dit_lens.errors import BadInput

Key = tuple[str | int, ...]
"""Where something stands: keys of mappings, places in lists."""


def load_yaml(text: str, place: str) -> Any:
    """Return the data of a YAML text; `place` is what messages call it.

    Raises:
        BadInput: no YAML, a tag that makes Python objects, or a key that stands twice in a mapping.

    >>> load_yaml("seeds: [0, 1]", "spec")
    {'seeds': [0, 1]}
    """
    return load_yaml_and_lines(text, place)[0]


def load_yaml_and_lines(text: str, place: str) -> tuple[Any, dict[Key, int]]:
    """Return the data of a YAML text, and the line of every key and item in it; errors as in `load_yaml`.

    >>> load_yaml_and_lines("seeds:\\n- 7", "spec")
    ({'seeds': [7]}, {('seeds',): 1, ('seeds', 0): 2})
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            # Of the text as it is written: constructing puts merged mappings (<<) in their places.
            lines = dict(_lines(loader, node, (), place, set()))
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.constructor.ConstructorError as error:
        raise BadInput(
            f"{place}{_line(error)}: only plain data is read, and this is not: {error.problem}. Write texts, "
            "numbers, lists and mappings; tags that make Python objects are never followed."
        ) from None
    except yaml.MarkedYAMLError as error:
        raise BadInput(f"{place}{_line(error)}: this is no YAML: {error.problem or error.context}.") from None
    except BadInput:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{place}: this is no YAML: {error}.") from None


def _line(error: yaml.MarkedYAMLError) -> str:
    return f":{error.problem_mark.line + 1}" if error.problem_mark else ""


def _names(loader: yaml.SafeLoader, key: yaml.Node) -> set[Any]:
    """A key's text and its value; nothing of what is no key (<<, lists), which the loader deals with."""
    if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
        return set()
    return {key.value, loader.construct_object(key)}


def _lines(
    loader: yaml.SafeLoader, node: yaml.Node, at: Key, place: str, seen: set[int]
) -> Iterator[tuple[Key, int]]:
    # What an alias (*name) repeats is looked at once: aliases of aliases would grow without bound.
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        first: dict[Any, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            # Two that read alike, and two of one value: 1 and "1" are one block, 0x1 and 1 one key.
            names = _names(loader, key)
            for name in names:
                if name in first:
                    raise BadInput(
                        f"{place}:{line}: {'.'.join(map(str, (*at, key.value)))}: the key stands twice, "
                        f"first in line {first[name]}. YAML would silently take the last; keep one."
                    )
            first |= dict.fromkeys(names, line)
            below = (*at, str(key.value))
            yield below, line
            yield from _lines(loader, value, below, place, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(loader, value, (*at, index), place, seen)
