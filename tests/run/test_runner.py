"""Reads are complete, at their coordinates, and equal to what plain torch hooks see."""

from __future__ import annotations

import pytest
import torch

import dit_lens
from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.hook_points import HookPoint
from dit_lens.run.runner import observe
from tests.oracles import read_with_hooks

pytestmark = pytest.mark.tiny

PROMPTS, SEEDS = ["a red circle", "blue"], [3, 4]


def batch_of(lens, guidance=4.5, steps=3):
    sampling = lens.sampling(steps=steps, guidance_scale=guidance, max_sequence_length=0)
    return lens.prepare_rows(PROMPTS, SEEDS, sampling)


@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_every_read_equals_what_plain_hooks_see(tiny_pair, guidance):
    pipeline, lens = tiny_pair
    expected, latents = read_with_hooks(pipeline, PROMPTS, SEEDS, steps=3, guidance=guidance)
    found = {}
    done = observe(
        lens,
        batch_of(lens, guidance),
        lens.hook_points,
        lambda at, x: found.update({(at.step, at.branch, str(at.point)): x.clone()}),
        stop_early=False,
    )
    assert torch.equal(done.latents, latents)
    assert done.visits == len(found) == 3 * len(done.branches) * len(lens.hook_points)
    # The oracle sees everything but what enters a sum inside the norms: shift and scale of the attention.
    unseen = {address for _, _, address in found.keys() - expected.keys()}
    assert all(".adaln.shift_attn" in address or ".adaln.scale_attn" in address for address in unseen)
    assert expected.keys() <= found.keys()
    for where, tensor in expected.items():
        assert torch.equal(found[where], tensor), where


def test_visits_come_in_forward_order_with_their_noise_level(tiny_sd35_lens):
    batch, seen = batch_of(tiny_sd35_lens), []
    points = tiny_sd35_lens.hook_points.select(["velocity", "blocks.1", "temb"])
    observe(tiny_sd35_lens, batch, points[::-1], lambda at, x: seen.append(at))
    assert [(at.step, at.point, at.branch) for at in seen] == [
        (step, point, branch) for step in range(3) for point in points for branch in ("uncond", "cond")
    ]
    assert all(at.sigma == float(batch.sigmas[at.step]) for at in seen)
    assert "step 0 (sigma 1), branch uncond, temb" in str(seen[0])


def test_tensors_are_the_branches_own_rows(tiny_sd3_lens):
    shapes = {}
    observe(
        tiny_sd3_lens,
        batch_of(tiny_sd3_lens),
        tiny_sd3_lens.hook_points.select(["blocks.0.resid_post.*", "temb", "velocity"]),
        lambda at, x: shapes.update({str(at.point): tuple(x.shape)}),
    )
    assert shapes == {
        "temb": (2, 32),
        "blocks.0.resid_post.image": (2, 16, 32),
        "blocks.0.resid_post.context": (2, 20, 32),
        "velocity": (2, 4, 8, 8),
    }


def test_a_run_that_only_reads_stops_after_its_last_read(tiny_sd3_lens, monkeypatch):
    ran = []
    blocks = tiny_sd3_lens.pipeline.transformer.transformer_blocks
    handles = [
        b.register_forward_pre_hook(lambda m, a, k, i=i: ran.append(i), with_kwargs=True)
        for i, b in enumerate(blocks)
    ]
    try:
        done = observe(
            tiny_sd3_lens,
            batch_of(tiny_sd3_lens, steps=4),
            [HookPoint("attn_out", 1, "image")],
            lambda at, x: None,
            steps=[0, 2],
        )
    finally:
        for handle in handles:
            handle.remove()
    # Steps 0 and 1 in full; step 2 up to the attention of block 1; step 3 not at all.
    assert ran == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert (done.forwards, done.visits, done.steps, done.latents) == (3, 4, (0, 2), None)


def test_steps_and_latents_after_them_are_reported(tiny_sd3_lens):
    batch, after = batch_of(tiny_sd3_lens), []
    made = tiny_sd3_lens.generate(PROMPTS[0], SEEDS[0], steps=3, guidance_scale=4.5, max_sequence_length=0)
    observe(
        tiny_sd3_lens,
        batch,
        [HookPoint("temb")],
        lambda at, x: None,
        stop_early=False,
        on_step=lambda step, x: after.append((step, x.clone())),
    )
    assert [step for step, _ in after] == [0, 1, 2]
    torch.testing.assert_close(after[-1][1][0], made.latents[0, -1], rtol=1e-4, atol=1e-5)


def test_the_order_of_requests_does_not_matter(tiny_sd3_lens):
    batch, points = batch_of(tiny_sd3_lens), list(tiny_sd3_lens.hook_points)
    one, two = [], []
    observe(tiny_sd3_lens, batch, points, lambda at, x: one.append((at, float(x.sum()))))
    observe(tiny_sd3_lens, batch, points[::-1] + points[:3], lambda at, x: two.append((at, float(x.sum()))))
    assert one == two


@pytest.mark.parametrize(
    ("points", "steps", "says"),
    [
        ([], None, "No hook point"),
        ([HookPoint("resid_post", 3, "context")], None, "last block only reads the context"),
        ([HookPoint("resid_post", 4, "image")], None, "4 blocks"),
        ([HookPoint("temb")], [3], "There is no step 3: there are 3, 0 to 2"),
        ([HookPoint("temb")], [], "empty list"),
    ],
)
def test_what_does_not_exist_is_refused_before_the_first_forward(tiny_sd3_lens, points, steps, says):
    batch, ran = batch_of(tiny_sd3_lens), []
    handle = tiny_sd3_lens.pipeline.transformer.register_forward_hook(lambda *a: ran.append(1))
    try:
        with pytest.raises(BadInput, match=says):
            observe(tiny_sd3_lens, batch, points, lambda at, x: None, steps=steps)
    finally:
        handle.remove()
    assert not ran


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_activation_that_is_not_finite_names_where_it_was_met(make_pipeline, value):
    pipeline, calls = make_pipeline("sd3"), []

    def spoil(module, args, output):
        calls.append(1)
        if len(calls) == 2:  # the second step
            output = output.clone()
            output[2:, 0, 0] = float(value)  # rows of the conditional branch
        return output

    # On the last layer inside: nnsight reads a module's output before that module's own forward hooks.
    pipeline.transformer.transformer_blocks[1].ff.net[2].register_forward_hook(spoil)
    lens = dit_lens.load(pipeline)
    seen = []
    where = r"step 1 \(sigma .*\), branch cond, blocks.1.mlp_out.image: 2 of 1024 values are NaN or infinite"
    with pytest.raises(RunFailure, match=where):
        observe(
            lens,
            batch_of(lens),
            lens.hook_points.select("blocks.*.mlp_out.image"),
            lambda at, x: seen.append(at),
        )
    assert seen[-1].branch == "uncond"
    assert lens.traced.idle


def test_a_visitor_that_fails_leaves_the_model_usable(tiny_sd3_lens):
    def visit(at, x):
        raise ZeroDivisionError("in the visitor")

    with pytest.raises(ZeroDivisionError, match="in the visitor"):
        observe(tiny_sd3_lens, batch_of(tiny_sd3_lens), [HookPoint("temb")], visit)
    assert tiny_sd3_lens.traced.idle
    observe(tiny_sd3_lens, batch_of(tiny_sd3_lens), [HookPoint("temb")], lambda at, x: None)


def test_reads_that_did_not_happen_make_the_run_fail(tiny_sd3_lens, monkeypatch):
    lens = tiny_sd3_lens
    original = lens.traced.traced_forward

    def forgetful(inputs, points, touch, *, stop=False):
        return original(inputs, points[1:], touch, stop=stop)

    monkeypatch.setattr(lens.traced, "traced_forward", forgetful)
    points = lens.hook_points.select("blocks.*.resid_post.image")
    with pytest.raises(
        RunFailure, match="planned reads 18 happened: 6 did not happen, first step 0, branch uncond"
    ):
        observe(lens, batch_of(lens), points, lambda at, x: None)


def test_reads_that_happened_twice_make_the_run_fail(tiny_sd3_lens, monkeypatch):
    lens = tiny_sd3_lens
    original = lens.traced.traced_forward

    def eager(inputs, points, touch, *, stop=False):
        def twice(point, x):
            touch(point, x)
            return touch(point, x)

        return original(inputs, points, twice, stop=stop)

    monkeypatch.setattr(lens.traced, "traced_forward", eager)
    with pytest.raises(RunFailure, match="twice or late"):
        observe(lens, batch_of(lens), [HookPoint("temb")], lambda at, x: None)


def test_a_block_that_never_runs_makes_the_run_fail(make_pipeline, monkeypatch):
    pipeline = make_pipeline("sd3")
    lens = dit_lens.load(pipeline)
    batch = batch_of(lens)
    original = pipeline.transformer.forward
    monkeypatch.setattr(
        lens.traced, "forward", lambda inputs: original(**inputs, skip_layers=[1], return_dict=False)[0]
    )
    with pytest.raises(RunFailure, match=r"blocks\.1\.resid_post\.image was not reached"):
        observe(lens, batch, lens.hook_points.select("blocks.*.resid_post.image"), lambda at, x: None)
