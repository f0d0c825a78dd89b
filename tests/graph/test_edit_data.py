"""Edits as plain data and back, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import (
    OPERATIONS,
    PARTS,
    Add,
    Clamp,
    EnergyMatched,
    Intervention,
    Material,
    Mean,
    Noise,
    Patch,
    PatchMatched,
    Resample,
    Site,
    TokenShuffle,
    Zero,
    from_data,
    json_schema,
)
from tests.graph.edit_cases import (
    EDITS,
    activation,
)

pytestmark = pytest.mark.pure

# ----------------------------------------------------------------------------------------- as data and back
ALL_OF_THEM = [
    *(EDITS[name](part) for name in EDITS for part in PARTS),
    Zero(ln_preserving=True),
    Add((1, -2.5)),
    Patch(),
    Noise(0.1, seed=4),
    TokenShuffle(seed=2),
    EnergyMatched((4, 2), 9, part="residual"),
    EnergyMatched({0: (1, 2), 11: (3,)}),
    PatchMatched((4, 2), 0.5, part="residual"),
    PatchMatched({0: (1, 2), 11: (3,)}),
]


@pytest.mark.parametrize("op", ALL_OF_THEM, ids=repr)
def test_round_trip_through_json(op: Intervention) -> None:
    data = op.to_data()
    assert from_data(json.loads(json.dumps(data, allow_nan=False))) == op
    assert set(data) == {"op", *(each.name for each in dataclasses.fields(op))}
    assert from_data(from_data(data).to_data()).to_data() == data


def test_every_operation_has_a_test() -> None:
    assert {op.op for op in ALL_OF_THEM} == set(OPERATIONS)
    for op in ALL_OF_THEM:
        with pytest.raises(dataclasses.FrozenInstanceError):
            op.part = "mean"  # type: ignore[misc]


def test_data_in_short() -> None:
    assert from_data("token_shuffle") == TokenShuffle()
    assert from_data({"op": "mean"}) == Mean()
    assert Zero(part="mean").to_data() == {"op": "zero", "part": "mean", "ln_preserving": False}
    assert Patch(0.5).to_data() == {"op": "patch", "strength": 0.5, "part": "all", "ln_preserving": False}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"op": "zeroe"}, "There is no edit 'zeroe'; there are: identity, zero, .*Did you mean 'zero'"),
        ("suffle", "There is no edit"),
        ({"op": 3}, "There is no edit 3"),
        ({"op": ["zero"]}, "There is no edit"),
        ({"part": "mean"}, "has no op"),
        (None, "An edit is None"),
        (["zero"], "write its name"),
        ({"op": "patch", "strenght": 1}, "no field 'strenght'.*Did you mean 'strength'"),
        ({"op": "zero", 7: 1}, "no field 7"),
        ({"op": "scale"}, "scale needs factor"),
        ({"op": "zero", "part": "residul"}, "there are: all, mean, residual. Did you mean 'residual'"),
        ({"op": "zero", "part": ["all"]}, "part is"),
        ({"op": "zero", "ln_preserving": 1}, "true or false"),
        ({"op": "scale", "factor": "2"}, "factor is '2'; it must be a finite number"),
        ({"op": "scale", "factor": True}, "factor is True"),
        ({"op": "scale", "factor": float("nan")}, "finite"),
        ({"op": "scale", "factor": 10**400}, "finite"),
        ({"op": "patch", "strength": float("inf")}, "finite"),
        ({"op": "noise", "scale": -1}, "at least 0"),
        ({"op": "noise", "scale": 1, "seed": -1}, "seeds are whole numbers"),
        ({"op": "token_shuffle", "seed": 1.5}, "seeds are whole numbers"),
        ({"op": "clamp", "quantile": 0.2}, "at least 0.5 and at most 1"),
        ({"op": "clamp", "quantile": 99}, "at least 0.5 and at most 1"),
        ({"op": "mean", "of": "dataste"}, "Did you mean 'dataset'"),
        ({"op": "add", "value": "1"}, "value is '1'"),
        ({"op": "add", "value": [1, None]}, r"value\[1\] is None"),
        ({"op": "add", "value": {"a": 1}}, "value is"),
        ({"op": "energy_matched", "treatment_channels": [1, 1]}, "names 1 twice"),
        ({"op": "energy_matched", "treatment_channels": "3"}, "give a list of indices"),
        ({"op": "energy_matched", "treatment_channels": {}}, "names no block"),
        ({"op": "energy_matched", "treatment_channels": {"x": [1]}}, "blocks are whole numbers"),
        ({"op": "energy_matched", "treatment_channels": {"1": [-1]}}, "of block 1 holds -1"),
    ],
)
def test_bad_data_says_what_exists(data: Any, says: str) -> None:
    with pytest.raises(BadInput, match=f"(?s){says}"):
        from_data(data)


def test_the_schema_knows_every_field() -> None:
    names, *alternatives = json_schema()["oneOf"]
    by_name = {each["title"]: each for each in alternatives}
    assert set(by_name) == set(OPERATIONS)
    for name, kind in OPERATIONS.items():
        assert set(by_name[name]["properties"]) == {"op", *(each.name for each in dataclasses.fields(kind))}
    assert by_name["scale"]["required"] == ["op", "factor"]
    assert "zero" in names["enum"] and "scale" not in names["enum"]
    for name in names["enum"]:
        assert from_data(name).op == name


# ------------------------------------------------------------------------------------------------ refusals
X = activation(2, 5, 4, 0)


@pytest.mark.parametrize(
    ("op", "site", "given_", "says"),
    [
        (Zero(), Site(channels=(4,)), Material(), "Channel 4 was addressed; there are 4, 0 to 3"),
        (Zero(), Site(tokens=(1, 9)), Material(), "Token 9 was addressed; there are 5, 0 to 4"),
        (Patch(), Site(), Material(), "patch needs source"),
        (Resample(), Site(), Material(), "resample needs source"),
        (Clamp(0.9), Site(), Material(), "clamp needs quantiles"),
        (Noise(1), Site(), Material(), "noise needs generator"),
        (TokenShuffle(), Site(), Material(), "token_shuffle needs generator"),
        (Mean("dataset"), Site(), Material(), "mean needs source"),
        (Patch(), Site(), Material(source=torch.ones(3, 5, 4)), r"needs \[2, 5, 4\] or \[1, 5, 4\]"),
        (Patch(), Site(), Material(source=torch.ones(2, 6, 4)), r"source has shape \[2, 6, 4\]"),
        (Patch(), Site(), Material(source=torch.ones(5, 4)), r"source has shape \[5, 4\]"),
        (Mean("dataset"), Site(), Material(source=torch.ones(2, 5, 4)), r"needs \[4\] or \[5, 4\]"),
        (Clamp(0.9), Site(), Material(quantiles=torch.ones(2, 3)), r"needs \[2, 4\]"),
        (EnergyMatched((1,)), Site((0,)), Material(displaced=torch.ones(2, 5, 3)), "displaced has shape"),
        (Add((1, 2)), Site((0, 1, 2)), Material(), "2 values were given and 3 channels"),
        (Add((1, 2)), Site(), Material(), "2 values were given and 4 channels"),
    ],
)
def test_an_edit_that_cannot_be_applied_is_refused(
    op: Intervention, site: Site, given_: Material, says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        op.apply(X, site, given_)


@pytest.mark.parametrize(
    ("op", "site", "says"),
    [
        (Zero(part="mean"), Site(), "the mean part needs tokens"),
        (Zero(part="residual"), Site(), "the residual part needs tokens"),
        (TokenShuffle(), Site(), "token_shuffle needs tokens"),
        (Mean(), Site(), 'of="token" needs tokens'),
        (Zero(), Site(tokens=(0,)), "value without tokens"),
    ],
)
def test_where_there_are_no_tokens(op: Intervention, site: Site, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        op.require((2, 4), site)
    op.require((2, 3, 4), site)


def test_other_layouts_are_refused() -> None:
    with pytest.raises(BadInput, match=r"shape \(1, 4, 8, 8\)"):
        Zero().apply(torch.ones(1, 4, 8, 8))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"channels": 3}, "channels is 3; give a list"),
        ({"channels": "all"}, "give a list"),
        ({"channels": [1, 1]}, "names 1 twice"),
        ({"tokens": [-1]}, "holds -1"),
        ({"tokens": [0.0]}, "holds 0.0"),
        ({"tokens": np.array([True, False])}, "not the mask"),
        ({"tokens": [True, False]}, "not the mask"),
    ],
)
def test_a_site_holds_indices(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Site(**fields)


def test_sites_are_values() -> None:
    assert Site(np.array([3, 1]), range(2)) == Site([3, 1], (0, 1))
    assert hash(Site([3])) == hash(Site((3,)))


def test_edits_are_declared_without_torch() -> None:
    code = "import sys, dit_lens.graph.interventions as i; i.from_data('zero'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
