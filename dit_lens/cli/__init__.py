"""The command line: each command reads its arguments, calls one function, and prints what came out.

Results go to stdout, everything else to stderr. Exit status: 0 done, 2 bad input, 1 failure, 130 interrupted.
Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

# Importing a module registers its commands, in the order in which `--help` shows them.
from dit_lens.cli import analyses, compare, listings, looks  # noqa: F401
from dit_lens.cli.frame import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    app()
