"""What stands behind a section of pictures: a list of their files, and code that draws some of them again."""

from __future__ import annotations

from collections.abc import Sequence

from dit_lens.report.downloads import Download, of_table
from dit_lens.report.plots.images import MOST
from dit_lens.run.run_record import ImageEntry


def image_list(name: str, entries: Sequence[ImageEntry]) -> Download | None:
    """Return which file of images/ shows what, as CSV."""
    import pandas as pd

    columns = ["file", "prompt", "seed", "caption"]
    rows = [{column: getattr(entry, column) for column in columns} for entry in entries]
    return of_table(name, pd.DataFrame(rows, columns=columns))


def repeat(which: str, label: str) -> str:
    """Return code that draws the pictures of a run folder for which `which` holds, each under its label."""
    return (
        "from PIL import Image\n\n"
        "from dit_lens.report import plots\n"
        "from dit_lens.run.records import RunFolder\n\n"
        'folder = RunFolder.read(".")  # the run folder\n'
        f"chosen = [each for each in folder.images() if {which}][:{MOST}]\n"
        "pictures = [Image.open(folder.image_path(each)) for each in chosen]\n"
        f"plots.images(pictures, labels=[{label} for each in chosen]).show()"
    )
