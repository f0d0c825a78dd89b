"""What code has to know stands in fields, and is not read back out of sentences, captions, names or errors.

This walk sees regular expressions in the upper rooms, and methods of text that take apart an attribute with a
telling name or an error. It does not see text that went through a variable first.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dit_lens

pytestmark = pytest.mark.pure

PACKAGE = Path(dit_lens.__file__).parent
ROOMS = ("report", "analysis", "methods/questions")

REGULAR_EXPRESSIONS = {
    "analysis/reading.py": "makes a run's name of a file's",
    "report/carry_words.py": "sorts what a curve's table holds as text: ranges of blocks and steps",
    "report/gallery.py": "still sorts arms by their names",
    "report/old_answers.py": "reads answers of before they had findings",
    "report/old_captions.py": "reads entries of images of before they had coords",
    "report/plots/rows.py": "takes markup out of a figure's texts, and finds its axes",
}

TAKEN_APART = {
    ("report/carry_sections.py", "entry.file"): "still tells the two transports by their files",
    ("report/cell_pictures.py", "entry.file"): "still tells maps by their files",
    ("report/comparison_page.py", "effect.name"): "still finds an effect's block or dose behind its metric",
    ("report/damage.py", "str(error)"): "leaves out the folder, for readers",
    ("report/gallery.py", "entry.caption"): "lets a long name break, for readers",
}

METHODS = {
    "split", "rsplit", "partition", "rpartition", "removeprefix", "removesuffix", "startswith", "endswith",
}  # fmt: skip
TELLING = {"sentence", "caption", "file", "claim", "reason", "note"}


def modules():
    for room in ROOMS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imports_re(tree: ast.AST) -> bool:
    return any(
        (isinstance(node, ast.Import) and any(alias.name == "re" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "re")
        for node in ast.walk(tree)
    )  # fmt: skip


def taken_apart(tree: ast.AST):
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in METHODS:
            continue
        text = ast.unparse(node.func.value)
        last = text.rpartition(".")[2]
        if ("." in text and last in TELLING) or text in ("str(error)", "effect.name", "arm.name"):
            yield text


def test_only_known_modules_of_the_upper_rooms_use_regular_expressions() -> None:
    assert {name for name, tree in modules() if imports_re(tree)} == set(REGULAR_EXPRESSIONS)


def test_only_known_places_take_apart_what_is_written_for_people() -> None:
    assert {(name, text) for name, tree in modules() for text in taken_apart(tree)} == set(TAKEN_APART)


@pytest.mark.parametrize(
    "code",
    ["re.match(x, answer.sentence)", "entry.caption.split('.')", "str(error).startswith('a')"],
)
def test_the_walk_sees_what_it_looks_for(code) -> None:
    tree = ast.parse(f"import re\n{code}")
    assert imports_re(tree) if code.startswith("re.") else list(taken_apart(tree))
