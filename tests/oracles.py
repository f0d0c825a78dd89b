"""Independent executors: the same hook points read and edited with plain torch hooks on the plain pipeline.

The reads share no code with the package. AdaLN gates and MLP signals come from the tuple that the norm
returns, not from the linear layer inside it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import torch

from dit_lens.graph.site import Material
from dit_lens.model.sampling import denoise


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


# ------------------------------------------------------------------------------------ edits
# Where diffusers computes what, written down a second time. The edits' own arithmetic (`op.apply`) is the
# package's, and tested by itself.
_ZERO = ["shift_attn", "scale_attn", "gate_attn", "shift_mlp", "scale_mlp", "gate_mlp"]
_DUAL = [*_ZERO, "shift_attn2", "scale_attn2", "gate_attn2"]
_LAST_CONTEXT = ["scale_attn", "shift_attn"]


@contextmanager
def hooked(transformer, touches, norms=None):
    """Plain hooks: `touches` {address: tensor → tensor or None}; `norms` (stream, x, LN(x)) → tensor or None.

    Hooks of one module are registered in the order in which `touches` lists them.
    """
    handles = []
    blocks = transformer.transformer_blocks

    def replaced(old, new):
        return old if new is None else new

    def on_output(module, change):
        handles.append(module.register_forward_hook(lambda m, a, out: change(out)))

    def of_tuple(slot, touch):
        def change(out):
            return tuple(replaced(x, touch(x)) if i == slot else x for i, x in enumerate(out))

        return change

    def of_chunk(names, signal, touch):
        def change(out):
            parts = list(out.chunk(len(names), dim=1))
            i = names.index(signal)
            new = touch(parts[i])
            if new is None:
                return out
            parts[i] = new
            return torch.cat(parts, dim=1)

        return change

    def before_block(block, key, touch):
        def change(module, args, kwargs):
            return args, {**kwargs, key: replaced(kwargs[key], touch(kwargs[key]))}

        handles.append(block.register_forward_pre_hook(change, with_kwargs=True))

    for address, touch in touches.items():
        if address == "temb":
            on_output(transformer.time_text_embed, lambda out, t=touch: replaced(out, t(out)))
            continue
        if address == "velocity":
            on_output(transformer, of_tuple(0, touch))
            continue
        _, number, *component, stream = address.split(".")
        component, block = ".".join(component), blocks[int(number)]
        image = stream == "image"
        if component == "resid_pre":
            before_block(block, "hidden_states" if image else "encoder_hidden_states", touch)
        elif component == "resid_post":
            on_output(block, of_tuple(1 if image else 0, touch))
        elif component == "attn_out":
            on_output(block.attn, of_tuple(0 if image else 1, touch))
        elif component in ("attn2_out", "mlp_out"):
            module = block.attn2 if component == "attn2_out" else block.ff if image else block.ff_context
            on_output(module, lambda out, t=touch: replaced(out, t(out)))
        else:
            norm = block.norm1 if image else block.norm1_context
            names = _DUAL if image and block.attn2 is not None else _ZERO
            if not image and block.context_pre_only:
                names = _LAST_CONTEXT
            on_output(norm.linear, of_chunk(names, component.removeprefix("adaln."), touch))
    if norms is not None:
        modules = [("image", transformer.norm_out.norm)]
        for block in blocks:
            modules += [("image", block.norm1.norm), ("image", block.norm2)]
            modules += [("context", block.norm1_context.norm), ("context", block.norm2_context)]
        for stream, module in modules:
            if module is not None:
                handles.append(
                    module.register_forward_hook(
                        lambda m, args, out, s=stream: replaced(out, norms(s, args[0], out))
                    )
                )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layer_norm_as_before(x, removed):
    """LayerNorm of x with the statistics of x + removed; the pipeline's norms have no weights."""
    whole = x + removed
    mean = whole.mean(-1, keepdim=True)
    variance = whole.var(-1, unbiased=False, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-6)


class _Editing:
    """Edits of the rows of one forward, with what each leaves for the LayerNorms behind it."""

    def __init__(self, material):
        self.material, self.removed, self.added, self.owed = material, {}, {}, {}

    def apply(self, edits, row, step, branch, point, tensor):
        """One row's value after its edits, in order."""
        shape = tensor.shape
        x = tensor.flatten(2).transpose(1, 2) if point.component == "velocity" else tensor
        for edit in edits:
            site, op = edit.sites[point]
            given, key = self.material(edit, row, step, branch, point), None
            if op.op in ("energy_matched", "patch_matched") and point.component.startswith("resid"):
                key = (row, step, branch, edit.index, point.stream)
                given = replace(given, displaced=self.added.get(key), owed=self.owed.get(key))
            new = op.apply(x, site, given)
            if key and op.op == "patch_matched":
                self.owed[key] = self._owed(op, site, x, given)
            if key:
                self.added[key] = self.added.get(key, 0) + (new - x)
            if op.ln_preserving and not torch.equal(new, x):
                key = (row, branch, point.stream)
                self.removed[key] = self.removed.get(key, 0) + (x - new)
            x = new
        return x.transpose(1, 2).reshape(shape) if point.component == "velocity" else x

    @staticmethod
    def _owed(op, site, x, given):
        """What a patch of the treatment's channels would have added by now, had it run instead."""
        tokens = list(range(x.shape[1])) if site.tokens is None else list(site.tokens)
        where = torch.tensor(tokens)[:, None], torch.tensor(op.treatment_channels)
        owed = torch.zeros_like(x) if given.owed is None else given.owed.clone()
        added = 0 if given.displaced is None else given.displaced
        apart = (given.source - (x - added))[:, where[0], where[1]]
        mean = apart.mean(1, keepdim=True)
        apart = {"all": apart, "mean": mean, "residual": apart - mean}[op.part]
        before = owed[:, where[0], where[1]]
        owed[:, where[0], where[1]] = before + op.strength * (apart - before)
        return owed


def edit_with_hooks(pipeline, graph, material=None, draw=None):
    """Run a checked graph without any reuse: every trajectory alone, from noise, through the plain pipeline.

    Returns ({id: latents [steps + 1 without the noise, C, h, w]}, {(id, step, branch, address): value}) with
    every value that some edit or read touches. `material` serves measured edits, `draw` random ones.
    """
    branches = graph.branches
    steps, guidance = graph.sampling.steps, graph.sampling.guidance_scale
    points = {p for e in graph.edits for p in e.sites} | {p for r in graph.reads for p in r.sites}
    ordered = sorted(points, key=lambda p: p.forward_key)
    values, paths = {}, {}

    def go(name, prompt, seed, edits):
        now, path = {"step": 0}, []

        def supply(edit, row, step, branch, point):
            op, found = edit.sites[point][1], {}
            if edit.source is not None:
                source = graph.trajectories[edit.source].id
                found["source"] = _as_tokens(point, values[source, step, branch, str(point)])
            elif material is not None and op.needs & {"source", "quantiles"}:
                return material(edit, step, branch, point)
            if "generator" in op.needs:
                found["generator"] = draw(prompt, seed, step, point)
            return Material(**found)

        editing = _Editing(supply)

        def touch_at(point):
            def touch(tensor):
                step, new = now["step"], []
                for branch, x in zip(branches, tensor.split(1), strict=True):
                    here = [e for e in edits if point in e.sites and step in e.steps and branch in e.branches]
                    x = editing.apply(here, name, step, branch, point, x)
                    values[name, step, branch, str(point)] = x.clone()
                    new.append(x)
                return torch.cat(new)

            return touch

        def norm(stream, x, normed):
            new = normed.clone()
            for i, branch in enumerate(branches):
                if (name, branch, stream) in editing.removed:
                    new[i : i + 1] = layer_norm_as_before(x[i : i + 1], editing.removed[name, branch, stream])
            return new

        def next_step(pipe, step, timestep, kwargs):
            now["step"] = step + 1
            editing.removed.clear()
            path.append(kwargs["latents"].clone())
            return kwargs

        preserving = any(op.ln_preserving for e in edits for _, op in e.sites.values())
        with hooked(
            pipeline.transformer, {str(p): touch_at(p) for p in ordered}, norm if preserving else None
        ):
            pipeline_call(
                pipeline, [prompt], [seed], steps=steps, guidance=guidance, callback_on_step_end=next_step
            )
        paths[name] = torch.cat(path)

    for pair in dict.fromkeys((t.prompt, t.seed) for t in graph.trajectories):
        go(pair, *pair, [])
    waiting = dict(enumerate(graph.trajectories))
    while waiting:
        for i, each in list(waiting.items()):
            edits = sorted((e for e in graph.edits if e.into == i), key=lambda e: (e.order, e.index))
            if not any(e.source in waiting for e in edits):
                go(each.id, each.prompt, each.seed, edits)
                del waiting[i]
    return paths, values


def _as_tokens(point, tensor):
    return tensor.flatten(2).transpose(1, 2) if point.component == "velocity" else tensor


def batching_changes_bits(lens):
    """Whether rows of a plain forward have other last bits in company: so it is on most processors, not on
    all.
    """
    batch = lens.prepare(["a red circle", "blue"], [0, 3], lens.sampling(steps=1, max_sequence_length=0))
    transformer, seen = lens.pipeline.transformer, []

    def forward(step, inputs):
        together = transformer(**inputs, return_dict=False)[0]
        for row in range(batch.rows):
            of_row = [batch.branch_rows(branch).start + row for branch in batch.branches]
            alone = {k: v if v is None else v[of_row] for k, v in inputs.items()}
            seen.append(not torch.equal(transformer(**alone, return_dict=False)[0], together[of_row]))
        return together

    with torch.no_grad():
        denoise(batch, forward)
    return any(seen)
