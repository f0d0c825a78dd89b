"""One file is a control: its name stands nowhere else, and one from another package works everywhere."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import dit_lens as dl
from dit_lens.analysis.reading import read_spec
from dit_lens.errors import BadInput
from dit_lens.methods.controls import (
    CONTROLS,
    Choice,
    ControlKind,
    Request,
    control_kinds,
    fairest_first,
)
from dit_lens.methods.spatial import channel_families
from dit_lens.methods.transport import family_carries
from dit_lens.report.effect_words import families_in_order, family_name
from dit_lens.report.plots.effect_marks import style_of
from tests.methods.questions.imaginary_effects import FAST, STRONG, a_setting, effects

pytestmark = pytest.mark.pure

PACKAGE = Path(dl.__file__).parent
HOME = "methods/controls"

# What has the same name and is no control.
NAMESAKES = {
    "energy_matched": {"graph/energy.py": "the op that the control edits with"},
    "token_shuffle": {"graph/random_edits.py": "the op that the control edits with"},
    "ln_preserving": {
        "graph/operation.py": "a field of every op",
        "methods/questions/bias_or_carrier.py": "an arm of the question's own",
        "report/plots/arms.py": "that arm in a figure",
    },
    "sham": {
        "graph/planner.py": "a kind of row",
        "run/runner.py": "a kind of row",
        "methods/study_tables.py": "a table of a run",
        "analysis/effects.py": "a table of a run",
    },
}


# --------------------------------------------------------------------------------------------- built-in ones
def strings(path: Path) -> Iterator[str]:
    """String literals of a file, without docstrings and other strings that are nobody's value."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


def test_the_name_of_a_control_stands_in_its_own_file_alone() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for text in strings(path):
            if text in CONTROLS:
                found[text].add(path.relative_to(PACKAGE).as_posix())
    for name in control_kinds():
        assert found[name] == {f"{HOME}/{name}.py", *NAMESAKES.get(name, ())}, name


def test_every_control_says_its_own_name_and_stands_apart() -> None:
    kinds = dict(CONTROLS.items())
    assert all(name == kind.name for name, kind in kinds.items())
    for what in ("order", "colour", "title", "words"):
        values = [getattr(kind, what) for kind in kinds.values() if getattr(kind, what) is not None]
        assert len(set(values)) == len(values), what
    ranks = [CONTROLS[name].fairness for name in fairest_first("effects")]
    assert len(set(ranks)) == len(ranks)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"serves": ("effect",)}, "there are: effects, maps, transport, spatial"),
        ({"serves": ("transport",)}, "Leave transport out of serves"),
        ({"serves": ("spatial",), "other_channels": True, "own_edit": True}, "Leave spatial out of serves"),
    ],
)
def test_a_control_that_cannot_serve_is_refused(stated: dict[str, object], expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        ControlKind("mine", lambda request: [Choice(request.op)], **stated)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- of others
def _first_ones(request: Request) -> list[Choice]:
    """The lowest channel numbers that the treatment does not have."""
    return [
        Choice(request.op, {block: tuple(range(len(held))) for block, held in request.massive.blocks.items()})
    ]


FIRST_ONES = ControlKind(
    name="first_ones",
    make=_first_ones,
    title="first in line",
    words="the first channels",
    serves=("effects", "maps", "transport", "spatial"),
    other_channels=True,
    fairness=5,
    order=35,
    colour=5,
)


@pytest.fixture
def first_ones(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(CONTROLS, "_added", {})
    CONTROLS.add(FIRST_ONES.name, FIRST_ONES)
    return FIRST_ONES.name


def test_an_added_control_makes_arms_and_is_judged(first_ones: str) -> None:
    setting = a_setting(controls={first_ones: 1, "low": 1})
    (control,) = dl.controls(setting.massive, setting.stats, first_ones)
    assert control.name == first_ones and control.op == dl.Zero()
    assert control.channels is not None and set(control.channels.blocks.values()) == {(0, 1, 2, 3)}
    assert control.channels.selection == {"control": first_ones, "of": setting.massive.selection}

    question = dl.QUESTIONS["disruption"]
    arms = question.arms(setting)
    assert [arm.name for arm in arms] == ["clean", "massive", "low", first_ones]
    table = effects(arms, lambda arm: STRONG * (arm.family == "massive"), metrics=("ssim",))
    answer = question.answer(table, arms, metrics=["ssim"], judging=FAST).answers[0]
    assert answer.outcome == "supported" and {e.control for e in answer.effects} == {"low", first_ones}
    assert "the first channels" in answer.sentence

    # It is the fairest, so it goes before all others where few are taken.
    blocks = dl.QUESTIONS["single_or_all"].arms(a_setting(controls={"low": 1, "random": 2, first_ones: 1}))
    assert {arm.family for arm in blocks if arm.block == 0} == {"massive", first_ones, "random"}


def test_an_added_control_serves_wherever_it_says(first_ones: str) -> None:
    setting = a_setting(controls={first_ones: 1})
    (carry,) = family_carries(setting, [first_ones])
    assert carry.name == f"{first_ones}.s-1"
    families = channel_families(setting.massive, setting.stats, controls_drawn={first_ones: 1})
    assert [family.name for family in families] == ["massive", first_ones, "all", "all_but_massive"]

    spec = {"model": "m", "prompts": ["a", "b"], "seeds": [0], "sections": ["disruption", "step_map"]}
    judged = {"prompts": ["x"], "controls": {first_ones: 1}, "maps": {"control": first_ones}}
    assert read_spec({**spec, "effects": judged}).effects.controls == {first_ones: 1}
    with pytest.raises(BadInput, match=f"2 draws of {first_ones}"):
        read_spec({**spec, "effects": {**judged, "controls": {first_ones: 2}}})
    with pytest.raises(BadInput, match="Did you mean 'first_ones'"):
        read_spec({**spec, "effects": {**judged, "controls": {"first_one": 1}}})

    assert family_name(first_ones) == "first in line"
    assert families_in_order([first_ones, "energy_matched", "low"])[1] == first_ones
    assert style_of(first_ones)["color"] == style_of("token_shuffle")["color"]


PLUGIN = """
from dit_lens.methods.controls import Choice, ControlKind

def unlike(request):
    blocks = {block: tuple(range(len(held))) for block, held in request.massive.blocks.items()}
    return [Choice(request.op, blocks) for _ in range(request.draws)]

CONTROL = ControlKind(
    name="unlike", make=unlike, title="unlike them", words="channels unlike them",
    serves=("effects",), other_channels=True, drawn=True,
)
"""

USE = """
import json
import dit_lens as dl
from dit_lens.analysis.reading import read_spec
from dit_lens.analysis.spec import AnalysisSpec
from dit_lens.report.effect_words import family_name
from tests.methods.questions.imaginary_effects import a_setting

judged = {"prompts": ["x"], "controls": {"unlike": 2}}
asked = {"model": "m", "prompts": ["a"], "seeds": [0], "sections": ["disruption"], "effects": judged}
spec = read_spec(asked)
arms = dl.QUESTIONS["disruption"].arms(a_setting(controls=spec.effects.controls))
schema = AnalysisSpec.model_json_schema()["$defs"]["EffectsSpec"]["properties"]["controls"]
print(json.dumps([[arm.name for arm in arms], schema["propertyNames"]["enum"][-1], family_name("unlike")]))
"""


def test_an_installed_package_brings_a_control_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "unlike_control.py").write_text(PLUGIN)
    about = tmp_path / "unlike_control-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: unlike-control\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dit_lens.controls]\nunlike = unlike_control:CONTROL\n")
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    done = subprocess.run(
        [sys.executable, "-c", USE], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ["clean", "massive", "unlike-0", "unlike-1"],
        "unlike",
        "unlike them",
    ]
