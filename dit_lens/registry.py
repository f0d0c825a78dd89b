"""Registries: what there is of a kind (metrics, controls, …), by name, self-described and loaded late.

A built-in of a kind is one module of the kind's package; the module's name is its name. Another package adds
one by an entry point.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

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
        order: where one stands among all, for kinds that are listed in an order of their own. All of them are
            imported then before the first is listed, and a module may define several, as `METRICS`.

    >>> questions = Registry("question", "dit_lens.methods.questions", "QUESTION", "dit_lens.questions")
    >>> "disruption" in questions
    True
    >>> questions["disrupton"]
    Traceback (most recent call last):
    dit_lens.errors.BadInput: There is no question 'disrupton'. Did you mean 'disruption'? There are: ...
    """

    def __init__(
        self,
        kind: str,
        package: str,
        attribute: str,
        group: str,
        *,
        order: Callable[[T], Any] | None = None,
    ) -> None:
        self.kind, self.package, self.attribute, self.group, self.order = (
            kind,
            package,
            attribute,
            group,
            order,
        )
        self._added: dict[str, T] = {}
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

    @cached_property
    def _ordered(self) -> Mapping[str, T]:
        """All but those that were added in this process, in their own order; equals by where they stand."""
        assert self.order is not None
        found: dict[str, T] = {}
        for name, home in self._homes.items():
            found |= self._load(name, home)
        return dict(sorted(found.items(), key=lambda item: self.order(item[1])))  # type: ignore[misc]

    def add(self, name: str, value: T) -> None:
        """Add one for the rest of this process, as notebooks do.

        Raises:
            BadInput: the name is taken.
        """
        if name in self:
            raise BadInput(f"There is a {self.kind} called {name!r} already. Choose another name.")
        self._added[name] = value

    def __getitem__(self, name: str) -> T:
        """Raises `BadInput`, which says what there is, for an unknown name."""
        if name in self._added:
            return self._added[name]
        if self.order is not None:
            if name in self._ordered:
                return self._ordered[name]
        elif name in self._homes:
            if name not in self._loaded:
                self._loaded |= self._load(name, self._homes[name])
            return self._loaded[name]
        raise BadInput(
            f"There is no {self.kind} {name!r}.{did_you_mean(str(name), self)} There are: {', '.join(self)}."
        )

    def _load(self, name: str, home: str | EntryPoint) -> dict[str, T]:
        if isinstance(home, EntryPoint):
            try:
                return {name: home.load()}
            except (ImportError, AttributeError) as error:
                where = home.dist.name if home.dist is not None else "a package"
                raise BadInput(
                    f"The {self.kind} {name!r} of {where} cannot be loaded from {home.value}: {error}."
                ) from error
        module = import_module(home)
        if hasattr(module, self.attribute):
            return {name: getattr(module, self.attribute)}
        return {each.name: each for each in getattr(module, f"{self.attribute}S")}

    def get(self, name: str, default: Any = None) -> Any:
        """The one of that name, or the default."""
        return self[name] if name in self else default  # noqa: SIM401 – this is what it calls

    def __contains__(self, name: object) -> bool:
        return name in self._added or name in (self._homes if self.order is None else self._ordered)

    def __iter__(self) -> Iterator[str]:
        yield from self._homes if self.order is None else self._ordered
        yield from self._added

    def __len__(self) -> int:
        return sum(1 for _ in self)
