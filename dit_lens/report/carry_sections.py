"""The sections about carrying: from one prompt into another, from a picture, and away from an edited self."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dit_lens.errors import BadInput
from dit_lens.methods.metrics import quantity
from dit_lens.methods.stats import EXACT
from dit_lens.report import plots
from dit_lens.report.carry_findings import (
    attribute_sentence,
    controlled_axes,
    curve_sentence,
    guidance_sentence,
)
from dit_lens.report.carry_pictures import pairs_of, picture_grid
from dit_lens.report.carry_words import (
    MOVED,
    OTHER_WAYS,
    carry_metrics,
    carry_words,
    pair_groups,
    unit_word,
    upper_first,
    way_column,
    way_words,
    ways,
    whole_strength,
)
from dit_lens.report.effect_words import families_in_order, family_name, metrics_in_order
from dit_lens.report.inversions import inversions_part
from dit_lens.report.plots.carry import attribute_rows
from dit_lens.report.section import RunView, Section, SectionBuilder, Tile, View
from dit_lens.report.text import count, listing, number, percent
from dit_lens.run.run_record import ImageEntry

if TYPE_CHECKING:
    import pandas as pd

    from dit_lens.methods.answers import Answer

CARRY, GUIDE = "carry", "guide"  # the kinds of the pictures of these sections
FROM_A_PICTURE = "carry-image"  # how the file of a picture begins where both sections have some
MOST_VIEWS = 24  # figures of one section; every other one can be drawn from the table
INTERVALS = "Intervals are 95 % BCa bootstrap intervals over {}, seeds averaged within each."


# ---------------------------------------------------------------------------------------------------- helpers
def _repeat(table: str, figure: str, **site: Any) -> str:
    arguments = "".join(f", {key}={value!r}" for key, value in site.items())
    return (
        "from dit_lens.report import plots\n"
        "from dit_lens.run.records import RunFolder\n\n"
        f'table = RunFolder.read(".").table("{table}")  # in the run folder\n'
        f"plots.{figure}(table{arguments}).show()"
    )


def _intervals(table: pd.DataFrame, units: str) -> str:
    """Say what intervals are; where a rate did not vary, that its interval is another one."""
    said = INTERVALS.format(units)
    if "ci_note" not in table.columns or EXACT not in set(table["ci_note"]):
        return said
    return f"{said} Rates that do not vary have the exact binomial interval (Clopper–Pearson)."


def _exploratory(table: pd.DataFrame) -> str:
    """Say on how few pairs curves were run, and what no control stands beside."""
    axes, controlled = controlled_axes(table)
    n = int(table.loc[table["value"].astype(str) != "all", "n"].max())
    said = f" These curves are exploratory: {count(n, 'pair')}, and no verdict rests on them."
    if axes == controlled:
        return said
    beside = f" Only over {listing(controlled)} do controls stand" if controlled else " No control stands"
    return f"{said}{beside} beside massive channels."


def _alone(table: pd.DataFrame) -> str:
    """Say that one picture says nothing about others, where one was carried into several targets."""
    if unit_word(table) != "target":
        return ""
    n = int(table["n"].max())
    return f" One picture was carried into {count(n, 'target')}, so nothing is said about other pictures."


def _outside(table: pd.DataFrame) -> str:
    """Say why nothing is compared with the outside of a mask, where it has none."""
    metrics = set(table["metric"])
    if "change_inside" not in metrics or "change_outside" in metrics:
        return ""
    return (
        " The mask covers every token, so nothing lies outside of it: change inside and outside of it cannot "
        "be compared."
    )


def _primary_metric(run: RunView, question: str, there: list[str]) -> str | None:
    """Return the metric of the question's primary answer, where it is drawn over strength at all."""
    found = next((answer.metric for answer in run.answers(question) if answer.primary), None)
    return found if found in there else None


def _pictures(
    run: RunView, entries: tuple[ImageEntry, ...], section: str, unit: str = "pair"
) -> tuple[Markup, str]:
    """Return the grid of pictures, and what is to be said of it."""
    pairs = pairs_of(entries)
    if not pairs:
        return Markup(""), ""
    grid, shown = picture_grid(run, pairs, section)
    rest = len(pairs) - shown
    more = f" Pictures of {count(rest, f'more {unit}')} lie in images/." if rest else ""
    return grid, (
        "Choose a picture, then move the slider (or the pointer over the picture): left of the cut is the "
        f"target as it would have been, right of it the picture chosen.{more} "
    )


def _hidden(total: int, shown: int) -> str:
    return f" {count(total - shown, 'more figure')} can be drawn from the table." if total > shown else ""


def _group_words(group: str) -> str:
    return "several attributes differ" if group == "all" else f"{group.replace('_', ' ')} differs"


def _strength_sites(table: pd.DataFrame, first: str | None) -> tuple[list[dict[str, str]], int]:
    """Return which metric and group each figure over strength shows, the most telling first."""
    groups, metrics = pair_groups(table), carry_metrics(table, first)
    sites = [
        {"metric": metric, "pair_group": group}
        for metric in metrics
        for group in groups
        if ((table["metric"] == metric) & (table["pair_group"].astype(str) == group)).any()
    ]
    # Every metric where several attributes differ comes before any metric of a single attribute.
    sites = sorted(sites, key=lambda site: (site["pair_group"] != groups[0], metrics.index(site["metric"])))
    return sites[:MOST_VIEWS], len(sites)


def _level(table: pd.DataFrame, metric: str) -> pd.Series:
    """Return the level of every family at full strength: the first group and direction, in one metric."""
    rows = table[(table["metric"] == metric) & (table["pair_group"].astype(str) == pair_groups(table)[0])]
    rows = rows[
        (rows["strength"] == whole_strength(rows)) & (rows[way_column(rows)].astype(str) == ways(rows)[0])
    ]
    return rows.drop_duplicates("family").set_index("family")["mean"].astype(float)


def _finding(table: pd.DataFrame, site: dict[str, str]) -> str:
    rows = table[(table["metric"] == site["metric"])]
    rows = rows[rows["pair_group"].astype(str) == site["pair_group"]]
    level = _level(table, site["metric"]).dropna()
    said = [f"{number(level[family])} ({family_name(family)})" for family in families_in_order(level.index)]
    title = carry_words(site["metric"]).title
    where = f", {way_words(ways(rows)[0])}" if len(ways(rows)) > 1 else ""
    head = f"{upper_first(title)} at strength {number(whole_strength(rows))}{where}"
    return f"{head}: {listing(said) or 'nothing'}."


def _tiles(table: pd.DataFrame, suffix: str) -> tuple[Tile, ...]:
    if "toward_latent" not in set(table["metric"]):
        return ()
    level = _level(table, "toward_latent")
    if "massive" not in level.index or level["massive"] != level["massive"]:
        return ()
    return (
        Tile(
            percent(level["massive"]),
            f"of the way from the target's latent to the source's: what massive channels carry{suffix}",
        ),
    )


# ------------------------------------------------------------------------------------------------- transport
def transport_text(run: RunView) -> Section:
    """Can it be carried?"""
    from_pictures = "transport_image" in run.folder.table_names
    return _transport(
        run,
        "transport_text",
        "transport",
        tuple(
            entry
            for entry in run.images_of(CARRY)
            if not (from_pictures and entry.file.startswith(FROM_A_PICTURE))
        ),
        "Can it be carried?",
        "Two prompts, one noise: while the target is denoised, some of its channels take the values that "
        "they have in the source's run.",
        "",
    )


def transport_image(run: RunView) -> Section:
    """Can it be carried from a picture?"""
    from_prompts = "transport" in run.folder.table_names
    return _transport(
        run,
        "transport_image",
        "transport_image",
        tuple(
            entry
            for entry in run.images_of(CARRY)
            if not from_prompts or entry.file.startswith(FROM_A_PICTURE)
        ),
        "Can it be carried from a picture?",
        "The source is a picture rather than a prompt: it is encoded, and brought to the noise level of "
        "every step, either with fixed noise or by running the sampler backwards.",
        " from a picture",
    )


def _transport(
    run: RunView,
    question: str,
    name: str,
    pictures: tuple[ImageEntry, ...],
    title: str,
    lead: str,
    suffix: str,
) -> Section:
    table = run.table(name)
    sites, total = _strength_sites(table, _primary_metric(run, question, carry_metrics(table)))
    anchor = question.replace("_", "-")
    answers = run.answers(question)
    attributes = _attributes(table, name, f"{anchor}-attributes", suffix, answers)
    of_attributes = attributes[0].answers if attributes else ()
    unit = unit_word(table)
    grid, how = _pictures(run, pictures, anchor, unit)
    reading = (
        "Strength 0 leaves the target as it is, 1 puts the source's values in place of its own. In between "
        "it compounds over blocks, each of which draws by that share what the last one left: 0.25 in each of "
        "8 blocks covers 0.9 of a difference that stays the same, and 0.5 to 0.6 of the way for the massive "
        "channels of shapes-sd3, whose blocks go on writing. Where "
        "massive channels carry the source, their curve leaves those of as many other channels; the "
        "energy-matched control moves other channels toward the source by as much."
    )
    if set(table["family"]) & set(OTHER_WAYS):
        reading += (
            " Beside them stands what needs no massive channels: all channels, or blending "
            f"{'prompts, latents' if unit == 'pair' else 'latents'} or pixels, which arrives at the source "
            "when its strength is 1. A blend's 0.25 is a quarter of the way: between 0 and 1 blends share "
            "the axis of strength with channels, but not its scale."
        )
    return Section(
        id=anchor,
        title=title,
        lead=lead + _alone(table) + _steps(run, "transport") + _places(run, question),
        extra=grid,
        views=tuple(
            View(
                f"{carry_words(site['metric']).title} · {_group_words(site['pair_group'])}",
                plots.transport(table, **site),
            )
            for site in sites
        ),
        reading=f"{how}{reading}{_outside(table)} {_intervals(table, f'{unit}s')}"
        + _hidden(total, len(sites)),
        conclusion=_finding(table, sites[0]),
        answers=tuple(answer for answer in answers if answer not in of_attributes),
        tiles=_tiles(table, suffix),
        table=name,
        repeat=_repeat(name, "transport", **sites[0]),
        parts=(
            *attributes,
            *(_curves(run) if name == "transport" else inversions_part(run, f"{anchor}-inversions")),
        ),
    )


def _attributes(
    table: pd.DataFrame, name: str, anchor: str, suffix: str, answers: tuple[Answer, ...]
) -> tuple[Section, ...]:
    """Which attributes move, with the answers about single ones; nothing where no attribute was read."""
    try:
        rows = attribute_rows(table)
    except BadInput:
        # Only pictures of the embedded world can be read.
        return ()
    unit = unit_word(table)
    differ = "Pairs differ" if unit == "pair" else "A picture and its target differ"
    there = [way for way in ways(table) if (table[way_column(table)].astype(str) == way).any()]
    said = attribute_sentence(rows, whole_strength(rows))
    return (
        Section(
            id=anchor,
            title=f"Which attributes ride on them{suffix}?",
            lead=f"{differ} in one attribute, or in several. After carrying, each attribute is read off the "
            "picture: is it still the target's, or has it become the source's?",
            views=tuple(View(way_words(way), plots.transport_attributes(table, way=way)) for way in there),
            reading=f"A mark at 100 % means that the attribute became the source's in every {unit}, at 0 % "
            "in none. An attribute rides on massive channels where their mark lies to the right of those of "
            "as many other channels; where all marks lie together, it does not. Blends at full strength are "
            "the source itself: they say how well an attribute can be read at all. "
            + _intervals(table, f"{unit}s"),
            conclusion=f"{upper_first(said)}.",
            answers=tuple(
                answer for answer in answers if answer.metric.startswith(MOVED) and not answer.primary
            ),
            table=name,
            repeat=_repeat(name, "transport_attributes", way=there[0]),
        ),
    )


def _curves(run: RunView) -> tuple[Section, ...]:
    """How much has to be carried; nothing where that was not asked."""
    if "transport_curves" not in run.folder.table_names:
        return ()
    table = run.table("transport_curves")
    metrics = carry_metrics(table)
    title = carry_words(metrics[0]).title
    return (
        Section(
            id="transport-curves",
            title="How much has to be carried?",
            lead="The same at full strength, but only in some blocks, at some steps, in fewer or more "
            "channels, or only the mean over tokens, or only what varies over them." + _exploratory(table),
            views=tuple(
                View(carry_words(metric).title, plots.transport_curves(table, metric=metric))
                for metric in metrics[:MOST_VIEWS]
            ),
            reading="Each mark is one choice along one axis, with everything else as in the full transport. "
            "Steps count from 0, pure noise. Marks of one colour are joined where choices have an order. "
            + _intervals(table, "pairs, pooled over groups and directions")
            + _hidden(len(metrics), len(metrics[:MOST_VIEWS])),
            conclusion=f"{upper_first(title)}, massive channels: "
            f"{curve_sentence(table[table['metric'] == metrics[0]])}.",
            table="transport_curves",
            repeat=_repeat("transport_curves", "transport_curves", metric=metrics[0]),
        ),
    )


def _steps(run: RunView, part: str) -> str:
    """Return a sentence on how many steps a part's runs took, where these are not the analysis's own."""
    asked = run.spec.get(part)
    own, others = asked.get("steps") if isinstance(asked, dict) else None, run.record.sampling.get("steps")
    if own is None or own == others:
        return ""
    return f" These runs take {own} denoising steps, not {others}; verdicts may depend on that."


def _places(run: RunView, question: str) -> str:
    """Say which tokens and which branch were edited, where these are not all."""
    asked = run.spec.get("transport")
    if not isinstance(asked, dict):
        return ""
    run_of = {"source": "the source's run", "target": "the target's run", "union": "either run"}
    subject = run_of.get(str(asked.get("tokens"))) if question == "transport_text" else None
    branch = {"cond": "conditional", "uncond": "unconditional"}.get(str(asked.get("branch")))
    tokens = (
        f" Channels are carried at the tokens of the subject in {subject} alone, as massive channels cluster "
        "them; where they show none, or nothing but subject, at all tokens. Blends mix all of the image."
        if subject
        else ""
    )
    return tokens + (f" Edited is the {branch} branch of guidance alone." if branch else "")


# -------------------------------------------------------------------------------------------------- guidance
def detail_guidance(run: RunView) -> Section:
    """Does Detail Guidance help?"""
    table = run.table("guidance")
    there = metrics_in_order(table["metric"])
    metrics = metrics_in_order(there, first=_primary_metric(run, "detail_guidance", there))
    shown = metrics[:MOST_VIEWS]
    grid, how = _pictures(run, run.images_of(GUIDE), "detail-guidance")
    rows = table[table["metric"] == metrics[0]]
    title = quantity(metrics[0]).title
    return Section(
        id="detail-guidance",
        title="Does Detail Guidance help?",
        lead="Detail Guidance (2510.11538): at every step the model also predicts a velocity without its "
        "massive channels, and the run is pushed away from it, v + w · (v − v without them)."
        + _steps(run, "guidance"),
        extra=grid,
        views=tuple(
            View(quantity(metric).title, plots.detail_guidance(table, metric=metric)) for metric in shown
        ),
        reading=how
        + "Weight 0 is the plain run. If massive channels hold something that guidance can strengthen, their "
        "curve parts from that of as many other channels; if both run together, any disturbance would do. "
        + INTERVALS.format("prompts")
        + _hidden(len(metrics), len(shown)),
        conclusion=f"{upper_first(title)}: {guidance_sentence(rows)}.",
        answers=run.answers("detail_guidance"),
        table="guidance",
        repeat=_repeat("guidance", "detail_guidance", metric=metrics[0]),
    )


CARRY_SECTIONS: tuple[SectionBuilder, ...] = (transport_text, transport_image, detail_guidance)
