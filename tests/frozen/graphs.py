"""The frozen graphs: every op, part, stream, branch, way to select steps, and kind of trajectory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dit_lens.graph.graph import InterventionGraph
from dit_lens.methods.spatial import Mask

RED = "a large red plain star on the left on a white background"
BLUE = "a small blue striped circle on the right on a grey background"
GREEN = "a medium green dotted cross in the centre on a black background"

CHANNELS = [3, 34, 60]
EVERY_BLOCK = {block: [block, 60 + block] for block in range(8)}
PER_BLOCK = {3: [0, 34], 4: [5, 60], 5: [60, 61, 7]}
BOX = {"box": [2, 3, 8, 9]}

Maker = Callable[[InterventionGraph], None]
GRAPHS: dict[str, tuple[dict[str, Any], Maker]] = {}
"""Name → (sampling, what declares the graph)."""

NAMES: tuple[str, ...]
"""All of them, and the one that is written by hand."""


def _graph(**sampling: Any) -> Callable[[Maker], Maker]:
    def kept(make: Maker) -> Maker:
        GRAPHS[make.__name__] = ({"steps": 4, **sampling}, make)
        return make

    return kept


def made(name: str) -> InterventionGraph:
    """The graph of that name, declared anew."""
    if name == "written":
        return InterventionGraph.from_yaml(WRITTEN)
    sampling, make = GRAPHS[name]
    graph = InterventionGraph(sampling=sampling)
    make(graph)
    return graph


def _one_edit(g: InterventionGraph, op: Any, **where: Any) -> None:
    arm = g.trajectory(prompt=RED, seed=0, id="arm")
    g.edit(arm, op=op, **{"at": "blocks.4.resid_post.image", "channels": CHANNELS, **where})


WRITTEN = """
sampling: {steps: 4}
channel_sets: {few: {blocks: {4: [0, 34], 5: [0]}, model: shapes-sd3, stream: image}}
masks: {corner: {tokens: [0, 1, 12, 13], grid: [12, 12]}}
trajectories:
  - {id: a, prompt: a large red plain star on the left on a white background, seed: 0}
  - {id: b, prompt: a small blue striped circle on the right on a grey background, seed: 0}
edits:
  - {into: a, at: "blocks.4,5.resid_post.image", op: zero, channels: few, tokens: corner}
  - {into: a, at: [blocks.6.resid_post.image, temb], op: resample, source: b, steps: -1, order: 2}
reads:
  - {name: spectrum, of: a, at: blocks.7.resid_post.image, reduce: abs_mean, channels: [3, 7], steps: [0, 3]}
"""
"""A file as somebody may have written it, with the shorthands that a file may use."""


@_graph()
def identity(g: InterventionGraph) -> None:
    _one_edit(g, "identity", at="blocks.*.resid_post.image")


@_graph()
def zero_parts(g: InterventionGraph) -> None:
    for part in ("all", "mean", "residual"):
        arm = g.trajectory(prompt=RED, seed=0, id=part)
        op = {"op": "zero", "part": part}
        g.edit(
            arm, at="blocks.3-5.resid_post.image", op=op, channels=PER_BLOCK if part == "all" else CHANNELS
        )


@_graph()
def zero_ln_preserving(g: InterventionGraph) -> None:
    _one_edit(g, {"op": "zero", "ln_preserving": True}, steps="2:")


@_graph()
def mean_of_tokens(g: InterventionGraph) -> None:
    _one_edit(g, {"op": "mean", "of": "token"}, steps={"fraction": [0, 0.5]})


@_graph()
def mean_of_a_dataset(g: InterventionGraph) -> None:
    _one_edit(g, {"op": "mean", "of": "dataset", "part": "mean"}, at="blocks.3-5.resid_post.image")


@_graph()
def scale(g: InterventionGraph) -> None:
    _one_edit(g, {"op": "scale", "factor": -1.5, "part": "residual"}, steps={"sigma": [0.5, 1.0]})


@_graph()
def clamp(g: InterventionGraph) -> None:
    _one_edit(g, {"op": "clamp", "quantile": 0.9}, branch="cond")


@_graph()
def add(g: InterventionGraph) -> None:
    _one_edit(g, {"op": "add", "value": [1.0, -2.5, 0.25]}, branch="uncond")
    g.edit("arm", at="temb", op={"op": "add", "value": 0.125}, steps=[0, -1])


@_graph()
def noise(g: InterventionGraph) -> None:
    for seed in (0, 1):
        arm = g.trajectory(prompt=RED, seed=0, id=f"draw {seed}")
        op = {"op": "noise", "scale": 0.5, "seed": seed}
        g.edit(arm, at="blocks.2.mlp_out.context", op=op, tokens=[0, 2])


@_graph()
def token_shuffle(g: InterventionGraph) -> None:
    _one_edit(g, {"op": "token_shuffle", "seed": 3, "part": "residual"}, tokens=BOX)


@_graph()
def resample(g: InterventionGraph) -> None:
    _one_edit(g, "resample", source=g.trajectory(prompt=BLUE, seed=1), steps="::2")


@_graph()
def patch_between_prompts(g: InterventionGraph) -> None:
    red, blue = (g.trajectory(prompt=prompt, seed=0) for prompt in (RED, BLUE))
    g.patch(red, into=blue, at="blocks.*.resid_post.image", channels=EVERY_BLOCK)


@_graph()
def patch_chain(g: InterventionGraph) -> None:
    """A source that is patched itself, strengths beyond 0 and 1, and a patch at one step of one branch."""
    red, blue, green = (g.trajectory(prompt=prompt, seed=0) for prompt in (RED, BLUE, GREEN))
    g.patch(red, into=blue, at="blocks.4-7.resid_post.image", strength=0.5, part="mean", steps=":2")
    g.patch(blue, into=green, at="blocks.2.attn_out.context", strength=1.5, steps=1, branch="cond")
    g.patch(red, into=green, at="velocity", strength=-0.25, steps=[2, 3], branch="uncond", order=-1)


@_graph()
def energy_matched(g: InterventionGraph) -> None:
    op = {"op": "energy_matched", "treatment_channels": CHANNELS, "seed": 7}
    _one_edit(g, op, at="blocks.3-5.resid_post.image", channels="all", steps="1:")


@_graph()
def energy_matched_per_block(g: InterventionGraph) -> None:
    others = {block: [c + 50 for c in channels] for block, channels in PER_BLOCK.items()}
    op = {"op": "energy_matched", "treatment_channels": PER_BLOCK, "seed": 1, "part": "mean"}
    _one_edit(g, op, at="blocks.3-5.resid_post.image", channels=others)


@_graph()
def patch_matched(g: InterventionGraph) -> None:
    source = g.trajectory(prompt=BLUE, seed=0)
    op = {"op": "patch_matched", "treatment_channels": CHANNELS, "strength": 0.75}
    _one_edit(g, op, at="blocks.4-6.resid_post.image", channels=[8, 9, 10], source=source)


@_graph()
def every_component(g: InterventionGraph) -> None:
    """One edit at each kind of place, in both streams."""
    places = ("resid_pre", "adaln.scale_attn", "adaln.gate_mlp", "attn_out", "mlp_out", "resid_post")
    for stream in ("image", "context"):
        arm = g.trajectory(prompt=RED, seed=0, id=stream)
        for place in places:
            g.edit(arm, at=f"blocks.5.{place}.{stream}", op={"op": "scale", "factor": 0.5})


@_graph()
def orders_at_one_address(g: InterventionGraph) -> None:
    arm = g.trajectory(prompt=RED, seed=0)
    for order, factor in ((1, 2.0), (-1, 0.5), (0, 3.0)):
        op = {"op": "scale", "factor": factor}
        g.edit(arm, at="blocks.4.resid_post.image", op=op, channels=CHANNELS, steps=2, order=order)


@_graph()
def masks_and_channel_sets(g: InterventionGraph) -> None:
    mask = [[row < 4 and column > 6 for column in range(12)] for row in range(12)]
    empty = [[False] * 12 for _ in range(12)]
    sized = Mask(np.array(mask), image_size=(48, 48))
    for number, tokens in enumerate((mask, empty, sized, [0, 5, 143], BOX)):
        arm = g.trajectory(prompt=RED, seed=0, id=f"arm {number}")
        g.edit(arm, at="blocks.3-5.resid_post.image", op="zero", tokens=tokens, channels=PER_BLOCK)


@_graph()
def guide(g: InterventionGraph) -> None:
    image = g.trajectory(prompt=RED, seed=0, id="image")
    g.guide(image, at="blocks.4.resid_post.image", channels=CHANNELS, weight=0.5, id="without")


@_graph(guidance_scale=1.0)
def guide_without_cfg(g: InterventionGraph) -> None:
    image = g.trajectory(prompt=RED, seed=0, id="image")
    op = {"op": "scale", "factor": 0.5}
    g.guide(image, at="blocks.3.resid_post.image", weight=1.0, op=op, steps="1:", branch="cond", id="halved")


@_graph()
def reads(g: InterventionGraph) -> None:
    """Every reduction, of an edited and of an unedited run that stops when all is read."""
    plain = g.trajectory(prompt=RED, seed=0, until="last_read", id="plain")
    edited = g.trajectory(prompt=RED, seed=0, until="last_read", id="edited")
    g.edit(edited, at="blocks.1.resid_post.image", op="zero", channels=CHANNELS, steps=[0])
    for reduce in ("none", "mean", "abs_mean", "mean_abs", "max_abs", "norm"):
        for arm in (plain, edited):
            more: dict[str, Any] = {"channels": CHANNELS, "tokens": BOX} if reduce == "none" else {}
            name = f"{reduce} {arm.id}"
            g.read(arm, at="blocks.2.resid_post.image", reduce=reduce, steps=[0, 2], name=name, **more)
    g.read(plain, at="velocity", reduce="norm", steps={"fraction": [0.25, 0.75]}, branch="cond", name="v")


@_graph()
def only_reads(g: InterventionGraph) -> None:
    for seed in (0, 1):
        g.read(
            g.trajectory(prompt=RED, seed=seed), at="blocks.*.resid_post.context", reduce="abs_mean", steps=1
        )


@_graph()
def follows(g: InterventionGraph) -> None:
    """A shadow under another prompt, patched from, read and edited."""
    image = g.trajectory(prompt=RED, seed=0, id="image")
    shadow = g.trajectory(prompt=BLUE, seed=0, id="shadow", follows=image)
    g.edit(shadow, at="blocks.0.resid_post.image", op="zero", channels=CHANNELS)
    g.patch(shadow, into=image, at="blocks.6.resid_post.image", strength=0.5, steps="2:")
    g.read(shadow, at="velocity", reduce="norm", steps=3)


@_graph()
def given_path(g: InterventionGraph) -> None:
    """A donor along given latents."""
    picture = g.trajectory(prompt="", seed=0, path="picture 0123", id="picture")
    target = g.trajectory(prompt=GREEN, seed=0, id="target")
    g.patch(picture, into=target, at="blocks.*.resid_post.image", channels=EVERY_BLOCK, tokens=BOX)


@_graph()
def own_steps(g: InterventionGraph) -> None:
    """Donors of another number of steps than the graph's, by both ways to match noise levels."""
    target = g.trajectory(prompt=GREEN, seed=0, id="target")
    for match, steps in (("nearest", 6), ("linear", 3)):
        donor = g.trajectory(prompt=RED, seed=0, steps=steps, match=match, id=match)
        order = 0 if match == "nearest" else 1
        g.patch(donor, into=target, at="blocks.3.resid_post.image", strength=0.5, steps=[1, 2], order=order)


@_graph(guidance_scale=2.0, height=64, width=32, negative_prompt="a grey background")
def other_size(g: InterventionGraph) -> None:
    arm = g.trajectory(prompt=RED, seed=5, until="end")
    g.edit(arm, at="blocks.0-2.resid_pre.image", op="zero", channels=CHANNELS, tokens={"box": [0, 0, 4, 4]})


@_graph(steps=3)
def many_arms(g: InterventionGraph) -> None:
    """More arms than go through one forward, of two prompts and seeds."""
    for prompt, seed in ((RED, 0), (BLUE, 3)):
        for block in range(8):
            for step in range(3):
                arm = g.trajectory(prompt=prompt, seed=seed, id=f"{seed} {block} {step}")
                g.edit(arm, at=f"blocks.{block}.resid_post.image", op="zero", channels=[block], steps=step)


NAMES = (*GRAPHS, "written")
