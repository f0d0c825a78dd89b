"""The rooms import one way only, and importing the package costs next to nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import dit_lens

pytestmark = pytest.mark.pure

PACKAGE = Path(dit_lens.__file__).parent

# Every room may import these, and of the package they import the errors at most; what values show is built on
# their summaries.
BELOW = {
    "errors",
    "atomic",
    "display",
    "inline_html",
    "notices",
    "paths",
    "plain_yaml",
    "registry",
    "summary",
    "words",
}

# A room may import itself and the rooms named for it.
ALLOWED = {
    **{name: {"errors"} - {name} for name in BELOW},
    "inline_html": {"errors", "summary"},
    "display": {"errors", "summary", "inline_html"},
    "zoo": BELOW,
    "model": BELOW | {"zoo"},
    "graph": BELOW | {"zoo", "model"},
    "run": BELOW | {"zoo", "model", "graph"},
    "methods": BELOW | {"zoo", "model", "graph", "run"},
    "report": BELOW
    | {
        "run.records",
        "run.run_record",
        "methods.stats",
        "methods.answers",
        "methods.metrics",
        "methods.control_labels",
        "model.identity",
    },
    "analysis": BELOW | {"zoo", "model", "graph", "run", "methods", "report"},
    "cli": BELOW | {"zoo", "model", "graph", "run", "methods", "report", "analysis"},
}

# Programs, not library modules: they have command lines of their own and may use whatever they measure.
PROGRAMS = ("zoo.train", "zoo.measure", "zoo.card")

# Third-party packages that only some modules may know.
CONFINED = {
    "nnsight": {"model.traced"},
    "plotly": {"report"},
    "typer": {"cli", *PROGRAMS},
    "rich": {"cli", "model.progress", "zoo"},
    "sklearn": {"methods"},
}

HEAVY = ("torch", "diffusers", "transformers", "nnsight", "pandas", "xarray", "plotly", "numpy", "pydantic")


def modules() -> list[tuple[str, Path]]:
    """Dotted names relative to the package, and files."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found.append((name.removesuffix(".__init__") if name != "__init__" else "", path))
    return found


def room_of(module: str) -> str:
    head = module.split(".")[0]
    return "analysis" if head.startswith("analysis") else head


def imported(path: Path) -> set[str]:
    """Every absolute module name a file imports, also inside functions; not those for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(module: str, rooms: set[str]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


MODULES = modules()


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name or "dit_lens" for name, _ in MODULES])
def test_imports_run_one_way(module: str, path: Path) -> None:
    if module == "" or module in PROGRAMS:
        pytest.skip(reason="the package's front door and its programs stand outside the layers")
    room = room_of(module)
    assert room in ALLOWED, f"{module} belongs to no room of the design"
    for name in imported(path):
        if not name.startswith("dit_lens."):
            continue
        target = name.removeprefix("dit_lens.")
        if room_of(target) == room or target == "__version__":
            continue
        allowed = room_of(target) in ALLOWED[room] or within(target, ALLOWED[room])
        assert allowed, f"{module} must not import {target}"


@pytest.mark.parametrize("package", sorted(CONFINED))
def test_third_party_packages_stay_in_their_rooms(package: str) -> None:
    for module, path in MODULES:
        uses = any(name.split(".")[0] == package for name in imported(path))
        assert not uses or within(module, CONFINED[package]), f"{module} must not know {package}"


def test_the_walk_sees_imports() -> None:
    # Guards the tests above against passing because they look at nothing.
    seen = {name for _, path in MODULES for name in imported(path)}
    assert "dit_lens.errors.BadInput" in seen
    assert len(MODULES) > 10


# ---------------------------------------------------------------------------------------------------- circles
def import_graph() -> dict[str, set[str]]:
    """Module → modules of the package that its file imports: at the top, inside functions, for type checkers.

    `import_module` counts where it names the module; f"{__name__}.…" stands for every module of a package.
    That a package's `__init__` runs before any module of it does not count: no file says so.
    """
    known = {name for name, _ in MODULES}
    found: dict[str, set[str]] = {}
    for module, path in MODULES:
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [(alias.name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(f"{node.module}.{alias.name}", str(node.module)) for alias in node.names]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                named = node.args[0]
                names = [(named.value, "")] if isinstance(named, ast.Constant) else []
                if ast.unparse(named).startswith("f'{__name__}."):
                    found[module] |= {name for name in known if name.startswith(f"{module}.")}
            for full, holder in names:
                # `from package import module` imports the module; `from module import name` its holder.
                inner = [name.partition("dit_lens")[2].removeprefix(".") for name in (full, holder)]
                if full.split(".")[0] == "dit_lens":
                    found[module].add(inner[0] if inner[0] in known else inner[1])
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other, and modules that import themselves."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph.get(module, ())
        reached[start] = seen
    groups: list[set[str]] = []
    for module in sorted(graph):
        if module in reached[module] and not any(module in group for group in groups):
            groups.append({other for other in reached[module] if module in reached[other]})
    return groups


def test_no_file_imports_itself_round_a_circle() -> None:
    # What files know of each other for types alone, or inside a function, ties them together all the same.
    assert not [", ".join(sorted(circle)) for circle in circles(import_graph())]


def test_circles_of_every_kind_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set(), "f": {"f"}}) == [
        {"a", "b", "c"},
        {"f"},
    ]
    graph = import_graph()
    assert "model.check" in graph["model.lens"], "an import inside a function counts"
    assert "model.lens" in graph["graph.graph"], "an import for type checkers counts"
    assert "errors" in graph["model.lens"], "an import at the top counts"
    assert "report.page" in graph["report"], "import_module counts"
    assert "methods.questions.dose" in graph["methods.questions"], "modules of the own package, by name"


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_loads_nothing_heavy() -> None:
    loaded = json.loads(
        in_a_fresh_process("import dit_lens, json, sys; print(json.dumps(sorted(sys.modules)))")
    )
    assert not {name for name in loaded if name.split(".")[0] in HEAVY}


@pytest.mark.parametrize(
    "module",
    [
        "errors",
        "display",
        "inline_html",
        "summary",
        "model.hook_points",
        "run.records",
        "analysis",
        "cli",
        "report.page",
        "report.plots",
        "zoo",
    ],
)
def test_light_modules_load_no_model_code(module: str) -> None:
    loaded = json.loads(
        in_a_fresh_process(f"import dit_lens.{module}, json, sys; print(json.dumps(sorted(sys.modules)))")
    )
    assert not {name for name in loaded if name.split(".")[0] in {"torch", "diffusers", "nnsight"}}


def test_importing_is_quick() -> None:
    # Processor time, the best of several: a busy machine must not fail this test.
    code = "import time; t = time.process_time(); import dit_lens; print(time.process_time() - t)"
    assert min(float(in_a_fresh_process(code)) for _ in range(5)) <= 0.3


def test_every_public_name_resolves_and_is_documented() -> None:
    for name in dit_lens.__all__:
        value = getattr(dit_lens, name)
        assert name in dir(dit_lens)
        assert name == "__version__" or value.__doc__, f"{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = dit_lens.laod  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    declared = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {
        name: home.removesuffix(f".{name}") if name in dit_lens._MODULES else home
        for name, home in dit_lens._HOMES.items()
    }
    assert declared == homes
    assert set(homes) < set(dit_lens.__all__)
