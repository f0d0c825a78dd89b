"""Configurations of the published SD3 transformers: real models, built without their weights.

As in `transformer/config.json` of stabilityai/stable-diffusion-3-medium-diffusers, -3.5-medium and
-3.5-large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

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
