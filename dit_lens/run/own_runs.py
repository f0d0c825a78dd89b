"""Runs that go before a graph's: of trajectories that have another number of steps than the graph."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from dit_lens.graph.checked import CheckedGraph
from dit_lens.model.matching import matched_path

if TYPE_CHECKING:
    from dit_lens.model.given import GivenPath
    from dit_lens.model.lens import DiTLens


def own_paths(lens: DiTLens, graph: CheckedGraph, progress: bool) -> dict[str, GivenPath]:
    """Denoise each of them once, unedited, and match its latents to the graph's noise levels."""
    made = {
        (prompt, seed, steps): lens.generate(
            prompt, seed, progress=progress, **{**asdict(graph.sampling), "steps": steps}
        )
        for prompt, seed, steps in graph.own_runs
    }
    found = {}
    for each in graph.trajectories:
        if each.own_steps is not None and each.path is not None:
            own = made[each.prompt, each.seed, each.own_steps]
            (found[each.path],) = matched_path(lens, own, sampling=graph.sampling, rule=each.rule)
    return found
