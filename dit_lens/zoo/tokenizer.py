"""CLIP's tokenizer with a vocabulary trained on the shapes world: every word of its captions is one token.

Words outside the world fall back to bytes, so that any prompt can be typed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from dit_lens.zoo import scenes

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_LENGTH = 20
"""Tokens of a prompt, start and end included; the longest caption has 14."""


@lru_cache(maxsize=1)
def _byte_pair_encoding() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train the merges on all captions: (vocabulary, merges)."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", show_progress=False)
    vocabulary_text = [s.caption for s in scenes.all_scenes()] + [scenes.partial_caption()]
    tokenizer.train_from_iterator(vocabulary_text, trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer of both text encoders and of the scorer."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _byte_pair_encoding()
    # Without an explicit model_max_length the padding of diffusers' encode_prompt explodes.
    return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=MAX_LENGTH)
