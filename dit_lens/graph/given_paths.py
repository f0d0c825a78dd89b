"""Given latents, held against a graph before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.checked import CheckedGraph
from dit_lens.model.given import GivenPath
from dit_lens.model.hook_points import HookPoint


def fitting_paths(graph: CheckedGraph, paths: Mapping[str, GivenPath] | None) -> dict[str, GivenPath]:
    """The paths that a graph names, each of the run's resolution and schedule.

    Raises:
        BadInput: a path is missing, is not asked for, is no `GivenPath`, or has other latents or sigmas.
    """
    given, wanted = dict(paths or {}), graph.path_names
    for name in given:
        if name not in wanted:
            raise BadInput.at(
                ("paths",),
                f"{name!r} was given, and no trajectory goes along it; the graph names "
                f"{', '.join(wanted) or 'none'}.{did_you_mean(str(name), wanted)}",
            )
    for i, each in enumerate(graph.trajectories):
        if each.path in wanted and each.path not in given:
            raise BadInput.at(
                ("trajectories", i, "path"),
                f"{each.id!r} goes along {each.path!r}, which was not given; given: "
                f"{', '.join(given) or 'none'}. Pass paths={{{each.path!r}: …}}: a GivenPath, as noised_path "
                "and inverted_path make one of a picture.",
            )
    shape = graph.shapes[HookPoint("velocity")]
    for name, path in given.items():
        if not isinstance(path, GivenPath):
            raise BadInput.at(("paths",), f"{name!r} is a {type(path).__name__}; it must be a GivenPath.")
        try:
            path.require_fits(shape, graph.sigmas)
        except BadInput as error:
            raise BadInput.at(("paths",), f"{name!r}: {error}") from None
    return given
