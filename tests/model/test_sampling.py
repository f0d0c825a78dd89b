"""Noise, schedule and loop are the pipeline's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

import dit_lens
from dit_lens.errors import BadInput
from dit_lens.model.sampling import Sampling, decode, default_batch_size, denoise, rows_of
from tests.oracles import pipeline_call

pytestmark = pytest.mark.tiny

SMALL = {"steps": 4, "guidance_scale": 4.5, "max_sequence_length": 0}


def plain(lens):
    return lambda step, inputs: lens.traced.forward(inputs)


def run(lens, batch, **more):
    with torch.no_grad():
        return denoise(batch, plain(lens), **more)


def test_rows_are_prompt_major():
    assert rows_of(["a", "b"], [3, 4]) == (("a", "a", "b", "b"), (3, 4, 3, 4))
    assert rows_of("a", 7) == rows_of("a", np.int64(7)) == rows_of("a", np.array([7])) == (("a",), (7,))


@pytest.mark.parametrize(
    ("prompts", "seeds", "says"),
    [([], [0], "No prompts"), (["a"], [], "No seeds"), (["a", 3], [0], "Prompt 3"), (["a"], [-1], "Seed -1"),
     (["a"], [0.5], "Seed 0.5"), (["a"], [True], "Seed True"), (["a"], [2**63], "no whole number"),
     (None, 0, r'prompts is None; give one, or a list, such as prompts=\["a red circle"\]'),
     (5, 0, "prompts is 5"), ("a", None, r"seeds is None.*seeds=\[0\]"), ("a", 0.5, "seeds is 0.5")],
)  # fmt: skip
def test_rows_that_cannot_be_sampled_are_refused(prompts, seeds, says):
    with pytest.raises(BadInput, match=says):
        rows_of(prompts, seeds)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.0}, "whole number"),
        ({"guidance_scale": float("nan")}, "finite"),
        ({"guidance_scale": -1.0}, "from 0 up"),
        ({"guidance_scale": "high"}, "must be a number"),
        ({"max_sequence_length": 513}, "at most 512"),
        ({"max_sequence_length": -1}, "at least 0"),
        ({"negative_prompt": 3}, "must be text"),
        ({"stepz": 3}, "Did you mean 'steps'"),
    ],
)
def test_sampling_out_of_range_is_refused(tiny_sd3_lens, change, says):
    with pytest.raises(BadInput, match=says):
        tiny_sd3_lens.sampling(**change)


@pytest.mark.parametrize(
    ("size", "says"),
    [({"height": 15}, "multiples of 4"), ({"height": 128, "width": 128}, "position embedding")],
)
def test_image_sizes_that_do_not_fit_are_refused_before_encoding(tiny_sd3_lens, size, says):
    with pytest.raises(BadInput, match=says):
        tiny_sd3_lens.prepare("a", 0, tiny_sd3_lens.sampling(**SMALL, **size))


def test_defaults_are_those_of_the_pipeline_call(tiny_sd3_lens):
    import inspect

    call = inspect.signature(type(tiny_sd3_lens.pipeline).__call__).parameters
    defaults = tiny_sd3_lens.defaults
    assert defaults.steps == call["num_inference_steps"].default
    assert defaults.guidance_scale == call["guidance_scale"].default
    assert defaults.max_sequence_length == call["max_sequence_length"].default
    assert (defaults.height, defaults.width) == (16, 16)


def test_a_rows_noise_depends_only_on_its_seed(tiny_sd3_lens):
    sampling = tiny_sd3_lens.sampling(**SMALL)
    together = tiny_sd3_lens.prepare(["a", "b"], [5, 6], sampling).latents
    alone = tiny_sd3_lens.prepare("something else", 6, sampling).latents
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[3], alone[0])
    assert not torch.equal(together[0], together[1])


def test_preparing_leaves_the_global_generator_and_the_scheduler_alone(tiny_sd3_lens):
    before, steps = torch.get_rng_state(), tiny_sd3_lens.pipeline.scheduler.timesteps.clone()
    tiny_sd3_lens.prepare("a", 0, tiny_sd3_lens.sampling(**SMALL))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(tiny_sd3_lens.pipeline.scheduler.timesteps, steps)


def test_no_t5_tokens_leave_clips_alone(tiny_sd3_lens):
    sampling = tiny_sd3_lens.sampling(**SMALL)
    batch = tiny_sd3_lens.prepare("a", 0, sampling)
    assert batch.context_tokens == tiny_sd3_lens.pipeline.tokenizer_max_length
    longer = tiny_sd3_lens.prepare("a", 0, tiny_sd3_lens.sampling(**{**SMALL, "max_sequence_length": 3}))
    assert longer.context_tokens == batch.context_tokens + 3
    assert torch.equal(longer.prompt_embeds[:, : batch.context_tokens], batch.prompt_embeds)
    assert not longer.prompt_embeds[:, batch.context_tokens :].any()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5, 4.5])
@pytest.mark.parametrize("start", [1, 3])
def test_a_run_continued_from_stored_latents_is_exact(tiny_lens, guidance, start):
    batch = tiny_lens.prepare(["a", "b"], [0], tiny_lens.sampling(**{**SMALL, "guidance_scale": guidance}))
    path = [batch.latents]
    whole = run(tiny_lens, batch, on_step=lambda step, x: path.append(x))
    assert len(path) == 5
    assert torch.equal(run(tiny_lens, batch, start=start, latents=path[start]), whole)


def test_a_batch_can_be_run_again(tiny_sd3_lens):
    batch = tiny_sd3_lens.prepare("a", 0, tiny_sd3_lens.sampling(**SMALL))
    assert torch.equal(run(tiny_sd3_lens, batch), run(tiny_sd3_lens, batch))


def test_starting_nowhere_is_refused(tiny_sd3_lens):
    batch = tiny_sd3_lens.prepare("a", 0, tiny_sd3_lens.sampling(**SMALL))
    with pytest.raises(BadInput, match="no step 4"):
        run(tiny_sd3_lens, batch, start=4, latents=batch.latents)
    with pytest.raises(BadInput, match="needs the latents"):
        run(tiny_sd3_lens, batch, start=2)
    with pytest.raises(BadInput, match="do not fit"):
        batch.with_latents(batch.latents[:, :, 1:])
    with pytest.raises(BadInput, match="No branch 'both'"):
        batch.branch_rows("both")


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_karras_sigmas=True),
    ],
    ids=["unshifted", "dynamic", "karras"],
)
def test_other_schedules_are_followed_too(make_pipeline, scheduler):
    pipeline = make_pipeline("sd3")
    pipeline.scheduler = scheduler
    reference = pipeline_call(pipeline, ["a", "b"], [0, 1], steps=4, guidance=4.5)
    wrapped = make_pipeline("sd3")
    wrapped.scheduler = type(scheduler).from_config(scheduler.config)
    lens = dit_lens.load(wrapped)
    batch = lens.prepare_rows(["a", "b"], [0, 1], lens.sampling(**SMALL))
    assert torch.equal(run(lens, batch), reference)
    assert np.array_equal(batch.sigmas, pipeline.scheduler.sigmas.numpy())


def test_a_set_shift_is_kept(make_pipeline):
    pipeline = make_pipeline("sd3")
    pipeline.scheduler.set_shift(5.0)
    reference = pipeline_call(pipeline, ["a"], [0], steps=3, guidance=1.0)
    batch = dit_lens.load(pipeline).prepare("a", 0, Sampling(3, 1.0, 16, 16, 0))
    assert torch.equal(run(dit_lens.load(pipeline), batch), reference)


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        (FlowMatchHeunDiscreteScheduler(), "FlowMatchHeunDiscreteScheduler"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastically"),
    ],
    ids=["heun", "stochastic"],
)
def test_schedulers_whose_steps_are_not_one_deterministic_forward_are_refused(make_pipeline, scheduler, says):
    pipeline = make_pipeline("sd3")
    pipeline.scheduler = scheduler
    with pytest.raises(BadInput, match=says):
        dit_lens.load(pipeline).prepare("a", 0, Sampling(3, 1.0, 16, 16, 0))


def test_images_are_those_of_the_pipeline(tiny_pair):
    pipeline, lens = tiny_pair
    images = pipeline_call(pipeline, ["a", "b"], [0, 1], steps=2, guidance=4.5, output_type="pil")
    latents = pipeline_call(pipeline, ["a", "b"], [0, 1], steps=2, guidance=4.5)
    decoded = decode(lens.pipeline, latents)
    assert [i.tobytes() for i in decoded] == [i.tobytes() for i in images]


def test_batches_shrink_as_images_grow():
    assert default_batch_size(100, 144) == 100
    assert default_batch_size(100, 4096) == 4
    assert default_batch_size(100, 10**6) == 1
