"""The tokenizer of the shapes world."""

from __future__ import annotations

import pytest

from dit_lens.zoo import scenes
from dit_lens.zoo.tokenizer import MAX_LENGTH, build_tokenizer

pytestmark = pytest.mark.pure


def test_every_word_of_the_world_is_one_token_and_every_caption_fits():
    tokenizer = build_tokenizer()
    captions = [s.caption for s in scenes.all_scenes()]
    lengths = {
        len(ids) - len(text.split())
        for ids, text in zip(tokenizer(captions).input_ids, captions, strict=True)
    }
    assert lengths == {2}, "words + start + end"
    assert max(len(c.split()) + 2 for c in captions) <= MAX_LENGTH == tokenizer.model_max_length


def test_other_words_fall_back_to_bytes():
    tokenizer = build_tokenizer()
    ids = tokenizer("a zebra, 東京 <script>").input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert "zebra" in tokenizer.decode(ids, skip_special_tokens=True)


def test_the_padding_is_as_long_as_the_pipeline_expects():
    tokenizer = build_tokenizer()
    ids = tokenizer(["a star"], padding="max_length", truncation=True).input_ids
    assert len(ids[0]) == MAX_LENGTH
