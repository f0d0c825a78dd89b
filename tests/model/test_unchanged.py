"""A lens refuses a pipeline that changed under it, and a call in the middle of a forward pass."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251 - to see that it refuses

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import dit_lens
from dit_lens.errors import BadInput
from dit_lens.model.hook_points import HookPoint
from dit_lens.run.runner import observe
from tests.oracles import pipeline_call

pytestmark = pytest.mark.tiny

SMALL = {"steps": 3, "max_sequence_length": 0, "guidance_scale": 1.0}
VELOCITY = [HookPoint("velocity")]


def sampled(lens):
    return lens.generate("a", 0, **SMALL, progress=False).latents


def observed(lens, batch=None):
    batch = batch or lens.prepare("a", 0, lens.sampling(**SMALL))
    return observe(lens, batch, VELOCITY, lambda at, x: None).latents


def discovered(lens):
    return dit_lens.discover(lens, ["a", "b"], seeds=[0])


def traced(lens):
    with lens.trace("a", **SMALL) as tracer:
        latents = tracer.result.clone().save()
    return latents  # noqa: RET504 - nnsight runs the block, and hands over what has a name


def ran(lens):
    graph = dit_lens.InterventionGraph(sampling=SMALL)
    arm = graph.trajectory(prompt="a", seed=0)
    return dit_lens.run(lens, graph)[arm].image


EVERY_WAY = [sampled, observed, discovered, traced, ran]


@pytest.fixture
def counting():
    """accelerate's kind of hook, which counts how often it ran."""
    hooks = pytest.importorskip("accelerate.hooks", reason="the hooks are its own")

    class Counting(hooks.ModelHook):
        def __init__(self):
            self.times = 0

        def pre_forward(self, module, *args, **kwargs):
            self.times += 1
            return args, kwargs

    return Counting(), hooks.add_hook_to_module


def test_a_transformer_put_in_later_is_refused_by_every_way_to_run_it(make_pipeline):
    lens, other = dit_lens.load(make_pipeline("sd3")), make_pipeline("sd3").transformer
    batch, first = lens.prepare("a", 0, lens.sampling(**SMALL)), lens.pipeline.transformer
    ran_forward = []
    for transformer in (first, other):
        transformer.register_forward_pre_hook(lambda *_: ran_forward.append(1))
    lens.pipeline.transformer = other
    for way in EVERY_WAY:
        with pytest.raises(BadInput, match="transformer was replaced, by another SD3Transformer2DModel"):
            way(lens)
    # A batch that was made before the change, and plain nnsight.
    with pytest.raises(BadInput, match=r"make a new lens: lens = dit_lens\.load\(lens\.pipeline\)"):
        observed(lens, batch)
    with pytest.raises(BadInput, match="was replaced"):
        lens.trace(0, fn=lambda _: None)
    report = lens.check()
    assert not report.ok
    assert "transformer was replaced" in str(report)
    assert not ran_forward

    assert torch.equal(sampled(dit_lens.load(lens.pipeline)), sampled(dit_lens.load(make_pipeline("sd3"))))
    lens.pipeline.transformer = first
    assert sampled(lens).isfinite().all()


def test_a_transformer_compiled_later_is_refused_by_name(make_pipeline):
    lens = dit_lens.load(make_pipeline("sd3"))
    lens.pipeline.transformer = torch.compile(lens.pipeline.transformer, backend="eager")
    with pytest.raises(BadInput, match=r"replaced, by torch\.compile's OptimizedModule"):
        sampled(lens)


def test_a_scheduler_and_a_decoder_put_in_later_are_used(make_pipeline):
    pipeline, lens = make_pipeline("sd3"), dit_lens.load(make_pipeline("sd3"))
    before = lens.generate("a", 0, **SMALL, progress=False)
    for each in (pipeline, lens.pipeline):
        each.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        with torch.no_grad():
            each.vae.decoder.conv_out.bias.add_(1.0)
    after = lens.generate("a", 0, **SMALL, progress=False)
    assert torch.equal(after.latents[:, -1], pipeline_call(pipeline, ["a"], [0], steps=3, guidance=1.0))
    assert not torch.equal(after.latents, before.latents)
    whole = pipeline_call(pipeline, ["a"], [0], steps=3, guidance=1.0, output_type="pil")
    assert after.images[0].tobytes() == whole[0].tobytes()


def test_a_hook_put_on_before_runs_once_and_one_put_on_later_is_refused(make_pipeline, counting):
    hook, put_on = counting
    pipeline = make_pipeline("sd3")
    put_on(pipeline.transformer, hook)
    sampled(dit_lens.load(pipeline))
    assert hook.times == 3

    lens = dit_lens.load(make_pipeline("sd3"))
    plain, inputs = sampled(lens), _inputs(lens)
    put_on(lens.pipeline.transformer, hook)
    hook.times = 0
    lens.pipeline.transformer(**inputs, return_dict=False)
    assert hook.times == 2, "once by accelerate's forward and once by nnsight's"
    hook.times = 0
    for way in EVERY_WAY:
        with pytest.raises(BadInput, match=r"hook was none .* is Counting now.*offload='model'"):
            way(lens)
    assert hook.times == 0
    # A lens made after it, as the message says, has it once.
    again = dit_lens.load(lens.pipeline)
    assert torch.equal(sampled(again), plain)
    assert hook.times == 3


def _inputs(lens):
    batch = lens.prepare("a", 0, lens.sampling(**SMALL))
    return {
        "hidden_states": batch.latents,
        "timestep": torch.full((1,), 500.0),
        "encoder_hidden_states": batch.prompt_embeds,
        "pooled_projections": batch.pooled_embeds,
    }


def test_a_hook_on_a_module_within_runs_once_for_a_lens_made_after_it(make_pipeline, counting):
    hook, put_on = counting
    lens = dit_lens.load(make_pipeline("sd3"))
    lens.nn.transformer_blocks[1].attn  # every module is wrapped
    put_on(lens.pipeline.transformer.transformer_blocks[1].attn, hook)
    sampled(dit_lens.load(lens.pipeline))
    assert hook.times == 3


def test_an_offloaded_transformer_is_read_at_its_root_in_every_run(make_pipeline):
    pytest.importorskip("accelerate", reason="it is what offloads")
    pipeline = make_pipeline("sd3")
    pipeline.enable_model_cpu_offload(device="cpu")
    lens, plain = dit_lens.load(pipeline), sampled(dit_lens.load(make_pipeline("sd3")))
    # After each run diffusers takes the hooks off and puts new ones on, with forwards of their own.
    for _ in range(3):
        assert torch.equal(sampled(lens), plain)
        assert (
            observe(lens, lens.prepare("a", 0, lens.sampling(**SMALL)), VELOCITY, lambda at, x: None).visits
            == 3
        )
        assert torch.equal(traced(lens), plain[:, -1])
    pipeline.remove_all_hooks()
    with pytest.raises(BadInput, match=r"hook was CpuOffload .* is none now"):
        sampled(lens)


@pytest.mark.filterwarnings("ignore:An intervention block raised GreenletExit")  # a trace within a trace
@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_call_in_the_middle_of_a_forward_pass_is_refused(tiny_sd3_lens, way):
    lens = tiny_sd3_lens

    def in_a_trace():
        with lens.trace("a", **SMALL):
            lens.nn.transformer_blocks[0].output
            way(lens)

    def in_a_visit():
        observe(lens, lens.prepare("a", 0, lens.sampling(**SMALL)), VELOCITY, lambda at, x: way(lens))

    for inside in (in_a_trace, in_a_visit):
        with pytest.raises(BadInput, match=r"in the middle of a forward pass.*Call before or after it"):
            inside()
        assert lens.traced.idle
        assert not lens.nn.interleaver.interleaving


def test_another_model_runs_in_the_middle_of_a_forward_pass(tiny_sd3_lens, tiny_sd35_lens):
    alone, within = sampled(tiny_sd35_lens), []
    observe(
        tiny_sd3_lens,
        tiny_sd3_lens.prepare("a", 0, tiny_sd3_lens.sampling(**SMALL)),
        VELOCITY,
        lambda at, x: within.extend([sampled(tiny_sd35_lens), observed(tiny_sd35_lens)]),
        steps=[1],
    )
    assert torch.equal(within[0], alone)


@pytest.mark.parametrize("carry", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_lens_is_not_pickled_or_copied(tiny_sd3_lens, carry):
    with pytest.raises(BadInput, match=r"cannot be pickled or copied.*Load the model again"):
        carry(tiny_sd3_lens)
