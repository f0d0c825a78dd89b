"""Stage 1: a small CLIP trained on the shapes world.

One image tower, two text towers (SD3 conditions on two different CLIPs). The image tower with the first text
tower ships as the scorer; the two text towers become the pipeline's `text_encoder` and `text_encoder_2`.

Captions match every picture that agrees with what they say, so the contrastive targets are spread over all
matching rows, and single-attribute prompts ("a striped shape") compete within their attribute.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from dit_lens.zoo.scenes import ATTRIBUTES, IMAGE_SIZE, partial_caption
from dit_lens.zoo.world_data import Pool, caption_of

PROJECTION = 64


def text_config(tokenizer: CLIPTokenizer, *, layers: int, activation: str) -> CLIPTextConfig:
    """A text tower of width 64; the ids are explicit because pooling looks for the end token."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act=activation,
        projection_dim=PROJECTION,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=6,
        projection_dim=PROJECTION,
    )


class TwinTextClip(nn.Module):
    """The scorer (image tower, first text tower) and the second text tower, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        first = text_config(tokenizer, layers=3, activation="quick_gelu")
        self.clip = CLIPModel(
            CLIPConfig(text_config=first.to_dict(), vision_config=vision_config().to_dict(), projection_dim=PROJECTION)
        )
        self.second = CLIPTextModelWithProjection(text_config(tokenizer, layers=4, activation="gelu"))

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised [n, 64] from each tower."""
        pooled = self.clip.text_model(input_ids=ids).pooler_output
        one = self.clip.text_projection(pooled)
        two = self.second(input_ids=ids).text_embeds
        return F.normalize(one.float(), dim=-1), F.normalize(two.float(), dim=-1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        pooled = self.clip.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def first_text_encoder(self) -> CLIPTextModelWithProjection:
        """The scorer's text tower as the module that SD3's pipeline expects, same weights."""
        encoder = CLIPTextModelWithProjection(self.clip.config.text_config)
        encoder.text_model.load_state_dict(self.clip.text_model.state_dict())
        encoder.text_projection.load_state_dict(self.clip.text_projection.state_dict())
        return encoder.eval()


def attribute_prompts() -> list[tuple[str, list[str]]]:
    """(attribute, one prompt per value), e.g. ("colour", ["a red shape", …])."""
    return [(name, [partial_caption(**{name: v}) for v in values]) for name, values in ATTRIBUTES.items()]


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids [n, 20], padded as the pipeline pads."""
    ids: Tensor = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


class ContrastiveStep:
    """Loss of one step; holds the pool and the tokenised prompts."""

    def __init__(self, model: TwinTextClip, tokenizer: CLIPTokenizer, pool: Pool, batch: int, device: str) -> None:
        self.model, self.tokenizer, self.pool, self.batch, self.device = model, tokenizer, pool, batch, device
        groups = attribute_prompts()
        self.sizes = [len(prompts) for _, prompts in groups]
        self.prompt_ids = tokenise(tokenizer, [p for _, prompts in groups for p in prompts]).to(device)

    def __call__(self, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.pool), (self.batch,), generator=generator)
        pixels = _augment(self.pool.pixels(rows), generator).to(self.device)
        labels = self.pool.labels[rows].to(self.device)
        captions, named = zip(
            *(caption_of(self.pool.scenes[r], generator, partial=0.3) for r in rows.tolist()), strict=True
        )
        image = self.model.encode_image(pixels)
        ids = tokenise(self.tokenizer, list(captions)).to(self.device)
        texts = self.model.encode_text(torch.cat([ids, self.prompt_ids]))
        scale = self.model.clip.logit_scale.exp().clamp(max=100)
        # A caption matches a picture if every attribute that it names agrees.
        agree = (labels[None] == labels[:, None]) | ~torch.tensor(named, device=self.device)[:, None]
        match = agree.all(-1).float()
        loss = torch.zeros((), device=self.device)
        for text in texts:
            logits = scale * text[: self.batch] @ image.T
            loss = loss + _soft_cross_entropy(logits, match) + _soft_cross_entropy(logits.T, match.T)
            scores = (scale * image @ text[self.batch :].T).split(self.sizes, dim=1)
            loss = loss + 2 * sum(F.cross_entropy(s, labels[:, i]) for i, s in enumerate(scores)) / len(scores)
        return loss / 4


def _soft_cross_entropy(logits: Tensor, match: Tensor) -> Tensor:
    return F.cross_entropy(logits, match / match.sum(1, keepdim=True))


def _augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, a little blur and noise: the read-out will judge generated pictures, not only rendered ones."""
    n = len(pixels)
    gain = 1 + 0.06 * torch.randn(n, 1, 1, 1, generator=generator)
    shift = 0.06 * torch.randn(n, 3, 1, 1, generator=generator)
    softness = 0.35 * torch.rand(n, 1, 1, 1, generator=generator)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = 0.08 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(pixels.shape, generator=generator)
    return (pixels + softness * (blurred - pixels)) * gain + shift + noise
