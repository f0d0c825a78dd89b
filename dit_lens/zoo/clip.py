"""Stages 1 and 2: a small CLIP for the shapes world, text towers first.

SD3 conditions on two different CLIPs, so there are two text towers. They learn to place a caption at the sum
of fixed orthonormal codes of the attribute values that it names. The image tower is then trained
contrastively against the frozen first text tower (locked tuning, 2111.07991, with the roles swapped).
Training all three from scratch against one another sat on a plateau for 800 steps: position and shape stayed
at chance, because a word moves only once the picture does.

The image tower and the first text tower ship as the scorer; the two text towers become the pipeline's
`text_encoder` and `text_encoder_2`.
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
    """The architecture of the image side."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=8,
        projection_dim=PROJECTION,
    )


def attribute_codes() -> Tensor:
    """Orthonormal codes of the 29 attribute values, float32 [29, 64]: where text towers place each."""
    generator = torch.Generator().manual_seed(29)
    count = sum(len(values) for values in ATTRIBUTES.values())
    square = torch.randn(PROJECTION, PROJECTION, generator=generator)
    return torch.linalg.qr(square).Q[:count].contiguous()


class TextTowers(nn.Module):
    """The two text encoders of the pipeline."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.first = CLIPTextModelWithProjection(text_config(tokenizer, layers=3, activation="quick_gelu"))
        self.second = CLIPTextModelWithProjection(text_config(tokenizer, layers=4, activation="gelu"))


class TextStep:
    """1 − cosine between each tower's caption embedding and the normalised sum of the codes that it names."""

    def __init__(
        self, towers: TextTowers, tokenizer: CLIPTokenizer, pool: Pool, batch: int, device: str
    ) -> None:
        self.towers, self.tokenizer, self.pool, self.batch, self.device = (
            towers,
            tokenizer,
            pool,
            batch,
            device,
        )
        self.codes = attribute_codes().to(device)
        sizes = [len(values) for values in ATTRIBUTES.values()]
        self.offsets = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.pool), (self.batch,), generator=generator)
        captions, named = captions_of(self.pool, rows, generator, partial=0.5)
        codes = self.codes[(self.pool.labels[rows] + self.offsets).to(self.device)]
        target = F.normalize((codes * named.to(self.device)[..., None]).sum(1), dim=-1)
        ids = tokenise(self.tokenizer, captions).to(self.device)
        embeds = [tower(ids).text_embeds.float() for tower in (self.towers.first, self.towers.second)]
        return torch.stack([(1 - F.cosine_similarity(e, target)).mean() for e in embeds]).mean()


def build_clip(first: CLIPTextModelWithProjection) -> CLIPModel:
    """The scorer: a new image tower beside the trained, frozen first text tower."""
    config = CLIPConfig(
        text_config=first.config.to_dict(), vision_config=vision_config().to_dict(), projection_dim=PROJECTION
    )
    clip = CLIPModel(config)
    clip.text_model.load_state_dict(first.text_model.state_dict())
    clip.text_projection.load_state_dict(first.text_projection.state_dict())
    clip.text_model.requires_grad_(False)
    clip.text_projection.requires_grad_(False)
    embeddings = clip.vision_model.embeddings
    # CLIP's default deviation of 0.02 suits millions of pictures; here a patch's place must matter at once.
    nn.init.normal_(embeddings.position_embedding.weight, std=0.5)
    nn.init.xavier_uniform_(
        embeddings.patch_embedding.weight.view(embeddings.patch_embedding.out_channels, -1)
    )
    return clip


def encode_text(clip: CLIPModel, ids: Tensor) -> Tensor:
    """Unit vectors, float32 [n, 64]."""
    return F.normalize(clip.text_projection(clip.text_model(input_ids=ids).pooler_output).float(), dim=-1)


def encode_image(clip: CLIPModel, pixels: Tensor) -> Tensor:
    """Unit vectors, float32 [n, 64], from pixels in [-1, 1]."""
    return F.normalize(
        clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output).float(), dim=-1
    )


def attribute_prompts() -> list[tuple[str, list[str]]]:
    """(attribute, one prompt per value), e.g. ("colour", ["a red shape", …])."""
    return [(name, [partial_caption(**{name: v}) for v in values]) for name, values in ATTRIBUTES.items()]


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids [n, 20], padded as the pipeline pads."""
    ids: Tensor = tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def captions_of(
    pool: Pool, rows: Tensor, generator: torch.Generator, *, partial: float
) -> tuple[list[str], Tensor]:
    """Captions of some rows and which attributes each names, bool [n, 6]."""
    pairs = [caption_of(pool.scenes[r], generator, partial=partial) for r in rows.tolist()]
    return [caption for caption, _ in pairs], torch.tensor([named for _, named in pairs])


class ContrastiveStep:
    """Contrastive loss of the image tower against the frozen text tower.

    Captions match every picture that agrees with what they say, so the targets are spread over all matching
    rows, and single-attribute prompts ("a striped shape") compete within their attribute.
    """

    def __init__(
        self, clip: CLIPModel, tokenizer: CLIPTokenizer, pool: Pool, batch: int, device: str
    ) -> None:
        self.clip, self.tokenizer, self.pool, self.batch, self.device = clip, tokenizer, pool, batch, device
        groups = attribute_prompts()
        self.sizes = [len(prompts) for _, prompts in groups]
        ids = tokenise(tokenizer, [p for _, prompts in groups for p in prompts]).to(device)
        with torch.no_grad():
            self.prompts = encode_text(clip, ids)

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.pool), (self.batch,), generator=generator)
        pixels = _augment(self.pool.pixels(rows), generator).to(self.device)
        labels = self.pool.labels[rows].to(self.device)
        captions, named = captions_of(self.pool, rows, generator, partial=0.3)
        with torch.no_grad():
            text = encode_text(self.clip, tokenise(self.tokenizer, captions).to(self.device))
        image = encode_image(self.clip, pixels)
        scale = self.clip.logit_scale.exp().clamp(max=100)
        # A caption matches a picture if every attribute that it names agrees.
        agree = (labels[None] == labels[:, None]) | ~named.to(self.device)[:, None]
        match = agree.all(-1).float()
        logits = scale * text @ image.T
        contrast = (_soft_cross_entropy(logits, match) + _soft_cross_entropy(logits.T, match.T)) / 2
        scores = (scale * image @ self.prompts.T).split(self.sizes, dim=1)
        by_attribute = torch.stack([F.cross_entropy(s, labels[:, i]) for i, s in enumerate(scores)])
        return contrast + by_attribute.sum()


def _soft_cross_entropy(logits: Tensor, match: Tensor) -> Tensor:
    return F.cross_entropy(logits, match / match.sum(1, keepdim=True))


def _augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, a little blur and noise: the read-out will judge generated pictures as well."""
    n = len(pixels)
    gain = 1 + 0.06 * torch.randn(n, 1, 1, 1, generator=generator)
    shift = 0.06 * torch.randn(n, 3, 1, 1, generator=generator)
    softness = 0.35 * torch.rand(n, 1, 1, 1, generator=generator)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = (
        0.08 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(pixels.shape, generator=generator)
    )
    return (pixels + softness * (blurred - pixels)) * gain + shift + noise
