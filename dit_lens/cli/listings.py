"""Commands that list what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from dit_lens.cli.frame import command, inert, listing, print_json, stdout_kept_for_results
from dit_lens.cli.options import (
    AsJson,
    Model,
    open_lens,
)


@command(listing, "hook-points", "dit-lens list hook-points shapes-sd3")
def list_hook_points(model: Model, as_json: AsJson = False) -> None:
    """Every address inside a model, with the shape of what lies there."""
    with stdout_kept_for_results():
        lens = open_lens(model)
    if as_json:
        points = lens.hook_points
        print_json([{"hook_point": str(point), "shape": list(points.shape(point))} for point in points])
    else:
        typer.echo(inert(str(lens.hook_points)))


@command(listing, "models", "dit-lens list models")
def list_models(as_json: AsJson = False) -> None:
    """The embedded models."""
    from dit_lens import zoo

    found = [{"name": name, "path": str(zoo.path(name))} for name in zoo.names()]
    print_json(found) if as_json else print_rows([(each["name"], each["path"]) for each in found])


@command(listing, "analyses", "dit-lens list analyses")
def list_analyses(as_json: AsJson = False) -> None:
    """The packaged analyses, which run by name."""
    from dit_lens.analysis.files import packaged
    from dit_lens.analysis.reading import read_spec

    found = [
        {"name": name, "title": read_spec(path).title, "path": str(path)} for name, path in packaged().items()
    ]
    print_json(found) if as_json else print_rows([(each["name"], each["title"]) for each in found])


@command(listing, "memory", "dit-lens list memory --size 512")
def list_memory(
    size: Annotated[int, typer.Option(help="Height and width of the image in pixels.")] = 1024,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 28,
    as_json: AsJson = False,
) -> None:
    """What the published SD3 checkpoints need: weights, discovery's state, one step's block outputs.

    Computed from their configurations; nothing is downloaded, loaded or run. What a forward pass needs while
    it works comes on top of the weights.
    """
    from dit_lens.analysis.memory import needs_table, published_needs

    with stdout_kept_for_results():
        found = published_needs(size=size, dtype=dtype, steps=steps)
    if as_json:
        print_json([each.as_data() for each in found])
        return
    typer.echo(f"computed for {size} × {size} px, {dtype}, {steps} steps with guidance; nothing was run\n")
    typer.echo(needs_table(found))


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Print pairs as two columns."""
    width = max((len(first) for first, _ in rows), default=0)
    for first, second in rows:
        typer.echo(inert(f"{first:<{width}}  {second}"))
