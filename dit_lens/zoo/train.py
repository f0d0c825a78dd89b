"""Retrain the embedded SD3 from nothing: `python -m dit_lens.zoo.train`.

Four stages (text towers, autoencoder, transformer, the scorer's image tower), each resumable from its
checkpoint in `--work`; then the pipeline and the scorer are written to `--out` as ordinary diffusers /
transformers folders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from transformers import CLIPModel

from dit_lens.errors import BadInput, DitLensError
from dit_lens.zoo.autoencoder import AutoencoderStep, build_autoencoder, encode_pool, normalise
from dit_lens.zoo.clip import ContrastiveStep, TextStep, TextTowers, build_clip
from dit_lens.zoo.diffusion import FlowMatchingStep, TextEncoders, build_transformer
from dit_lens.zoo.loop import Fitted, fit
from dit_lens.zoo.recipes import ZooRecipe
from dit_lens.zoo.tokenizer import build_tokenizer
from dit_lens.zoo.world_data import build_pool

SAMPLING = {"steps": 20, "guidance_scale": 4.5, "max_sequence_length": 0}
"""Sampling defaults written beside the pipeline; 0 leaves out the zero tokens of the absent T5."""
SCHEDULER_SHIFT = 3.0

_console = Console(stderr=True)


def train(recipe: ZooRecipe, work: Path, out: Path, *, device: str, precision: str) -> list[Fitted]:
    """Run every stage (finished ones are read back from `work`) and write both folders under `out`."""
    _console.print(f"rendering {recipe.pool:,} scenes")
    pool = build_pool(recipe.pool, recipe.pool_seed)
    tokenizer = build_tokenizer()

    # The contrastive stages are small and sensitive: always float32.
    torch.manual_seed(recipe.text.seed)
    towers = TextTowers(tokenizer).to(device)
    text_step = TextStep(towers, tokenizer, pool, recipe.text.batch, device)
    fitted = [fit("text", towers, text_step, recipe.text, work, device=device)]

    torch.manual_seed(recipe.autoencoder.seed)
    vae = build_autoencoder().to(device)
    vae_step = AutoencoderStep(vae, pool, recipe.autoencoder.batch, device)
    fitted.append(
        fit("autoencoder", vae, vae_step, recipe.autoencoder, work, device=device, precision=precision)
    )
    latents = encode_pool(vae, pool, device)
    normalise(vae, latents)
    latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor

    torch.manual_seed(recipe.transformer.seed)
    transformer = build_transformer().to(device)
    encoders = TextEncoders(towers.first, towers.second, tokenizer)
    first, second = recipe.transformer, recipe.refinement
    step = FlowMatchingStep(transformer, latents, pool, encoders, recipe, device)
    until = recipe.transformer_until
    fitted.append(
        fit(
            "transformer",
            transformer,
            step,
            first,
            work,
            device=device,
            precision=precision,
            stop_after=until,
        )
    )
    step = FlowMatchingStep(transformer, latents, pool, encoders, recipe, device, earlier_steps=until)
    fitted.append(fit("refinement", transformer, step, second, work, device=device, precision=precision))

    torch.manual_seed(recipe.clip.seed)
    clip = build_clip(towers.first).to(device)
    clip_step = ContrastiveStep(clip, tokenizer, pool, recipe.clip.batch, device)
    fitted.append(fit("clip", clip, clip_step, recipe.clip, work, device=device))

    write_folders(out, transformer, vae, encoders, clip)
    return fitted


def write_folders(out: Path, transformer, vae, encoders: TextEncoders, clip: CLIPModel) -> None:  # type: ignore[no-untyped-def]
    """Save the pipeline as `out/shapes-sd3` and the scorer as `out/shapes-clip`, safetensors only."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
    from transformers import CLIPImageProcessorPil

    pipeline = StableDiffusion3Pipeline(
        transformer=transformer.cpu(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SCHEDULER_SHIFT),
        vae=vae.cpu(),
        text_encoder=encoders.first.cpu(),
        tokenizer=encoders.tokenizer,
        text_encoder_2=encoders.second.cpu(),
        tokenizer_2=encoders.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    folder = out / "shapes-sd3"
    pipeline.save_pretrained(folder)
    (folder / "dit_lens.json").write_text(json.dumps({"sampling": SAMPLING}, indent=2) + "\n")
    scorer = out / "shapes-clip"
    clip.cpu().save_pretrained(scorer)
    encoders.tokenizer.save_pretrained(scorer)
    size = clip.config.vision_config.image_size
    CLIPImageProcessorPil(
        size={"height": size, "width": size},
        do_center_crop=False,
        do_resize=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(scorer)


def main(
    out: Annotated[Path, typer.Option(help="Folder that receives shapes-sd3/ and shapes-clip/.")] = Path(
        "zoo_out"
    ),
    work: Annotated[Path, typer.Option(help="Checkpoints; a second run continues from them.")] = Path(
        "zoo_work"
    ),
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or bf16 autocast; default bf16 on CUDA.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for torch.")] = None,
    miniature: Annotated[
        bool, typer.Option(help="Half a minute that proves the path, not the model.")
    ] = False,
) -> None:
    """Train the small SD3 that ships with dit_lens, from nothing, on one machine.

    Example: python -m dit_lens.zoo.train --out zoo_out --work zoo_work --precision bf16
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision or ("bf16" if device.startswith("cuda") else "fp32")
    try:
        if precision not in ("fp32", "bf16"):
            raise BadInput(f"--precision {precision!r}: there are fp32 and bf16.")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BadInput(f"--device {device}: torch sees no CUDA device here. Use --device cpu.")
        if threads is not None:
            torch.set_num_threads(threads)
        recipe = ZooRecipe().miniature() if miniature else ZooRecipe()
        fitted = train(recipe, work, out, device=device, precision=precision)
    except DitLensError as error:
        _console.print(f"[red]error[/red] {error}")
        raise typer.Exit(error.exit_status) from None
    (out / "training.json").write_text(json.dumps([f.as_dict() for f in fitted], indent=1) + "\n")
    print(out / "shapes-sd3")


if __name__ == "__main__":
    typer.run(main)
