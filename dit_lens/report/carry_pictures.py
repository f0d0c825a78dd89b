"""Pictures of carried activations: source, target, and the target with more and more of the source in it.

Which pictures stand together, what each is ("source", "target" or "edited"), by which family and how strongly
stands in its `coords`. Entries of before there were any are read by `report/old_captions`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from dit_lens.report.effect_words import family_name, family_place
from dit_lens.report.old_captions import (
    family_and_strength_of_old,
    family_of_old,
    pair_of_old,
    role_of_old,
)
from dit_lens.report.section import RunView, picture
from dit_lens.report.text import number, shorten
from dit_lens.run.run_record import ImageEntry

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 3_000_000  # of the pictures of one section; the first pair is always shown
MOST_PICTURES = 40  # of one pair
LONGEST = 384  # pixels of a picture's longer side
SMALL = 128  # up to here a picture is kept without loss, and its pixels stay squares when it is enlarged


@dataclass(frozen=True)
class Carried:
    """One picture of a pair: by which family, how strongly ("" where nobody said).

    `kind` is the family without the number of its draw.
    """

    family: str
    strength: str
    entry: ImageEntry
    kind: str

    @classmethod
    def of(cls, entry: ImageEntry) -> Carried:
        """Return a picture of an edited target with what its entry says.

        >>> coords = {"role": "edited", "family": "random", "strength": 0.25}
        >>> one = Carried.of(ImageEntry(file="a.png", prompt="", seed=0, coords=coords))
        >>> one.family, one.strength
        ('random', '0.25')
        """
        if not entry.coords:
            return cls(*family_and_strength_of_old(entry), entry, family_of_old(entry))
        family, strength = str(entry.coords["family"]), entry.coords["strength"]
        return cls(family, f"{strength:g}", entry, family)

    @property
    def name(self) -> str:
        """What a reader sees below the picture, without the strength."""
        return family_name(self.kind) if self.kind != "massive" else "massive"

    @property
    def full_name(self) -> str:
        """Family and strength."""
        return f"{self.name} · {number(float(self.strength))}" if self.strength else self.name


@dataclass(frozen=True)
class Pair:
    """The pictures of one source and target: massive by strength, then everything it is compared with."""

    source: ImageEntry | None
    target: ImageEntry | None
    massive: tuple[Carried, ...]
    others: tuple[Carried, ...]

    @property
    def title(self) -> str:
        """What is carried into what."""
        first = next((one.entry for one in (*self.massive, *self.others)), None)
        into = self.target or first or self.source
        assert into is not None
        if self.source is None or self.source.prompt == into.prompt:
            return into.prompt or "no prompt"
        return f"{self.source.prompt or 'the source picture'} → {into.prompt or 'no prompt'}"

    @property
    def seed(self) -> int:
        """The seed of the target's noise."""
        entries = [self.target, *(one.entry for one in (*self.massive, *self.others)), self.source]
        return next(entry.seed for entry in entries if entry is not None)


def pairs_of(entries: Iterable[ImageEntry]) -> tuple[Pair, ...]:
    """Return pictures by pair, in the order in which pairs were first written."""
    groups: dict[object, list[ImageEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.coords.get("pair") or pair_of_old(entry), []).append(entry)
    pairs = []
    for group in groups.values():
        rest = [Carried.of(entry) for entry in group if _role(entry) == "edited"]
        rest = sorted(rest, key=lambda one: (family_place(one.kind), one.family, float(one.strength or 0)))
        massive = tuple(one for one in rest if one.kind == "massive")
        others = tuple(one for one in rest if one.kind != "massive")
        if rest:
            source = next((entry for entry in group if _role(entry) == "source"), None)
            target = next((entry for entry in group if _role(entry) == "target"), None)
            pairs.append(Pair(source, target, massive, others))
    return tuple(pairs)


def _role(entry: ImageEntry) -> object:
    return entry.coords.get("role") or role_of_old(entry)


def picture_grid(run: RunView, pairs: tuple[Pair, ...], section: str) -> tuple[Markup, int]:
    """Return the pictures of as many pairs as a page can hold, one shown at a time, and how many these are.

    Every picture can be chosen with mouse, finger or keyboard and is then compared with the target.
    """
    shown: list[Markup] = []
    for index, pair in enumerate(pairs):
        if index and sum(map(len, shown)) > MOST_BYTES:
            break
        shown.append(_pair(run, pair, section, index))
    chooser = Markup("")
    if len(shown) > 1:
        options = Markup("").join(
            Markup("<option value='{}'>{} · seed {}</option>").format(
                index, shorten(pair.title, 100), pair.seed
            )
            for index, pair in enumerate(pairs[: len(shown)])
        )
        chooser = Markup(
            "<p class='chooser'><label for='{0}-pair'>Pictures</label>"
            "<select id='{0}-pair' data-groups='{0}'>{1}</select></p>"
        ).format(section, options)
    return chooser + Markup("").join(shown), len(shown)


def _pair(run: RunView, pair: Pair, section: str, index: int) -> Markup:
    what = f"{pair.title} (seed {pair.seed})"
    fixed = Markup("").join(
        Markup("<figure class='thumb {}'>{}<figcaption>{}</figcaption></figure>").format(
            look, _image(run, entry, f"{name} of {what}"), name
        )
        for name, look, entry in (("source", "", pair.source), ("target", "reference", pair.target))
        if entry is not None
    )
    rows = [("", fixed, "")] if fixed else []
    chosen = (pair.massive or pair.others)[-1]
    room = MOST_PICTURES
    strengths = {one.strength for one in pair.others}
    alike = len(strengths) == 1 and "" not in strengths
    at = f", at strength {number(float(next(iter(strengths))))}" if alike else ""
    for title, members in (("massive channels", pair.massive), (f"in comparison{at}", pair.others)):
        thumbs = Markup("").join(
            Markup(
                "<label class='thumb'><input type='radio' name='{}-{}'{}>{}"
                "<span class='arm'>{}</span></label>"
            ).format(
                section,
                index,
                Markup(" checked") if one is chosen else "",
                _image(run, one.entry, f"{one.full_name}: {what}"),
                one.name if alike and one.kind != "massive" else one.full_name,
            )
            for one in members[:room]
        )
        if thumbs:
            rows.append((title, thumbs, "radiogroup"))
        room -= min(room, len(members))
    grid = Markup("").join(
        Markup("<div class='row'>{}<div class='thumbs'{}>{}</div></div>").format(
            Markup("<p>{}</p>").format(title) if title else "",
            Markup(" role='{}' aria-label='{}'").format(role, f"{title}: {what}") if role else "",
            thumbs,
        )
        for title, thumbs, role in rows
    )
    return Markup(
        "<div class='compare' data-group='{}'><p class='who'>{}<small>seed {}</small></p>"
        "<div class='both'>{}<div>{}</div></div></div>"
    ).format(index, pair.title, pair.seed, _stage(run, pair, what), grid)


def _stage(run: RunView, pair: Pair, what: str) -> Markup:
    """Return the place where the page's script compares the picture chosen with the target."""
    if pair.target is None:
        return Markup("")
    pixels = " pixels" if max(picture(run, pair.target).size) <= SMALL else ""
    return Markup(
        "<div class='stage' hidden data-reference='{0}'><div class='pair'><img class='under{1}' alt='{2}'>"
        "<img class='over{1}' alt='Chosen picture'><span class='cut' aria-hidden='true'></span></div>"
        "<input type='range' min='0' max='100' value='50' aria-label='{3}'>"
        "<p class='sides' aria-live='polite'><span>{0}</span> <span class='edited'></span></p></div>"
    ).format(
        pair.target.caption,
        pixels,
        f"{pair.target.caption} of {what}",
        f"Where the {pair.target.caption} ends and the chosen picture begins",
    )


def _image(run: RunView, entry: ImageEntry, alt: str) -> Markup:
    pixels = picture(run, entry)
    return Markup("<img{} src='{}' alt='{}' decoding='async'>").format(
        Markup(" class='pixels'") if max(pixels.size) <= SMALL else "", light_uri(pixels), alt
    )


def light_uri(image: Image) -> str:
    """Return a picture as a small `data:` address: without loss up to `SMALL` pixels a side, else WebP of at
    most `LONGEST`; never enlarged, which is left to the browser."""
    from PIL import Image as Pillow

    side = max(image.size)
    if side > LONGEST:
        size = tuple(max(1, round(length * LONGEST / side)) for length in image.size)
        image = image.resize(size, Pillow.Resampling.LANCZOS)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", lossless=side <= SMALL, quality=82 if side > SMALL else 100, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
