"""Tiny SD3 and SD3.5 pipelines with random weights: the architecture without the training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_lens.zoo.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

KINDS = ("sd3", "sd3.5")

_TRANSFORMER: dict[str, dict[str, Any]] = {
    "sd3": {"dual_attention_layers": (), "qk_norm": None},
    # Dual attention in the first blocks only, as in SD3.5-medium.
    "sd3.5": {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"},
}


def random_pipeline(kind: str = "sd3", seed: int = 0) -> StableDiffusion3Pipeline:
    """A complete pipeline: 4 blocks, 32 channels, 4 × 4 image tokens, 16 × 16 px, no T5.

    The same seed gives the same weights. torch's global random state is left as it was.

    >>> random_pipeline("sd3.5").transformer.config.qk_norm
    'rms_norm'
    """
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    if kind not in _TRANSFORMER:
        raise ValueError(f"No random pipeline of kind {kind!r}; there are {', '.join(KINDS)}.")
    tokenizers = [build_tokenizer(), build_tokenizer()]
    vocabulary = tokenizers[0].get_vocab()
    end = vocabulary["<|endoftext|>"]
    text_config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizers[0].model_max_length,
        projection_dim=16,
        # Pooling looks for the end token, so the ids must be those of this vocabulary.
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            pos_embed_max_size=16,
            **_TRANSFORMER[kind],
        )
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        encoders = [CLIPTextModelWithProjection(text_config) for _ in range(2)]
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=encoders[0].eval(),
        text_encoder_2=encoders[1].eval(),
        text_encoder_3=None,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
