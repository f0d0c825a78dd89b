"""What the questions ask to be run: matched, named once, shared where it is the same, refused where it cannot
be."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import EnergyMatched, Mean, Scale, TokenShuffle, Zero
from dit_lens.methods.arms import CLEAN, Arm, arms_table, require_distinct
from dit_lens.methods.questions import DOSES, QUESTIONS, Setting
from tests.methods.questions.imaginary_effects import BLOCKS, a_setting, rising_statistics
from tests.methods.synthetic import imaginary_statistics

pytestmark = pytest.mark.pure

ABLATIONS = ("disruption", "bias_or_carrier", "semantics_or_detail", "single_or_all", "dose")
STRONGEST = (39, 38, 37, 36)


def declared(name: str, **fields: object) -> dict[str, Arm]:
    arms = QUESTIONS[name].arms(a_setting(**fields))
    require_distinct(arms)
    return {arm.name: arm for arm in arms}


# --------------------------------------------------------------------------------------------- all of them
@pytest.mark.parametrize("name", ABLATIONS)
def test_a_question_compares_with_the_unedited_run(name: str) -> None:
    arms = declared(name)
    assert arms["clean"] == CLEAN
    assert len(arms_table(arms.values())) == len(arms)
    assert QUESTIONS[name].name == name and QUESTIONS[name].title
    json.dumps([arm.as_data() for arm in arms.values()])
    assert declared(name) == arms


def test_equal_names_mean_equal_arms_so_that_questions_share_runs() -> None:
    everything: dict[str, Arm] = {}
    for name in ABLATIONS:
        for arm in declared(name).values():
            assert everything.setdefault(arm.name, arm) == arm
    alone = sum(len(declared(name)) for name in ABLATIONS)
    distinct = {json.dumps(arm.as_data(), sort_keys=True) for arm in everything.values()}
    # Clean, 17, 4 more; 3 blocks × (1 + 3 + 1); 5 doses × (1 + 3 + 1), of which those at k = 4 are the
    # massive set and its controls again.
    assert (alone, len(everything), len(distinct)) == (96, 62, 57)


def test_questions_load_when_asked_for() -> None:
    code = (
        "from dit_lens.methods.questions import QUESTIONS, Setting; import sys, json;"
        "before = [m for m in sys.modules if m.startswith('dit_lens.methods.questions.')];"
        "QUESTIONS['dose']; print(json.dumps([before, sorted(m.split('.')[0] for m in sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, loaded = json.loads(done.stdout)
    assert before == ["dit_lens.methods.questions.question"]
    assert "torch" not in loaded
    assert "dose" in QUESTIONS and "doze" not in QUESTIONS
    with pytest.raises(BadInput, match="Did you mean 'dose'"):
        QUESTIONS["doze"]


@pytest.mark.parametrize("name", ABLATIONS)
def test_no_massive_channel_is_nothing_to_edit(name: str) -> None:
    empty = rising_statistics().select(ratio=1e6)
    with pytest.raises(BadInput, match="lower ratio"):
        declared(name, massive=empty)


@pytest.mark.parametrize("name", ["disruption", "semantics_or_detail", "single_or_all", "dose"])
def test_a_comparison_without_controls_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="at least one of"):
        declared(name, controls={"token_shuffle": 1})


@pytest.mark.parametrize("name", ABLATIONS)
def test_edits_lie_where_the_setting_says(name: str) -> None:
    for arm in declared(name, steps=[1, 2], branch="cond").values():
        for edit in arm.edits:
            assert (edit.steps, edit.branch) == ((1, 2), "cond")


def test_blocks_without_the_stream_or_without_channels_are_left_alone() -> None:
    stats = imaginary_statistics()
    massive = stats.select(top_k=2, stream="context")
    setting = Setting(massive, stats, num_blocks=3, num_steps=3, stream="context", doses=(1, 2))
    for name in ABLATIONS:
        for arm in QUESTIONS[name].arms(setting):
            for edit in arm.edits:
                assert set(edit.at) <= {f"blocks.{block}.resid_post.context" for block in (0, 1)}
    partly = massive.model_copy(update={"stream": "image", "blocks": {0: (1, 2), 1: (), 2: (3,)}})
    setting = Setting(partly, stats, num_blocks=3, num_steps=3, doses=(1, 2))
    blocks = {arm.block for arm in QUESTIONS["single_or_all"].arms(setting)}
    assert blocks == {None, 0, 2}
    (edit,) = QUESTIONS["dose"].arms(setting)[1].edits
    assert list(edit.channels.blocks) == [0, 2]


# --------------------------------------------------------------------------------------------- one by one
def test_disruption_has_every_draw_of_every_other_channel() -> None:
    arms = declared("disruption")
    families = [arm.family for arm in arms.values()]
    assert {family: families.count(family) for family in families} == {
        "clean": 1, "massive": 1, "low": 1, "random": 5, "random_rank_window": 5, "energy_matched": 5,
    }  # fmt: skip
    assert arms["massive"].edits[0].op == Zero()
    assert arms["massive"].edits[0].channels.blocks == dict.fromkeys(range(BLOCKS), STRONGEST)
    assert [arms[f"random-{i}"].draw for i in range(5)] == list(range(5))
    fewer = declared("disruption", controls={"random": 2})
    assert list(fewer) == ["clean", "massive", "random-0", "random-1"]


def test_bias_or_carrier_takes_the_channels_apart() -> None:
    arms = declared("bias_or_carrier")
    assert [(name, arm.edits[0].op) for name, arm in arms.items() if arm.edits] == [
        ("massive", Zero()),
        ("mean_only", Mean(of="token")),
        ("residual_only", Zero(part="mean")),
        ("token_shuffle-0", arms["token_shuffle-0"].edits[0].op),
        ("ln_preserving", Zero(ln_preserving=True)),
    ]
    assert isinstance(arms["token_shuffle-0"].edits[0].op, TokenShuffle)
    channels = {arm.edits[0].channels for arm in arms.values() if arm.edits}
    assert len(channels) == 1


def test_bias_or_carrier_zeroes_whatever_the_treatment_is() -> None:
    arms = declared("bias_or_carrier", op=Scale(0.5))
    assert arms["massive.zero"].edits[0].op == Zero()
    assert "massive" not in arms


@pytest.mark.parametrize("name", ["semantics_or_detail", "single_or_all"])
def test_every_block_is_edited_alone_beside_its_control(name: str) -> None:
    arms = declared(name)
    for block in range(BLOCKS):
        arm, control = arms[f"massive.block-{block}"], arms[f"energy_matched-0.block-{block}"]
        for each in (arm, control):
            assert (each.protocol, each.block) == ("single_block", block)
            assert each.edits[0].at == (f"blocks.{block}.resid_post.image",)
        assert arm.edits[0].channels.blocks == {block: STRONGEST}
        matched = control.edits[0].op
        assert isinstance(matched, EnergyMatched) and matched.blocks == {block: STRONGEST}
        # The same channels as where all blocks are edited: the protocol alone differs.
        everywhere = arms["energy_matched-0"].edits[0].channels.blocks
        assert control.edits[0].channels.blocks == {block: everywhere[block]}
    second = name == "single_or_all"
    assert ("random_rank_window-0.block-1" in arms) is second


def test_without_an_energy_match_the_next_fairest_control_stands_in() -> None:
    arms = declared("semantics_or_detail", controls={"low": 1, "random": 3}, op=Scale(0.5))
    assert {arm.family for arm in arms.values()} == {"clean", "massive", "random"}
    assert {arm.draw for arm in arms.values()} == {0, 1, 2}


def test_doses_grow_and_their_controls_with_them() -> None:
    arms = declared("dose")
    assert len(arms) == 1 + (1 + 3 + 1) * len(DOSES)
    for k in DOSES:
        for name in (f"massive.k-{k}", f"energy_matched-0.k-{k}", f"random_rank_window-0.k-{k}"):
            assert arms[name].k == k
            sizes = {len(channels) for channels in arms[name].edits[0].channels.blocks.values()}
            assert sizes == {k}
        assert (
            arms[f"energy_matched-0.k-{k}"].edits[0].op.blocks
            == arms[f"massive.k-{k}"].edits[0].channels.blocks
        )
    assert arms["massive.k-2"].edits[0].channels.blocks == dict.fromkeys(range(BLOCKS), STRONGEST[:2])


def test_doses_are_chosen_as_the_massive_channels_were() -> None:
    stats = imaginary_statistics()
    where = {"statistic": "mean_abs", "branch": "uncond", "steps": [2]}
    massive = stats.select(top_k=3, **where)
    setting = Setting(massive, stats, num_blocks=3, num_steps=3, doses=(1, 3))
    (edit,) = next(arm for arm in QUESTIONS["dose"].arms(setting) if arm.name == "massive.k-3").edits
    assert edit.channels.blocks == massive.blocks


@pytest.mark.parametrize(
    ("doses", "message"), [((4,), "at least two"), ((4, 4), "at least two"), ((1, 21), "at most 20")]
)
def test_impossible_doses_are_refused(doses: tuple[int, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        declared("dose", doses=doses)
