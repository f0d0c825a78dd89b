"""The unit is what reaches the model: equal tokens make one prompt, and what is cut is said."""

from __future__ import annotations

import warnings

import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.methods.spatial.masks import Mask
from dit_lens.methods.spatial.study import spatial_study
from dit_lens.methods.stats import split_prompts
from dit_lens.methods.units import LEAST, units
from dit_lens.model.prompts import tokens_of
from dit_lens.notices import Notice
from dit_lens.zoo.random_pipelines import random_pipeline
from dit_lens.zoo.tokenizer import build_tokenizer

pytestmark = pytest.mark.tiny

S = {"steps": 2, "max_sequence_length": 0}
LONG = "a large red plain star on the left on a white background and a small blue circle too and"
SAME = [f"{LONG} {x}" for x in ("a cat", "a dog", "a house", "a tree", "a boat", "a cup")]
OTHERS = ["a red star", "a blue star", "a green star", "a pink star", "a white circle", "a black circle"]
ARM = dl.ablation_arm("massive", "massive", [0, 1], dl.Zero(), blocks=[1])


@pytest.fixture
def lens():
    return dl.load(random_pipeline("sd3"))


def study(lens, prompts, **more):
    return dl.run_study(
        lens, [ARM], prompts, [0], measures=dl.default_measures(lens, ["latent"]), sampling=S, progress=False,
        **more,
    )  # fmt: skip


def with_t5(pipeline):
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    pipeline.tokenizer_3 = build_tokenizer()
    config = T5Config(
        vocab_size=len(pipeline.tokenizer_3), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    pipeline.text_encoder_3 = T5EncoderModel(config).eval()
    return pipeline


def test_prompts_that_differ_behind_the_limit_are_one_and_too_few_to_judge_by(lens) -> None:
    with pytest.raises(BadInput) as refused, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study(lens, SAME)
    said = str(refused.value)
    assert (
        "6 prompts were given, and 1 of them differs to this model; no p-value can reach 0.05 on fewer "
        in said
    )
    assert f"than {LEAST}" in said
    assert all(words in said for words in ("cat'", "dog'", "house'", "tree'", "boat'", "cup'")), said


def test_n_counts_what_reaches_the_model_and_the_rest_is_given_notice_of(lens) -> None:
    with pytest.warns(Notice) as told:
        found = study(lens, [*OTHERS, SAME[0], SAME[1]])
    assert list(dict.fromkeys(found.effects.prompt)) == [*OTHERS, SAME[0]]
    merged = [str(each.message) for each in told if "reach the model as one" in str(each.message)]
    assert len(merged) == 1 and "7 of 8 are used, and n counts these" in merged[0]
    assert all(each.filename == __file__ for each in told), "at the line of whoever asked"


def test_discovery_counts_them_once(lens) -> None:
    with pytest.warns(Notice, match="reach the model as one"):
        found = dl.discover(lens, [SAME[0], "blue", SAME[1]], [0], sampling=S, progress=False)
    alone = dl.discover(lens, [SAME[0], "blue"], [0], sampling=S, progress=False)
    assert found.data.equals(alone.data) and found.provenance["prompts"] == [SAME[0], "blue"]


def test_masks_count_them_once(lens) -> None:
    centre = Mask.from_tokens([5, 6, 9, 10], (4, 4))
    with pytest.warns(Notice, match="reach the model as one"):
        table = spatial_study(
            lens, {"massive": {1: (0, 1)}}, [SAME[0], "blue", SAME[1]], [0], blocks=[1], sampling=S,
            progress=False, truth=lambda subject: centre,
        )  # fmt: skip
    assert list(dict.fromkeys(table.prompt)) == [SAME[0], "blue"]


def test_a_donor_that_reaches_the_model_as_its_target_changes_nothing_and_is_refused(lens) -> None:
    patch = dl.ablation_arm("patch", "massive", [0, 1], dl.Patch(), blocks=[1], donor=True)
    with pytest.raises(BadInput, match="reach the model as one"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dl.run_study(
            lens, [patch], [SAME[0]], [0], measures=dl.default_measures(lens, ["latent"]), sampling=S,
            donors={SAME[0]: SAME[1]}, progress=False,
        )  # fmt: skip


def test_words_that_the_vocabulary_lacks_can_make_prompts_alike(lens) -> None:
    first, second = lens.read_prompts(["a red  star", "a red star"])
    assert first.tokens == second.tokens and not first.cut
    assert units(lens, ["a red star", "a blue star"], lens.sampling(**S)) == ("a red star", "a blue star")


def test_each_encoder_counts_as_it_is_used() -> None:
    pipeline = with_t5(random_pipeline("sd3"))
    lens = dl.load(pipeline)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = lens.read_prompts(SAME, lens.sampling(max_sequence_length=64))
        assert len({each.tokens for each in read}) == 6, "T5 reads what CLIP is not given"
        assert [name for name, _ in read[0].cut] == ["text_encoder", "text_encoder_2"] and read[0].whole
        assert "text_encoder_3 reads all" in read[0].cut_in_words()
        short = lens.read_prompts(SAME, lens.sampling(max_sequence_length=4))
        assert len({each.tokens for each in short}) == 1 and not short[0].whole
    ids = pipeline.tokenizer(SAME[0], padding="max_length", max_length=20, truncation=True).input_ids
    assert list(tokens_of(pipeline, SAME[:1], lens.sampling())[0].tokens[0]) == ids


def test_what_is_cut_is_said_once_wherever_a_prompt_is_used(lens) -> None:
    with pytest.warns(Notice, match="reads 20 tokens and not .*cat'"):
        lens.generate(SAME[0], 0, **S, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        lens.generate(SAME[0], 0, **S, progress=False)
    with pytest.warns(Notice, match="dog'"):
        lens.generate("blue", 0, **S, negative_prompt=SAME[1], progress=False)


def test_a_negative_prompt_that_guidance_ignores_is_said_to_be_ignored(lens) -> None:
    with pytest.warns(Notice, match=r"'blurred' is ignored: .* guidance_scale is 1"):
        lens.generate("blue", 0, **S, guidance_scale=1.0, negative_prompt="blurred", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        lens.generate("blue", 0, **S, guidance_scale=4.0, negative_prompt="blurred", progress=False)


def test_a_split_with_a_lens_holds_out_nothing_that_the_model_cannot_tell_from_what_chooses(lens) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(8):
            blind = split_prompts([*SAME, "blue"], seed=seed)
            assert len(blind.calibration) + len(blind.held_out) == 7
            found = split_prompts([*SAME, "blue"], seed=seed, lens=lens)
            assert sorted((*found.calibration, *found.held_out)) == sorted((SAME[0], "blue"))
        with pytest.raises(BadInput, match="1 different prompts"):
            split_prompts(SAME, lens=lens)
