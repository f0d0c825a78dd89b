"""Maps of edits: their arms, and the library call against runs that are made by hand."""

from __future__ import annotations

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.graph.interventions import Mean, Patch, Scale, Zero
from dit_lens.methods.controls import controls
from dit_lens.methods.map_arms import cell_edits, map_arms, mapped_blocks
from dit_lens.methods.patching import effect_map
from tests.methods.questions.imaginary_effects import rising_statistics
from tests.planted import COLOUR, TEXTURE, planted_pipeline
from tests.planted import SAMPLING as PLANTED

SAMPLING = {"steps": 3, "guidance_scale": 2.0, "max_sequence_length": 0}
PROMPTS = ("a red circle", "a blue star")


# ------------------------------------------------------------------------------------------------- arms
@pytest.mark.pure
def test_each_cell_is_an_arm_that_edits_nothing_else() -> None:
    massive = rising_statistics().select(top_k=2)
    drawn = controls(massive, rising_statistics(), "energy_matched", draws=2)
    arms = map_arms(cell_edits(massive, Zero(), drawn), blocks=[0, 2], steps=[1], readout="final")
    assert [arm.name for arm in arms] == [
        "massive.at-0-1",
        "massive.at-2-1",
        "energy_matched-0.at-0-1",
        "energy_matched-0.at-2-1",
        "energy_matched-1.at-0-1",
        "energy_matched-1.at-2-1",
    ]
    for arm in arms:
        (edit,) = arm.edits
        assert arm.protocol == "single_cell" and arm.readout == "final"
        assert edit.at == (f"blocks.{arm.block}.resid_post.image",) and edit.steps == (1,)
        assert tuple(edit.channels.blocks) == (arm.block,)
    assert arms[0].edits[0].channels.blocks == {0: massive.blocks[0]}
    # The energy of this block alone, or equal cells of other maps would not be equal.
    assert tuple(arms[3].edits[0].op.blocks) == (2,)
    assert {(arm.family, arm.draw) for arm in arms[2:]} == {("energy_matched", 0), ("energy_matched", 1)}


@pytest.mark.pure
def test_all_maps_of_a_channel_set_fit_into_one_study() -> None:
    names = [
        arm.name
        for op in (Zero(), Patch())
        for readout in ("final", "step")
        for arm in map_arms(cell_edits([3], op, {"quiet": [5]}), blocks=[1], steps=[2], readout=readout)
    ]
    assert len(set(names)) == 8
    assert names[:4] == [
        "massive.at-1-2",
        "quiet.at-1-2",
        "massive.step.at-1-2",
        "quiet.step.at-1-2",
    ]
    assert names[4] == "massive.patch.at-1-2"


@pytest.mark.pure
def test_only_edits_that_draw_on_a_run_have_a_donor() -> None:
    drawing = {op: cell_edits([3], op)[0].donor for op in (Patch(), Zero(), Mean(of="dataset"), Mean())}
    assert list(drawing.values()) == [True, False, False, False]
    assert map_arms(cell_edits([3], Patch()), blocks=[0], steps=[0])[0].draws_on_donor


@pytest.mark.pure
def test_blocks_without_channels_are_left_out_or_refused() -> None:
    edits = cell_edits({0: [3], 1: [], 2: [4], 3: [1]}, Zero(), {"other": {0: [5], 2: [5]}})
    assert mapped_blocks("*", 4, edits) == (0, 2)
    assert mapped_blocks("0,2", 4, edits) == (0, 2)
    assert mapped_blocks("1-2", 4, cell_edits([7], Zero())) == (1, 2)
    with pytest.raises(BadInput, match=r"block 3 was asked for.*there are some in blocks 0, 2"):
        mapped_blocks("2-3", 4, edits)
    with pytest.raises(BadInput, match="block 9"):
        mapped_blocks(9, 4, edits)


@pytest.mark.pure
def test_what_makes_no_map_is_refused() -> None:
    with pytest.raises(BadInput, match="called 'massive'"):
        cell_edits([3], Zero(), {"massive": [4]})
    with pytest.raises(BadInput, match="Did you mean 'final'"):
        map_arms(cell_edits([3], Zero()), blocks=[0], steps=[0], readout="fina")  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------- the library call
def guided(result, arm, step: int):
    """Guided velocity of a trajectory at a step, from its two branches."""
    found = {each.branch: each.value for each in result[arm].reads if each.step == step}
    return (found["uncond"] + 2.0 * (found["cond"] - found["uncond"])).numpy().astype(np.float64)


@pytest.mark.tiny
def test_the_step_readout_is_the_velocity_that_a_graph_of_the_same_edit_reads(tiny_sd3_lens) -> None:
    sampling = tiny_sd3_lens.sampling(**SAMPLING)
    found = effect_map(
        tiny_sd3_lens,
        [3, 7],
        PROMPTS,
        seeds=[0, 4],
        controls={"other": [5, 6]},
        blocks=[1, 3],
        steps=[0, 2],
        sampling=sampling,
        progress=False,
        resamples=99,
    )
    assert (found.metric, found.blocks, found.steps) == ("velocity", (1, 3), (0, 2))
    assert len(found.sigmas) == 4 and found.sigmas[0] == 1.0
    for family, channels in (("massive", [3, 7]), ("other", [5, 6])):
        for i, block in enumerate(found.blocks):
            for j, step in enumerate(found.steps):
                per_prompt = []
                for prompt in found.cells.prompts:
                    distances = []
                    for seed in (0, 4):
                        graph = dl.InterventionGraph(sampling=SAMPLING)
                        clean = graph.trajectory(prompt=prompt, seed=seed)
                        edited = graph.trajectory(prompt=prompt, seed=seed)
                        graph.edit(
                            edited,
                            at=f"blocks.{block}.resid_post.image",
                            channels=channels,
                            op=Zero(),
                            steps=[step],
                        )
                        for each in (clean, edited):
                            graph.read(each, at="velocity", steps=[step])
                        result = dl.run(tiny_sd3_lens, graph, images=False, progress=False)
                        a, b = guided(result, edited, step), guided(result, clean, step)
                        distances.append(np.linalg.norm(a - b) / np.linalg.norm(b))
                    per_prompt.append(np.mean(distances))
                assert found.cells.values[family][:, i, j] == pytest.approx(per_prompt, rel=1e-4)
                assert found.values[family][i, j] > 1e-3
    assert np.allclose(found.comparisons["other"].difference, found.values["massive"] - found.values["other"])


@pytest.mark.tiny
def test_an_edit_that_changes_nothing_maps_to_zero_in_both_readouts(tiny_sd3_lens) -> None:
    sampling = tiny_sd3_lens.sampling(**SAMPLING)
    for readout in ("step", "final"):
        found = effect_map(
            tiny_sd3_lens,
            [3],
            PROMPTS,
            op=Scale(1.0),
            readout=readout,
            blocks=[0, 3],
            steps=[1],
            sampling=sampling,
            arms_per_forward=1,
            progress=False,
        )
        assert (found.values["massive"] == 0).all() and not found.comparisons


@pytest.mark.tiny
def test_patching_the_carrier_carries_the_colour_and_other_channels_do_not() -> None:
    lens = dl.load(planted_pipeline("carrier"))
    sources, targets = ("a red star", "a green cross"), ("a blue star", "a pink cross")
    for one, other in ((sources, targets), (targets, sources)):
        found = effect_map(
            lens,
            [COLOUR],
            other,
            controls={"texture": TEXTURE},
            donors=dict(zip(other, one, strict=True)),
            blocks=[0, 3],
            sampling=lens.sampling(**PLANTED),
            progress=False,
            resamples=99,
        )
        assert found.metric == "toward"
        # The channel holds the whole difference between the prompts; later on the latents differ, too.
        assert found.values["massive"][:, 0] == pytest.approx([1.0, 1.0], abs=0.03)
        assert (np.abs(found.values["massive"] - 1) < 0.1).all()
        assert (np.abs(found.values["texture"]) < 0.02).all()
    ending = effect_map(
        lens,
        [COLOUR],
        targets,
        donors=dict(zip(targets, sources, strict=True)),
        readout="final",
        blocks=[2],
        sampling=lens.sampling(**PLANTED),
        progress=False,
        resamples=99,
    )
    assert ending.metric == "toward_latent"
    # Each step moves its share of the way, as long as its stretch of the noise schedule.
    assert ending.values["massive"].sum() == pytest.approx(1.0, abs=0.05)
    assert ending.values["massive"][0] == pytest.approx(-np.diff(ending.sigmas), abs=0.05)


@pytest.mark.tiny
def test_a_map_that_cannot_be_made_is_refused_before_anything_runs(tiny_sd3_lens, monkeypatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("a forward pass ran")

    monkeypatch.setattr(tiny_sd3_lens.traced, "forward", fails)
    monkeypatch.setattr(tiny_sd3_lens.traced, "traced_forward", fails)

    def asked(**options: object) -> None:
        effect_map(tiny_sd3_lens, [3], PROMPTS, progress=False, **options)  # type: ignore[arg-type]

    with pytest.raises(BadInput, match="give donors"):
        asked(op=Patch())
    with pytest.raises(BadInput, match="draws on none"):
        asked(op=Zero(), donors={})
    with pytest.raises(BadInput, match="readout 'step' has no 'ssim'; try 'velocity'"):
        asked(metric="ssim")
    with pytest.raises(BadInput, match="readout 'step' has no 'toward' without donors; try 'velocity'"):
        asked(metric="toward")
    with pytest.raises(BadInput, match="Did you mean 'velocity'"):
        asked(metric="velocty")
    with pytest.raises(BadInput, match="readout"):
        asked(readout="pixels")
    with pytest.raises(BadInput, match="block"):
        asked(blocks=[17])
    with pytest.raises(BadInput, match="step"):
        asked(steps=[99])
    with pytest.raises(BadInput, match="No prompts"):
        effect_map(tiny_sd3_lens, [3], [])
    with pytest.raises(BadInput, match="Channel 99 was addressed"):
        effect_map(tiny_sd3_lens, [99], PROMPTS, progress=False)
