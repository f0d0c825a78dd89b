"""Two runs side by side as one HTML file that needs nothing else, made from their records without torch."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from dit_lens.atomic import atomic_write
from dit_lens.methods.answers import Answer
from dit_lens.methods.metrics import quantity
from dit_lens.methods.stats import Effect
from dit_lens.report.carry_pictures import light_uri
from dit_lens.report.comparison import Comparison, SharedClaim
from dit_lens.report.damage import lost_verdicts, tell
from dit_lens.report.document import Figure, page
from dit_lens.report.effect_words import family_name, metrics_in_order, p_words
from dit_lens.report.plots.compare import compare_channels, compare_effects
from dit_lens.report.section import RunView, View, picture
from dit_lens.report.summary import SIGNS
from dit_lens.report.text import count, number, shorten
from dit_lens.run.run_record import ImageEntry

MOST_BYTES = 4_000_000  # of pictures; the first prompt is always shown
MOST_ARMS = 24  # edits of one prompt
_MOST_LETTERS = 80  # of a folder in a file name, which most systems limit to 255 bytes
STANDARD = "standard deviations"  # of the paired differences


def build_comparison(
    run_a: str | os.PathLike[str],
    run_b: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write a page that puts two runs side by side, and return its path.

    `out` is `comparison-<first>-<second>.html` unless given, after the runs' folders; a file of that name is
    replaced. `say` is called with each table and with the verdicts that a run lost after it was finished;
    without it, these are Python warnings.

    Raises `BadInput` for folders that hold no run, are damaged or of a newer version, for the same folder
    twice, and for runs without a question in common; `RunFailure` when the page cannot be written.

    Example: `build_comparison("reports/first", "reports/second", "comparison.html")`
    """
    found = Comparison.of(Path(run_a), Path(run_b))
    for view, lost in zip((found.a, found.b), found.lost, strict=True):
        tell(view, lost, say)
    return atomic_write(named_after(run_a, run_b) if out is None else out, render_comparison(found))


def named_after(run_a: str | os.PathLike[str], run_b: str | os.PathLike[str]) -> Path:
    """Return the file name of the comparison of two folders, so that another pair's page is not replaced.

    Where the folders have the same name, it begins at the first folder in which their paths differ.

    >>> str(named_after("first/run", "second/run"))
    'comparison-first-run-second-run.html'
    >>> str(named_after("reports/first", "reports/second"))
    'comparison-first-second.html'
    """
    a, b = (place.parts[1:] for place in (Path(run_a).resolve(), Path(run_b).resolve()))
    same = 0
    while same < min(len(a), len(b)) - 1 and a[-1 - same] == b[-1 - same]:
        same += 1
    words = ("-".join(each[-1 - same :])[-_MOST_LETTERS:] for each in (a, b))
    return Path(f"comparison-{'-'.join(words)}.html")


def render_comparison(found: Comparison) -> str:
    """Return the page of a comparison as HTML."""
    only_a, only_b = found.alone
    return page(
        "comparison.html.j2",
        ("gallery.js", "page.js"),
        sides=(_Side.of("A", found.a), _Side.of("B", found.b)),
        summary=_summary(found),
        lost=[(letter, each) for letter, own in zip("AB", found.lost, strict=True) for each in own],
        changed=[_Row.of(claim) for claim in found.changed],
        same=[_Row.of(claim) for claim in found.claims if not claim.changed],
        alone=(
            ("A", [_Judged.of(answer) for answer in only_a]),
            ("B", [_Judged.of(answer) for answer in only_b]),
        ),
        effects=[Figure.of(view) for view in _effect_views(found)],
        rows=_csv(_all_effects(found)) if found.claims else "",
        channels=[Figure.of(view) for view in _channel_views(found)],
        channels_note=_channels_note(found),
        pictures=_pictures(found),
        specs=found.of_specs,
        versions=found.of_versions,
    )


# ------------------------------------------------------------------------------------------------------ words
@dataclass(frozen=True)
class _Side:
    """One of the runs: its letter, where it lies, and what it is."""

    letter: str
    folder: str
    title: str
    lead: str

    @property
    def quoted(self) -> str:
        """The folder as a shell reads it."""
        return shlex.quote(self.folder)

    @classmethod
    def of(cls, letter: str, view: RunView) -> _Side:
        record = view.record
        lead = (
            f"{record.model} ({record.dtype}, {record.device}), {count(len(record.prompts), 'prompt')} × "
            f"{count(len(record.seeds), 'seed')}, run on {record.started:%d %B %Y}"
        )
        ended = {"running": ", not finished", "failed": ", ended with an error"}.get(record.status, "")
        ended = ", interrupted" if record.interrupted else ended
        return cls(letter, str(view.folder.path), record.title, lead + ended)


@dataclass(frozen=True)
class _Judged:
    """An answer of one run: its verdict and one effect in words."""

    claim: str
    outcome: str
    sign: str
    look: str
    numbers: str

    @classmethod
    def of(cls, answer: Answer, effect: Effect | None = None) -> _Judged:
        claim = answer.claim[:1].upper() + answer.claim[1:]
        look = answer.outcome.replace(" ", "-")
        numbers = "" if effect is None else _numbers(effect, answer)
        return cls(claim, answer.outcome, SIGNS[answer.outcome], look, numbers)


@dataclass(frozen=True)
class _Row:
    """A shared claim: what it says, and each run's answer."""

    claim: str
    metric: str
    a: _Judged
    b: _Judged

    @classmethod
    def of(cls, claim: SharedClaim) -> _Row:
        first, second = claim.deciding
        a, b = _Judged.of(claim.a, first), _Judged.of(claim.b, second)
        metric = quantity(claim.a.metric).title if claim.a.metric else "several metrics"
        # The words of a claim name its control, which may differ where only its name is shared.
        said = a.claim if a.claim == b.claim else f"{a.claim} (A); {b.claim} (B)"
        return cls(said, metric, a, b)


def _numbers(effect: Effect, answer: Answer) -> str:
    """Return an effect as words: estimate, interval, n, p and what it is against."""
    if effect.estimate is None:
        return "Not estimated."
    interval = (
        f" (95 % CI {number(effect.ci_low)} to {number(effect.ci_high)})"
        if effect.ci_low is not None and effect.ci_high is not None
        else ""
    )
    p = p_words(effect.p) if effect.p_adjusted is None else f"corrected {p_words(effect.p_adjusted)}"
    place = effect.name.removeprefix(answer.metric).strip(", ")
    beside = f", {place}" if place else ""
    words = (
        f"{number(effect.estimate)}{interval}, n = {effect.n}, {p}, against "
        f"{family_name(effect.control)}{beside}"
    )
    return words.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def _summary(found: Comparison) -> str:
    if not found.claims:
        missing = [
            (letter, view) for letter, view in (("A", found.a), ("B", found.b)) if view.results is None
        ]
        lost = [letter for letter, view in missing if lost_verdicts(view)]
        none = [letter for letter, _ in missing if letter not in lost]
        if lost:
            gone = f"The verdicts of {'both runs' if len(lost) == 2 else f'run {lost[0]}'} are lost"
            return f"No claim can be compared. {gone}{f'; run {none[0]} judged none' if none else ''}."
        why = {0: "", 1: f" Run {''.join(none)} judged none.", 2: " Neither judged any."}[len(none)]
        return f"No claim was judged by both runs.{why}"
    changed = len(found.changed)
    same = len(found.claims) - changed
    return (
        f"Of {count(len(found.claims), 'shared claim')}, {same} {'has' if same == 1 else 'have'} the same "
        f"verdict in both runs; {changed} {'differs' if changed == 1 else 'differ'}."
    )


# ---------------------------------------------------------------------------------------------------- effects
def _effect_rows(
    claims: list[SharedClaim], *, standardised: bool = False, every: bool = False
) -> Iterator[dict[str, object]]:
    for claim in claims:
        for pair in claim.pairs() if every else (claim.deciding,):
            for letter, answer, effect in zip("AB", (claim.a, claim.b), pair, strict=True):
                scale = (effect.sd or float("nan")) if standardised else 1.0
                place = effect.name.removeprefix(answer.metric).strip(", ")
                values = {name: getattr(effect, name) for name in ("estimate", "ci_low", "ci_high")}
                yield {
                    "run": letter,
                    "claim": claim.a.claim
                    + (f" ({quantity(answer.metric).title})" if standardised and answer.metric else ""),
                    "name": answer.name,
                    "metric": answer.metric,
                    "control": family_name(pair[0].control) + (f", {place}" if place and every else ""),
                    **{name: None if value is None else value / scale for name, value in values.items()},
                    "n": effect.n,
                    "p": effect.p,
                    "p_adjusted": effect.p if effect.p_adjusted is None else effect.p_adjusted,
                    "outcome": answer.outcome,
                    "unit": STANDARD if standardised else quantity(answer.metric).axis,
                }


def _all_effects(found: Comparison) -> pd.DataFrame:
    return pd.DataFrame(list(_effect_rows(list(found.claims), every=True)))


def _effect_views(found: Comparison) -> Iterator[View]:
    primary = [claim for claim in found.claims if claim.primary]
    if primary:
        table = pd.DataFrame(list(_effect_rows(primary, standardised=True)))
        if table["estimate"].notna().any():
            yield View("primary claims, in standard deviations", compare_effects(table))
    of_one = [claim for claim in found.claims if claim.a.metric and claim.a.metric == claim.b.metric]
    for metric in metrics_in_order(claim.a.metric for claim in of_one):
        own = [claim for claim in of_one if claim.a.metric == metric]
        yield View(quantity(metric).title, compare_effects(pd.DataFrame(list(_effect_rows(own)))))


def _csv(table: pd.DataFrame) -> str:
    return "data:text/csv;base64," + base64.b64encode(table.to_csv(index=False).encode()).decode("ascii")


# --------------------------------------------------------------------------------------------------- channels
def _channel_views(found: Comparison) -> Iterator[View]:
    if found.overlaps:
        rows = [
            {
                "block": one.block,
                "jaccard": one.jaccard,
                "shared": one.shared,
                "only_a": one.only_a,
                "only_b": one.only_b,
            }
            for one in found.overlaps
        ]
        yield View("", compare_channels(pd.DataFrame(rows)))


def _channels_note(found: Comparison) -> str:
    if found.overlaps:
        if found.same_weights:
            return ""
        return (
            "The runs opened different weights, so that equal numbers need not mean the same channel: after "
            "separate training, overlap beyond chance is not to be expected."
        )
    first, second = found.a.channels, found.b.channels
    if first is None or second is None:
        return "Not both runs chose channels."
    if first.get("stream") != second.get("stream"):
        return (
            f"A chose channels of the {first.get('stream')} stream, B of the {second.get('stream')} stream."
        )
    return (
        f"A has channels in {count(len(first.get('blocks', {})), 'block')}, B in "
        f"{count(len(second.get('blocks', {})), 'block')}: there is no block-by-block comparison."
    )


# --------------------------------------------------------------------------------------------------- pictures
def _pictures(found: Comparison) -> Markup:
    """Return pictures of the same edit in both runs, one prompt shown at a time; else each run's own."""
    shown: list[tuple[str, Markup]] = []
    for (prompt, seed), pairs in found.pictures.items():
        if shown and sum(len(html) for _, html in shown) > MOST_BYTES:
            break
        shown.append((f"{shorten(prompt, 70)} · seed {seed}", _pair(found, prompt, seed, pairs, len(shown))))
    if not shown:
        return _apart(found)
    chooser = Markup("")
    if len(shown) > 1:
        options = Markup("").join(
            Markup("<option value='{}'>{}</option>").format(index, label)
            for index, (label, _) in enumerate(shown)
        )
        chooser = Markup(
            "<p class='chooser'><label for='pictures-group'>Show</label>"
            "<select id='pictures-group' data-groups='pictures'>{}</select></p>"
        ).format(options)
    return chooser + Markup("").join(html for _, html in shown)


def _pair(
    found: Comparison, prompt: str, seed: int, pairs: list[tuple[ImageEntry, ImageEntry]], index: int
) -> Markup:
    what = f"{prompt} (seed {seed})"
    pixels = Markup(" class='pixels'") if max(picture(found.a, pairs[0][0]).size) <= 128 else Markup("")
    thumbs = Markup("").join(
        Markup(
            "<label class='thumb two'><input type='radio' name='pictures-{}'{}>"
            "<span><img{} src='{}' alt='{}' decoding='async'>"
            "<img{} src='{}' alt='{}' decoding='async'></span>"
            "<span class='arm'>{}</span></label>"
        ).format(
            index,
            Markup(" checked") if place == 0 else "",
            pixels,
            light_uri(picture(found.a, first)),
            f"A, {first.caption}: {what}",
            pixels,
            light_uri(picture(found.b, second)),
            f"B, {second.caption}: {what}",
            first.caption,
        )
        for place, (first, second) in enumerate(pairs[:MOST_ARMS])
    )
    stage = Markup(
        "<div class='stage' hidden data-reference='A'><div class='pair'><img class='under{0}' alt='A'>"
        "<img class='over{0}' alt='B'><span class='cut' aria-hidden='true'></span></div>"
        "<input type='range' min='0' max='100' value='50' aria-label='Where run A ends and run B begins'>"
        "<p class='sides' aria-live='polite'><span>A</span> <span class='edited'></span> <span>B</span></p>"
        "</div>"
    ).format(" pixels" if pixels else "")
    return Markup(
        "<div class='compare' data-group='{}'><p class='who'>{}<small>seed {}</small></p><div class='both'>{}"
        "<div class='thumbs' role='radiogroup' aria-label='{}'>{}</div></div></div>"
    ).format(index, prompt, seed, stage, f"Edits of the image: {what}", thumbs)


def _apart(found: Comparison) -> Markup:
    """Return the first pictures of each run where the runs share none; nothing where not both have some."""
    rows: list[Markup] = []
    for letter, view in (("A", found.a), ("B", found.b)):
        entries = view.arm_images or view.samples
        if not entries:
            return Markup("")
        first = entries[0]
        own = [entry for entry in entries if (entry.prompt, entry.seed) == (first.prompt, first.seed)]
        thumbs = Markup("").join(
            Markup(
                "<figure class='thumb reference'><img src='{}' alt='{}' decoding='async'>"
                "<figcaption>{}</figcaption></figure>"
            ).format(
                light_uri(picture(view, entry)),
                f"Run {letter}, {entry.caption or 'sample'}: {entry.prompt} (seed {entry.seed})",
                entry.caption or "sample",
            )
            for entry in own[:MOST_ARMS]
        )
        rows.append(
            Markup(
                "<div><p class='who'>{}: {}<small>seed {}</small></p><div class='thumbs'>{}</div></div>"
            ).format(letter, first.prompt, first.seed, thumbs)
        )
    return Markup(
        "<p class='note'>The runs share no picture of the same prompt, seed and edit; these are each run's "
        "own.</p><div class='halves'>{}</div>"
    ).format(Markup("").join(rows))
