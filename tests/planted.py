"""Models with a known answer: hand-set weights in which one channel does one thing. No mocks, no training.

All three are complete SD3 pipelines that draw a square in the colour that the prompt names, over noise:

    text encoders → redness of the colour word, −1 to 1 → `temb` → AdaLN gate of block 0
    → channel COLOUR of the subject's tokens → final LayerNorm → output projection → first latent channel
    → decoder: red against blue

The other channels hold a fixed pattern over the tokens and a little of the latents; three of them draw a
faint texture. They differ in their one huge channel:

| kind      | huge channel       | zeroing it                                                          |
|-----------|--------------------|---------------------------------------------------------------------|
| carrier   | COLOUR itself      | takes the colour away                                               |
| bystander | a constant in HUGE | does nothing: nothing reads it, and the last block takes it out     |
| anchor    | a constant in HUGE | amplifies all others, since it alone sets the final LayerNorm scale |

A huge constant that reaches the final LayerNorm sets its statistics, so it is an anchor and no bystander: the
bystander's is removed before, by a unit of block 3 that only asks whether it is there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dit_lens.zoo.random_pipelines import random_pipeline

KINDS = ("carrier", "bystander", "anchor")

MASK, COLOUR, HUGE = 3, 7, 11
"""Channels: where the subject is; its colour; the constant of `bystander` and `anchor`."""

TEXTURE = (16, 17, 18)
"""Channels that draw on the other three latent channels."""

REDNESS = {
    "red": 1.0, "orange": 0.8, "pink": 0.6, "yellow": 0.4,
    "cyan": -0.4, "green": -0.6, "purple": -0.8, "blue": -1.0,
}  # fmt: skip

SAMPLING = {"steps": 3, "guidance_scale": 2.0, "max_sequence_length": 0}

SUBJECT = (slice(1, 3), slice(1, 3))
"""Rows and columns of the subject's tokens, of 4 × 4."""

CHANNELS = 32
PATTERN = 10.0
COLOUR_WRITE = 20.0
CONSTANT = 200.0
BRIGHTNESS = 4.0
"""What full redness adds to the first latent channel of the subject, without guidance."""


def planted_pipeline(kind: str) -> Any:
    """A StableDiffusion3Pipeline of a kind: 4 blocks, 32 channels, 4 × 4 image tokens, 16 × 16 px."""
    assert kind in KINDS, kind
    pipeline = random_pipeline("sd3", seed=0)
    with torch.no_grad():
        for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
            _say_redness(encoder, pipeline.tokenizer)
        _draw_square(pipeline.transformer, kind)
        _decode_colour(pipeline.vae.decoder)
    return pipeline


def prompts(count: int, *, skip: int = 0) -> tuple[str, ...]:
    """Different prompts that name a colour; the shape word means nothing here.

    >>> prompts(2, skip=1)
    ('a orange square', 'a pink triangle')
    """
    shapes = ("circle", "square", "triangle", "diamond", "star", "cross")
    colours = tuple(REDNESS)
    # 8 colours and 6 shapes: the second time round, every colour meets another shape.
    pairs = ((colours[i % 8], shapes[(i + i // 24) % 6]) for i in range(skip, skip + count))
    return tuple(f"a {colour} {shape}" for colour, shape in pairs)


def redness_of_latents(latents: Tensor) -> float:
    """Mean of the first latent channel over the subject, less that around it; `latents` is [C, 8, 8]."""
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:6, 2:6] = True
    return float(latents[0][inside].mean() - latents[0][~inside].mean())


def redness_of_picture(image: Any) -> float:
    """Red less blue, averaged over the subject's pixels; from −1 to 1."""
    pixels = np.asarray(image, dtype=float)[5:11, 5:11] / 255
    return float((pixels[..., 0] - pixels[..., 2]).mean())


# --------------------------------------------------------------------------------------------- the parts
def _blank(module: nn.Module) -> None:
    """Every weight and bias zero; with LayerNorms that only normalise."""
    for parameter in module.parameters():
        parameter.zero_()
    for part in module.modules():
        if isinstance(part, nn.LayerNorm | nn.GroupNorm) and part.weight is not None:
            part.weight.fill_(1.0)


def _say_redness(encoder: Any, tokenizer: Any) -> None:
    """The first pooled value of a prompt is the redness of its colour word, and 0 without one."""
    _blank(encoder)
    vocabulary = tokenizer.get_vocab()
    for colour, redness in REDNESS.items():
        rest = (1 - redness**2) ** 0.5
        code = torch.zeros(16)
        # All codes have mean 0 and one length, so that LayerNorm scales them alike.
        code[:4] = torch.tensor([redness, rest, -redness, -rest])
        encoder.text_model.embeddings.token_embedding.weight[vocabulary[f"{colour}</w>"]] = code
    attention = encoder.text_model.encoder.layers[0].self_attn
    # Without queries and keys attention is even: the end token collects the mean of all words.
    attention.v_proj.weight.copy_(torch.eye(16))
    attention.out_proj.weight.copy_(torch.eye(16))
    encoder.text_projection.weight[0, :4] = torch.tensor([0.5, 0.0, -0.5, 0.0]) / 8**0.5


def _draw_square(transformer: Any, kind: str) -> None:
    _blank(transformer)
    _embed(transformer)
    # silu(x) − silu(−x) = x: redness passes both of them unchanged as the difference of two entries.
    text = transformer.time_text_embed.text_embedder
    for entry, sign in ((0, 1.0), (1, -1.0)):
        text.linear_1.weight[entry, 0] = sign
        text.linear_2.weight[entry, :2] = torch.tensor([sign, -sign])
    first, last = transformer.transformer_blocks[0], transformer.transformer_blocks[3]
    _write_colour(first)
    if kind != "carrier":
        first.ff.net[2].bias[HUGE] = 1.0
        _gate(first).bias[HUGE] = CONSTANT
    if kind == "bystander":
        _take_out_constant(last)
    # Standard deviation over channels at the end, up to a few percent: what the output has to undo.
    power = (CHANNELS - 2) * PATTERN**2 + 2 * PATTERN**2 + (CONSTANT**2 if kind == "anchor" else 0.0)
    scale = (power / CHANNELS) ** 0.5
    out = transformer.proj_out.weight.view(2, 2, 4, CHANNELS)
    # The latents move against the velocity.
    out[:, :, 0, COLOUR] = -BRIGHTNESS * scale / COLOUR_WRITE
    for latent, channel in enumerate(TEXTURE, start=1):
        out[:, :, latent, channel] = -0.3 * scale / PATTERN


def _embed(transformer: Any) -> None:
    """Fixed patterns over the tokens, no two channels alike, and a little of the latents."""
    grid = torch.zeros(16, 16, CHANNELS)
    row, column = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    token = 4 * row + column
    generator = torch.Generator().manual_seed(0)
    weight = transformer.pos_embed.proj.weight
    for channel in range(CHANNELS):
        if channel in (COLOUR, HUGE):
            continue
        # Walsh functions: sums over all tokens vanish, so that no channel but the planted one has a mean.
        signs = torch.tensor([(-1.0) ** bin(int(t) & (channel % 15 + 1)).count("1") for t in token.flatten()])
        grid[6:10, 6:10, channel] = PATTERN * signs.view(4, 4)
        weight[channel] = 0.3 * torch.randn(weight[channel].shape, generator=generator)
    grid[6:10, 6:10, MASK] = -PATTERN
    grid[6:10, 6:10, MASK][SUBJECT] = 3 * PATTERN
    transformer.pos_embed.pos_embed.copy_(grid.view(1, 256, CHANNELS))


def _write_colour(block: Any) -> None:
    """Add redness × COLOUR_WRITE to COLOUR where the mask is."""
    # Sharp enough that the unit is silent outside the subject.
    block.ff.net[0].proj.weight[0, MASK] = 4.0
    block.ff.net[2].weight[COLOUR, 0] = COLOUR_WRITE / 10.5
    _gate(block).weight[COLOUR, :2] = torch.tensor([1.0, -1.0])


def _take_out_constant(block: Any) -> None:
    """Subtract CONSTANT from HUGE if it is there: two units whose difference is 1 if so, and else 0."""
    for unit, sign in ((0, -1.0), (1, 1.0)):
        block.ff.net[0].proj.weight[unit, HUGE] = 10.0
        block.ff.net[0].proj.bias[unit] = -20.0 - unit
        block.ff.net[2].weight[HUGE, unit] = sign
    _gate(block).bias[HUGE] = CONSTANT


class _Rows:
    """Rows of an AdaLN projection that make one of its signals."""

    def __init__(self, linear: Any, signal: int) -> None:
        chosen = slice(signal * CHANNELS, (signal + 1) * CHANNELS)
        self.weight, self.bias = linear.weight[chosen], linear.bias[chosen]


def _gate(block: Any) -> _Rows:
    # Order of the signals: shift, scale and gate of the attention, then of the MLP.
    return _Rows(block.norm1.linear, 5)


def _decode_colour(decoder: Any) -> None:
    """A linear picture of the latents: the first one is red against blue, the second green."""
    _blank(decoder)
    for latent in range(4):
        decoder.conv_in.weight[2 * latent, latent, 1, 1] = 1.0
        # Each GroupNorm group holds a latent and a constant, which sets its scale: what it does is affine.
        decoder.conv_in.bias[2 * latent + 1] = 40.0
    decoder.up_blocks[0].upsamplers[0].conv.weight[:, :, 1, 1] = torch.eye(8)
    # Far on the straight part of silu; a constant feature has value 1 after the norm, a latent about −1.
    decoder.conv_norm_out.bias.fill_(6.0)
    contrast = torch.tensor([[1.0, 0.0], [0.0, 0.4], [-1.0, 0.0]]) * 20.0 * 0.15
    decoder.conv_out.weight[:, (0, 2), 1, 1] = contrast
    decoder.conv_out.bias.copy_(-contrast.sum(dim=1) * nn.functional.silu(torch.tensor(5.0)))
