"""The pictures of analyses/README.md, drawn from finished runs.

    python analyses/pictures.py reports/shapes-sd3                      # those that the main job answers
    python analyses/pictures.py reports/transport_image reports/detail_guidance

A run answers an analysis if it holds the table that `FIGURES` names. Needs kaleido:

    pip install 'dit-lens[export]'
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from PIL import Image

import dit_lens as dl

HERE = Path(__file__).parent / "images"
FIGURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "massive_activations": ("spectrum", "spectrum", {}),
    "disruption": ("disruption", "disruption", {}),
    "detail_vs_semantics": (
        "semantics_or_detail",
        "semantics_or_detail",
        {"metrics": ["semantics", "detail"]},
    ),
    "spatial": ("spatial_blocks", "spatial_blocks", {}),
    "transport_text": ("transport", "transport", {}),
    "transport_image": ("transport_image", "transport", {}),
    "detail_guidance": ("guidance", "detail_guidance", {"metric": "detail_ratio"}),
}
"""Analysis → the table of a run that stands for it, the figure of `dl.plots`, and its options."""

WIDTH = 1000
MOST_BYTES = 60_000


def draw(analysis: str, table: Any, place: Path = HERE) -> Path:
    """One picture from a table of a run: a WebP of at most 60 kB."""
    _, figure_name, options = FIGURES[analysis]
    figure = getattr(dl.plots, figure_name)(table, **options)
    path = place / f"{analysis}.webp"
    with TemporaryDirectory() as folder:
        png = dl.plots.save(figure, Path(folder) / "figure.png", width=WIDTH, scale=1.0)
        picture = Image.open(png).convert("RGB")
    for quality in range(90, 20, -10):
        picture.save(path, quality=quality, method=6)
        if path.stat().st_size <= MOST_BYTES:
            return path
    raise typer.BadParameter(f"{path} stays over {MOST_BYTES} bytes: choose a smaller figure.")


def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `dit-lens run` left.")],
) -> None:
    """Draw the picture of every analysis that one of the runs answers.

    Example: python analyses/pictures.py reports/shapes-sd3
    """
    from dit_lens.run.records import RunFolder

    for run in runs:
        folder = RunFolder.read(run)
        for analysis, (table, _, _) in FIGURES.items():
            if table in folder.table_names:
                typer.echo(draw(analysis, folder.table(table)))


if __name__ == "__main__":
    typer.run(main)
