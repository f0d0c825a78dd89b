"""An independent executor for graphs in which trajectories take the latents of others, or given ones."""

from __future__ import annotations

import copy

import torch

from dit_lens.graph.site import Material
from dit_lens.run.material import generator
from tests.oracles import _as_tokens, _Editing, hooked


class Loop:
    """The plain denoising loop over one row: embeddings, schedule, the transformer, guidance."""

    def __init__(self, pipeline, steps, guidance):
        self.pipeline, self.guidance = pipeline, guidance
        self.scheduler = copy.deepcopy(pipeline.scheduler)
        self.scheduler.set_timesteps(steps)
        self.texts = {}

    def noise(self, seed):
        return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))

    def velocity(self, prompt, x, step):
        """Velocities of the branches, [uncond, cond] where guidance runs."""
        guided = self.guidance > 1
        if prompt not in self.texts:
            self.texts[prompt] = self.pipeline.encode_prompt(
                prompt, None, None, do_classifier_free_guidance=guided, max_sequence_length=0
            )
        text, negative, pooled, negative_pooled = self.texts[prompt]
        with torch.no_grad():
            return self.pipeline.transformer(
                hidden_states=torch.cat([x, x]) if guided else x,
                timestep=self.scheduler.timesteps[step].expand(2 if guided else 1),
                encoder_hidden_states=torch.cat([negative, text]) if guided else text,
                pooled_projections=torch.cat([negative_pooled, pooled]) if guided else pooled,
                return_dict=False,
            )[0]

    def step(self, velocity, x, step):
        if self.guidance > 1:
            uncond, cond = velocity.chunk(2)
            velocity = uncond + self.guidance * (cond - uncond)
        stepping = copy.deepcopy(self.scheduler)
        stepping.set_begin_index(step)
        return stepping.step(velocity, self.scheduler.timesteps[step], x, return_dict=False)[0]


def lockstep(pipeline, checked, given=None):
    """Every trajectory of a checked graph in lockstep, through all blocks, one row at a time.

    `given` maps names to latents [steps + 1, C, h, w]. Returns ({id: latents} of those that have their own,
    {(trajectory's place, step, branch, address): value after edits}).
    """
    loop = Loop(pipeline, checked.sampling.steps, checked.sampling.guidance_scale)
    branches = checked.branches
    trajectories = dict(enumerate(checked.trajectories))
    order, waiting = [], dict(trajectories)
    while waiting:
        for i in list(waiting):
            if not any(e.source in waiting for e in checked.edits if e.into == i):
                order.append(i)
                del waiting[i]
    points = {p for e in checked.edits for p in e.sites} | {p for r in checked.reads for p in r.sites}
    ordered = sorted(points, key=lambda p: p.forward_key)
    x = {i: loop.noise(t.seed) for i, t in trajectories.items() if t.follows is None and t.path is None}
    paths, values = {i: [latents] for i, latents in x.items()}, {}
    for step in range(checked.sampling.steps):
        after = {}
        for i in order:
            own = trajectories[i]
            if own.path is not None:
                at = given[own.path][step : step + 1]
            else:
                at = x[i if own.follows is None else own.follows]

            def supply(edit, row, step, branch, point, own=own):
                found = {}
                if edit.source is not None:
                    found["source"] = _as_tokens(point, values[edit.source, step, branch, str(point)])
                if "generator" in edit.sites[point][1].needs:
                    found["generator"] = generator(own.prompt, own.seed, step, point)
                return Material(**found)

            editing = _Editing(supply)

            def touch_at(point, i=i, editing=editing, step=step):
                def touch(tensor):
                    new = []
                    for branch, part in zip(branches, tensor.split(1), strict=True):
                        here = [
                            e
                            for e in sorted(checked.edits, key=lambda e: (e.order, e.index))
                            if e.into == i and point in e.sites and step in e.steps and branch in e.branches
                        ]
                        new.append(editing.apply(here, i, step, branch, point, part))
                        values[i, step, branch, str(point)] = new[-1].clone()
                    return torch.cat(new)

                return touch

            with hooked(pipeline.transformer, {str(p): touch_at(p) for p in ordered}):
                velocity = loop.velocity(own.prompt, at, step)
            if i in x:
                after[i] = loop.step(velocity, at, step)
        for i, latents in after.items():
            x[i] = latents
            paths[i].append(latents)
    return {trajectories[i].id: torch.cat(path) for i, path in paths.items()}, values
