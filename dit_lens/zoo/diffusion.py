"""Stage 3: the SD3 transformer itself, trained by flow matching on the autoencoder's latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from dit_lens.zoo.autoencoder import LATENT_CHANNELS
from dit_lens.zoo.clip import PROJECTION, tokenise
from dit_lens.zoo.recipes import ZooRecipe
from dit_lens.zoo.world_data import Pool, caption_of

BLOCKS, HEADS, HEAD_WIDTH = 8, 4, 32
T5_LENGTH = 256
"""Zero tokens that diffusers appends by default when there is no T5."""
TIMESTEPS = 1000


SIGNATURE = {
    "sample_size": 24,
    "patch_size": 2,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_layers": BLOCKS,
    "attention_head_dim": HEAD_WIDTH,
    "num_attention_heads": HEADS,
    "joint_attention_dim": 2 * 64,
    "caption_projection_dim": HEADS * HEAD_WIDTH,
    "pooled_projection_dim": 2 * PROJECTION,
    "pos_embed_max_size": 24,
}
"""The transformer's configuration: SD3-medium's architecture at 8 blocks × 128 channels."""


def build_transformer() -> SD3Transformer2DModel:
    """The untrained transformer, AdaLN-zero initialised (2212.09748)."""
    model = SD3Transformer2DModel(**SIGNATURE)
    for block in model.transformer_blocks:
        _zero(block.norm1.linear)
        _zero(block.norm1_context.linear)
    _zero(model.norm_out.linear)
    _zero(model.proj_out)
    return model


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


@dataclass(frozen=True)
class TextEncoders:
    """The pipeline's two frozen text towers and their tokenizer."""

    first: CLIPTextModelWithProjection
    second: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer

    @torch.no_grad()
    def __call__(self, captions: list[str], device: str) -> tuple[Tensor, Tensor]:
        """(tokens [n, 20, 128], pooled [n, 128]) as `encode_prompt` builds them, without T5 padding."""
        ids = tokenise(self.tokenizer, captions).to(device)
        outs = [encoder(ids, output_hidden_states=True) for encoder in (self.first, self.second)]
        tokens = torch.cat([o.hidden_states[-2] for o in outs], dim=-1)
        pooled = torch.cat([o.text_embeds for o in outs], dim=-1)
        return tokens, pooled


class FlowMatchingStep:
    """Rectified-flow loss (2403.03206): predict noise − latents at a logit-normal sigma."""

    def __init__(
        self,
        model: SD3Transformer2DModel,
        latents: Tensor,
        pool: Pool,
        encoders: TextEncoders,
        recipe: ZooRecipe,
        device: str,
        *,
        earlier_steps: int = 0,
    ) -> None:
        self.model, self.latents, self.pool, self.encoders = model, latents.to(device), pool, encoders
        self.recipe, self.device, self.earlier_steps = recipe, device, earlier_steps

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        batch = self.recipe.transformer.batch
        rows = torch.randint(len(self.pool), (batch,), generator=generator)
        tokens, pooled = self.encoders(self._captions(rows, generator), self.device)
        if torch.rand((), generator=generator) < self.recipe.padded_batches:
            tokens = torch.cat([tokens, tokens.new_zeros(batch, T5_LENGTH, tokens.shape[-1])], dim=1)
        sigma = self._sigma(step, batch, generator).to(self.device)
        noise = torch.randn(batch, *self.latents.shape[1:], generator=generator).to(self.device)
        clean = self.latents[rows.to(self.device)]
        mix = sigma.view(-1, 1, 1, 1)
        noisy = (1 - mix) * clean + mix * noise
        velocity = self.model(
            hidden_states=noisy,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=sigma * TIMESTEPS,
            return_dict=False,
        )[0]
        return (velocity.float() - (noise - clean)).pow(2).mean()

    def _sigma(self, step: int, batch: int, generator: torch.Generator) -> Tensor:
        """Logit-normal noise levels, later shifted upwards.

        Flat pictures are so redundant that their layout is decided at sigmas of 0.8 to 0.95, which the plain
        distribution hardly visits; SD3 shifts for the same reason at high resolution (2403.03206, 5.3.2).
        """
        sigma = torch.sigmoid(torch.randn(batch, generator=generator))
        late = step + self.earlier_steps >= self.recipe.noise_shift_from
        shift = self.recipe.noise_shift if late else 1.0
        return shift * sigma / (1 + (shift - 1) * sigma)

    def _captions(self, rows: Tensor, generator: torch.Generator) -> list[str]:
        partial, drop = self.recipe.partial_captions, self.recipe.caption_drop
        captions = [caption_of(self.pool.scenes[r], generator, partial=partial)[0] for r in rows.tolist()]
        dropped = (torch.rand(len(captions), generator=generator) < drop).tolist()
        return ["" if d else c for c, d in zip(captions, dropped, strict=True)]
