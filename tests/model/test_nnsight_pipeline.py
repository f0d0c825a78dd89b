"""What nnsight's own wrapper of a whole diffusion pipeline does without a word, and that no lens meets it.

A lens wraps the transformer alone, and its arms are rows of one batch that is ours, not invokes.
"""

from __future__ import annotations

import inspect

import pytest
import torch

from dit_lens.model.hook_points import HookPoint
from dit_lens.model.lens import DiTLens
from dit_lens.model.sampling import Sampling
from dit_lens.run.runner import observe

pytestmark = pytest.mark.tiny

LATENT = {"max_sequence_length": 0, "output_type": "latent"}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A random SD3 pipeline under nnsight's DiffusionModel."""
    from nnsight.modeling.diffusion import DiffusionModel

    from dit_lens.zoo.random_pipelines import random_pipeline

    folder = tmp_path_factory.mktemp("pipeline")
    random_pipeline("sd3").save_pretrained(folder)
    model = DiffusionModel(str(folder), dispatch=True, text_encoder_3=None, tokenizer_3=None)
    model.pipeline.set_progress_bar_config(disable=True)
    return model


def both(model, edit, *, of_a, of_b, guidance=4.5):
    """Final latents of two invokes; `edit()` runs in that of "a"."""
    with model.generate(num_inference_steps=2, guidance_scale=guidance, **LATENT) as tracer:
        with tracer.invoke("a", **of_a):
            edit()
        with tracer.invoke("b", **of_b):
            pass
        with tracer.invoke():
            made = tracer.result.save()
    return made.images


def nothing():
    pass


def test_the_number_of_steps_never_defaults_to_one(theirs, make_pipeline):
    forwards = []
    handle = theirs.pipeline.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        with theirs.generate("a", guidance_scale=1.0, **LATENT) as tracer:
            tracer.result.save()
        within = len(forwards)
        theirs.generate("a", guidance_scale=1.0, **LATENT)
    finally:
        handle.remove()
    assert (within, len(forwards) - within) == (1, 28), "the same call, in a `with` and without"

    assert all(
        each.default is inspect.Parameter.empty
        for each in list(inspect.signature(Sampling).parameters.values())[:5]
    )
    lens = DiTLens(make_pipeline("sd3"), defaults={"steps": 5, "max_sequence_length": 0})
    assert lens.generate("a", 0).latents.shape[1] == 6
    done = observe(lens, lens.prepare("a", 0), [HookPoint("temb")], lambda at, x: None)
    assert done.steps == (0, 1, 2, 3, 4)


def test_an_edit_in_place_is_lost_beside_another_invoke(theirs):
    block, seeds = theirs.transformer.transformer_blocks[0], {"of_a": {"seed": 0}, "of_b": {"seed": 0}}

    def in_place():
        block.output[1][:] = 0

    def assigned():
        context, image = block.output
        block.output = (context, torch.zeros_like(image))

    plain = both(theirs, nothing, **seeds)
    assert torch.equal(both(theirs, in_place, **seeds), plain), "with guidance nnsight hands out a copy"
    edited = both(theirs, assigned, **seeds)
    assert not torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1], plain[1])
    assert not torch.equal(both(theirs, in_place, guidance=1.0, **seeds), plain)


def test_keywords_of_invokes_are_merged_and_the_last_one_wins(theirs):
    asked = both(theirs, nothing, of_a={"seed": 0}, of_b={"seed": 5})
    assert torch.equal(asked, both(theirs, nothing, of_a={"seed": 5}, of_b={"seed": 5}))
    assert not torch.equal(asked, both(theirs, nothing, of_a={"seed": 0}, of_b={"seed": 0}))


def test_an_edit_of_what_has_no_row_per_invoke_is_dropped(theirs):
    positions = theirs.text_encoder.text_model.embeddings.position_embedding
    rows = []

    def without_positions():
        rows.append(positions.output.shape[0])
        positions.output = torch.zeros_like(positions.output)

    seeds = {"of_a": {"seed": 0}, "of_b": {"seed": 0}}
    assert torch.equal(both(theirs, without_positions, **seeds), both(theirs, nothing, **seeds))
    assert rows == [1]

    def alone(edit):
        with theirs.generate("a", num_inference_steps=2, guidance_scale=4.5, seed=0, **LATENT) as tracer:
            edit()
            made = tracer.result.save()
        return made.images

    assert not torch.equal(alone(without_positions), alone(nothing)), "a single invoke keeps it"


def test_a_lens_takes_one_invoke(tiny_sd3_lens):
    nn = tiny_sd3_lens.nn

    def two():
        with nn.trace(fn=lambda *_: None) as tracer:
            with tracer.invoke(0):
                pass
            with tracer.invoke(1):
                pass

    with pytest.raises(NotImplementedError, match="batching multiple invokes"):
        two()
