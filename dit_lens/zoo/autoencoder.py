"""Stage 2: the AutoencoderKL between 48 × 48 × 3 pixels and 24 × 24 × 8 latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from dit_lens.zoo.scenes import IMAGE_SIZE
from dit_lens.zoo.world_data import Pool

LATENT_CHANNELS = 8
KL_WEIGHT = 2e-3


def build_autoencoder() -> AutoencoderKL:
    """SD3's autoencoder layout (no quant convolutions) with one downsampling instead of three."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


class AutoencoderStep:
    """L1 reconstruction plus a small KL term on a random batch of the pool."""

    def __init__(self, vae: AutoencoderKL, pool: Pool, batch: int, device: str) -> None:
        self.vae, self.pool, self.batch, self.device = vae, pool, batch, device

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.pool), (self.batch,), generator=generator)
        pixels = self.pool.pixels(rows).to(self.device)
        posterior = self.vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        return F.l1_loss(decoded.float(), pixels) + F.mse_loss(decoded.float(), pixels) + KL_WEIGHT * kl


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, pool: Pool, device: str, *, batch: int = 256) -> Tensor:
    """Posterior means of all pictures, float32 [n, 8, 24, 24] on the CPU, before scaling."""
    chunks = [
        vae.encode(pool.pixels(rows).to(device)).latent_dist.mean.float().cpu()
        for rows in torch.arange(len(pool)).split(batch)
    ]
    return torch.cat(chunks)


def normalise(vae: AutoencoderKL, latents: Tensor) -> None:
    """Store shift and scale in the config, so that the pipeline's latents have mean 0 and deviation 1."""
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
