"""Every public name says what it takes, gives and refuses, and the examples in all docstrings run.

Public are the names of `dit_lens.__all__` and `dit_lens.plots.__all__`, and what a reader finds on those that
are classes: methods and properties. `faults` states the rules. Examples may use `dl`, a folder of their own,
and the names of `EXAMPLES`, which come into being when an example first asks for one.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import types
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import dit_lens as dl
from dit_lens.methods.answers import RESULTS
from tests.report.conftest import synthetic_tables, write_run
from tests.report.synthetic_carry import carry_tables
from tests.report.synthetic_effects import effect_tables, results
from tests.report.synthetic_spatial import spatial_tables

# --------------------------------------------------------------------------------------------- what is public
PROPERTIES = (property, cached_property)

# Whatever else a module's name in `__all__` may be, `run` is the function as well as the room.
HOME_OF_RUN = "dit_lens.run.runner"

# Methods that a published method stands behind, and where it was published.
SOURCES = {
    "ChannelStatistics.select": ("2605.13974", "2402.17762"),
    "Mean": ("2402.17762",),
    "Patch": ("2605.13974",),
    "InterventionGraph.guide": ("2510.11538",),
    "inverted_path": ("2312.12540", "2309.04907"),
    "controls": ("2605.13974",),
    "discover": ("2605.13974",),
    "effect_map": ("2309.16042",),
    "segment_prompt": ("2605.13974",),
    "plots.detail_guidance": ("2510.11538",),
}

# Types whose values have a shape, which a docstring must give: in brackets, or in words.
SHAPED = re.compile(r"\b(Tensor|ndarray|Array|DataArray)\b")
SHAPE = re.compile(r"\[[^\[\]]+\]|\bshape")


def public(name: str) -> dict[str, Any]:
    """The class or function of that name; of `plots`, all of its functions; nothing for a value."""
    if name == "plots":
        found = {f"plots.{each}": getattr(dl.plots, each) for each in dl.plots.__all__}
    else:
        found = {name: getattr(dl, name) if name != "run" else importlib.import_module(HOME_OF_RUN).run}
    return {key: each for key, each in found.items() if isinstance(each, (type, types.FunctionType))}


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class has from this package."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("dit_lens"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or name in seen:
                continue
            if isinstance(value, (staticmethod, classmethod)):
                value = value.__func__
            if isinstance(value, (*PROPERTIES, types.FunctionType)):
                seen.add(name)
                yield name, value


# ---------------------------------------------------------------------------------------------------- rules
def text_of(value: Any, owner: type | None = None, name: str = "") -> str:
    """Its docstring; an override without one inherits the text of what it overrides."""
    if owner is None:
        return inspect.cleandoc(value.__doc__ or "")
    for base in owner.__mro__:
        known = vars(base).get(name)
        known = known.func if isinstance(known, cached_property) else known
        if known is not None and known.__doc__:
            return inspect.cleandoc(known.__doc__)
    return ""


def parameters(value: Any) -> list[str]:
    return [name for name in inspect.signature(value).parameters if name not in ("self", "cls")]


def raised(value: Any) -> set[str]:
    """Errors of ours that a function's own body raises."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(value)))
    calls = [
        node.exc.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    return {ast.unparse(call).removeprefix("dl.") for call in calls} & {"BadInput", "RunFailure"}


def shaped(value: Any) -> bool:
    return any(SHAPED.search(str(kind)) for kind in getattr(value, "__annotations__", {}).values())


def names_it(text: str, parameter: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(parameter)}(?!\w)", text) is not None


def faults(name: str, value: Any, owner: type | None = None) -> list[str]:
    """What is missing from one docstring.

    1. There is one. Its first paragraph is one sentence on one line.
    2. It names every parameter of a callable. A class may leave those that it inherits to its base, and
       `progress` explains itself.
    3. It names each error that the function's own body raises; functions that the package exports say what
       they raise, or that they raise nothing.
    4. Where tensors or arrays go in or out, it gives their shape.
    5. Functions and classes that the package exports show an example.
    6. Methods out of a paper name it.
    """
    text = text_of(value, owner, name.split(".")[-1])
    if not text:
        return ["no docstring"]
    found = []
    summary = text.split("\n\n")[0].split("\n>>>")[0]
    if "\n" in summary or not summary.endswith((".", "?", ":")):
        found.append(f"the first paragraph is not one sentence on one line: {summary!r}")
    found += [f"names no source {source}" for source in SOURCES.get(name, ()) if source not in text]
    if isinstance(value, PROPERTIES):
        return found
    if shaped(value) and not SHAPE.search(text):
        found.append("takes or gives arrays and names no shape")
    if isinstance(value, type) and issubclass(value, Exception):
        return found
    if owner is None and ">>> " not in text:
        found.append("has no example")
    if isinstance(value, type):
        inherited = " ".join(inspect.cleandoc(base.__doc__ or "") for base in value.__mro__[1:-1])
        missing = [each for each in parameters(value) if not names_it(f"{text} {inherited}", each)]
        return found + [f"does not name {each}" for each in missing]
    found += [
        f"does not name {each}"
        for each in parameters(value)
        if not names_it(text, each) and each != "progress"
    ]
    found += [f"does not say that it raises {each}" for each in sorted(raised(value)) if each not in text]
    if owner is None and not re.search(r"\b[Rr]aises\b", text):
        found.append("does not say what it raises")
    return found


@pytest.mark.pure
@pytest.mark.parametrize("name", dl.__all__)
def test_public_names_say_what_they_take_give_and_refuse(name: str) -> None:
    wrong = {}
    for key, value in public(name).items():
        wrong[key] = faults(key, value)
        if isinstance(value, type):
            wrong |= {
                f"{key}.{each}": faults(f"{key}.{each}", member, value) for each, member in members(value)
            }
    assert not {key: found for key, found in wrong.items() if found}


@pytest.mark.pure
def test_every_public_method_is_used_in_some_example() -> None:
    used: set[str] = set()
    for example in (each for module in MODULES for test in examples_of(module) for each in test.examples):
        if doctest.SKIP not in example.options:
            nodes = list(ast.walk(ast.parse(example.source)))
            used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    missing = {
        f"{name}.{each}"
        for name in dl.__all__
        for value in public(name).values()
        if isinstance(value, type)
        for each, member in members(value)
        if isinstance(member, types.FunctionType) and each not in used
    }
    assert not missing


def undocumented(first, *, second=1):  # type: ignore[no-untyped-def]
    """Do something with `first`"""
    raise dl.BadInput("no")


@pytest.mark.pure
def test_the_rules_see_faults() -> None:
    def silent() -> None: ...

    assert faults("silent", silent) == ["no docstring"]
    assert [fault.split(":")[0] for fault in faults("undocumented", undocumented)] == [
        "the first paragraph is not one sentence on one line",
        "has no example",
        "does not name second",
        "does not say that it raises BadInput",
        "does not say what it raises",
    ]
    assert "names no source 2402.17762" in faults("Mean", undocumented)


@pytest.mark.pure
def test_every_module_class_and_function_of_the_package_has_a_summary() -> None:
    missing = []
    for path in sorted(Path(dl.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        public = [node for node in nodes if not node.name.startswith("_")]
        missing += [f"{path}:{node.lineno} {node.name}" for node in public if not ast.get_docstring(node)]
        missing += [] if ast.get_docstring(tree) else [f"{path}"]
    assert not missing


# ------------------------------------------------------------------------------------------------- examples
# Why these examples are not run. Everything else is.
NOT_RUN = {
    "dit_lens.methods.lpips.Lpips": "needs a download; test_lpips.py makes weights of its own",
}


PACKAGE = Path(dl.__file__).parent


def modules_with_examples() -> list[str]:
    """Dotted names of the modules that hold an example; they are imported by the tests, not here."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            name = ".".join(("dit_lens", *path.relative_to(PACKAGE).with_suffix("").parts))
            found.append(name.removesuffix(".__init__"))
    return found


MODULES = modules_with_examples()


def examples_of(module: str) -> list[doctest.DocTest]:
    """The examples of a module, in the order in which they are written."""
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module), module)
    return sorted((test for test in found if test.examples), key=lambda test: test.lineno or 0)


CAPTIONS = [
    "a large red plain star in the centre on a white background",
    "a small blue striped circle on the left on a black background",
]
HELD_OUT = ["a large green plain square on the right on a grey background"]

EXAMPLES: dict[str, Callable[[Callable[[str], Any]], Any]] = {
    "dl": lambda get: dl,
    "prompts": lambda get: list(CAPTIONS),
    "held_out": lambda get: list(HELD_OUT),
    "lens": lambda get: dl.load("shapes-sd3"),
    "sampling": lambda get: get("lens").sampling(steps=4),
    "trajectory": lambda get: get("lens").generate(CAPTIONS, steps=4, progress=False),
    "stats": lambda get: dl.discover(
        get("lens"), CAPTIONS, seeds=[0, 1], sampling={"steps": 4}, progress=False
    ),
    "massive": lambda get: get("stats").select(top_k=4),
}
"""What examples may use without making it, and how it is made."""


class Namespace:
    """Makes the names of `EXAMPLES`, each when it is first asked for and then once."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        if name not in self.made:
            self.made[name] = EXAMPLES[name](self.get)
        return self.made[name]

    def names_for(self, test: doctest.DocTest) -> dict[str, Any]:
        used = {
            node.id
            for example in test.examples
            for node in ast.walk(ast.parse(example.source))
            if isinstance(node, ast.Name)
        }
        return {name: self.get(name) for name in sorted(used & set(EXAMPLES))}


@pytest.fixture(scope="module")
def namespace() -> Namespace:
    return Namespace()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every table, of synthetic rows."""
    tables = {**synthetic_tables(), **effect_tables(), **spatial_tables(), **carry_tables()}
    path = write_run(tmp_path_factory.mktemp("finished") / "run", tables)
    results().save(path / RESULTS)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A folder to work in, with a finished run where such runs go by default."""
    monkeypatch.chdir(tmp_path)
    text = inspect.getsource(importlib.import_module(request.node.callspec.params["module"]))
    if "reports/massive_activations" in text:
        Path("reports").mkdir()
        Path("reports/massive_activations").symlink_to(request.getfixturevalue("finished_run"))
    return tmp_path


@pytest.mark.embedded
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.removeprefix("dit_lens."))
def test_examples_run(module: str, namespace: Namespace, folder: Path) -> None:
    told: list[str] = []
    tests = examples_of(module)
    assert tests, "an example in a comment, or in a place that nobody sees"
    for test in tests:
        test.globs = {**test.globs, **namespace.names_for(test)}
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        doctest.DocTestRunner(optionflags=flags).run(test, out=told.append)
    assert not told, "".join(told)


@pytest.mark.pure
def test_no_example_is_left_out_without_a_reason() -> None:
    tests = [test for module in MODULES for test in examples_of(module)]
    left_out = {test.name for test in tests for each in test.examples if doctest.SKIP in each.options}
    assert left_out == set(NOT_RUN)
