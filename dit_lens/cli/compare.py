"""The command that puts two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dit_lens.cli.frame import (
    Hints,
    app,
    command,
    print_json,
    print_path,
    say,
    say_lost,
    stdout_kept_for_results,
)
from dit_lens.cli.options import AsJson, require_writable


@command(
    app,
    "compare",
    "dit-lens compare reports/massive_activations reports/another_model --out comparison.html",
    Hints(has_out=True),
)
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A folder that `dit-lens run` left.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The page; a file of that name is replaced. Default: comparison-RUN_A-RUN_B.html.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put two runs side by side on one HTML page: verdicts, effects, channels, pictures, specs, versions.

    The runs may differ in model, seeds, prompts or version; they need at least one question in common. No
    model is needed.

    Exit status 1, after writing the page, where a table or the verdicts of a run are lost.
    """
    from dit_lens.atomic import atomic_write
    from dit_lens.report.comparison import Comparison
    from dit_lens.report.comparison_page import named_after, render_comparison

    out = out or named_after(run_a, run_b)
    require_writable(out)
    with stdout_kept_for_results():
        found = Comparison.of(run_a, run_b)
        place = atomic_write(out, render_comparison(found))
    for key, (first, second) in found.of_models.items():
        say(f"The models differ in {key}: {first} in {run_a}, {second} in {run_b}.")
    for run_dir, lost in zip((run_a, run_b), found.lost, strict=True):
        say_lost(run_dir, [f"{run_dir}: {each}" for each in lost])
    if as_json:
        print_json({"comparison": str(place), **found.as_data()})
    else:
        print_path(place)
    if any(found.lost):
        raise typer.Exit(1)
