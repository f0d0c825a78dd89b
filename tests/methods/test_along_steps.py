"""What two runs differ in at each step, as hooks on the plain pipeline see it, and for no further forward."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.methods.along_steps import predicted_x0, velocities
from dit_lens.methods.measures import Measures, default_measures
from dit_lens.methods.study import run_study
from dit_lens.run.cells import CellStore
from tests.oracles import pipeline_call

pytestmark = pytest.mark.tiny

STEPS, GUIDANCE, SEED = 4, 4.5, 3
PROMPT, CHANNELS = "a red circle", [3, 9]
SAMPLING = {"steps": STEPS, "guidance_scale": GUIDANCE, "max_sequence_length": 0}
EARLY = dl.ablation_arm("early", "massive", CHANNELS, dl.Zero())
LATE = dl.ablation_arm("late", "massive", CHANNELS, dl.Zero(), steps=[2, 3])
WINDOWS = {"clean": (), "early": range(STEPS), "late": (2, 3)}


def euler_by_hand(pipeline, edited):
    """Latents and guided velocities of the plain pipeline, [steps + 1, …] and [steps, …], by plain hooks."""
    seen = []

    def enter(module, args, kwargs):
        seen.append(None)

    def zeroed(module, args, output):
        context, image = output
        image = image.clone()
        if len(seen) - 1 in edited:
            image[..., CHANNELS] = 0
        return context, image

    def leave(module, args, output):
        uncond, cond = output[0].chunk(2)
        seen[-1] = uncond + GUIDANCE * (cond - uncond)

    transformer, starts = pipeline.transformer, []
    handles = [
        transformer.register_forward_pre_hook(enter, with_kwargs=True),
        transformer.register_forward_pre_hook(
            lambda m, a, k: starts.append(k["hidden_states"][:1].clone()), with_kwargs=True
        ),
        transformer.register_forward_hook(leave),
        *[block.register_forward_hook(zeroed) for block in transformer.transformer_blocks],
    ]
    try:
        pipeline_call(pipeline, [PROMPT], [SEED], steps=STEPS, guidance=GUIDANCE)
    finally:
        for handle in handles:
            handle.remove()
    sigmas = pipeline.scheduler.sigmas.double()
    path = [starts[0].double()]
    for step, velocity in enumerate(seen):
        path.append(path[-1] + (sigmas[step + 1] - sigmas[step]) * velocity.double())
    return torch.cat(path).numpy(), torch.cat(seen).double().numpy(), sigmas.numpy()


@pytest.fixture(scope="module")
def by_hand(tiny_sd3_pipeline):
    return {name: euler_by_hand(tiny_sd3_pipeline, edited) for name, edited in WINDOWS.items()}


def apart(one, two):
    return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(one, two, strict=True)]


def expected(by_hand, name):
    """Distances of an arm at each step: of velocities, of latents after it, of where each step leads."""
    found = {}
    for arm in (name, "clean"):
        x, v, sigmas = by_hand[arm]
        ends = x[:-1] - sigmas[:-1, None, None, None] * v
        found[arm] = {"velocity": v, "latent": x[1:], "predicted_x0": ends}
    return {what: apart(found[name][what], found["clean"][what]) for what in found[name]}


def study(lens, names, store=None, **more):
    return run_study(
        lens,
        [dl.CLEAN, EARLY, LATE],
        [PROMPT],
        [SEED],
        measures=Measures(names),
        sampling=SAMPLING,
        store=store,
        progress=False,
        **{"arms_per_forward": 1, **more},
    )


def values(found, metric):
    table = found.effects[found.effects.metric == metric]
    return dict(zip(table.arm, table.value, strict=True))


def test_the_drift_of_an_arm_is_that_of_euler_by_hand(tiny_sd3_lens, by_hand) -> None:
    drift = values(study(tiny_sd3_lens, ["latent", "predicted_x0"]), "predicted_x0")
    assert set(drift) == {"early", "late"}
    for name, value in drift.items():
        at_each = expected(by_hand, name)["predicted_x0"]
        assert value == pytest.approx(np.mean(at_each), rel=1e-4) and value > 1e-3
    # Steps before the edit are the unedited run's, and count as 0.
    assert expected(by_hand, "late")["predicted_x0"][:2] == [0, 0]


def test_runs_of_a_graph_part_where_their_edit_starts_as_they_do_by_hand(tiny_sd3_lens, by_hand) -> None:
    g = dl.InterventionGraph(sampling=SAMPLING)
    for arm in (EARLY, LATE):
        g.trajectory(prompt=PROMPT, seed=SEED, id=arm.name)
        steps = list(WINDOWS[arm.name])
        g.edit(arm.name, at="blocks.*.resid_post.image", channels=CHANNELS, op="zero", steps=steps)
    result = dl.run(tiny_sd3_lens, g, images=False, progress=False, arms_per_forward=1)
    clean = result.baselines[PROMPT, SEED]
    np.testing.assert_allclose(
        velocities(clean.latents[None], clean.sigmas)[0], by_hand["clean"][1], atol=5e-5
    )
    for arm in (EARLY, LATE):
        table = dl.compare_trajectories(result[arm.name], clean)
        assert table.step.tolist() == list(range(STEPS)) and set(table.prompt) == {PROMPT}
        np.testing.assert_allclose(table.sigma, by_hand["clean"][2][:-1], rtol=1e-6)
        for what, distances in expected(by_hand, arm.name).items():
            np.testing.assert_allclose(table[what], distances, rtol=1e-4, err_msg=what)
    late = dl.compare_trajectories(result["late"], clean)
    assert (late.loc[:1, ["velocity", "latent", "predicted_x0"]] == 0).all(axis=None)
    last_only = dl.run(tiny_sd3_lens, g, images=False, keep="final", progress=False)
    with pytest.raises(BadInput, match="keep='all'"):
        dl.compare_trajectories(last_only["early"], clean)


def test_the_drift_takes_no_forward_and_leaves_other_results_as_they_are(tiny_sd3_lens, tmp_path) -> None:
    passes = []
    transformer = tiny_sd3_lens.pipeline.transformer

    def count(*_):
        passes.append(1)

    count.lens_identity = ""  # it only watches: a hook that does not say so is refused beside a store
    handle = transformer.register_forward_pre_hook(count)
    try:
        store = CellStore(tmp_path)
        without = study(tiny_sd3_lens, ["latent"], store)
        first = len(passes)
        with_drift = study(tiny_sd3_lens, ["latent", "predicted_x0"], store)
        assert len(passes) == 2 * first > 0  # the same again, for latents that were not kept
        assert values(with_drift, "latent") == values(without, "latent")
        again = study(tiny_sd3_lens, ["latent"], store), study(tiny_sd3_lens, ["predicted_x0"], store)
        assert [each.computed for each in again] == [0, 0] and len(passes) == 2 * first
    finally:
        handle.remove()
    pd.testing.assert_frame_equal(again[0].effects, without.effects, check_exact=True)
    assert values(again[1], "predicted_x0") == values(with_drift, "predicted_x0")


def test_the_drift_of_an_arm_does_not_depend_on_arms_beside_it(tiny_sd3_lens) -> None:
    alone = run_study(
        tiny_sd3_lens, [LATE], [PROMPT], [SEED], measures=Measures(["predicted_x0"]), sampling=SAMPLING,
        arms_per_forward=1, progress=False,
    )  # fmt: skip
    beside = study(tiny_sd3_lens, ["predicted_x0"])
    assert values(alone, "predicted_x0")["late"] == values(beside, "predicted_x0")["late"]


def test_the_drift_is_measured_where_it_is_named(tiny_sd3_lens) -> None:
    assert "predicted_x0" not in default_measures(tiny_sd3_lens).names
    assert default_measures(tiny_sd3_lens, ["predicted_x0"]).names == ("predicted_x0",)


def test_rows_of_what_generate_gives_are_compared(tiny_sd3_lens) -> None:
    one, two = (
        tiny_sd3_lens.generate([prompt, "blue"], [0, 1], progress=False, **SAMPLING)
        for prompt in ("a red star", PROMPT)
    )
    table = dl.compare_trajectories(one, two)
    assert table.groupby(["prompt", "seed"], sort=False).size().to_dict() == {
        ("a red star", 0): STEPS, ("a red star", 1): STEPS, ("blue", 0): STEPS, ("blue", 1): STEPS,
    }  # fmt: skip
    same = table.prompt == "blue"
    assert (table.loc[same, "predicted_x0"] == 0).all() and (table.loc[~same, "predicted_x0"] > 0).all()
    for other, said in ((one.images, "edited is a list"), (None, "edited is a NoneType")):
        with pytest.raises(BadInput, match=said):
            dl.compare_trajectories(other, two)
    fewer = tiny_sd3_lens.generate("blue", [0], progress=False, **SAMPLING)
    with pytest.raises(BadInput, match="do not pair"):
        dl.compare_trajectories(fewer, two)
    shorter = tiny_sd3_lens.generate("blue", [0], progress=False, **{**SAMPLING, "steps": 3})
    with pytest.raises(BadInput, match="different schedules"):
        dl.compare_trajectories(fewer, shorter)


# ----------------------------------------------------------------------------------------- arithmetic alone
def test_a_straight_path_predicts_its_end_from_the_start() -> None:
    start, end = np.random.default_rng(0).normal(size=(2, 2, 1, 3, 4, 4))
    sigmas = np.array([1.0, 0.6, 0.3, 0.0])
    latents = end + (start - end) * sigmas[None, :, None, None, None]
    found = predicted_x0(latents, sigmas)
    np.testing.assert_allclose(found, np.broadcast_to(end, found.shape), atol=1e-12)
    # Whatever the path, the last step leads to what is decoded.
    path = np.random.default_rng(1).normal(size=(2, 4, 3))
    np.testing.assert_allclose(predicted_x0(path, sigmas)[:, -1], path[:, -1], atol=1e-12)


def test_what_is_no_trajectory_is_refused() -> None:
    latents = np.zeros((1, 4, 3))
    for sigmas in ([1.0, 0.5, 0.0], [[1.0, 0.6, 0.3, 0.0]]):
        with pytest.raises(BadInput, match="no trajectory"):
            velocities(latents, sigmas)
    with pytest.raises(BadInput, match="must fall"):
        velocities(latents, [1.0, 0.5, 0.5, 0.0])
    with pytest.raises(BadInput, match="SimpleNamespace"):
        dl.compare_trajectories(SimpleNamespace(latents=latents), SimpleNamespace(latents=latents))  # type: ignore[arg-type]
