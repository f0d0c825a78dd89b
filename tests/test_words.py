"""Words that do not exist are refused in the package's own words, and no message prints a tensor."""

from __future__ import annotations

import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.words import shown

pytestmark = pytest.mark.tiny

EMBEDS = torch.ones(1, 20, 32)


def graph():
    g = dl.InterventionGraph()
    return g, g.trajectory(prompt="a star", seed=0)


def edit(lens, **words):
    g, arm = graph()
    g.edit(arm, at="blocks.*.resid_post.image", op=dl.Zero(), **words)


def read(lens, **words):
    g, arm = graph()
    g.read(arm, at="blocks.*.resid_post.image", **words)


def patch(lens, **words):
    g, arm = graph()
    g.patch(arm, into=g.trajectory(prompt="blue", seed=0), at="blocks.*.resid_post.image", **words)


CALLS = {
    "edit": edit,
    "read": read,
    "patch": patch,
    "trajectory": lambda lens, **words: dl.InterventionGraph().trajectory(prompt="a", seed=0, **words),
    "generate": lambda lens, **words: lens.generate("a star", 0, **words),
    "prepare": lambda lens, **words: lens.prepare("a star", 0, **words),
    "load": lambda lens, **words: dl.load(lens.pipeline, **words),
    "discover": lambda lens, **words: dl.discover(lens, ["a star"], [0], **words),
    "run": lambda lens, **words: dl.run(lens, graph()[0], **words),
    "run_study": lambda lens, **words: dl.run_study(lens, [], ["a"], [0], **words),
    "effect_map": lambda lens, **words: dl.effect_map(lens, {1: [0]}, ["a"], [0], **words),
    "controls": lambda lens, **words: dl.controls(None, None, "low", **words),
    "segment_prompt": lambda lens, **words: dl.segment_prompt(lens, {1: [0]}, "a", **words),
    "run_analysis": lambda lens, **words: dl.run_analysis({}, **words),
    "Zero": lambda lens, **words: dl.Zero(**words),
    "Scale": lambda lens, **words: dl.Scale(2.0, **words),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_unknown_word_is_bad_input_with_what_there_is(name, tiny_sd3_lens) -> None:
    with pytest.raises(BadInput, match=f"{name} takes no 'heads'. An edit acts on channels") as refused:
        CALLS[name](tiny_sd3_lens, heads=[0])
    assert " It takes " in str(refused.value) and "self" not in str(refused.value)


def test_a_slip_of_the_keyboard_is_offered_the_word_that_was_meant(tiny_sd3_lens) -> None:
    with pytest.raises(BadInput, match=r"generate takes no 'step'\. Did you mean 'steps'\?"):
        tiny_sd3_lens.generate("a star", 0, step=3)
    with pytest.raises(BadInput, match="The number of denoising steps is called steps"):
        tiny_sd3_lens.generate("a star", 0, num_inference_steps=3)


@pytest.mark.parametrize(
    "call",
    [
        lambda lens: lens.generate("a star", 0, prompt_embeds=EMBEDS),
        lambda lens: lens.generate(EMBEDS, 0),
        lambda lens: lens.generate([EMBEDS], 0),
        lambda lens: lens.sampling(prompt_embeds=EMBEDS),
        lambda lens: lens.trace("a star", prompt_embeds=EMBEDS),
        lambda lens: dl.discover(lens, EMBEDS, [0]),
        lambda lens: dl.discover(lens, [EMBEDS], [0]),
        lambda lens: dl.InterventionGraph().trajectory(prompt=EMBEDS, seed=0),
        lambda lens: dl.InterventionGraph(sampling={"prompt_embeds": EMBEDS}).trajectory(prompt="a", seed=0),
    ],
)
def test_embeddings_are_refused_without_printing_them(call, tiny_sd3_lens) -> None:
    with pytest.raises(BadInput) as refused:
        call(tiny_sd3_lens)
    assert "tensor(" not in str(refused.value) and "1." not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_value_in_a_message_is_short() -> None:
    assert shown(EMBEDS) == "a Tensor of shape [1, 20, 32]"
    assert shown([EMBEDS, EMBEDS]) == "a list of 2 arrays"
    assert len(shown("x" * 1000)) == 60
