"""The section about where massive channels point: masks over pictures, and how well they fit the subject."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from markupsafe import Markup

from dit_lens.report import plots
from dit_lens.report.effect_sections import INTERVALS
from dit_lens.report.effect_words import families_in_order, family_name
from dit_lens.report.plots.spatial import compared_steps
from dit_lens.report.section import MissingTable, RunView, Section, SectionBuilder, Tile, View, picture
from dit_lens.report.text import count, number

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from dit_lens.run.run_record import ImageEntry

MASK = "mask"  # the kind of an image that shows a mask
OPEN = 2  # prompts whose masks are shown at once; the others unfold
MOST_BYTES = 2_000_000  # of masks in one report; the first prompt is always shown
_SHARP = 96  # pixels of the longer side up to which an image's pixels are kept when it is enlarged


def spatial(run: RunView) -> Section:
    """Where massive channels point."""
    table = run.table("spatial_blocks")
    places = _places(run)
    # The place where massive channels did best comes first, and the last step after it.
    steps = list(dict.fromkeys(step for _, step in places)) or compared_steps(table)
    views = [View(f"by block, step {step}", plots.spatial_blocks(table, step=step)) for step in steps]
    mapped = [family for family in families_in_order(table["family"]) if _in_several_steps(table, family)]
    views += [
        View(f"block × step, {family_name(family)}", plots.spatial_map(table, family=family, places=places))
        for family in mapped or ["massive"]
    ]
    views += [
        View(
            f"over k, block {block}, step {step}",
            plots.spatial_k(run.table("spatial_k"), block=block, step=step),
        )
        for block, step in places
    ]
    return Section(
        id="spatial",
        title="Where is it written?",
        lead="Image tokens are clustered by the values of a few channels, one cluster is taken for the "
        "subject without looking at the truth, and the mask is compared with the subject's true mask.",
        views=tuple(views),
        extra=_masks(run),
        reading="The pictures show the true mask and the mask by the massive channels after each block, "
        "tinted. IoU is the tokens in both masks over the tokens in either: 1 is the subject exactly. The "
        "dotted line is what a shuffled mask of the same size reaches. Where other channels reach as much, "
        "the outline is no privilege of the massive ones. Outlined cells of the map are the places that "
        "were chosen on other prompts, and where claims are judged; the colours are those of every family's "
        "map, and start at 0. At the steps of those cells a control is the mean of its draws, elsewhere it "
        "is its first draw. Every "
        f"single mask is a row of tables/spatial.parquet. {INTERVALS}",
        conclusion=finding(table, places),
        tiles=_tile(table, places),
        answers=run.answers("spatial"),
        table="spatial_blocks",
        repeat=_REPEAT.format(step=steps[0]),
    )


_REPEAT = (
    "from dit_lens.report import plots\n"
    "from dit_lens.run.records import RunFolder\n\n"
    'table = RunFolder.read(".").table("spatial_blocks")  # in the run folder\n'
    "plots.spatial_blocks(table, step={step}).show()"
)


def finding(table: pd.DataFrame, places: tuple[tuple[int, int], ...] = ()) -> str:
    """Return the numbers at the first judged place, or where the massive channels' IoU is largest."""
    rows = table.dropna(subset=["mean"])
    massive = rows[rows["family"] == "massive"]
    if massive.empty:
        return "No mask by the massive channels could be compared with a truth."
    at = massive[[place in places[:1] for place in zip(massive["block"], massive["step"], strict=True)]]
    peak = at.iloc[0] if len(at) else massive.loc[massive["mean"].idxmax()]
    here = rows[(rows["block"] == peak["block"]) & (rows["step"] == peak["step"])]
    others = here[~here["family"].isin(["massive", "all", "all_but_massive"])]
    beside = ""
    if len(others):
        best = others.loc[others["mean"].idxmax()]
        beside = f", as many other channels at most {number(best['mean'], 2)}"
    together = here[here["family"] == "all_but_massive"]
    if len(together):
        beside += f", all other channels together {number(together['mean'].iloc[0], 2)}"
    return (
        f"After block {int(peak['block'])} at step {int(peak['step'])}, masks by the massive channels have a "
        f"mean IoU of {number(peak['mean'], 2)} with the subject{beside}, and a shuffled mask "
        f"{number(peak['chance'], 2)} (n = {int(peak['n'])} prompts)."
    )


def _in_several_steps(table: pd.DataFrame, family: str) -> bool:
    return table.loc[table["family"] == family, "step"].nunique() > 1


def _places(run: RunView) -> tuple[tuple[int, int], ...]:
    """Return the (block, step) places that were looked at over k: those where claims are judged.

    The best one comes first: the other, where there is one, is at the last step.
    """
    try:
        rows = run.table("spatial_k")
    except MissingTable:
        return ()
    found = rows[["block", "step"]].drop_duplicates()
    places = [(int(block), int(step)) for block, step in found.itertuples(index=False, name=None)]
    return tuple(sorted(places, key=lambda place: place[1]))


def _tile(table: pd.DataFrame, places: tuple[tuple[int, int], ...]) -> tuple[Tile, ...]:
    if not places:
        return ()
    block, step = places[0]
    rows = table[(table["family"] == "massive") & (table["block"] == block) & (table["step"] == step)]
    rows = rows.dropna(subset=["mean"])
    if rows.empty:
        return ()
    chance = number(rows["chance"].iloc[0], 2)
    label = f"IoU of the massive channels' masks with the subject (chance {chance})"
    return (Tile(number(rows["mean"].iloc[0], 2), label),)


# ------------------------------------------------------------------------------------------------------ masks
def _masks(run: RunView) -> Markup:
    """Return one row of pictures per prompt; the first few open, the others to unfold."""
    groups: dict[tuple[str, int], list[ImageEntry]] = {}
    for entry in run.images:
        if entry.kind == MASK:
            groups.setdefault((entry.prompt, entry.seed), []).append(entry)
    shown: list[Markup] = []
    for (prompt, seed), entries in groups.items():
        if shown and sum(map(len, shown)) > MOST_BYTES:
            break
        shown.append(_row(run, prompt, seed, entries))
    if not shown:
        return Markup("")
    body = Markup("").join(shown[:OPEN])
    if len(shown) > OPEN:
        body += Markup(
            "<details><summary>Masks of other prompts <span>({})</span></summary>{}</details>"
        ).format(len(shown) - OPEN, Markup("").join(shown[OPEN:]))
    rest = len(groups) - len(shown)
    if rest:
        body += Markup("<p class='note'>{}</p>").format(
            f"{count(rest, 'more prompt')} can be found in images/."
        )
    return body


def _row(run: RunView, prompt: str, seed: int, entries: list[ImageEntry]) -> Markup:
    tiles = Markup("").join(
        _figure(picture(run, entry), f"{entry.caption}: {prompt} (seed {seed})", entry.caption)
        for entry in entries
    )
    return Markup(
        "<div style='margin:0 0 1rem'><p class='who'>{}<small>seed {}</small></p>"
        "<div class='thumbs'>{}</div></div>"
    ).format(prompt, seed, tiles)


def _figure(image: Image, alt: str, caption: str) -> Markup:
    # A small picture is enlarged by the browser, whose smoothing would hide the tokens' edges.
    small = max(image.size) <= _SHARP
    style = Markup(" style='image-rendering:pixelated'") if small else Markup("")
    return Markup(
        "<figure class='thumb reference'><img src='{}' alt='{}' width='{}' height='{}' decoding='async'{}>"
        "<figcaption>{}</figcaption></figure>"
    ).format(_address(image, small), alt, image.width, image.height, style, caption)


def _address(image: Image, small: bool) -> str:
    """Return a picture as a `data:` address: exact where it is small."""
    buffer = io.BytesIO()
    if small:
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="WEBP", quality=82)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


SPATIAL_SECTIONS: tuple[SectionBuilder, ...] = (spatial,)
