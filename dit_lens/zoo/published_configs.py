"""Configurations of the published SD3 pipelines: real models, built without their weights.

As in the `config.json` files of stabilityai/stable-diffusion-3-medium-diffusers, -3.5-medium and -3.5-large,
which differ in their transformers alone: text encoders and autoencoder have equal configurations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel
    from torch import nn

_SHARED: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "sd3-medium": {
        **_SHARED,
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
        "dual_attention_layers": (),
        "qk_norm": None,
    },
    "sd3.5-medium": {
        **_SHARED,
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)),
        "qk_norm": "rms_norm",
    },
    "sd3.5-large": {
        **_SHARED,
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "pos_embed_max_size": 192,
        "dual_attention_layers": (),
        "qk_norm": "rms_norm",
    },
}


def meta_transformer(name: str) -> SD3Transformer2DModel:
    """The published transformer on the meta device: real shapes, no memory, no values.

    >>> meta_transformer("sd3-medium").inner_dim
    1536
    """
    import torch
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        return SD3Transformer2DModel(**PUBLISHED[name]).eval()


def meta_surroundings() -> dict[str, nn.Module]:
    """What stands around each of the transformers, by its name in the pipeline, on the meta device.

    The autoencoder, CLIP-L (`text_encoder`), OpenCLIP bigG (`text_encoder_2`) and T5-XXL (`text_encoder_3`).
    """
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    def clip(width: int, layers: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            projection_dim=width,
        )

    t5 = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch.device("meta"):
        return {
            "text_encoder": CLIPTextModelWithProjection(clip(768, 12)),
            "text_encoder_2": CLIPTextModelWithProjection(clip(1280, 32)),
            "text_encoder_3": T5EncoderModel(t5),
            "vae": AutoencoderKL(
                latent_channels=16,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
        }
