"""An independent executor: the same hook points read with plain torch hooks from the plain pipeline.

Shares no code with the package. AdaLN gates and MLP signals come from the tuple that the norm returns,
not from the linear layer inside it.
"""

from __future__ import annotations

import torch


def pipeline_call(pipeline, prompts, seeds, *, steps, guidance, tokens=0, **more):
    """The plain pipeline on rows given one by one, with noise from one CPU generator per row."""
    return pipeline(
        prompt=list(prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        max_sequence_length=tokens,
        **{"output_type": "latent", **more},
    ).images


def read_with_hooks(pipeline, prompts, seeds, *, steps, guidance):
    """All activations of a run: ({(step, branch, address): tensor}, final latents)."""
    transformer = pipeline.transformer
    branches = ("uncond", "cond") if guidance > 1 else ("cond",)
    found: dict[tuple[int, str, str], torch.Tensor] = {}
    now = {"step": 0}
    handles = []

    def keep(address, tensor):
        for branch, rows in zip(branches, tensor.chunk(len(branches)), strict=True):
            found[now["step"], branch, address] = rows.clone()

    def on_input(module, read):
        handles.append(module.register_forward_pre_hook(lambda m, a, k: read(k), with_kwargs=True))

    def on_output(module, read):
        handles.append(module.register_forward_hook(lambda m, a, output: read(output)))

    on_output(transformer.time_text_embed, lambda out: keep("temb", out))
    on_output(transformer, lambda out: keep("velocity", out[0]))
    last = len(transformer.transformer_blocks) - 1
    for i, block in enumerate(transformer.transformer_blocks):

        def block_in(kwargs, i=i):
            keep(f"blocks.{i}.resid_pre.image", kwargs["hidden_states"])
            keep(f"blocks.{i}.resid_pre.context", kwargs["encoder_hidden_states"])

        def block_out(out, i=i):
            context, image = out
            keep(f"blocks.{i}.resid_post.image", image)
            if i < last:
                keep(f"blocks.{i}.resid_post.context", context)

        def attn_out(out, i=i):
            image, context = out
            keep(f"blocks.{i}.attn_out.image", image)
            if i < last:
                keep(f"blocks.{i}.attn_out.context", context)

        def norm_out(out, i=i, stream="image"):
            names = ["gate_attn", "shift_mlp", "scale_mlp", "gate_mlp"]
            for name, value in zip(names, out[1:5], strict=True):
                keep(f"blocks.{i}.adaln.{name}.{stream}", value)
            if len(out) == 7:
                keep(f"blocks.{i}.adaln.gate_attn2.{stream}", out[6])

        on_input(block, block_in)
        on_output(block, block_out)
        on_output(block.attn, attn_out)
        on_output(block.norm1, norm_out)
        on_output(block.ff, lambda out, i=i: keep(f"blocks.{i}.mlp_out.image", out))
        if block.attn2 is not None:
            on_output(block.attn2, lambda out, i=i: keep(f"blocks.{i}.attn2_out.image", out))
        if i < last:
            on_output(block.norm1_context, lambda out, i=i: norm_out(out, i, "context"))
            on_output(block.ff_context, lambda out, i=i: keep(f"blocks.{i}.mlp_out.context", out))

    def next_step(pipe, step, timestep, values):
        now["step"] = step + 1
        return values

    try:
        latents = pipeline_call(
            pipeline, prompts, seeds, steps=steps, guidance=guidance, callback_on_step_end=next_step
        )
    finally:
        for handle in handles:
            handle.remove()
    return found, latents
