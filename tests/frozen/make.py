"""Write the frozen corpus as this tree makes it.

    python -m tests.frozen.make --out /tmp/before      # before a refactoring, on this machine
    DIT_LENS_FROZEN_EXACT=/tmp/before pytest tests/frozen      # after it: compares bit for bit

With `--out tests/frozen/data` it replaces the committed corpus; README.md says when that is right.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.frozen.corpus import GRAPHS, RUNS, SPECS, make, open_lens


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.frozen.make",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="new, empty, or of a corpus"
    )
    out = parser.parse_args(arguments).out
    if out.exists() and not out.is_dir():
        parser.error(f"{out} is a file; name a folder")
    others = {place.name for place in out.iterdir()} - {SPECS, GRAPHS, RUNS} if out.exists() else set()
    if others:
        parser.error(f"{out} holds {', '.join(sorted(others)[:4])} and is no corpus; name a new folder")
    started = time.monotonic()
    for line in make(out, open_lens()):
        print(f"{time.monotonic() - started:5.1f} s  {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
