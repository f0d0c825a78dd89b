"""The command line: each command reads its arguments, calls one function, and prints what came out.

Results go to stdout, everything else to stderr. Exit status: 0 done, 2 bad input, 1 failure, 130 interrupted.
Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dit_lens import __version__
from dit_lens.errors import BadInput, DitLensError

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens

Command = TypeVar("Command", bound=Callable[..., None])

# Plain help, without rich's panels: it starts in half the time and keeps the layout of examples.
_PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}
app = typer.Typer(
    name="dit-lens",
    help="Find, ablate and transport massive channels in diffusion transformers.",
    epilog="\b\nExample:\n  dit-lens run massive_activations --out reports/massive_activations",
    pretty_exceptions_enable=False,
    add_completion=False,
    **_PLAIN,
)
listing = typer.Typer(help="List hook points, models or analyses.", **_PLAIN)
app.add_typer(listing, name="list")

_debug = False


def main() -> None:
    """Run the command line."""
    app()


# ------------------------------------------------------------------------------------------ around commands
def command(group: typer.Typer, name: str, example: str) -> Callable[[Command], Command]:
    """Register a function as a command whose help ends with an example, and whose errors read as messages."""

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with _explained():
                function(*args, **kwargs)

        group.command(name, epilog=f"\b\nExample:\n  {example}")(guarded)
        return function

    return register


@contextmanager
def _explained() -> Iterator[None]:
    """Turn exceptions into a message on stderr and an exit status."""
    try:
        yield
        sys.stdout.flush()
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        if _debug:
            raise
        _say("Interrupted. What was finished is kept; `dit-lens run … --resume` goes on from there.")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except DitLensError as error:
        if _debug:
            raise
        _say(f"Error: {error}")
        raise typer.Exit(error.exit_status) from None
    except (MemoryError, OSError) as error:
        if _debug:
            raise
        _say(f"Error: {_system_message(error)}")
        raise typer.Exit(1) from None
    except Exception as error:
        if _debug:
            raise
        _say(
            f"Error: {type(error).__name__}: {error}\n"
            "This is a defect in dit_lens, not in your input. `dit-lens --debug …` shows where it happened."
        )
        raise typer.Exit(1) from None


def _system_message(error: MemoryError | OSError) -> str:
    if isinstance(error, MemoryError):
        return "out of memory. A smaller --set batch_size=1, fewer steps or a smaller image needs less."
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}. Free some space, or choose another place with --out."


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def _stdout_kept_for_results() -> Iterator[None]:
    """Send whatever libraries print to stderr."""
    with redirect_stdout(sys.stderr):
        yield


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dit-lens {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DIT_LENS_DEBUG", help="Show tracebacks of errors.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


# ------------------------------------------------------------------------------------------ shared options
Spec = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or the name of a packaged analysis.")]
Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="An embedded model, a diffusers pipeline's folder, or a hub id."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a value of the spec; may be repeated."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; default: what suits the device.")
]


def _open(model: str, device: str = "cpu", dtype: str | None = None) -> DiTLens:
    _quieten_libraries(model)
    from dit_lens.model.loading import load

    return load(model, device=device, dtype=dtype)


def _quieten_libraries(model: str) -> None:
    """Keep notes for programmers off the terminal; must run before the libraries are imported."""
    if _debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    from dit_lens import zoo

    if model in zoo.names() or Path(model).is_dir():
        # Bars are for downloads; opening local files takes a moment.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


# ------------------------------------------------------------------------------------------ commands
@command(app, "run", "dit-lens run massive_activations --set sampling.steps=8 --out reports/quick")
def run(
    spec: Spec,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder; default: reports/<name>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Carry out a declared analysis and print its report's path."""
    from dit_lens.analysis import run_analysis
    from dit_lens.analysis_files import read_spec
    from dit_lens.run.records import RunFolder

    declared = read_spec(spec, overrides or ())
    _quieten_libraries(declared.model.name)
    with _stdout_kept_for_results():
        place = run_analysis(declared, out, resume=resume, say=_say)
    folder = RunFolder.read(place)
    if not as_json:
        typer.echo(folder.report_path)
        return
    record = folder.record
    _print_json(
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


@command(app, "discover", "dit-lens discover shapes-sd3 --prompts prompts.txt --top-k 4 --out massive.json")
def discover(
    model: Model,
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="Prompts, one per line; # begins a comment.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the channel set here as JSON.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Channels per block.")] = 4,
    seeds: Annotated[
        str, typer.Option(help="Seeds, separated by commas; every prompt runs with each.")
    ] = "0",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; default: the model's own.")] = None,
    statistic: Annotated[str, typer.Option(help="abs_mean, mean_abs, max_abs or p999.")] = "abs_mean",
    stream: Annotated[str, typer.Option(help="image or context.")] = "image",
    batch_size: Annotated[int | None, typer.Option(help="Images sampled together.")] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Find the massive channels of every block."""
    from dit_lens.analysis_files import read_prompts

    texts = read_prompts(prompts)
    numbers = _parse_seeds(seeds)
    _require_writable(out)
    _require_known("--statistic", statistic, ("abs_mean", "mean_abs", "max_abs", "p999"))
    _require_known("--stream", stream, ("image", "context"))
    with _stdout_kept_for_results():
        from dit_lens.methods.channels import discover as discover_channels

        lens = _open(model, device, dtype)
        sampling = lens.sampling(steps=steps, guidance_scale=guidance)
        stats = discover_channels(lens, texts, numbers, sampling=sampling, batch_size=batch_size, top_k=top_k)
        chosen = stats.select(top_k=top_k, statistic=statistic, stream=stream)
        if out is not None:
            chosen.save(out)
    typer.echo(chosen.to_json().rstrip() if as_json else repr(chosen))
    if out is not None:
        _say(f"Written to {out}")


@command(
    app,
    "segment",
    'dit-lens segment "a large red plain star on the left on a white background" --out mask.png',
)
def segment(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the picture shows.")],
    model: Annotated[
        str, typer.Option(help="An embedded model, a diffusers pipeline's folder, or a hub id.")
    ] = "shapes-sd3",
    channels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Channels that `dit-lens discover` wrote.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Channels per block, found in this prompt's own run; default: 4.")
    ] = None,
    block: Annotated[
        str | None, typer.Option(help="Blocks to look after: 5, 2-4, 0.5, or * for all; default: the last.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Denoising step to look at; default: a quarter into the run.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the starting noise.")] = 0,
    rule: Annotated[
        str, typer.Option(help="Which cluster of tokens is the subject: border, brighter or smaller.")
    ] = "border",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; default: the model's own.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture: a PNG.")] = Path("mask.png"),
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Draw a picture, and its subject as massive channels outline it.

    Image tokens are clustered by the massive channels, and the cluster that touches the border least is taken
    for the subject. The PNG holds a row per block: the picture, the mask, and the mask over the picture.
    Nothing is compared with a truth: `dit-lens run spatial` measures how well such masks fit.
    """
    _require_writable(out)
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out}: the picture is a PNG; name a file such as {out.stem or 'mask'}.png")
    if channels is not None and top_k is not None:
        raise BadInput("--channels and --top-k exclude each other: the file already says which channels.")
    with _stdout_kept_for_results():
        from dit_lens.methods.channel_sets import ChannelSet
        from dit_lens.methods.spatial import Clustering, first_look

        how, given = Clustering(rule=rule), ChannelSet.load(channels) if channels else None
        lens = _open(model, device, dtype)
        if given is not None and given.model != lens.name:
            _say(f"Note: these channels were found in {given.model}, and the model is {lens.name}.")
        sampling = lens.sampling(steps=steps, guidance_scale=guidance)
        options: dict[str, Any] = {"channels": given, "top_k": top_k, "blocks": block, "step": step}
        look = first_look(lens, prompt, seed, how=how, sampling=sampling, progress=True, **options)
        look.save(out)
    _print_json({**look.as_data(), "picture": str(out)}) if as_json else typer.echo(str(look))
    _say(f"Written to {out}")


@command(
    app,
    "transport",
    'dit-lens transport "a large red circle on a white background" "a small blue star on a white background" '
    "--out grid.png",
)
def transport(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The prompt to carry from.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The prompt to carry into.")],
    model: Annotated[
        str, typer.Option(help="An embedded model, a diffusers pipeline's folder, or a hub id.")
    ] = "shapes-sd3",
    strength: Annotated[
        str, typer.Option(help="start:stop:count, or numbers separated by commas; from 0 to 2.")
    ] = "0:1:5",
    channels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Channels that `dit-lens discover` wrote.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Channels per block, found in these prompts' own runs; default: 4.")
    ] = None,
    blocks: Annotated[
        str, typer.Option(help="Blocks to carry in: all, 3, 2-5, or 0.5-1 of the depth.")
    ] = "all",
    steps: Annotated[str, typer.Option(help="Denoising steps to carry at: all, 3, or 0:8.")] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise that both start from.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The grid of pictures: a PNG.")] = Path(
        "grid.png"
    ),
    device: Device = "cpu",
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Carry one prompt's massive channels into another's picture.

    Both start from the same noise. The PNG shows the source, the target, and the target with its massive
    channels drawn toward the source's, more with each strength: 0 leaves them, 1 replaces them. Nothing is
    compared with a control: `dit-lens run transport_text` measures what these channels carry.
    """
    strengths = _parse_strengths(strength)
    _require_writable(out)
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out}: the grid is a PNG; name a file such as {out.stem or 'grid'}.png")
    if channels is not None and top_k is not None:
        raise BadInput("--channels and --top-k exclude each other: the file already says which channels.")
    with _stdout_kept_for_results():
        from dit_lens.methods.channel_sets import ChannelSet
        from dit_lens.methods.transport.first_look import first_carry

        given = ChannelSet.load(channels) if channels else None
        lens = _open(model, device, dtype)
        if given is None:
            _say(
                "Channels: a quick discovery on these two prompts; --channels FILE takes them from elsewhere."
            )
        elif given.model != lens.name:
            _say(f"Note: these channels were found in {given.model}, and the model is {lens.name}.")
        if source == target:
            _say("Note: source and target are the same prompt, so nothing can move.")
        options: dict[str, Any] = {"channels": given, "top_k": top_k, "blocks": blocks, "steps": steps}
        look = first_carry(lens, source, target, seed, strengths=strengths, progress=True, **options)
        look.save(out)
    _print_json({**look.as_data(), "picture": str(out)}) if as_json else typer.echo(str(look))
    _say(f"Written to {out}")


@command(app, "check", "dit-lens check shapes-sd3 --json")
def check(model: Model, device: Device = "cpu", dtype: Dtype = None, as_json: AsJson = False) -> None:
    """Test the lens on a model.

    Shapes and streams are as declared, an edit here changes the output, and reading changes nothing, bit for
    bit.
    """
    with _stdout_kept_for_results():
        report = _open(model, device, dtype).check()
    if as_json:
        _print_json(report.to_json())
    else:
        typer.echo(report)
    if not report.ok:
        raise typer.Exit(1)


@command(app, "plan", "dit-lens plan massive_activations --set 'seeds=[0]'")
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
    from dit_lens.analysis_files import is_graph, read_spec

    if is_graph(spec):
        if overrides:
            raise BadInput(f"--set {overrides[0]}: {spec} is an intervention graph; change the file itself.")
        _plan_graph(spec, model, timing, as_json)
        return
    declared = read_spec(spec, overrides or ())
    _quieten_libraries(declared.model.name)
    with _stdout_kept_for_results():
        lens = open_model(declared)
        planned = plan_analysis(declared, lens=lens)
        minutes = planned.minutes(lens) if timing else None
    if as_json:
        _print_json({**planned.as_data(), "minutes": minutes})
        return
    typer.echo(str(planned))
    if minutes is not None:
        typer.echo(f"  time        about {minutes:.2g} min on {lens.device}, images and figures not counted")


def _plan_graph(path: str, model: str, timing: bool, as_json: bool) -> None:
    from dit_lens.graph.graph import InterventionGraph

    graph = InterventionGraph.from_yaml(Path(path))
    with _stdout_kept_for_results():
        lens = _open(model)
        planned = graph.plan(lens)
        minutes = None
        if timing:
            from dit_lens.run.estimate import seconds

            minutes = seconds(lens, planned) / 60
    if as_json:
        _print_json({**planned.as_data(), "minutes": minutes})
        return
    typer.echo(f"{graph.show()}\n\n{planned}")
    if minutes is not None:
        typer.echo(f"  time          about {minutes:.2g} min on {lens.device}, images not counted")


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
        from dit_lens.analysis_spec import json_schema

        _print_json(json_schema())
    elif of is SchemaOf.graph:
        from dit_lens.graph.spec import GraphSpec

        _print_json(GraphSpec.model_json_schema())
    else:
        from dit_lens.methods.answers import results_schema

        _print_json(results_schema())


@command(app, "report", "dit-lens report reports/massive_activations")
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A folder that `dit-lens run` left.")],
    as_json: AsJson = False,
) -> None:
    """Rebuild the report of a run; no model is needed."""
    from dit_lens.analysis import write_report

    with _stdout_kept_for_results():
        path = write_report(run_dir)
    if as_json:
        _print_json({"report": str(path)})
    else:
        typer.echo(path)


@command(listing, "hook-points", "dit-lens list hook-points shapes-sd3")
def list_hook_points(model: Model, as_json: AsJson = False) -> None:
    """Every address inside a model, with the shape of what lies there."""
    with _stdout_kept_for_results():
        lens = _open(model)
    if as_json:
        points = lens.hook_points
        _print_json([{"hook_point": str(point), "shape": list(points.shape(point))} for point in points])
    else:
        typer.echo(str(lens.hook_points))


@command(listing, "models", "dit-lens list models")
def list_models(as_json: AsJson = False) -> None:
    """The embedded models."""
    from dit_lens import zoo

    found = [{"name": name, "path": str(zoo.path(name))} for name in zoo.names()]
    _print_json(found) if as_json else _print_rows([(each["name"], each["path"]) for each in found])


@command(listing, "analyses", "dit-lens list analyses")
def list_analyses(as_json: AsJson = False) -> None:
    """The packaged analyses, which run by name."""
    from dit_lens.analysis_files import packaged, read_spec

    found = [
        {"name": name, "title": read_spec(path).title, "path": str(path)} for name, path in packaged().items()
    ]
    _print_json(found) if as_json else _print_rows([(each["name"], each["title"]) for each in found])


# ------------------------------------------------------------------------------------------ small things
def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max((len(first) for first, _ in rows), default=0)
    for first, second in rows:
        typer.echo(f"{first:<{width}}  {second}")


def _parse_seeds(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise BadInput(
            f"--seeds {text!r}: write whole numbers separated by commas, for example --seeds 0,1,2"
        )
    return found


def _parse_strengths(text: str) -> tuple[float, ...]:
    """Strengths from start:stop:count, ends included, or from a list."""
    lowest, highest, most = 0.0, 2.0, 32
    found: list[float] = []
    try:
        if ":" in text:
            first, last, amount = text.split(":")
            start, stop, count = float(first), float(last), int(amount)
            if 2 <= count <= most:
                found = [round(start + (stop - start) * i / (count - 1), 6) for i in range(count)]
        else:
            found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not 1 <= len(found) <= most:
        raise BadInput(
            f"--strength {text!r}: write start:stop:count, such as 0:1:5, with a count from 2 to {most}; "
            f"or at most {most} numbers separated by commas, such as 0.5,1"
        )
    for value in found:
        # NaN compares false, and is refused as well.
        if not lowest <= value <= highest:
            raise BadInput(
                f"--strength {text!r}: {value:g} is outside [{lowest:g}, {highest:g}]; 0 leaves the target, "
                "1 puts the source's values in place of its own, more overshoots."
            )
    return tuple(dict.fromkeys(found))


def _require_known(option: str, asked: str, known: tuple[str, ...]) -> None:
    from dit_lens.errors import did_you_mean

    if asked not in known:
        raise BadInput(f"{option} {asked!r}: there is {', '.join(known)}.{did_you_mean(asked, known)}")


def _require_writable(out: Path | None) -> None:
    """Refuse a place that cannot be written before the minutes of work, not after."""
    if out is None:
        return
    if out.is_dir():
        raise BadInput(f"--out {out}: this is a folder; name a file, for example {out / 'massive.json'}")
    parent = next((folder for folder in (out.parent, *out.parent.parents) if folder.exists()), Path())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(f"--out {out}: nothing can be written in {parent}. Choose another place.")


if __name__ == "__main__":
    main()
