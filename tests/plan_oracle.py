"""An independent executor of plans: the same rows in the same forwards, with plain torch hooks."""

from __future__ import annotations

import copy

import torch

from dit_lens.graph.site import Material
from tests.oracles import _as_tokens, _Editing, hooked, layer_norm_as_before


def plan_with_hooks(pipeline, plan, draw=None):
    """Carry out a plan with plain hooks: the same rows in the same forwards, the same blocks replaced.

    Blocks that a row leaves out run for it all the same, and what they give is thrown away. Returns
    {row name: latents after each of its steps}, with names as the plan has them.
    """
    graph, transformer, found = plan.graph, pipeline.transformer, {}
    branches, scale = graph.branches, graph.sampling.guidance_scale
    guided = len(branches) == 2
    for unit in plan.units:
        scheduler = copy.deepcopy(pipeline.scheduler)
        scheduler.set_timesteps(graph.sampling.steps)
        texts, latents = [], {}
        for g, (prompt, seed) in enumerate(unit.groups):
            texts.append(
                pipeline.encode_prompt(
                    prompt=[prompt],
                    prompt_2=None,
                    prompt_3=None,
                    do_classifier_free_guidance=guided,
                    max_sequence_length=0,
                )
            )
            latents[g] = torch.randn(
                1, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float32
            )
        for step, forwards in enumerate(unit.steps):
            held, before = {}, dict(latents)
            for i, row in enumerate(unit.rows):
                if row.kind != "clean" and row.start == step:
                    latents[i] = before[row.group]
            for forward in forwards:
                velocity = _plan_forward(
                    transformer, plan, unit, forward, texts, latents, held, scheduler, draw
                )
                if velocity is None:
                    continue
                if guided:
                    uncond, cond = velocity.chunk(2)
                    velocity = uncond + scale * (cond - uncond)
                stepping = copy.deepcopy(scheduler)
                stepping.set_begin_index(step)
                x = torch.cat([latents[r] for r in forward.rows])
                after = stepping.step(velocity, scheduler.timesteps[step], x, return_dict=False)[0]
                for r, y in zip(forward.rows, after.split(1), strict=True):
                    latents[r] = y
                    found.setdefault(unit.rows[r].name, []).append(y)
    return {name: torch.cat(path) for name, path in found.items()}


def _plan_forward(transformer, plan, unit, forward, texts, latents, held, scheduler, draw):
    branches, rows, step = plan.graph.branches, forward.rows, forward.step
    works = [unit.works.get((row, step)) for row in rows]

    def supply(edit, row, step, branch, point):
        op, found, group = edit.sites[point][1], {}, unit.rows[row].group
        if edit.source is not None:
            source = unit.row_at(edit.source, step)
            found["source"] = _as_tokens(point, held[source, str(point), branch])
        if "generator" in op.needs:
            found["generator"] = draw(*unit.groups[group], step, point)
        return Material(**found)

    editing = _Editing(supply)

    def touch_at(point):
        def touch(tensor):
            parts = list(tensor.split(1))
            for b, branch in enumerate(branches):
                for k, (row, work) in enumerate(zip(rows, works, strict=True)):
                    # Blocks that a row leaves out run for it all the same: its values there are thrown away.
                    left_out = point.block is not None and point.block < forward.entries[k] - 1
                    if work is not None and not left_out:
                        i = b * len(rows) + k
                        edits = work.edits.get((point, branch), [])
                        parts[i] = editing.apply(edits, row, step, branch, point, parts[i])
                        if (point, branch) in work.held:
                            held[row, str(point), branch] = parts[i].clone()
            return torch.cat(parts)

        return touch

    def norm(stream, x, normed):
        new = normed.clone()
        for (row, branch, s), removed in editing.removed.items():
            if s == stream:
                i = branches.index(branch) * len(rows) + rows.index(row)
                new[i : i + 1] = layer_norm_as_before(x[i : i + 1], removed)
        return new

    def joins(entry, stream):
        address = f"blocks.{entry - 1}.resid_post.{stream}"

        def replace(tensor):
            parts = list(tensor.split(1))
            for b, branch in enumerate(branches):
                for k, row in enumerate(rows):
                    if forward.entries[k] == entry:
                        parts[b * len(rows) + k] = held[unit.rows[row].group, address, branch]
            return torch.cat(parts)

        return address, replace

    entries = sorted(set(forward.entries) - {0})
    context = [e for e in entries if e < plan.graph.num_blocks]
    replaced = dict([joins(e, "image") for e in entries] + [joins(e, "context") for e in context])
    points = sorted({p for w in works if w for p in w.points}, key=lambda p: p.forward_key)
    touches = {str(p): touch_at(p) for p in points}
    preserving = any(
        e.sites[p][1].ln_preserving for w in works if w for (p, _), edits in w.edits.items() for e in edits
    )

    def stacked(j):
        return torch.cat([texts[unit.rows[r].group][j] for r in rows])

    x = torch.cat([latents[r] for r in rows])
    with (
        torch.no_grad(),
        hooked(transformer, replaced),
        hooked(transformer, touches, norm if preserving else None),
    ):
        guided = len(branches) == 2
        velocity = transformer(
            hidden_states=torch.cat([x, x]) if guided else x,
            timestep=scheduler.timesteps[step].expand(len(branches) * len(rows)),
            encoder_hidden_states=torch.cat([stacked(1), stacked(0)]) if guided else stacked(0),
            pooled_projections=torch.cat([stacked(3), stacked(2)]) if guided else stacked(2),
            return_dict=False,
        )[0]
    return None if forward.stops else velocity
