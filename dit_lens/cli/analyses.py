"""Commands about declared analyses: run, plan, schema, report."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dit_lens.cli.frame import (
    Hints,
    app,
    command,
    inert,
    print_json,
    print_path,
    say,
    say_lost,
    stdout_kept_for_results,
)
from dit_lens.cli.options import (
    AsJson,
    Overrides,
    Spec,
    note_foreign_words,
    open_lens,
    quieten_libraries,
)
from dit_lens.errors import BadInput

_LESS = "--set batch_size=1, fewer steps or a smaller image needs less."


@command(
    app,
    "run",
    "dit-lens run massive_activations --set sampling.steps=8 --out reports/quick",
    Hints(
        less_memory=_LESS,
        has_out=True,
        kept="What was finished is kept; the same command goes on from there.",
    ),
)
def run(
    spec: Spec,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder; default: reports/<name>.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--fresh", help="Go on from what the folder holds of this spec, or begin anew."
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Carry out a declared analysis and print its report's path."""
    from dit_lens.analysis import run_analysis
    from dit_lens.analysis.reading import read_spec
    from dit_lens.run.records import RunFolder

    _refuse_graph(spec)
    declared = read_spec(spec, overrides or ())
    quieten_libraries(declared.model.name)
    note_foreign_words(declared.model.name, declared.prompts)
    with stdout_kept_for_results():
        place = run_analysis(declared, out, resume=resume, timing=True, say=say)
    folder = RunFolder.read(place)
    if not as_json:
        print_path(folder.report_path)
        return
    record = folder.record
    print_json(
        {
            "run": str(place),
            "report": str(folder.report_path),
            "status": record.status,
            "model": record.model,
            "fingerprint": record.fingerprint,
            "tables": {name: str(folder.table_path(name)) for name in folder.table_names},
            "channels": folder.channels(),
            "results": str(folder.results_path) if folder.results_path.exists() else None,
            "timings": record.timings,
        }
    )


def _refuse_graph(spec: str) -> None:
    from dit_lens.analysis.reading import is_graph

    if is_graph(spec):
        raise BadInput(
            f"{spec} is an intervention graph, not an analysis. `dit-lens plan {shlex.quote(spec)}` prices "
            f"it; in Python, dl.run(lens, dl.InterventionGraph.from_yaml({spec!r})) runs it."
        )


@command(app, "plan", "dit-lens plan massive_activations --set 'seeds=[0]'", Hints(less_memory=_LESS))
def plan(
    spec: Spec,
    overrides: Overrides = None,
    model: Annotated[
        str, typer.Option(help="The model on which an intervention graph is planned; a spec names its own.")
    ] = "shapes-sd3",
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="Time a few denoising steps to state the minutes.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check a spec, or an intervention graph, against its model and price it; a graph is drawn, too.

    Says how many forwards, block passes and bytes it takes, and, from a few denoising steps, how many
    minutes. Nothing is written.
    """
    from dit_lens.analysis import open_model, plan_analysis
    from dit_lens.analysis.reading import is_graph, read_spec

    if is_graph(spec):
        if overrides:
            raise BadInput(f"--set {overrides[0]}: {spec} is an intervention graph; change the file itself.")
        _plan_graph(spec, model, timing, as_json)
        return
    declared = read_spec(spec, overrides or ())
    quieten_libraries(declared.model.name)
    note_foreign_words(declared.model.name, declared.prompts)
    with stdout_kept_for_results():
        lens = open_model(declared)
        planned = plan_analysis(declared, lens=lens)
        minutes = planned.minutes(lens) if timing else None
    if as_json:
        print_json({**planned.as_data(), "minutes": minutes})
        return
    typer.echo(inert(str(planned)))
    if minutes is not None:
        typer.echo(planned.time_line(minutes, lens))


def _plan_graph(path: str, model: str, timing: bool, as_json: bool) -> None:
    from dit_lens.graph.graph import InterventionGraph
    from dit_lens.model.quantities import readable_time

    graph = InterventionGraph.from_yaml(Path(path))
    with stdout_kept_for_results():
        lens = open_lens(model)
        planned = graph.plan(lens)
        minutes = None
        if timing:
            from dit_lens.run.estimate import seconds

            minutes = seconds(lens, planned) / 60
    if as_json:
        print_json({**planned.as_data(), "minutes": minutes})
        return
    typer.echo(inert(f"{graph.show()}\n\n{planned}"))
    if minutes is not None:
        typer.echo(
            f"  time          about {readable_time(minutes * 60)} on {lens.device}, images not counted"
        )


class SchemaOf(str, Enum):
    """What has a schema."""

    analysis = "analysis"
    graph = "graph"
    results = "results"


@command(app, "schema", "dit-lens schema > analysis.schema.json")
def schema(
    of: Annotated[
        SchemaOf,
        typer.Argument(help="analysis: a spec; graph: an intervention graph; results: a run's results.json."),
    ] = SchemaOf.analysis,
) -> None:
    """Print a JSON Schema: of an analysis file, of an intervention graph, or of results.json."""
    if of is SchemaOf.analysis:
        from dit_lens.analysis.spec import json_schema

        print_json(json_schema())
    elif of is SchemaOf.graph:
        from dit_lens.graph.spec import GraphSpec

        print_json(GraphSpec.model_json_schema())
    else:
        from dit_lens.methods.answers import results_schema

        print_json(results_schema())


@command(app, "report", "dit-lens report reports/massive_activations")
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A folder that `dit-lens run` left.")],
    as_json: AsJson = False,
) -> None:
    """Rebuild the report of a run; no model is needed.

    Exit status 1, after writing the page, where a table of the run is missing or cannot be read. Where its
    spec.yaml was edited after the run, a line says so.
    """
    from dit_lens.analysis import write_report

    lost: list[str] = []
    with stdout_kept_for_results():
        path = write_report(run_dir, say=lost.append, warn=lambda line: say(f"Warning: {line}"))
    say_lost(run_dir, lost)
    if as_json:
        print_json({"report": str(path), "lost": lost})
    else:
        print_path(path)
    if lost:
        raise typer.Exit(1)
