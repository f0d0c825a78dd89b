"""Arms: checked values, identified by what they do."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import Clamp, EnergyMatched, Mean, Patch, Zero
from dit_lens.graph.named_sets import NamedSets
from dit_lens.methods.arms import CLEAN, Arm, ArmEdit, ablation_arm, arms_table, control_arm, require_distinct
from dit_lens.methods.controls import control_kinds, controls
from dit_lens.methods.spatial import Mask
from tests.methods.synthetic import imaginary_statistics

pytestmark = pytest.mark.pure

BLOCKS = {0: (3, 1), 1: (5,), 2: (7, 2)}


def test_arms_load_without_torch() -> None:
    code = "import sys, dit_lens.methods.arms; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_what_an_arm_does_identifies_it_and_what_it_is_called_does_not() -> None:
    one = ablation_arm("massive", "massive", BLOCKS, Zero())
    other = ablation_arm("again", "low", BLOCKS, "zero", draw=3, k=2, protocol="single_block", block=1)
    assert one.as_data() == other.as_data()
    assert json.loads(json.dumps(one.as_data())) == one.as_data()


@pytest.mark.parametrize(
    "changed",
    [
        {"channels": {**BLOCKS, 1: (4,)}},
        {"op": Zero(part="mean")},
        {"op": Mean()},
        {"steps": [0, 1]},
        {"branch": "cond"},
        {"tokens": [0, 1]},
        {"at": "blocks.*.resid_pre.image"},
        {"blocks": [0, 1]},
        {"step": 1, "readout": "step"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_changes_the_result_changes_the_data(changed) -> None:
    plain = {"channels": BLOCKS, "op": Zero()}
    assert (
        ablation_arm("a", "f", **plain).as_data() != ablation_arm("a", "f", **{**plain, **changed}).as_data()
    )


def test_the_order_of_channels_is_kept_and_that_of_blocks_is_not() -> None:
    turned = dict(reversed(BLOCKS.items()))
    assert ablation_arm("a", "f", turned, Zero()) == ablation_arm("a", "f", BLOCKS, Zero())
    other = ablation_arm("a", "f", {**BLOCKS, 0: (1, 3)}, Zero())
    assert other.as_data() != ablation_arm("a", "f", BLOCKS, Zero()).as_data()


def test_an_arm_at_some_blocks_holds_nothing_of_the_others() -> None:
    one = ablation_arm("a", "f", BLOCKS, EnergyMatched({0: (9,), 1: (8,), 2: (6,)}), blocks=[1])
    two = ablation_arm("a", "f", {1: (5,)}, EnergyMatched({1: (8,)}), blocks=[1])
    assert one.as_data() == two.as_data()
    (edit,) = one.edits
    assert edit.at == ("blocks.1.resid_post.image",)
    assert edit.channels.blocks == {1: (5,)}
    with pytest.raises(BadInput, match=r"block 4 is to be edited.*0, 1, 2 only"):
        ablation_arm("a", "f", BLOCKS, Zero(), blocks=[4])


def test_a_channel_set_brings_its_model_and_stream_and_they_are_no_part_of_the_result() -> None:
    massive = imaginary_statistics().select(top_k=2)
    arm = ablation_arm("massive", "massive", massive, Zero())
    assert (arm.edits[0].channels.model, arm.edits[0].channels.stream) == (massive.model, "image")
    assert arm.edits[0].channels.blocks == massive.blocks
    assert arm.as_data() == ablation_arm("x", "y", massive.blocks, Zero()).as_data()


@pytest.mark.parametrize("kind", control_kinds())
def test_every_control_makes_an_arm(kind) -> None:
    stats = imaginary_statistics()
    control = controls(stats.select(top_k=2), stats, kind)[0]
    arm = control_arm(control, steps=[0, 1])
    assert (arm.name, arm.family, arm.draw) == (control.name, kind, control.draw)
    assert arm.edits[0].op == control.op and arm.edits[0].steps == (0, 1)


def test_a_step_readout_edits_its_step_alone() -> None:
    arm = ablation_arm("a", "f", BLOCKS, Zero(), step=2, readout="step")
    assert arm.edits[0].steps == (2,)
    assert arm == ablation_arm("a", "f", BLOCKS, Zero(), step=2, readout="step", steps=[2])
    with pytest.raises(BadInput, match=r"step 2 .*edits steps \(1, 2\)"):
        ablation_arm("a", "f", BLOCKS, Zero(), step=2, readout="step", steps=[1, 2])
    with pytest.raises(BadInput, match="needs a step"):
        ablation_arm("a", "f", BLOCKS, Zero(), readout="step")


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Arm("no spaces", "f", ()), "letters, digits"),
        (lambda: Arm("", "f", ()), "letters, digits"),
        (lambda: Arm("a", "f", (), readout="stop"), r"readout is 'stop'.*Did you mean 'step'"),
        (lambda: Arm("a", "f", (), protocol="all_block"), r"Did you mean 'all_blocks'"),
        (lambda: ArmEdit("blocks.0.resid_post.image", "zeroo"), r"no edit 'zeroo'.*Did you mean 'zero'"),
        (lambda: ArmEdit("blocks.0.resid_post.image", Patch()), "set donor=True"),
        (lambda: ArmEdit("blocks.0.resid_post.image", Zero(), donor=True), "draws on no other"),
        (lambda: ArmEdit((), Zero()), "give one hook point pattern"),
        (lambda: ArmEdit("blocks.0.resid_post.image", Zero(), channels=[1, 1]), "names 1 twice"),
        (lambda: require_distinct([]), "No arms"),
        (lambda: require_distinct([CLEAN, CLEAN]), "Two arms are called 'clean'"),
    ],
)
def test_what_makes_no_arm_is_refused_with_what_to_write(make_it, message) -> None:
    with pytest.raises(BadInput, match=message):
        make_it()


def test_edits_that_need_measured_material_need_no_donor() -> None:
    for op in (Mean(of="dataset"), Clamp(0.9)):
        assert not ArmEdit("blocks.0.resid_post.image", op).donor


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    st.sampled_from(["all", 2, [0, 3], "1:", {"fraction": [0, 0.5]}]),
)
def test_equal_edits_hash_alike_whatever_they_were_written_as(channels, steps) -> None:
    one = ArmEdit("blocks.0.resid_post.image", Zero(), channels=channels, steps=steps)
    two = ArmEdit(["blocks.0.resid_post.image"], "zero", channels=tuple(channels), steps=steps)
    assert one == two and hash(one) == hash(two)


def test_the_table_of_arms_has_nullable_coordinates_and_survives_parquet(tmp_path) -> None:
    import pandas as pd

    arms = [CLEAN, ablation_arm("massive.block-1", "massive", BLOCKS, Zero(), blocks=[1], block=1, k=1)]
    table = arms_table(arms)
    assert list(table["arm"]) == ["clean", "massive.block-1"]
    assert str(table["block"].dtype) == "Int64" and table["block"].isna().tolist() == [True, False]
    assert json.loads(table["edits"][1]) == arms[1].as_data()["edits"]
    assert list(arms_table([]).columns) == list(table.columns)
    table.to_parquet(tmp_path / "arms.parquet", index=False)
    back = pd.read_parquet(tmp_path / "arms.parquet")
    assert (
        back["block"].isna().tolist() == [True, False] and back["edits"].tolist() == table["edits"].tolist()
    )


def test_an_arms_mask_keeps_the_image_size_that_a_graph_checks() -> None:
    values = np.eye(4, dtype=bool)
    plain, sized = (
        ablation_arm("a", "massive", [3], "zero", tokens=Mask(values, image_size=size))
        for size in (None, (64, 64))
    )
    assert plain == sized and plain.as_data() == sized.as_data(), "results stay where they were"
    again = deepcopy(replace(sized.edits[0], order=1))
    for edit, size in ((plain.edits[0], None), (sized.edits[0], (64, 64)), (again, (64, 64))):
        sets = NamedSets()
        assert sets.tokens(edit.tokens) == "mask-1"
        assert (sets.masks["mask-1"].image_size, sets.masks["mask-1"].grid) == (size, (4, 4))
