"""What nnsight and diffusers do wrong without a word, and that this package rules it out.

Where the trap is cheap to show, a test shows it beside our answer, so that a library release that removes the
trap is noticed too. Traps of nnsight's own pipeline wrapper are in test_nnsight_pipeline.py, those of a
pipeline that changes under a lens in test_unchanged.py.
"""

from __future__ import annotations

import ast
import copy
import warnings
from pathlib import Path

import pytest
import torch
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks.layer_skip import apply_layer_skip
from torch.nn.attention import SDPBackend, sdpa_kernel

import dit_lens
from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.hook_points import HookPoint
from dit_lens.model.sampling import denoise
from dit_lens.run.runner import observe
from tests.oracles import pipeline_call

pytestmark = pytest.mark.tiny

SMALL = {"steps": 3, "max_sequence_length": 0}


def sources(*words):
    """The syntax tree of every file of the package that holds one of these words, by its path."""
    home = Path(dit_lens.__file__).parent
    texts = {str(path.relative_to(home)): path.read_text(encoding="utf-8") for path in home.rglob("*.py")}
    return {name: ast.parse(text) for name, text in texts.items() if any(word in text for word in words)}


@pytest.fixture
def counted(make_pipeline):
    """A lens whose image stream carries the number of the forward pass, times 1000, in channel 0."""
    pipeline, calls = make_pipeline("sd3"), []

    def count(module, args, output):
        output = output.clone()
        output[..., 0] = 1000.0 * len(calls)
        calls.append(1)
        return output

    pipeline.transformer.pos_embed.register_forward_hook(count)
    # Blocks add to the residual, so keep channel 0 out of their writes.
    with torch.no_grad():
        for block in pipeline.transformer.transformer_blocks:
            for norm in (block.norm1, block.norm1_context):
                norm.linear.weight.zero_()
                norm.linear.bias.zero_()
    lens = dit_lens.load(pipeline)
    calls.clear()
    return lens, calls


def first_forward(lens, use, *, prompts=("a", "b"), guidance=1.0):
    """Call `use(inputs)` with the arguments of the first forward pass."""
    batch = lens.prepare_rows(
        prompts, range(len(prompts)), lens.sampling(**{**SMALL, "guidance_scale": guidance})
    )
    kept = []

    def forward(step, inputs):
        kept.append(use(inputs))

    with torch.no_grad():
        denoise(batch, forward)
    return kept[0]


def test_reading_an_address_twice_in_a_step_cannot_bind_to_the_next_step(counted):
    lens, calls = counted
    blocks, bound = lens.nn.transformer_blocks, {}
    with lens.trace("a", guidance_scale=1.0, **SMALL) as tracer:
        for step in tracer.iter[:2]:
            if step == 1:
                bound["block 2"] = float(blocks[2].output[1][0, 0, 0])
                bound["block 0, asked late"] = float(blocks[0].output[1][0, 0, 0])
    assert bound == {"block 2": 1000.0, "block 0, asked late": 2000.0}, "nnsight binds to the next step"

    # Ours: one trace per forward pass, in which a place that was passed already has no next time.
    calls.clear()
    seen = {}
    points = [HookPoint("resid_post", 2, "image"), HookPoint("resid_post", 0, "image")]
    observe(
        lens,
        lens.prepare("a", 0, lens.sampling(guidance_scale=1.0, **SMALL)),
        points + points,
        lambda at, x: seen.update({(at.step, at.point.block): float(x[0, 0, 0])}),
    )
    assert seen == {(step, block): 1000.0 * step for step in range(3) for block in (0, 2)}


def test_a_place_that_was_passed_already_raises(tiny_sd3_lens, monkeypatch):
    monkeypatch.setattr("dit_lens.model.traced.in_forward_order", lambda points: tuple(points))
    late_first = [HookPoint("resid_post", 2, "image"), HookPoint("resid_post", 0, "image")]
    with pytest.raises(RunFailure, match=r"blocks\.0\.resid_post\.image was not reached"):
        first_forward(
            tiny_sd3_lens,
            lambda inputs: tiny_sd3_lens.traced.traced_forward(inputs, late_first, lambda p, x: None),
        )
    assert tiny_sd3_lens.traced.idle


def test_step_numbers_are_ours_and_not_visits_of_a_module(counted):
    lens, calls = counted
    pipeline = lens.pipeline

    def twice_per_step():
        pipeline_call(
            pipeline, ["a"], [0], steps=4, guidance=4.5, skip_guidance_layers=[1],
            skip_layer_guidance_start=-1.0, skip_layer_guidance_stop=1.0,
        )  # fmt: skip

    bound = []
    with lens.nn.trace(0, fn=lambda _: twice_per_step()) as tracer:
        for _ in tracer.iter[:4]:
            bound.append(int(lens.nn.transformer_blocks[0].output[1][0, 0, 0] / 1000))
    assert len(calls) == 8
    assert bound == [0, 1, 2, 3], "nnsight counts visits: these are the forwards of the first two steps only"

    calls.clear()
    extra, ours = HookPoint("resid_post", 0, "image"), []
    batch = lens.prepare("a", 0, lens.sampling(**{**SMALL, "guidance_scale": 4.5}))

    def visit(at, x):
        ours.append((at.step, int(x[0, 0, 0] / 1000)))

    # Our loop, with a second forward of the same modules in every step, between two reads.
    def intrude(step, latents):
        with torch.no_grad():
            first_forward(lens, lens.traced.forward)

    observe(lens, batch, [extra], visit, on_step=intrude)
    assert ours == [(0, 0), (0, 0), (1, 2), (1, 2), (2, 4), (2, 4)]


def test_a_step_that_is_never_reached_is_an_error(tiny_sd3_lens, make_pipeline, monkeypatch):
    ran = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with tiny_sd3_lens.trace("a", **SMALL) as tracer:
            for _ in tracer.iter[:5]:
                tiny_sd3_lens.nn.transformer_blocks[0].output
                ran.append("step")
            ran.append("after the loop")
    assert ran == ["step"] * 3, "nnsight drops what follows the loop"
    assert any("was never reached" in str(w.message) for w in caught)

    batch = tiny_sd3_lens.prepare("a", 0, tiny_sd3_lens.sampling(**SMALL))
    with pytest.raises(BadInput, match="There is no step 3"):
        observe(tiny_sd3_lens, batch, [HookPoint("temb")], lambda at, x: None, steps=range(5))
    # And if the loop itself should end too soon, the count of reads says so.
    monkeypatch.setattr("dit_lens.run.runner.denoise", lambda batch, forward, on_step=None: None)
    with pytest.raises(RunFailure, match="planned reads 0 happened"):
        observe(tiny_sd3_lens, batch, [HookPoint("temb")], lambda at, x: None)


def test_noise_of_a_row_does_not_shift_with_its_place_in_the_batch(tiny_sd3_lens):
    sampling = tiny_sd3_lens.sampling(**SMALL)
    arms = tiny_sd3_lens.prepare(["one arm", "another arm", "a third"], 7, sampling).latents
    assert torch.equal(arms[0], arms[1])
    assert torch.equal(arms[0], arms[2])
    own = torch.randn(1, 4, 8, 8, generator=torch.Generator("cpu").manual_seed(7))
    assert torch.equal(arms[:1], own), "drawn on the CPU"


def test_replacing_one_stream_of_two_rows_cannot_unpack_along_the_batch(tiny_sd3_lens):
    lens = tiny_sd3_lens
    found = []

    def with_bare_tensor(inputs):
        with lens.nn.trace(0, fn=lambda _: lens.traced.forward(inputs)) as tracer:
            block = lens.nn.transformer_blocks[3]
            block.output = block.output[1].clone()
            found.append(tracer.result)
        return lens.traced.forward(inputs)

    right = first_forward(lens, with_bare_tensor)
    assert found[0].shape == right.shape, "row 1 stands for the image of both rows, and nothing complains"
    assert not torch.allclose(found[0], right)

    def with_ours(inputs):
        point = HookPoint("resid_post", 3, "image")
        same = lens.traced.traced_forward(inputs, [point], lambda p, x: x.clone())
        return torch.equal(same, lens.traced.forward(inputs))

    assert first_forward(lens, with_ours)


def test_streams_are_found_by_name_although_tuples_disagree(tiny_lens):
    order = {}
    block = tiny_lens.pipeline.transformer.transformer_blocks[0]
    last = tiny_lens.pipeline.transformer.transformer_blocks[-1]
    handles = [
        module.register_forward_hook(
            lambda m, a, out, name=name: order.update(
                {name: tuple(None if x is None else x.shape[1] for x in out)}
            )
        )
        for name, module in (("block", block), ("attn", block.attn), ("last", last))
    ]
    tokens = {}
    try:
        points = tiny_lens.hook_points.select(
            ["blocks.0.attn_out.*", "blocks.0.resid_post.*", "blocks.3.resid_post.*"]
        )
        first_forward(
            tiny_lens,
            lambda inputs: tiny_lens.traced.traced_forward(
                inputs, points, lambda p, x: tokens.update({str(p): x.shape[1]})
            ),
        )
    finally:
        for handle in handles:
            handle.remove()
    assert order == {"block": (20, 16), "attn": (16, 20), "last": (None, 16)}, "diffusers' own order"
    assert tokens == {
        "blocks.0.attn_out.image": 16,
        "blocks.0.attn_out.context": 20,
        "blocks.0.resid_post.image": 16,
        "blocks.0.resid_post.context": 20,
        "blocks.3.resid_post.image": 16,
    }


def test_bypassing_a_block_equals_the_models_own_skip_and_not_diffusers_hook(make_pipeline):
    lens = dit_lens.load(make_pipeline("sd3"))
    skipped = [0, 2]

    def native(inputs):
        return lens.pipeline.transformer(**inputs, skip_layers=skipped, return_dict=False)[0]

    def ours(inputs):
        points = [
            HookPoint(c, b, s)
            for b in skipped
            for c in ("resid_pre", "resid_post")
            for s in ("image", "context")
        ]
        entering = {}

        def bypass(point, x):
            if point.component == "resid_pre":
                entering[point.stream] = x
                return None
            return entering[point.stream].clone()

        return lens.traced.traced_forward(inputs, points, bypass)

    expected = first_forward(lens, native)
    assert torch.equal(first_forward(lens, ours), expected)

    hooked = make_pipeline("sd3").transformer
    apply_layer_skip(hooked, LayerSkipConfig(indices=skipped, fqn="transformer_blocks"))
    theirs = first_forward(lens, lambda inputs: hooked(**inputs, return_dict=False)[0])
    assert not torch.equal(theirs, expected), "diffusers' block-skip hook swaps SD3's streams"


def test_what_enters_a_block_is_read_from_keywords(tiny_sd3_lens):
    positional, entered = [], {}
    block = tiny_sd3_lens.pipeline.transformer.transformer_blocks[1]
    handle = block.register_forward_pre_hook(lambda module, inputs: positional.append(inputs))
    try:
        first_forward(
            tiny_sd3_lens,
            lambda inputs: tiny_sd3_lens.traced.traced_forward(
                inputs,
                tiny_sd3_lens.hook_points.select("blocks.1.resid_pre.*"),
                lambda p, x: entered.update({p.stream: tuple(x.shape)}),
            ),
        )
    finally:
        handle.remove()
    assert positional == [()], "a plain pre-hook sees nothing"
    assert entered == {"image": (2, 16, 32), "context": (2, 20, 32)}


def test_seeds_are_always_given_so_repeats_are_not_one_sample(tiny_sd3_lens):
    unseeded = [torch.randn(4, generator=torch.Generator()) for _ in range(2)]
    assert torch.equal(*unseeded), "an unseeded generator always has the same seed"
    made = tiny_sd3_lens.prepare("a", range(4), tiny_sd3_lens.sampling(**SMALL))
    assert made.seeds == (0, 1, 2, 3)
    assert len({x.numpy().tobytes() for x in made.latents}) == 4
    with pytest.raises(BadInput, match="No seeds"):
        tiny_sd3_lens.prepare("a", [], tiny_sd3_lens.sampling(**SMALL))


def test_no_grad_around_a_read_does_not_outlive_the_trace(tiny_sd3_lens):
    lens = tiny_sd3_lens
    blocks, plain = lens.nn.transformer_blocks, lens.generate("a", 0, **SMALL).latents[:, -1]

    def traced(trace):
        with trace() as tracer:
            with torch.no_grad():
                blocks[0].output
            latents = tracer.result.clone().save()
        return latents  # noqa: RET504 - nnsight runs the block, and hands over what has a name

    def in_a_loop_without_gradients():
        batch = lens.prepare("a", 0, lens.sampling(**SMALL))

        def loop(batch):
            with torch.no_grad():
                return denoise(batch, lambda step, inputs: lens.traced.forward(inputs))

        return lens.nn.trace(batch, fn=loop)

    try:
        traced(in_a_loop_without_gradients)
        assert not torch.is_grad_enabled(), "left within the loop, it undoes what the loop undoes after it"
    finally:
        torch.set_grad_enabled(True)

    assert torch.equal(traced(lambda: lens.trace("a", **SMALL)), plain)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not traced(lambda: lens.trace("a", **SMALL)).requires_grad
        assert not torch.is_grad_enabled()

    # Nor where the block fails with the context open.
    def failing():
        with lens.trace("a", **SMALL):  # noqa: SIM117 - nnsight takes one context to a line
            with torch.no_grad():
                blocks[0].output
                raise LookupError

    with pytest.raises(LookupError):
        failing()
    assert torch.is_grad_enabled()


def test_a_context_around_a_read_holds_for_the_model_too(tiny_sd3_lens):
    # What `lens.trace` says of itself: nnsight runs the model while the block waits in its context.
    within = []
    handle = tiny_sd3_lens.pipeline.transformer.transformer_blocks[0].attn.register_forward_pre_hook(
        lambda *_: within.append(not torch.backends.cuda.flash_sdp_enabled())
    )
    try:
        with tiny_sd3_lens.trace("a", **SMALL):  # noqa: SIM117 - nnsight takes one context to a line
            with sdpa_kernel(SDPBackend.MATH):
                tiny_sd3_lens.nn.transformer_blocks[0].output
    finally:
        handle.remove()
    assert within == [True, False, False]


def test_a_loop_over_every_step_ends_only_where_it_touches_a_module(tiny_sd3_lens):
    turns = []

    def without_an_end():
        with tiny_sd3_lens.trace("a", **SMALL) as tracer:
            for step in tracer.iter[:]:
                turns.append(step)
                if len(turns) > 1000:
                    raise StopAsyncIteration

    with pytest.raises(StopAsyncIteration):
        without_an_end()
    assert turns == list(range(1001)), "of three steps"
    assert tiny_sd3_lens.traced.idle


def test_noise_levels_are_never_given_to_the_scheduler_which_would_shift_them_again(tiny_sd3_lens):
    batch = tiny_sd3_lens.prepare("a", 0, tiny_sd3_lens.sampling(**SMALL))
    theirs = copy.deepcopy(tiny_sd3_lens.pipeline.scheduler)
    theirs.set_timesteps(sigmas=batch.sigmas[:-1].tolist())
    assert not torch.allclose(theirs.sigmas, torch.from_numpy(batch.sigmas))
    theirs.set_timesteps(3)
    assert torch.equal(theirs.sigmas, torch.from_numpy(batch.sigmas))
    given = [
        (name, node.lineno)
        for name, tree in sources(".set_timesteps(").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "set_timesteps"
        if any(each.arg == "sigmas" for each in node.keywords)
    ]
    assert not given


def test_bodies_of_the_packages_own_traces_are_one_call_without_contexts_and_invokes():
    found = []
    for name, tree in sources(".trace(", ".invoke", ".iter[").items():
        functions = {each.name: each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
        for node in ast.walk(tree):
            assert getattr(node, "attr", "") != "invoke", f"{name}:{node.lineno}: rows of a batch instead"
            if isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") == "iter":
                ends = isinstance(node.slice, ast.Slice) and node.slice.upper is not None
                assert ends, f"{name}:{node.lineno}: a loop over steps needs an end"
            opens = [
                getattr(getattr(each.context_expr, "func", None), "attr", "")
                for each in getattr(node, "items", [])
            ]
            if "trace" not in opens:
                continue
            assert len(opens) == 1
            assert len(node.body) == 1, f"{name}:{node.lineno}: nnsight compiles the body again"
            called = functions[node.body[0].value.func.id]
            assert not [each for each in ast.walk(called) if isinstance(each, ast.With)], called.name
            found.append(name)
    assert sorted(found) == ["model/check.py", "model/traced.py"]
