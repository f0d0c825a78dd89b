"""Specs and graphs with one thing wrong in them: each is refused with a message, none runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dit_lens as dl
from dit_lens.analysis import plan_analysis
from dit_lens.analysis.reading import read_spec
from dit_lens.errors import BadInput

pytestmark = pytest.mark.tiny

ANALYSIS: dict[str, Any] = {
    "model": {"name": "a lens that is open already", "device": "cpu"},
    "prompts": ["a star", "a circle"],
    "seeds": [0, 1],
    "sampling": {"steps": 2, "guidance_scale": 3.0, "max_sequence_length": 0},
    "channels": {"top_k": 2, "statistic": "abs_mean", "stream": "image", "branch": "cond", "steps": "all"},
    "sections": ["spectrum", "disruption", "dose", "step_map", "patch_map"],
    "samples": {"count": 1, "blocks": "1-2", "steps": "all"},
    "effects": {
        "prompts": ["a square", "a cross"],
        "seeds": [0],
        "op": {"op": "zero", "part": "all"},
        "steps": "all",
        "controls": {"low": 1, "random": 2},
        "doses": [1, 2],
        "maps": {"prompts": 1, "blocks": "*", "steps": "0:1", "control": "energy_matched"},
        "pairs": [["a red star", "a blue star"]],
    },
}

GRAPH: dict[str, Any] = {
    "sampling": {"steps": 3, "max_sequence_length": 0},
    "channel_sets": {"massive": {"blocks": {1: [3, 4], 2: [3, 5]}, "stream": "image"}},
    "masks": {"left": {"tokens": [0, 1], "grid": [4, 4]}},
    "trajectories": [
        {"id": "source", "prompt": "a star", "seed": 0},
        {"id": "target", "prompt": "a circle", "seed": 0},
    ],
    "edits": [
        {
            "into": "target",
            "at": ["blocks.1-2.resid_post.image"],
            "op": {"op": "patch", "strength": 0.5},
            "source": "source",
            "channels": "massive",
            "tokens": "left",
            "steps": "1:3",
            "branch": "both",
        }
    ],
    "reads": [{"name": "v", "of": "target", "at": ["velocity"], "reduce": "norm", "steps": [2]}],
}

# No key, name, address, number or set of steps of either is any of these.
NONSENSE = (
    None,
    -1,
    -0.5,
    float("nan"),
    "no such thing",
    [],
    {},
    [[]],
    {"nonsense": 1},
    True,
    10**9,
    ["", -3],
)


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested data, containers included, the root excluded."""
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*at, key))


def put(data: Any, at: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(data)
    place = changed
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = value
    return changed


def misspelt(data: Any, at: tuple[Any, ...]) -> Any:
    """The mapping key at a place, with its last two letters swapped and one more added."""
    changed = copy.deepcopy(data)
    place = changed
    for key in at[:-1]:
        place = place[key]
    key = at[-1]
    place[key[:-2] + key[:-3:-1] + "x"] = place.pop(key)
    return changed


@st.composite
def mutants(draw: st.DrawFn, data: dict[str, Any]) -> tuple[str, Any]:
    at = draw(st.sampled_from(list(leaves(data))))
    keyed = [place for place in leaves(data) if isinstance(place[-1], str)]
    if draw(st.booleans()):
        at = draw(st.sampled_from(keyed))
        return f"misspelt {at}", misspelt(data, at)
    value = draw(st.sampled_from(NONSENSE))
    return f"{at} = {value!r}", put(data, at, value)


@pytest.fixture
def no_forward(tiny_sd3_lens: dl.DiTLens, monkeypatch: pytest.MonkeyPatch) -> dl.DiTLens:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the transformer ran")

    monkeypatch.setattr(tiny_sd3_lens.pipeline.transformer, "forward", forbidden)
    return tiny_sd3_lens


def test_the_originals_are_accepted(no_forward: dl.DiTLens) -> None:
    assert [study.name for study, _ in plan_analysis(ANALYSIS, lens=no_forward).effects] == [
        "ablations", "step_map", "patch_map",
    ]  # fmt: skip
    assert dl.InterventionGraph.from_data(GRAPH).plan(no_forward).block_passes > 0


def understood(read: Any) -> bool:
    """Whether a mutant was taken for a spec; anything but BadInput is an error of ours."""
    try:
        read()
    except BadInput as error:
        message = str(error)
        assert message
        assert "Traceback" not in message
        assert "pydantic" not in message
        return False
    return True


ROUNDS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@ROUNDS
@given(mutant=mutants(ANALYSIS))
def test_no_mutated_analysis_runs_or_gives_a_traceback(
    no_forward: dl.DiTLens, mutant: tuple[str, Any]
) -> None:
    how, data = mutant
    if understood(lambda: plan_analysis(data, lens=no_forward)):
        assert "misspelt" not in how
        assert means_something(data), how


@ROUNDS
@given(mutant=mutants(GRAPH))
def test_no_mutated_graph_runs_or_gives_a_traceback(no_forward: dl.DiTLens, mutant: tuple[str, Any]) -> None:
    how, data = mutant
    text = yaml.safe_dump(data)
    if understood(lambda: dl.InterventionGraph.from_yaml(text).plan(no_forward)):
        # The name of a set or mask is the user's own; misspelt, the edit that names it is refused.
        assert "misspelt" not in how
        assert means_something(data), how


def means_something(data: Any) -> bool:
    """Whether every nonsense left in accepted data stands where it has a meaning."""
    allowed = {
        # free text
        "no such thing": ("prompts", "title", "question", "prompt", "name", "model", "id", "pairs"),
        # numbers that fit: a guidance scale, seeds, a strength, an order
        10**9: ("seeds", "seed", "guidance_scale", "strength", "limit", "maps", "order", "prompts", "count"),
        -1: ("steps", "blocks", "strength", "order"),
        -0.5: ("strength",),
    }
    for place in leaves(data):
        value = data
        for key in place:
            value = value[key]
        for nonsense, where in allowed.items():
            if type(value) is type(nonsense) and value == nonsense and not set(map(str, place)) & set(where):
                return False
        if isinstance(value, float) and value != value:
            return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['touch owned']\nprompts: [a]\nseeds: [0]\n",
        "model: m\nprompts: !!python/tuple [a]\nseeds: [0]\n",
        "model: m\nprompts: [a]\nseeds: [0]\neffects: !!python/name:os.system\n",
        "model: m\nprompts: &a [*a]\nseeds: [0]\n",
    ],
)
def test_a_spec_executes_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(BadInput):
        read_spec(path)
    assert not (tmp_path / "owned").exists()
