"""A random segmentation model of a few hundred weights: the architecture without the training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def save_segmenter(folder: Path, labels: Mapping[int, str], size: int = 48) -> str:
    """Write one that tells these labels apart to a folder, as transformers loads it; returns its path."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
        id2label=dict(labels),
        label2id={name: number for number, name in labels.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)
    return str(folder)
