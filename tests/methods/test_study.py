"""Studies: right numbers, nothing computed twice, damaged results computed again, faults found first."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput, RunFailure
from dit_lens.graph.interventions import Clamp, Identity, Patch, Zero
from dit_lens.methods import study as module
from dit_lens.methods.arms import CLEAN, Arm, ArmEdit, BlockChannels, ablation_arm
from dit_lens.methods.distances import psnr, step_distance
from dit_lens.methods.measures import Measures, default_measures
from dit_lens.methods.metrics import METRICS
from dit_lens.methods.study import plan_study, run_study
from dit_lens.run.cells import CellStore
from dit_lens.zoo.nearest import NearestRendering
from tests.oracles import batching_changes_bits, pipeline_call

pytestmark = pytest.mark.tiny

STEPS, GUIDANCE = 3, 4.5
SAMPLING = {"steps": STEPS, "guidance_scale": GUIDANCE, "max_sequence_length": 0}
PROMPTS, SEEDS = ("a red circle", "blue"), (0, 3)
NAMES = ("latent", "psnr", "velocity", "toward", "toward_latent")

MASSIVE = ablation_arm("massive", "massive", [3, 9], Zero())
CELL = ablation_arm("massive.at-1-2", "massive", [3], Zero(), blocks=[1], steps=[2], block=1, step=2)
AT_STEP = ablation_arm("massive.step-1-2", "massive", [3], Zero(), blocks=[1], step=2, readout="step")
ARMS = (CLEAN, MASSIVE, CELL, AT_STEP)


@pytest.fixture
def lens(tiny_sd3_lens):
    return tiny_sd3_lens


@pytest.fixture
def forwards(lens, monkeypatch):
    """Counts forward passes of the transformer."""
    counted = Counter()
    forward = lens.traced.forward

    def count(inputs):
        counted["passes"] += 1
        return forward(inputs)

    monkeypatch.setattr(lens.traced, "forward", count)
    return counted


def run(lens, arms=ARMS, prompts=PROMPTS, seeds=SEEDS, **more):
    options = {"measures": Measures(NAMES), "sampling": SAMPLING, "progress": False, **more}
    return run_study(lens, arms, prompts, seeds, **options)


def same(one, two):
    pd.testing.assert_frame_equal(one.effects, two.effects, check_exact=True)
    pd.testing.assert_frame_equal(one.sham, two.sham, check_exact=True)
    return True


def value(result, arm, metric, prompt=PROMPTS[0], seed=0):
    table = result.effects
    rows = table[
        (table.arm == arm) & (table.metric == metric) & (table.prompt == prompt) & (table.seed == seed)
    ]
    assert len(rows) == 1
    return rows.value.item()


# -------------------------------------------------------------------------------------------- right numbers
@pytest.mark.parametrize("guidance", [GUIDANCE, 1.0])
def test_numbers_at_the_end_are_those_of_plain_hooks_on_the_plain_pipeline(
    lens, tiny_sd3_pipeline, guidance
) -> None:
    found = run(
        lens, prompts=PROMPTS[:1], sampling={**SAMPLING, "guidance_scale": guidance}, arms_per_forward=1
    )
    assert (found.sham.max_abs_difference == 0).all()

    def zeroed(module, args, output):
        context, image = output
        image = image.clone()
        image[..., [3, 9]] = 0
        return context, image

    call = {"steps": STEPS, "guidance": guidance}
    clean = pipeline_call(tiny_sd3_pipeline, PROMPTS[:1], [3], **call)
    picture = pipeline_call(tiny_sd3_pipeline, PROMPTS[:1], [3], **call, output_type="pil")
    handles = [
        block.register_forward_hook(zeroed) for block in tiny_sd3_pipeline.transformer.transformer_blocks
    ]
    try:
        edited = pipeline_call(tiny_sd3_pipeline, PROMPTS[:1], [3], **call)
        other = pipeline_call(tiny_sd3_pipeline, PROMPTS[:1], [3], **call, output_type="pil")
    finally:
        for handle in handles:
            handle.remove()
    assert value(found, "massive", "latent", seed=3) == step_distance(edited[None], clean[None])[0, 0]
    assert value(found, "massive", "psnr", seed=3) == psnr(other, picture)[0]


@pytest.mark.parametrize("guidance", [GUIDANCE, 1.0])
def test_numbers_at_a_step_are_one_forward_from_the_clean_latents(lens, tiny_sd3_pipeline, guidance) -> None:
    sampling = {**SAMPLING, "guidance_scale": guidance}
    found = run(lens, [AT_STEP], PROMPTS[:1], [3], sampling=sampling, arms_per_forward=1)
    clean = lens.generate(PROMPTS[0], [3], STEPS, guidance, max_sequence_length=0, progress=False)
    batch = lens.prepare(PROMPTS[0], [3], lens.sampling(**sampling))
    guided = guidance > 1
    rows = 2 if guided else 1
    embeds = [batch.negative_embeds, batch.prompt_embeds] if guided else [batch.prompt_embeds]
    pooled = [batch.negative_pooled, batch.pooled_embeds] if guided else [batch.pooled_embeds]

    def velocity():
        with torch.no_grad():
            out = tiny_sd3_pipeline.transformer(
                hidden_states=clean.latents[:, 2].expand(rows, -1, -1, -1),
                timestep=batch.scheduler.timesteps[2].expand(rows),
                encoder_hidden_states=torch.cat(embeds),
                pooled_projections=torch.cat(pooled),
                return_dict=False,
            )[0]
        return out[:1] + guidance * (out[1:] - out[:1]) if guided else out

    def zeroed(module, args, output):
        context, image = output
        image = image.clone()
        image[..., 3] = 0
        return context, image

    before = velocity()
    handle = tiny_sd3_pipeline.transformer.transformer_blocks[1].register_forward_hook(zeroed)
    try:
        after = velocity()
    finally:
        handle.remove()
    expected = step_distance(after[None], before[None])[0, 0]
    assert value(found, AT_STEP.name, "velocity", seed=3) == expected > 0


def test_the_clean_arm_has_what_is_measured_of_a_picture_by_itself(lens) -> None:
    measures = Measures(("latent", "semantics"), reader=_Reader())
    found = run(lens, [CLEAN, MASSIVE], PROMPTS[:1], [0], measures=measures)
    assert found.effects.groupby("arm", sort=False).metric.agg(list).to_dict() == {
        "clean": ["semantics"],
        "massive": ["latent", "semantics"],
    }


class _Reader(NearestRendering):
    """Says that every picture is a red circle, and counts how often it is asked."""

    def __init__(self):
        self.batches = []

    def read(self, images):
        self.batches.append(len(images))
        return [{"shape": "circle", "colour": "red"} for _ in images]


def test_pictures_of_a_group_are_read_together(lens) -> None:
    reader = _Reader()
    found = run(lens, [CLEAN, MASSIVE, CELL], seeds=[0], measures=Measures(("semantics",), reader=reader))
    assert reader.batches == [3, 3]
    assert value(found, "massive", "semantics") == 1.0
    assert value(found, "massive", "semantics", prompt="blue") == 0.0


def test_rows_come_by_arm_prompt_seed_and_metric_as_they_were_given(lens) -> None:
    found = run(lens, [CELL, MASSIVE], measures=Measures(("psnr", "latent"))).effects
    assert list(found.columns) == ["arm", "prompt", "seed", "metric", "value"]
    expected = [
        (arm.name, prompt, seed, metric)
        for arm in (CELL, MASSIVE)
        for prompt in PROMPTS
        for seed in SEEDS
        for metric in ("psnr", "latent")
    ]
    assert list(found.drop(columns="value").itertuples(index=False, name=None)) == expected
    assert np.isfinite(found.value).all()


def test_arms_that_change_nothing_run_as_arms(lens) -> None:
    nothing = ablation_arm("nothing", "sham", [3], Identity())
    found = run(lens, [nothing, MASSIVE], PROMPTS[:1], [0], arms_per_forward=1)
    assert value(found, "nothing", "latent") == 0
    assert (
        plan_study(lens, [nothing], PROMPTS[:1], [0], measures=Measures(NAMES), sampling=SAMPLING).forwards
        == 2 * STEPS
    )  # the unedited run, then the arm beside its sham


# ------------------------------------------------------------------------------------------------- donors
EVERYWHERE = Arm("everything", "massive", (ArmEdit("velocity", Patch(), donor=True),))
DONORS = {PROMPTS[0]: PROMPTS[1], PROMPTS[1]: PROMPTS[0]}


def test_a_patched_arm_is_measured_on_its_way_to_the_donor(lens) -> None:
    half = Arm("half", "massive", (ArmEdit("velocity", Patch(0.5), donor=True),), step=0, readout="step")
    whole = Arm("whole", "massive", (ArmEdit("velocity", Patch(), donor=True),), step=0, readout="step")
    found = run(lens, [EVERYWHERE, half, whole], donors=DONORS, arms_per_forward=1)
    for prompt in PROMPTS:
        assert value(found, "everything", "toward_latent", prompt) == 1.0
        assert value(found, "whole", "toward", prompt) == 1.0
        assert value(found, "half", "toward", prompt) == pytest.approx(0.5, abs=1e-5)


def test_two_prompts_that_are_each_other_s_donor_share_their_unedited_runs(lens, forwards) -> None:
    arms = [EVERYWHERE, ablation_arm("patch", "massive", [3], Patch(), donor=True), AT_STEP]
    plan = plan_study(lens, arms, PROMPTS, [0], measures=Measures(NAMES), sampling=SAMPLING, donors=DONORS)
    assert (plan.groups, plan.cells) == (1, 6)
    found = run(lens, arms, seeds=[0], donors=DONORS)
    assert forwards["passes"] == plan.forwards
    clean = plan.plans[0][0].passes_by_kind["clean"]
    assert clean == 2 * STEPS * lens.num_blocks
    apart = [run(lens, arms, [p], [0], donors={p: DONORS[p]}, arms_per_forward=1) for p in PROMPTS]
    both = pd.concat([each.effects for each in apart])
    merged = found.effects.merge(both, on=["arm", "prompt", "seed", "metric"], validate="1:1")
    assert len(merged) == len(found.effects)
    # Distances near 0 are told apart to what rows of other batches differ by.
    np.testing.assert_allclose(merged.value_x, merged.value_y, rtol=1e-3, atol=1e-6)


def test_the_donor_is_part_of_what_identifies_a_result_and_only_where_it_is_drawn_on(lens, tmp_path) -> None:
    store = CellStore(tmp_path)
    arms = [MASSIVE, EVERYWHERE]
    run(lens, arms, PROMPTS[:1], [0], donors={PROMPTS[0]: "blue"}, store=store)
    again = run(lens, arms, PROMPTS[:1], [0], donors={PROMPTS[0]: "green"}, store=store)
    assert (again.known, again.computed) == (1, 1)
    assert value(again, "everything", "toward_latent") == 1.0


# -------------------------------------------------------------------------------------------------- reuse
def test_a_study_does_what_its_plan_says_and_known_results_cost_nothing(lens, forwards, tmp_path) -> None:
    store = CellStore(tmp_path)
    options = {"measures": Measures(NAMES), "sampling": SAMPLING, "store": store}
    plan = plan_study(lens, ARMS, PROMPTS, SEEDS, **options)
    assert forwards["passes"] == 0
    assert (plan.cells, plan.known, plan.groups) == (16, 0, 4)
    first = run(lens, store=store)
    assert forwards["passes"] == plan.forwards
    assert (first.computed, first.known, first.dropped) == (16, 0, 0)
    # By hand, per prompt and seed: the unedited run; MASSIVE joins behind block 0 of step 0, CELL behind
    # block 1 of step 2 and AT_STEP with it; the sham goes wherever any of them does.
    blocks = lens.num_blocks
    per_group = STEPS * blocks + (STEPS * blocks - 1) + 2 * (blocks - 2) + (STEPS * blocks - 1)
    assert plan.block_passes == 4 * per_group
    assert plan.passes_without_reuse == 4 * (5 * STEPS * blocks)
    said = []
    again = run(lens, store=CellStore(tmp_path), say=said.append)
    assert forwards["passes"] == plan.forwards
    assert (again.computed, again.known, again.dropped) == (0, 16, 0)
    assert said == ["16 of 16 results are known and are not computed again."]
    assert same(first, again)
    assert plan_study(lens, ARMS, PROMPTS, SEEDS, **options).as_data()["known"] == 16


def test_only_new_arms_prompts_and_seeds_run(lens, tmp_path) -> None:
    store = CellStore(tmp_path)
    run(lens, [CLEAN, MASSIVE], PROMPTS[:1], [0], store=store)
    more = run(lens, [MASSIVE, CELL], PROMPTS, [0], store=store)
    assert (more.known, more.computed) == (1, 3)


def test_arms_that_do_the_same_share_their_results(lens) -> None:
    copy = ablation_arm("copy", "low", [3, 9], "zero", draw=2)
    found = run(lens, [MASSIVE, copy], PROMPTS[:1], [0])
    assert (found.computed, len(found.effects)) == (1, 4)
    assert value(found, "copy", "latent") == value(found, "massive", "latent")


def test_a_new_metric_is_measured_and_the_old_ones_stay_known(lens, tmp_path) -> None:
    store = CellStore(tmp_path)
    ask = [lens, [MASSIVE], PROMPTS[:1], [0]]
    first = run(*ask, store=store, measures=Measures(("latent",)))
    assert run(*ask, store=store, measures=Measures(("psnr",))).computed == 1
    both = run(*ask, store=store, measures=Measures(("latent", "psnr")))
    assert (both.known, both.computed) == (1, 0)
    assert value(both, "massive", "latent") == value(first, "massive", "latent")


def test_a_metric_defined_otherwise_is_measured_again(lens, tmp_path, monkeypatch) -> None:
    store = CellStore(tmp_path)
    run(lens, [MASSIVE], PROMPTS[:1], [0], store=store)
    otherwise = replace(METRICS["latent"], rule="2")
    monkeypatch.setattr(METRICS, "_added", {"latent": otherwise})
    assert run(lens, [MASSIVE], PROMPTS[:1], [0], store=store).computed == 1


@pytest.mark.parametrize("changed", ["sampling", "model", "dtype"])
def test_results_of_another_model_or_sampling_are_never_taken(lens, tmp_path, changed) -> None:
    ask = ([MASSIVE], PROMPTS[:1], [0])
    run(lens, *ask, store=CellStore(tmp_path))
    from dit_lens.zoo.random_pipelines import random_pipeline

    other = lens
    more = {}
    if changed == "model":
        other = dl.load(random_pipeline("sd3", seed=1))
    elif changed == "dtype":
        other = dl.load(random_pipeline("sd3", seed=0), dtype="bfloat16")
    else:
        more = {"sampling": {**SAMPLING, "guidance_scale": 4.0}}
    found = run(other, *ask, store=CellStore(tmp_path), **more)
    assert (found.computed, found.known, found.dropped) == (1, 0, 0)


# ------------------------------------------------------------------------------------------------ damage
def truncated(place):
    place.write_text(place.read_text()[:-30])


def tampered(place):
    body = json.loads(place.read_text())
    name = next(iter(body["metrics"]))
    body["metrics"][name]["value"] = 0.123
    place.write_text(json.dumps(body))


def newer(place):
    from dit_lens.model.identity import digest_of

    body = json.loads(place.read_text())
    body.pop("checksum")
    body["schema_version"] = 7
    place.write_text(json.dumps({**body, "checksum": digest_of(body)}))


def foreign(place):
    from dit_lens.model.identity import digest_of

    body = json.loads(place.read_text())
    body.pop("checksum")
    body["key"]["identity"] = "0" * 64
    place.write_text(json.dumps({**body, "checksum": digest_of(body)}))


@pytest.mark.parametrize("damage", [truncated, tampered, newer, foreign], ids=lambda d: d.__name__)
def test_a_damaged_result_is_computed_again_and_said_so_and_the_table_is_the_same(
    lens, tmp_path, damage
) -> None:
    first = run(lens, store=CellStore(tmp_path))
    edited = [
        place for place in sorted(tmp_path.glob("cells/*/*.json")) if '"metrics": {}' not in place.read_text()
    ]
    damage(edited[4])
    said = []
    store = CellStore(tmp_path)
    assert (
        plan_study(
            lens, ARMS, PROMPTS, SEEDS, measures=Measures(NAMES), sampling=SAMPLING, store=store
        ).groups
        == 1
    )
    again = run(lens, store=store, say=said.append)
    # Its whole prompt and seed runs again: alone in its batch, a result has other last bits.
    assert (again.dropped, again.computed, again.known) == (1, 4, 12)
    assert edited[4].name in said[0] and "damaged" in said[0]
    assert same(first, again)
    assert run(lens, store=CellStore(tmp_path)).dropped == 0


def test_a_study_that_fails_midway_keeps_what_is_finished(lens, tmp_path, monkeypatch) -> None:
    from dit_lens.run import runner

    undisturbed = run(lens)
    calls = Counter()
    plain = runner.run

    def fails(*args, **options):
        calls["runs"] += 1
        if calls["runs"] == 3:
            raise RunFailure("out of memory")
        return plain(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "run", fails)
        with pytest.raises(RunFailure, match="out of memory"):
            run(lens, store=CellStore(tmp_path))
    again = run(lens, store=CellStore(tmp_path))
    assert (again.known, again.computed) == (8, 8)
    assert same(undisturbed, again)


# -------------------------------------------------------------------------------------------------- images
def test_pictures_come_before_their_results_are_stored_and_equal_the_plain_ones(lens, tmp_path) -> None:
    store = CellStore(tmp_path)
    got = {}

    def keep(arm, prompt, seed, image):
        got[arm.name, prompt, seed] = image
        assert not any(tmp_path.glob(f"cells/*/{'?' * 64}.json")) or len(got) > 3

    run(lens, store=store, on_image=keep, prompts=PROMPTS[:1], measures=Measures(("latent", "velocity")))
    assert set(got) == {(arm.name, PROMPTS[0], seed) for arm in ARMS[:3] for seed in SEEDS}
    plain = lens.generate(PROMPTS[0], [3], STEPS, GUIDANCE, max_sequence_length=0, progress=False).images[0]
    assert got["clean", PROMPTS[0], 3].tobytes() == plain.tobytes()
    assert got["massive", PROMPTS[0], 3].tobytes() != plain.tobytes()


def test_a_missing_picture_is_made_again_and_the_numbers_stay(lens, tmp_path) -> None:
    store = CellStore(tmp_path)
    first = run(lens, store=store)
    got = []

    def wanted(arm, prompt, seed):
        return arm.name == "massive" and seed == 3

    again = run(
        lens, store=store, images=wanted, on_image=lambda arm, prompt, seed, image: got.append((prompt, seed))
    )
    assert got == [(prompt, 3) for prompt in PROMPTS]
    assert (again.computed, again.known) == (2, 14)
    assert same(first, again)
    # Nobody takes pictures, so none is made.
    assert run(lens, store=store, images=wanted).computed == 0


# --------------------------------------------------------------------------------------------- bad input
BAD = {
    "no arms": ({"arms": []}, "No arms"),
    "arms of one name": ({"arms": [MASSIVE, MASSIVE]}, "Two arms are called 'massive'"),
    "no prompts": ({"prompts": []}, "No prompts"),
    "a prompt twice": ({"prompts": ["blue", "blue"]}, "'blue' stands twice"),
    "a seed twice": ({"seeds": [1, 1]}, "Seed 1 stands twice"),
    "a seed below zero": ({"seeds": [-1]}, "Seed -1"),
    "a sampling key": ({"sampling": {"step": 3}}, "Did you mean 'steps'"),
    "a block too far": (
        {"arms": [CLEAN, ablation_arm("far", "m", [1], Zero(), at="blocks.12.resid_post.image")]},
        r"arm 'far': edits.0.at.*There is no block 12",
    ),
    "a channel too far": ({"arms": [ablation_arm("a", "m", [999], Zero())]}, "arm 'a'.*999"),
    "a step too far": ({"arms": [ablation_arm("a", "m", [1], Zero(), steps=[7])]}, "arm 'a'.*7"),
    "no donor": ({"arms": [EVERYWHERE], "donors": {PROMPTS[0]: "blue"}}, "'blue' has none"),
    "its own donor": (
        {"arms": [EVERYWHERE], "donors": dict.fromkeys(PROMPTS, PROMPTS[0])},
        "is the prompt itself",
    ),
    "no metric": ({"measures": Measures(("psnr",))}, r"massive.step-1-2'.*Add velocity"),
    "a metric of a mask": ({"measures": Measures(("latent", "velocity", "change_inside"))}, "needs a mask"),
    "names in place of measures": (
        {"measures": ["ssim"]},
        r"measures is \['ssim'\]; make them: dl.default_measures",
    ),
    "a set of some blocks": (
        {"arms": [ablation_arm("a", "m", {1: [3], 2: [4]}, Zero())]},
        r"arm 'a'.*nothing for block 0.*or in an arm blocks=\[1, 2\]",
    ),
    "no material": ({"arms": [ablation_arm("a", "m", [1], Clamp(0.9))]}, "needs quantiles"),
    "arms per forward": ({"arms_per_forward": 0}, "arms_per_forward is 0"),
    "a prompt outside the world": (
        {
            "measures": Measures(("latent", "velocity", "detail"), reader=NearestRendering()),
            "prompts": ["a cat"],
        },
        "a cat",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_faults_are_found_before_the_first_forward(lens, forwards, case) -> None:
    changed, message = BAD[case]
    with pytest.raises(BadInput, match=message):
        run(lens, **changed)
    assert forwards["passes"] == 0


def test_a_channel_set_of_another_model_or_stream_is_refused_with_the_arm_s_name(lens, forwards) -> None:
    massive = BlockChannels(tuple((block, (1,)) for block in range(4)), "another", "image")
    with pytest.raises(BadInput, match=r"arm 'massive': .*'another'"):
        run(lens, [ablation_arm("massive", "massive", massive, Zero())])
    assert forwards["passes"] == 0


# ---------------------------------------------------------------------------------------------------- rest
def test_measured_material_is_part_of_what_identifies_a_result(lens, tmp_path) -> None:
    store = CellStore(tmp_path)
    arm = ablation_arm("clamp", "massive", [1, 2], Clamp(0.9))
    asked = Counter()

    def bounds(high):
        def material(request):
            asked[request] += 1
            return torch.stack([torch.full((32,), -0.1), torch.full((32,), high)])

        return material

    first = run(lens, [arm], PROMPTS, [0], store=store, material=bounds(0.1))
    assert set(asked.values()) == {1} and len(asked) == 4 * STEPS * 2
    assert run(lens, [arm], PROMPTS, [0], store=store, material=bounds(0.1)).known == 2
    other = run(lens, [arm], PROMPTS, [0], store=store, material=bounds(0.2))
    assert other.known == 0
    assert value(other, "clamp", "latent") != value(first, "clamp", "latent")


def test_the_sham_says_what_batching_changes(lens) -> None:
    found = run(lens)
    assert list(found.sham.columns) == ["prompt", "seed", "max_abs_difference"]
    assert (found.sham.prompt[0], found.sham.seed[0]) == (PROMPTS[0], 0)
    assert len(found.sham) == 4
    assert found.sham.max_abs_difference.max() < 1e-4
    # On some processors rows beside a row leave its bits alone.
    assert found.sham.max_abs_difference.max() > 0 or not batching_changes_bits(lens)
    assert len(run(lens, [CLEAN]).sham) == 0


def test_a_progress_bar_moves_with_every_forward_of_the_whole_study(lens, monkeypatch) -> None:
    from dit_lens.model import progress

    bars = []

    class Bar(progress.ProgressBar):
        def __init__(self, total, description, *, enabled=True):
            super().__init__(total, description, enabled=False)
            self.moves = []
            if description.startswith("running arms"):
                bars.append(self)

        def advance(self, amount=1):
            super().advance(amount)
            self.moves.append(amount)

    monkeypatch.setattr(progress, "ProgressBar", Bar)
    run(lens)
    (bar,) = bars
    assert bar.done == bar.total > 0
    assert len(bar.moves) > len(PROMPTS) * len(SEEDS)


def test_the_plan_reads_well_and_estimates_a_time(lens) -> None:
    plan = plan_study(lens, ARMS, PROMPTS, SEEDS, measures=Measures(NAMES), sampling=SAMPLING)
    text = str(plan)
    assert "16 results, 0 of them known" in text and f"block passes  {plan.block_passes}" in text
    assert json.loads(json.dumps(plan.as_data()))["forwards"] == plan.forwards
    assert 0 < plan.minutes(lens) < 5
    assert str(plan_study(lens, [CLEAN], ["blue"], [0], measures=Measures(NAMES), sampling=SAMPLING))


def test_a_value_that_does_not_exist_is_nan_in_the_table_and_after_reading_back(lens, tmp_path) -> None:
    measures = Measures(("attribute.colour", "attribute.size"), reader=_Reader())
    for _ in range(2):
        found = run(lens, [MASSIVE], PROMPTS[:1], [0], measures=measures, store=CellStore(tmp_path))
        assert value(found, "massive", "attribute.colour") == 1.0
        assert math.isnan(value(found, "massive", "attribute.size"))
    assert found.known == 1


def test_the_study_module_says_its_columns() -> None:
    assert module.EFFECT_COLUMNS == ("arm", "prompt", "seed", "metric", "value")


@pytest.mark.embedded
def test_on_the_embedded_model_every_metric_has_its_value(embedded_lens) -> None:
    prompt = "a large red plain circle in the centre on a white background"
    donor = "a large blue plain circle in the centre on a white background"
    measures = default_measures(embedded_lens)
    arms = [
        CLEAN,
        ablation_arm("everything", "massive", "all", Zero(), blocks=[3]),
        ablation_arm("patch", "massive", "all", Patch(), blocks=[7], donor=True),
        ablation_arm("at-a-step", "massive", "all", Patch(), blocks=[7], donor=True, step=0, readout="step"),
    ]
    found = run(
        embedded_lens, arms, [prompt], [0], measures=measures, sampling={"steps": 6}, donors={prompt: donor}
    )
    # An attribute in which both prompts agree cannot move.
    agreeing = found.effects.metric.str.match(r"moved\.(?!colour)")
    assert np.isfinite(found.effects.value[~agreeing]).all()
    assert found.effects.value[agreeing].isna().all()
    assert set(found.effects.metric) == set(measures.names)

    def of(arm, metric):
        return value(found, arm, metric, prompt)

    assert of("clean", "semantics") >= 0.8
    assert of("everything", "semantics") < of("clean", "semantics")
    assert of("everything", "alignment") < of("clean", "alignment")
    assert of("everything", "ssim") < 0.9
    # What the last block hands on, patched at every step, is the picture.
    assert of("patch", "toward_latent") > 0.8 and of("at-a-step", "toward") > 0.8
    assert of("patch", "attribute.colour") == 0 and of("patch", "attribute.shape") == 1


def test_a_picture_too_small_for_a_metric_is_refused_before_any_forward_pass(lens, forwards) -> None:
    small = {**SAMPLING, "height": 8, "width": 8}
    with pytest.raises(BadInput, match="ssim"):
        run_study(lens, ARMS, PROMPTS, SEEDS, measures=Measures(("ssim",)), sampling=small, progress=False)
    assert forwards["passes"] == 0
