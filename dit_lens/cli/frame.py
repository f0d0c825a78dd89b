"""Around every command: the program itself, its options, and how errors become messages and exit statuses."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, TypeVar
from unicodedata import category

import typer

from dit_lens import __version__
from dit_lens.errors import DitLensError

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
    help="List hook points, models or analyses.",
    epilog="\b\nExample:\n  dit-lens list hook-points shapes-sd3",
    **_PLAIN,
)
app.add_typer(listing, name="list")

_debug = False


def debugging() -> bool:
    """Whether tracebacks were asked for."""
    return _debug


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
        say("Interrupted. What was finished is kept; `dit-lens run … --resume` goes on from there.")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except DitLensError as error:
        if _debug:
            raise
        say(f"Error: {error}")
        raise typer.Exit(error.exit_status) from None
    except (MemoryError, OSError) as error:
        if _debug:
            raise
        say(f"Error: {_system_message(error)}")
        raise typer.Exit(1) from None
    except Exception as error:
        if _debug:
            raise
        say(
            f"Error: {type(error).__name__}: {error}\n"
            "This is a defect in dit_lens, not in your input. `dit-lens --debug …` shows where it happened."
        )
        raise typer.Exit(1) from None


def _system_message(error: MemoryError | OSError) -> str:
    if isinstance(error, MemoryError):
        return "out of memory. A smaller --set batch_size=1, fewer steps or a smaller image needs less."
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}. Free some space, or choose another place with --out."


def say(text: str) -> None:
    """Print a line for the reader, on stderr."""
    typer.echo(inert(text), err=True)


def inert(text: str) -> str:
    """Return text in which nothing commands a terminal: control characters are spelled out.

    >>> inert("a\\x1b[31m name")
    'a\\\\x1b[31m name'
    """
    return "".join(
        repr(each)[1:-1] if category(each).startswith("C") and each not in "\n\t" else each for each in text
    )


def print_json(value: Any) -> None:
    """Print a result as JSON, on stdout; control characters that JSON lets pass are escaped, too."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    typer.echo("".join(f"\\u{ord(each):04x}" if "\x7f" <= each <= "\x9f" else each for each in text))


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
