"""What each edit does to the same image: one group per prompt and seed, every arm beside the clean image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dit_lens.inline_html import data_uri
from dit_lens.report.effect_words import family_place
from dit_lens.report.image_lists import image_list, repeat
from dit_lens.report.section import ARM, MissingTable, RunView, Section, picture
from dit_lens.report.text import count, shorten
from dit_lens.run.run_record import ImageEntry

MOST_ARMS = 40  # images of one prompt and seed
MOST_BYTES = 6_000_000  # of images in one report; the first group is always shown
LONGEST = 384  # pixels of an image's longer side
CLEAN = "clean"


@dataclass(frozen=True)
class _Group:
    """The images of one prompt and seed: the clean one, and each arm's, those that edit most blocks first."""

    prompt: str
    seed: int
    clean: ImageEntry | None
    arms: tuple[ImageEntry, ...]


def gallery(run: RunView) -> Section:
    """What each edit does to the same image."""
    groups = _groups(run)
    if not groups:
        raise MissingTable("This run kept no images of edited runs.")
    shown: list[Markup] = []
    for index, group in enumerate(groups):
        if index and sum(map(len, shown)) > MOST_BYTES:
            break
        shown.append(_html(run, group, index))
    chooser = Markup("")
    if len(shown) > 1:
        options = Markup("").join(
            Markup("<option value='{}'>{} · seed {}</option>").format(
                index, shorten(group.prompt, 70), group.seed
            )
            for index, group in enumerate(groups[: len(shown)])
        )
        chooser = Markup(
            "<p class='chooser'><label for='gallery-group'>Show</label>"
            "<select id='gallery-group' data-groups='gallery'>{}</select></p>"
        ).format(options)
    rest = len(groups) - len(shown)
    most = max(len(group.arms) for group in groups)
    notes = (
        f" {count(rest, 'more prompt and seed', 'more prompts and seeds')} lie in images/." if rest else ""
    )
    if most > MOST_ARMS:
        notes += f" The first {MOST_ARMS} of {most} edits are shown; the others lie in images/."
    arms = sorted({entry.caption for group in groups for entry in group.arms})
    first = (ARM, groups[0].prompt, groups[0].seed)
    return Section(
        id="gallery",
        title="What does each edit do to the same image?",
        lead="The same prompt and the same noise under every edit, beside the image without one.",
        extra=chooser + Markup("").join(shown),
        reading="Choose an edit, then move the slider (or the pointer over the image): left of the cut is "
        "the clean image, right of it the edited one. Names are those of the tables: the family, the draw, "
        "and what was edited if it was not everything." + notes,
        conclusion=f"{count(len(groups), 'image')} under {count(len(arms), 'edit')}; a picture is an "
        "example, the verdicts rest on all prompts.",
        download=image_list("gallery", [entry for group in groups for entry in _of_group(group)]),
        repeat=repeat(f"(each.kind, each.prompt, each.seed) == {first!r}", "each.caption"),
    )


def _of_group(group: _Group) -> tuple[ImageEntry, ...]:
    return group.arms if group.clean is None else (group.clean, *group.arms)


def _groups(run: RunView) -> list[_Group]:
    of: dict[tuple[str, int], list[ImageEntry]] = {}
    for entry in run.arm_images:
        of.setdefault((entry.prompt, entry.seed), []).append(entry)
    groups = []
    for (prompt, seed), entries in of.items():
        clean = next((entry for entry in entries if entry.caption == CLEAN), None)
        if clean is None:
            clean = next((one for one in run.samples if (one.prompt, one.seed) == (prompt, seed)), None)
        arms = sorted(
            (entry for entry in entries if entry.caption != CLEAN), key=lambda one: _place(one.caption)
        )
        if arms:
            groups.append(_Group(prompt, seed, clean, tuple(arms)))
    return groups


def _place(arm: str) -> tuple[Any, ...]:
    """Return an arm's place: edits of everything first, massive before its controls, numbers as numbers."""
    family = re.split(r"[.-]", arm, maxsplit=1)[0]
    natural = [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", arm)]
    return arm.count("."), family_place(family), natural


def _html(run: RunView, group: _Group, index: int) -> Markup:
    """Return one group: a stage for comparing two images (filled by the page's script), and all images."""
    what = f"{group.prompt} (seed {group.seed})"
    clean = Markup("")
    stage = Markup("")
    if group.clean is not None:
        address = data_uri(picture(run, group.clean), longest=LONGEST)
        clean = Markup(
            "<figure class='thumb reference'><img src='{}' alt='{}' decoding='async'>"
            "<figcaption>clean</figcaption></figure>"
        ).format(address, f"Clean image: {what}")
        stage = Markup(
            "<div class='stage' hidden><div class='pair'><img class='under' alt='{}'>"
            "<img class='over' alt='Edited image'><span class='cut' aria-hidden='true'></span></div>"
            "<input type='range' min='0' max='100' value='50' aria-label='{}'>"
            "<p class='sides' aria-live='polite'><span>clean</span> <span class='edited'></span></p></div>"
        ).format(f"Clean image: {what}", "Where the clean image ends and the edited one begins")
    shown = group.arms[:MOST_ARMS]
    rows = Markup("").join(
        Markup("<div class='row'><p>{}</p><div class='thumbs'>{}{}</div></div>").format(
            title,
            clean if number == 0 else "",
            Markup("").join(_thumb(run, entry, index, what, entry is shown[0]) for entry in entries),
        )
        for number, (title, entries) in enumerate(_rows(shown))
    )
    return Markup(
        "<div class='compare' data-group='{}'><p class='who'>{}<small>seed {}</small></p><div class='both'>{}"
        "<div role='radiogroup' aria-label='{}'>{}</div></div></div>"
    ).format(index, group.prompt, group.seed, stage, f"Edits of the image: {what}", rows)


_ROWS = {"": "every block", "block": "one block", "k": "other numbers of channels"}


def _rows(arms: tuple[ImageEntry, ...]) -> list[tuple[str, list[ImageEntry]]]:
    """Return arms by what they edit, which their names say after the first dot: `massive.block-2`."""
    rows: dict[str, list[ImageEntry]] = {}
    for entry in arms:
        place = re.fullmatch(r"[^.]*\.(block|k)-\d+", entry.caption)
        title = _ROWS[place[1]] if place else _ROWS[""] if "." not in entry.caption else "other edits"
        rows.setdefault(title, []).append(entry)
    return list(rows.items())


def _thumb(run: RunView, entry: ImageEntry, index: int, what: str, checked: bool) -> Markup:
    # Names may break where their words end.
    name = Markup("_<wbr>").join(entry.caption.split("_"))
    return Markup(
        "<label class='thumb'><input type='radio' name='gallery-{}'{}>"
        "<img src='{}' alt='{}' decoding='async'>"
        "<span class='arm'>{}</span></label>"
    ).format(
        index,
        Markup(" checked") if checked else "",
        data_uri(picture(run, entry), longest=LONGEST),
        f"Edited image ({entry.caption}): {what}",
        name,
    )
