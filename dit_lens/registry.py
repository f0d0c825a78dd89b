"""Registries: what there is of a kind (metrics, controls, …), by name, each self-described and loaded late.

A built-in of a kind is one module of the kind's package; the module's name is its name. Another package adds
one by an entry point. Names are known without importing anything.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Generic, TypeVar

from dit_lens.errors import BadInput, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """All of one kind by name. A lookup imports what it finds, and nothing else.

    Args:
        kind: what one of them is called in messages, such as "metric".
        package: dotted name of the package whose modules are the built-in ones. Modules whose names begin
            with an underscore are none.
        attribute: what each of these modules defines, such as `METRIC`.
        group: entry points of this group add others; each names a module and an attribute.

    >>> questions = Registry("question", "dit_lens.methods.questions", "QUESTION", "dit_lens.questions")
    >>> "disruption" in questions
    True
    >>> questions["disrupton"]
    Traceback (most recent call last):
    dit_lens.errors.BadInput: There is no question 'disrupton'. Did you mean 'disruption'? There are: ...
    """

    def __init__(self, kind: str, package: str, attribute: str, group: str) -> None:
        self.kind, self.package, self.attribute, self.group = kind, package, attribute, group
        self._loaded: dict[str, T] = {}

    @cached_property
    def _homes(self) -> Mapping[str, str | EntryPoint]:
        """Name → the module of a built-in one, or the entry point of another package's."""
        package = find_spec(self.package)
        places = [] if package is None else list(package.submodule_search_locations or [])
        homes: dict[str, str | EntryPoint] = {
            name: f"{self.package}.{name}"
            for _, name, _ in pkgutil.iter_modules(places)
            if not name.startswith("_")
        }
        for point in entry_points(group=self.group):
            if point.name in homes:
                raise BadInput(
                    f"Two {self.kind}s are called {point.name!r}: {homes[point.name]} and {point.value}. "
                    f"Rename one of them, or uninstall the package that brings it."
                )
            homes[point.name] = point
        return homes

    @property
    def names(self) -> tuple[str, ...]:
        """All names: the built-in ones in alphabetical order, then those of other packages."""
        return tuple(self._homes)

    def add(self, name: str, value: T) -> None:
        """Add one for the rest of this process, as notebooks do.

        Raises:
            BadInput: the name is taken.
        """
        if name in self:
            raise BadInput(f"There is a {self.kind} called {name!r} already. Choose another name.")
        self._loaded[name] = value

    def __getitem__(self, name: str) -> T:
        """Raises `BadInput`, which says what there is, for an unknown name."""
        if name not in self._loaded:
            home = self._homes.get(name)
            if home is None:
                raise BadInput(
                    f"There is no {self.kind} {name!r}.{did_you_mean(str(name), self)} There are: "
                    f"{', '.join(self)}."
                )
            self._loaded[name] = self._load(home)
        return self._loaded[name]

    def _load(self, home: str | EntryPoint) -> T:
        if isinstance(home, str):
            found: T = getattr(import_module(home), self.attribute)
            return found
        try:
            found = home.load()
        except (ImportError, AttributeError) as error:
            where = home.dist.name if home.dist is not None else "a package"
            raise BadInput(
                f"The {self.kind} {home.name!r} of {where} cannot be loaded from {home.value}: {error}."
            ) from error
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._homes or name in self._loaded

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._homes, *self._loaded)))

    def __len__(self) -> int:
        return len(list(iter(self)))
