"""The lens equals the plain pipeline, shows what it holds, and leaves nothing behind."""

from __future__ import annotations

import threading

import pytest
import torch

import dit_lens
from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.hook_points import HookPoint
from dit_lens.model.lens import DiTLens
from dit_lens.model.memory import memory_explained
from dit_lens.model.sampling import denoise
from dit_lens.run.runner import observe
from tests.oracles import pipeline_call

pytestmark = pytest.mark.tiny


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("tokens", [0, 256])
def test_generate_equals_the_plain_pipeline_bit_for_bit(tiny_pair, guidance, tokens):
    pipeline, lens = tiny_pair
    rows, seeds = ["a red circle"] * 2 + ["b"] * 2, [0, 1, 0, 1]
    reference = pipeline_call(pipeline, rows, seeds, steps=4, guidance=guidance, tokens=tokens)
    images = pipeline_call(
        pipeline, rows, seeds, steps=4, guidance=guidance, tokens=tokens, output_type="pil"
    )
    made = lens.generate(
        ["a red circle", "b"], [0, 1], steps=4, guidance_scale=guidance, max_sequence_length=tokens
    )
    assert torch.equal(made.latents[:, -1], reference)
    assert [i.tobytes() for i in made.images] == [i.tobytes() for i in images]
    assert (made.prompts, made.seeds) == (tuple(rows), tuple(seeds))
    assert made.latents.shape == (4, 5, 4, 8, 8)
    assert made.sigmas.shape == (5,)
    assert made.sigmas[-1] == 0


def test_other_sizes_and_negative_prompts_equal_the_pipeline_too(tiny_sd3_pipeline, tiny_sd3_lens):
    more = {"height": 24, "width": 8, "negative_prompt": "blue"}
    reference = pipeline_call(tiny_sd3_pipeline, ["a"], [3], steps=3, guidance=3.0, **more)
    made = tiny_sd3_lens.generate("a", 3, 3, 3.0, max_sequence_length=0, **more)
    assert torch.equal(made.latents[:, -1], reference)
    assert made.images[0].size == (8, 24)


def test_bfloat16_equals_the_pipeline(make_pipeline):
    reference = pipeline_call(
        make_pipeline("sd3").to(torch.bfloat16), ["a", "b"], [0, 1], steps=3, guidance=4.5
    )
    lens = dit_lens.load(make_pipeline("sd3"), dtype="bfloat16")
    assert lens.dtype == torch.bfloat16
    batch = lens.prepare_rows(
        ["a", "b"], [0, 1], lens.sampling(steps=3, guidance_scale=4.5, max_sequence_length=0)
    )
    assert batch.latents.dtype == torch.bfloat16
    with torch.no_grad():
        made = denoise(batch, lambda step, inputs: lens.traced.forward(inputs))
    assert torch.equal(made, reference)


def test_batches_only_split_the_rows(tiny_sd3_lens):
    whole = tiny_sd3_lens.generate(["a", "b", "c"], 0, steps=2, max_sequence_length=0)
    parts = tiny_sd3_lens.generate(["a", "b", "c"], 0, steps=2, max_sequence_length=0, batch_size=2)
    assert torch.equal(parts.latents[:, 0], whole.latents[:, 0])
    # Kernels may round differently at another batch size, and no more than that.
    torch.testing.assert_close(parts.latents, whole.latents, rtol=1e-4, atol=1e-5)
    assert len(parts) == len(parts.images) == 3
    with pytest.raises(BadInput, match="batch_size is 0"):
        tiny_sd3_lens.generate("a", 0, steps=2, batch_size=0)


def test_the_default_batch_suits_the_device_and_the_image(tiny_sd3_lens, monkeypatch):
    lens = tiny_sd3_lens

    def rows(**sampling):
        return lens.default_batch_size(lens.sampling(max_sequence_length=0, **sampling))

    # 16 image and 20 text tokens, 32 channels: a CPU's caches hold more than it pays to batch.
    assert rows(guidance_scale=4.5) == 64
    big = {"height": 64, "width": 64}
    tokens = 16 * 16 + 20
    assert rows(guidance_scale=4.5, **big) == 700_000 // (2 * tokens * 32)
    assert rows(guidance_scale=1.0, **big) == 64
    monkeypatch.setattr(type(lens), "num_channels", property(lambda self: 10**6))
    assert rows(guidance_scale=4.5) == 1
    # An accelerator is filled by tokens, whatever their width.
    monkeypatch.setattr(type(lens), "device", property(lambda self: torch.device("cuda")))
    assert rows(guidance_scale=4.5) == 64
    monkeypatch.setattr(lens, "_tokens", lambda sampling: 4096)
    assert rows(guidance_scale=4.5) == 4


def test_repr_says_what_was_loaded(tiny_sd35_lens):
    text = repr(tiny_sd35_lens)
    for part in ("SD3Transformer2DModel", "4 blocks × 32 channels", "4 × 4 image tokens", "float32 on cpu"):
        assert part in text
    assert str(len(tiny_sd35_lens.hook_points)) in text


def test_hook_points_list_shapes(tiny_sd35_lens):
    points = tiny_sd35_lens.hook_points
    assert points.shape("blocks.0.attn2_out.image") == ("rows", 16, 32)
    assert points.shape("blocks.0.resid_pre.context") == ("rows", 20 + 256, 32)
    assert points.shape("blocks.0.adaln.gate_attn2.image") == points.shape("temb") == ("rows", 32)
    assert points.shape("velocity") == ("rows", 4, 8, 8)
    assert points.select("velocity") == (HookPoint("velocity"),)
    assert tiny_sd35_lens.token_grid() == (4, 4)
    assert tiny_sd35_lens.token_grid(16, 32) == (4, 8)


def test_fingerprint_tells_weights_apart_and_nothing_else(tiny_sd3_lens, make_pipeline):
    assert dit_lens.load(make_pipeline("sd3")).fingerprint == tiny_sd3_lens.fingerprint
    changed = make_pipeline("sd3")
    with torch.no_grad():
        changed.transformer.proj_out.bias += 1e-3
    assert dit_lens.load(changed).fingerprint != tiny_sd3_lens.fingerprint


def test_values_replaced_at_one_point_reach_only_its_stream(tiny_lens):
    batch = tiny_lens.prepare(["a", "b"], 0, tiny_lens.sampling(steps=1, max_sequence_length=0))
    kept = {}

    def forward(step, inputs):
        edit, context = HookPoint("resid_post", 1, "image"), HookPoint("resid_post", 1, "context")
        after = [HookPoint("resid_pre", 2, s) for s in ("image", "context")]

        def touch(point, x):
            kept[point] = x.clone()
            return torch.zeros_like(x) if point == edit else None

        tiny_lens.traced.traced_forward(inputs, [context, *after, edit], touch)
        assert not kept[after[0]].any()
        assert torch.equal(kept[after[1]], kept[context])

    with torch.no_grad():
        assert denoise(batch, forward) is None
    assert kept


def test_a_replacement_of_another_shape_is_refused(tiny_sd3_lens):
    batch = tiny_sd3_lens.prepare("a", 0, tiny_sd3_lens.sampling(steps=1, max_sequence_length=0))

    def forward(step, inputs):
        point = HookPoint("resid_post", 0, "image")
        return tiny_sd3_lens.traced.traced_forward(inputs, [point], lambda p, x: x[:, :1])

    with pytest.raises(RunFailure, match=r"\(2, 1, 32\), expected \(2, 16, 32\)"), torch.no_grad():
        denoise(batch, forward)
    assert tiny_sd3_lens.traced.idle


def test_plain_nnsight_stays_available(tiny_sd3_pipeline, tiny_sd3_lens):
    reference = pipeline_call(tiny_sd3_pipeline, ["a"], [0], steps=3, guidance=4.5)
    kept = []
    with tiny_sd3_lens.trace("a", steps=3, guidance_scale=4.5, max_sequence_length=0) as tracer:
        for _ in tracer.iter[:3]:
            context, image = tiny_sd3_lens.nn.transformer_blocks[2].output
            kept.append((context.shape, image.shape))
        result = tracer.result.save()
    assert kept == [((2, 20, 32), (2, 16, 32))] * 3
    assert torch.equal(result, reference)


def test_trace_of_a_function_is_nnsights_own(tiny_sd3_lens):
    with tiny_sd3_lens.trace(2.0, fn=lambda x: x + 1) as tracer:
        result = tracer.result.save()
    assert result == 3.0


def test_two_lenses_may_share_a_pipeline(make_pipeline):
    pipeline = make_pipeline("sd3")
    first, second = dit_lens.load(pipeline), dit_lens.load(pipeline)
    assert first.lock is second.lock
    one = first.generate("a", 0, steps=2, max_sequence_length=0)
    assert torch.equal(second.generate("a", 0, steps=2, max_sequence_length=0).latents, one.latents)


def test_threads_take_turns(tiny_sd3_lens):
    points = tiny_sd3_lens.hook_points.select("blocks.*.resid_post.image")
    sampling = tiny_sd3_lens.sampling(steps=2, max_sequence_length=0)

    def sums(seed):
        values = []
        batch = tiny_sd3_lens.prepare("a", seed, sampling)
        observe(tiny_sd3_lens, batch, points, lambda at, x: values.append(float(x.sum())))
        return values

    expected, found = [sums(seed) for seed in range(4)], {}
    threads = [threading.Thread(target=lambda s=s: found.update({s: sums(s)})) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == expected


def test_a_channel_planted_behind_the_patch_embedding_is_seen_in_every_block(make_pipeline):
    pipeline, channel = make_pipeline("sd3"), 11
    planted = torch.zeros(32)
    planted[channel] = 500.0
    pipeline.transformer.pos_embed.register_forward_hook(lambda module, args, output: output + planted)
    lens = dit_lens.load(pipeline)
    top = {}
    observe(
        lens,
        lens.prepare("a", 0, lens.sampling(steps=2, max_sequence_length=0)),
        lens.hook_points.select(["blocks.*.resid_pre.image", "blocks.*.resid_post.image"]),
        lambda at, x: top.setdefault(at, int(x.mean(dim=(0, 1)).abs().argmax())),
    )
    assert len(top) == 2 * 2 * 4 * 2
    assert set(top.values()) == {channel}


def test_latents_that_are_not_finite_are_refused(make_pipeline):
    pipeline = make_pipeline("sd3")
    lens = dit_lens.load(pipeline)
    with torch.no_grad():
        pipeline.transformer.proj_out.bias.fill_(float("inf"))
    with pytest.raises(RunFailure, match="NaN or infinite from step 0 on"):
        lens.generate("a", 0, steps=2, max_sequence_length=0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_what_to_change(error):
    with (
        pytest.raises(RunFailure, match=r"while sampling 4 rows.*batch_size"),
        memory_explained("sampling 4 rows"),
    ):
        raise error


def test_other_runtime_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), memory_explained("sampling"):
        raise RuntimeError("shapes differ")


def test_an_interrupt_leaves_the_model_as_it_was(make_pipeline):
    lens = dit_lens.load(make_pipeline("sd3"))
    before = lens.generate("a", 0, steps=2, max_sequence_length=0).latents
    for error in (KeyboardInterrupt, ValueError):

        def visit(at, x, error=error):
            if at.step == 1:
                raise error

        with pytest.raises(error):
            observe(
                lens,
                lens.prepare("a", 0, lens.sampling(steps=2, max_sequence_length=0)),
                lens.hook_points.select("blocks.1.resid_post.image"),
                visit,
            )
        assert lens.traced.idle
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in lens.pipeline.transformer.modules())
        assert torch.equal(lens.generate("a", 0, steps=2, max_sequence_length=0).latents, before)


def test_long_work_draws_a_bar_and_short_work_does_not(monkeypatch, capsys):
    from dit_lens.model import progress

    with progress.ProgressBar(2, "denoising") as bar:
        bar.advance()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    monkeypatch.setenv("TERM", "xterm")
    with progress.ProgressBar(2, "denoising") as bar:
        bar.advance()
        bar.advance()
        assert bar._bar is not None
        assert bar._bar.tasks[0].completed == 2
    with progress.ProgressBar(2, "denoising", enabled=False) as bar:
        bar.advance()
        assert bar._bar is None


def test_in_a_file_long_work_says_how_far_it_is_in_a_line_every_half_minute(monkeypatch, capsys):
    from types import SimpleNamespace

    from dit_lens.model import progress

    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress.ProgressBar(1200, "denoising") as bar:
        for _ in range(100):
            now += 1.0
            bar.advance(10)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "denoising: 300/1,200, 0:00:30 elapsed, about 0:01:30 left",
        "denoising: 600/1,200, 0:01:00 elapsed, about 0:01:00 left",
        "denoising: 900/1,200, 0:01:30 elapsed, about 0:00:30 left",
    ]
    for enabled, seconds in ((True, 29.0), (False, 100.0)):
        with progress.ProgressBar(3, "denoising", enabled=enabled) as bar:
            bar.advance()
            now += seconds
            bar.advance()
    assert capsys.readouterr().err == ""


def test_lens_takes_a_name_and_defaults(make_pipeline):
    lens = DiTLens(make_pipeline("sd3"), name="mine", defaults={"steps": 3, "max_sequence_length": 0})
    assert (lens.name, lens.defaults.steps, lens.defaults.guidance_scale) == ("mine", 3, 7.0)
    with pytest.raises(BadInput, match="Did you mean 'steps'"):
        DiTLens(make_pipeline("sd3"), defaults={"step": 3})
