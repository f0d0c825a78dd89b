"""Around every command: the program itself, its options, and how errors become messages and exit statuses."""

from __future__ import annotations

import errno
import functools
import json
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar
from unicodedata import category

import typer

from dit_lens import __version__
from dit_lens.errors import DitLensError
from dit_lens.notices import Notice

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
listing = typer.Typer(
    help="List hook points, models, analyses, or what published models need of memory.",
    epilog="\b\nExample:\n  dit-lens list hook-points shapes-sd3",
    **_PLAIN,
)
app.add_typer(listing, name="list")

_debug = False


def debugging() -> bool:
    """Whether tracebacks were asked for."""
    return _debug


# ------------------------------------------------------------------------------------------ around commands
@dataclass(frozen=True)
class Hints:
    """What helps when a command fails: only what holds for that command."""

    less_memory: str = ""
    """A sentence that says how it needs less memory."""
    has_out: bool = False
    """Whether `--out` chooses where it writes."""
    kept: str = ""
    """A sentence that says what is left of work that was cut short."""


def command(
    group: typer.Typer, name: str, example: str, hints: Hints = Hints()
) -> Callable[[Command], Command]:
    """Register a function as a command whose help ends with an example, and whose errors read as messages."""

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with _explained(hints):
                function(*args, **kwargs)

        group.command(name, epilog=f"\b\nExample:\n  {example}")(guarded)
        return function

    return register


@contextmanager
def _explained(hints: Hints) -> Iterator[None]:
    """Turn exceptions into a message on stderr and an exit status."""
    _open_closed_streams()
    try:
        with _every_interrupt_arrives(), _notices_as_lines():
            yield
        sys.stdout.flush()
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        if _debug:
            raise
        say(_sentences("Interrupted.", hints.kept))
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except DitLensError as error:
        if _debug:
            raise
        say(_sentences(f"Error: {error}", *_elsewhere(error.__cause__, hints)))
        raise typer.Exit(error.exit_status) from None
    except MemoryError:
        if _debug:
            raise
        say(_sentences("Error: out of memory.", hints.less_memory, hints.kept))
        raise typer.Exit(1) from None
    except OSError as error:
        if _debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        room = "Free some space." if error.errno in _FULL else ""
        what = f"Error: {where}{error.strerror or error}."
        say(_sentences(what, room, *_elsewhere(error, hints)))
        raise typer.Exit(1) from None
    except Exception as error:
        if _debug:
            raise
        say(
            f"Error: {type(error).__name__}: {error}\n"
            "This is a defect in dit_lens, not in your input. `dit-lens --debug …` shows where it happened."
        )
        raise typer.Exit(1) from None


@contextmanager
def _notices_as_lines() -> Iterator[None]:
    """Print what the package gives notice of as lines for the reader; other warnings stay Python's."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, Notice):
                say(f"Note: {message}")
            else:
                others(message, category, *rest, **more)

        warnings.showwarning = show
        yield


@contextmanager
def _every_interrupt_arrives() -> Iterator[None]:
    """Repeat an interrupt that meets Python within a finalizer, where it would be printed and dropped."""
    before = sys.unraisablehook
    repeats: list[threading.Timer] = []

    def again(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            repeats.append(threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)))
            repeats[-1].start()
        else:
            before(unraisable)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
        for each in repeats:
            # What it was meant for has ended: nobody would turn it into a message any more.
            each.cancel()


def _open_closed_streams() -> None:
    """Give what the caller closed (`>&-`) a place that swallows everything.

    Python has None for it, and the next file that is opened would take its number.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def _elsewhere(cause: BaseException | None, hints: Hints) -> tuple[str, ...]:
    """Advice where a place is full or closed."""
    if not isinstance(cause, OSError) or cause.errno not in _FULL | _CLOSED:
        return ()
    return ("--out chooses another place." if hints.has_out else "", hints.kept)


def _sentences(*found: str) -> str:
    return " ".join(filter(None, found))


def say(text: str) -> None:
    """Print a line for the reader, on stderr."""
    typer.echo(inert(text), err=True)


def say_lost(run_dir: Path, lost: Sequence[str]) -> None:
    """Print what a run lost, and the command that makes it again; nothing where nothing is lost."""
    for each in lost:
        say(f"Warning: {each}")
    if lost:
        again = f"dit-lens run {shlex.quote(str(run_dir / 'spec.yaml'))} --out {shlex.quote(str(run_dir))}"
        say(f"Remove what cannot be read; `{again}` then writes it again.")


def inert(text: str) -> str:
    """Return text in which nothing commands a terminal: control characters are spelled out.

    >>> inert("a\\x1b[31m name")
    'a\\\\x1b[31m name'
    """
    return "".join(
        repr(each)[1:-1] if category(each).startswith("C") and each not in "\n\t" else each for each in text
    )


def print_path(path: Path) -> None:
    """Print a path on stdout: as it is for a program that reads it, inert on a terminal."""
    if sys.stdout.isatty():
        typer.echo(inert(str(path)))
    else:
        # With colour, as click would otherwise cut what looks like a colour out of the name.
        typer.echo(path, color=True)


def print_json(value: Any) -> None:
    """Print a result as JSON, on stdout; what could command a terminal or turn its text around is escaped."""
    typer.echo(inert_json(json.dumps(value, indent=2, ensure_ascii=False)))


def inert_json(text: str) -> str:
    """The same JSON, with control and direction characters escaped that JSON would let pass.

    >>> inert_json('"a\\u202eb"')
    '"a\\\\u202eb"'
    """
    return "".join(
        json.dumps(each)[1:-1] if category(each).startswith("C") and each != "\n" else each for each in text
    )


@contextmanager
def stdout_kept_for_results() -> Iterator[None]:
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
