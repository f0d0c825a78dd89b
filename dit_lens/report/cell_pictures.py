"""Pictures of the cells of a block × step map: the edited one beside the unedited one, cell by cell.

All pictures of one prompt and family are one sheet, cells as tiles, so that a map of hundreds of cells is a
few inlined files. The page's script moves the sheet so that it shows the cell under the pointer.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dit_lens.report.effect_words import family_name, family_place
from dit_lens.report.section import CELL, MissingTable, RunView, picture
from dit_lens.report.text import script_json
from dit_lens.run.run_record import ImageEntry

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

CLEAN = "clean"  # the caption of an unedited picture
MOST_PIXELS = 3_000_000  # of one sheet; tiles shrink to fit
SHARP = 64  # pixels of a tile up to which it is kept without loss, and enlarged as squares

NO_PICTURES = (
    "A cell of this map has no picture: it is read from the velocity of the edited step itself, before any "
    "picture is made of it."
)


@dataclass(frozen=True)
class _Group:
    """The pictures of one prompt and seed: the unedited one, and by family those of each cell."""

    prompt: str
    seed: int
    clean: ImageEntry | None
    families: dict[str, dict[tuple[int, int], ImageEntry]]


def cell_pictures(run: RunView, study: str, table: pd.DataFrame) -> Markup:
    """Return the panel that shows the pictures of a map's cells, or a line that says why there is none.

    `table` is the map; `study` is its name, with which the pictures' files begin.
    """
    if _read_at_a_step(run, study):
        return _note(NO_PICTURES)
    groups = _groups(run, study)
    if not groups:
        return _note("This run kept no pictures of single cells.")
    blocks = sorted({int(block) for block in table["block"]})
    steps = sorted({int(step) for step in table["step"]})
    first = groups[0]
    some = picture(run, next(iter(next(iter(first.families.values())).values())))
    size = _tile(some.size, len(blocks) * len(steps))
    pixels = " pixels" if max(size) <= SHARP else ""
    shown = Markup("").join(
        _group(run, group, index, blocks, steps, size, pixels) for index, group in enumerate(groups)
    )
    row, column = _peak(table, blocks, steps)
    name = study.replace("_", "-")
    chooser = Markup("")
    if len(groups) > 1:
        options = Markup("").join(
            Markup("<option value='{}'>{} · seed {}</option>").format(index, group.prompt, group.seed)
            for index, group in enumerate(groups)
        )
        chooser = Markup(
            "<p class='chooser'><label for='{0}-cells-prompt'>Prompt</label>"
            "<select id='{0}-cells-prompt' class='cells-prompt'>{1}</select></p>"
        ).format(name, options)
    data = {"blocks": blocks, "steps": steps}
    return Markup(
        "<div class='cells' hidden data-cells='{}'><h3>Pictures of one cell</h3>"
        "<p class='note'>Point at a cell of the map, tap it, or choose it here.</p>{}"
        "<div class='cells-at'>{}{}</div>{}"
        "<p class='visually-hidden' role='status'></p></div>"
    ).format(
        script_json(data),
        chooser,
        _slider("block", name, len(blocks), row),
        _slider("step", name, len(steps), column),
        shown,
    )


def _note(text: str) -> Markup:
    return Markup("<p class='note'>{}</p>").format(text)


def _slider(what: str, name: str, amount: int, at: int) -> Markup:
    return Markup(
        "<p><label for='{0}-cells-{1}'>{2}</label><input type='range' id='{0}-cells-{1}' class='cells-{1}' "
        "min='0' max='{3}' value='{4}' step='1'><output for='{0}-cells-{1}'></output></p>"
    ).format(name, what, what.capitalize(), amount - 1, at)


def _read_at_a_step(run: RunView, study: str) -> bool:
    try:
        arms = run.table("arms")
    except MissingTable:
        return study == "step_map"
    if not {"study", "readout", "protocol"} <= set(arms.columns):
        return study == "step_map"
    own = arms[(arms["study"] == study) & (arms["protocol"] == "single_cell")]
    return bool(len(own)) and set(own["readout"]) == {"step"}


def _groups(run: RunView, study: str) -> list[_Group]:
    entries = [entry for entry in run.images_of(CELL) if entry.file.startswith(f"cell-{study}-")]
    if not entries:
        return []
    arms = run.table("arms")
    own = arms[arms["study"] == study].drop_duplicates("arm").set_index("arm")
    of: dict[tuple[str, int], list[ImageEntry]] = {}
    for entry in entries:
        of.setdefault((entry.prompt, entry.seed), []).append(entry)
    groups = []
    for (prompt, seed), mine in of.items():
        families: dict[str, dict[tuple[int, int], ImageEntry]] = {}
        for entry in mine:
            if entry.caption not in own.index:
                continue
            arm = own.loc[entry.caption]
            if arm["protocol"] == "single_cell":
                at = (int(arm["block"]), int(arm["step"]))
                families.setdefault(str(arm["family"]), {})[at] = entry
        if families:
            ordered = dict(sorted(families.items(), key=lambda item: family_place(item[0])))
            groups.append(_Group(prompt, seed, _clean(run, mine, prompt, seed), ordered))
    return groups


def _clean(run: RunView, mine: list[ImageEntry], prompt: str, seed: int) -> ImageEntry | None:
    """Return the unedited picture, wherever the run kept one."""
    elsewhere = [*run.arm_images, *run.samples]
    for entry in (*mine, *elsewhere):
        plain = entry.caption == CLEAN or entry in run.samples
        if plain and (entry.prompt, entry.seed) == (prompt, seed):
            return entry
    return None


def _group(
    run: RunView,
    group: _Group,
    index: int,
    blocks: list[int],
    steps: list[int],
    size: tuple[int, int],
    pixels: str,
) -> Markup:
    figures = Markup("")
    if group.clean is not None:
        figures += _figure(
            "unedited", _sheet([[picture(run, group.clean)]], size), (1, 1), size, pixels, "data-fixed"
        )
    for family, cells in group.families.items():
        rows = [[_at(run, cells, (block, step)) for step in steps] for block in blocks]
        name = "massive channels" if family == "massive" else family_name(family)
        figures += _figure(name, _sheet(rows, size), (len(steps), len(blocks)), size, pixels)
    return Markup("<div class='cell-row' data-group='{}' data-who='{}'{}>{}</div>").format(
        index,
        f"{group.prompt}, seed {group.seed}",
        Markup(" hidden") if index else "",
        figures,
    )


def _at(run: RunView, cells: dict[tuple[int, int], ImageEntry], at: tuple[int, int]) -> Image | None:
    return picture(run, cells[at]) if at in cells else None


def _figure(
    name: str, address: str, tiles: tuple[int, int], size: tuple[int, int], pixels: str, fixed: str = ""
) -> Markup:
    style = (
        f"background-image:url({address});background-size:{100 * tiles[0]}% {100 * tiles[1]}%;"
        f"aspect-ratio:{size[0]}/{size[1]}"
    )
    return Markup(
        "<figure><div class='cell-picture{}' role='img' aria-label='{}' data-name='{}' style='{}' {}></div>"
        "<figcaption>{}</figcaption></figure>"
    ).format(pixels, name, name, style, Markup(fixed), name)


def _sheet(rows: list[list[Image | None]], size: tuple[int, int]) -> str:
    """Return pictures as one `data:` address, a tile each; a missing one is grey."""
    from PIL import Image as Pillow

    sheet = Pillow.new("RGB", (size[0] * len(rows[0]), size[1] * len(rows)), (128, 128, 128))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            if tile is not None:
                small = tile if tile.size == size else tile.resize(size, Pillow.Resampling.LANCZOS)
                sheet.paste(small, (j * size[0], i * size[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, format="WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _tile(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """Return how large a tile is: as its picture, or as small as a sheet of that many demands.

    >>> _tile((96, 96), 40), _tile((96, 64), 672)
    ((96, 96), (81, 54))
    """
    shrink = min(1.0, (MOST_PIXELS / (cells * size[0] * size[1])) ** 0.5)
    return max(1, int(size[0] * shrink)), max(1, int(size[1] * shrink))


def _peak(table: pd.DataFrame, blocks: list[int], steps: list[int]) -> tuple[int, int]:
    """Return row and column of the cell to begin with: where massive and control differ most."""
    rows: Any = table[table["family"] == "massive"].dropna(subset=["difference"])
    if rows.empty:
        return 0, 0
    first = rows[rows["metric"] == rows["metric"].iloc[0]]
    peak = first.loc[first["difference"].abs().idxmax()]
    return blocks.index(int(peak["block"])), steps.index(int(peak["step"]))
