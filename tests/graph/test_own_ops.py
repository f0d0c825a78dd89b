"""Ops from outside the package: what would give wrong numbers without a word is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import dit_lens as dl
from dit_lens.errors import BadInput, RunFailure
from dit_lens.graph.interventions import OPERATIONS, PARTS, as_edit, json_schema
from dit_lens.graph.operation import PartEdit
from dit_lens.methods.arms import ArmEdit
from dit_lens.methods.controls import controls
from tests.methods.synthetic import imaginary_statistics

pytestmark = pytest.mark.pure


class Undecorated(PartEdit):
    """As it is written by one who forgot the decorator."""

    op: ClassVar[str] = "undecorated"

    def __init__(self, step: float) -> None:
        super().__init__()
        object.__setattr__(self, "step", step)

    def _change(self, value: Tensor, material: Any) -> Tensor:
        return value * self.step


@dataclass(frozen=True, eq=False)
class Unequal(PartEdit):
    step: float = 1.0
    op: ClassVar[str] = "unequal"

    def _change(self, value: Tensor, material: Any) -> Tensor:
        return value * self.step


@dataclass(frozen=True)
class Returns(PartEdit):
    """Whatever it is told to make of a value."""

    rule: Callable[[Tensor], Any]
    op: ClassVar[str] = "returns"

    def _change(self, value: Tensor, material: Any) -> Any:
        return self.rule(value)


def _graph(op: Any) -> None:
    g = dl.InterventionGraph()
    g.edit(g.trajectory(prompt="x", seed=0), at="temb", op=op)


def _controls(op: Any) -> None:
    stats = imaginary_statistics()
    controls(stats.select(top_k=2), stats, "low", op=op)


@pytest.mark.parametrize(
    "door",
    [
        _graph,
        _controls,
        as_edit,
        lambda op: ArmEdit("temb", op),
        lambda op: dl.ablation_arm("a", "massive", [3], op, blocks=[1]),
    ],
    ids=["graph", "controls", "as_edit", "ArmEdit", "ablation_arm"],
)
@pytest.mark.parametrize("made", [Undecorated, Unequal])
def test_an_op_that_is_no_frozen_dataclass_is_refused_at_every_door(door: Any, made: Any) -> None:
    # Why: what it is set to is in no field, so that different settings are one value with one address.
    assert made is Unequal or made(1.0) == made(2.0)
    with pytest.raises(BadInput) as refused:
        door(made(2.0))
    assert f"@dataclass(frozen=True) above class {made.__name__}" in str(refused.value)


@dataclass(frozen=True)
class Foreign(PartEdit):
    op: ClassVar[str] = "foreign"

    def _change(self, value: Tensor, material: Any) -> Tensor:
        return value


@dataclass(frozen=True)
class Impostor(PartEdit):
    """Negation, under the name of another edit."""

    op: ClassVar[str] = "zero"

    def _change(self, value: Tensor, material: Any) -> Tensor:
        return -value


@dataclass(frozen=True)
class Inherited(dl.Zero):
    """Without a name of its own."""


@dataclass(frozen=True)
class Nameless(PartEdit):
    """Without any name."""

    def _change(self, value: Tensor, material: Any) -> Tensor:
        return value


DOORS = [_graph, _controls, as_edit, lambda op: ArmEdit("temb", op)]


@pytest.mark.parametrize("door", DOORS, ids=["graph", "controls", "as_edit", "ArmEdit"])
@pytest.mark.parametrize("made", [Impostor, Inherited])
def test_an_op_by_the_name_of_another_class_is_refused(door: Any, made: Any) -> None:
    # Why: both are written down alike, so that a study gave one arm the cells of the other.
    with pytest.raises(BadInput) as refused:
        door(made())
    said = str(refused.value)
    assert "the op 'zero', which is registered to another class, dit_lens.graph.interventions.Zero" in said
    assert f'OPERATIONS["<its op>"] = {made.__name__}' in said


def test_an_op_must_be_registered_and_needs_no_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r'write OPERATIONS\["foreign"\] = Foreign below the class'):
        as_edit(Foreign())
    with pytest.raises(BadInput, match=r"op: ClassVar\[str\] = \"mine\", and write OPERATIONS"):
        as_edit(Nameless())
    made = Foreign()
    Foreign.__doc__ = None
    monkeypatch.setitem(OPERATIONS, "foreign", Foreign)
    assert as_edit("foreign") == as_edit(made)
    assert "foreign" in {each.get("title") for each in json_schema()["oneOf"]}
    anew = type("Foreign", (Foreign,), {"__qualname__": "Foreign"})  # as a notebook's cell run twice makes it
    monkeypatch.setitem(OPERATIONS, "foreign", anew)
    with pytest.raises(BadInput, match="defined anew since this edit was made"):
        as_edit(made)


X = torch.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (lambda value: None, "returned None"),
        (lambda value: 0.0, "returned 0.0"),
        (lambda value: value.mean(), "returned shape []"),
        (lambda value: value.mean(dim=1), "returned shape [2, 4]"),
        (lambda value: value.mean(dim=0, keepdim=True), "returned shape [1, "),
        (lambda value: value.mean(dim=2, keepdim=True), "returned shape [2, "),
        (lambda value: value[..., :1], "returned shape [2, "),
        (lambda value: value[None], "returned shape [1, 2, "),
    ],
)
def test_an_op_must_return_the_shape_it_was_given(part: str, rule: Any, found: str) -> None:
    # Broadcasting would stretch most of these over rows or tokens, and nothing would say so.
    tokens = 1 if part == "mean" else 3
    with pytest.raises(RunFailure) as failed:
        Returns(rule, part=part).apply(X)
    said = str(failed.value)
    assert said.startswith(f"returns: _change of Returns was given shape [2, {tokens}, 4]")
    assert found in said


def test_one_value_per_row_and_channel_is_stretched_by_saying_so() -> None:
    found = Returns(lambda value: value.amax(dim=1, keepdim=True).expand_as(value)).apply(X)
    assert torch.equal(found, X.amax(dim=1, keepdim=True).expand_as(X))
