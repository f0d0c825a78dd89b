"""The sections about what edits do: one per effect table, a gallery, and how verdicts are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dit_lens.methods.metrics import Quantity, quantity
from dit_lens.report import effect_findings, plots
from dit_lens.report.cell_pictures import cell_pictures
from dit_lens.report.effect_words import families_in_order, family_name, metrics_in_order
from dit_lens.report.gallery import gallery
from dit_lens.report.section import MissingTable, RunView, Section, SectionBuilder, View
from dit_lens.report.text import number

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FEW_DRAWS = (
    "In single blocks and over doses, the fairest control is the mean of up to three draws and any other is "
    "one draw; verdicts say how many."
)
MOST_VIEWS = 24  # figures of one section; every other one can be drawn from the table
INTERVALS = "Intervals are 95 % BCa bootstrap intervals over prompts, seeds averaged within a prompt."


# ---------------------------------------------------------------------------------------------------- helpers
def _primary_metric(run: RunView, name: str) -> str | None:
    """Return the metric of the question's primary answer, which leads its section."""
    return next((answer.metric for answer in run.answers(name) if answer.primary and answer.metric), None)


def _by_metric(
    run: RunView, name: str, table: pd.DataFrame, draw: Callable[..., go.Figure]
) -> dict[str, View]:
    """Return one view per metric, the primary answer's first."""
    metrics = metrics_in_order(table["metric"], first=_primary_metric(run, name))[:MOST_VIEWS]
    return {metric: View(quantity(metric).title, draw(table, metric=metric)) for metric in metrics}


def _repeat(table: str, figure: str, **site: Any) -> str:
    arguments = "".join(f", {key}={value!r}" for key, value in site.items())
    return (
        "from dit_lens.report import plots\n"
        "from dit_lens.run.records import RunFolder\n\n"
        f'table = RunFolder.read(".").table("{table}")  # in the run folder\n'
        f"plots.{figure}(table{arguments}).show()"
    )


def _hidden(all_of: int, shown: int) -> str:
    return f" {all_of - shown} more can be drawn from the table." if all_of > shown else ""


# --------------------------------------------------------------------------------------------------- sections
def disruption(run: RunView) -> Section:
    """Whether massive channels disrupt the image more than matched controls."""
    table = run.table("disruption")
    views = _by_metric(run, "disruption", table, plots.disruption)
    lead = next(iter(views))
    return Section(
        id="disruption",
        title="Do massive channels hold the image together?",
        lead="The same edit applied to massive channels and to controls matched to them, on prompts that "
        "had no part in choosing the channels.",
        views=tuple(views.values()),
        reading="Left: massive − control with its interval, one line per control; an interval that crosses "
        "the grey line does not tell the two apart. A full marker is a supported difference, a hollow one "
        "undecided, a cross not supported. Right: the level that each arm reaches. Small or random channels "
        "are easy to beat, because changing them hardly perturbs; the energy-matched control is perturbed as "
        f"much as the treatment. {INTERVALS}",
        conclusion=effect_findings.disruption(table, lead),
        answers=run.answers("disruption"),
        table="disruption",
        repeat=_repeat("disruption", "disruption", metric=lead),
    )


def bias_or_carrier(run: RunView) -> Section:
    """Whether massive channels act as a bias or carry content."""
    table = run.table("bias_or_carrier")
    views = _by_metric(run, "bias_or_carrier", table, plots.bias_or_carrier)
    lead = next(iter(views))
    return Section(
        id="bias-or-carrier",
        title="A bias or a carrier?",
        lead="A channel is its mean over the image's tokens plus what varies over them. Which part does the "
        "image need?",
        views=tuple(views.values()),
        reading="If keeping only the mean is harmless, the channels act as a bias that every token shares. "
        "If the image needs what varies over the tokens, they carry content. Shuffling tokens keeps each "
        "channel's values and destroys their layout. Where LayerNorm is kept, the other channels are scaled "
        f"as in the clean run. The dotted line is the clean image. {INTERVALS}",
        conclusion=effect_findings.bias_or_carrier(table, lead),
        answers=run.answers("bias_or_carrier"),
        table="bias_or_carrier",
        repeat=_repeat("bias_or_carrier", "bias_or_carrier", metric=lead),
    )


def semantics_or_detail(run: RunView) -> Section:
    """Whether massive channels carry semantics or detail."""
    table = run.table("semantics_or_detail")
    views = tuple(
        View(label, plots.semantics_or_detail(table, metrics=metrics))
        for label, metrics in _metric_groups(table)
    )
    return Section(
        id="semantics-or-detail",
        title="Semantics or detail?",
        lead="Two papers are read as contradicting each other (2605.13974, 2510.11538), and they edit "
        "differently: all blocks, or one. Here are both protocols side by side, on the same prompts.",
        views=views,
        reading="In each panel, the leftmost marks edit all blocks at once, the others one block each. The "
        "grey line is the clean image: marks on it changed nothing. What counts is the distance between "
        f"massive channels and the control that is perturbed as much. {INTERVALS}",
        conclusion=effect_findings.semantics_or_detail(table),
        answers=run.answers("semantics_or_detail"),
        table="semantics_or_detail",
        repeat=_repeat("semantics_or_detail", "semantics_or_detail"),
    )


def _metric_groups(table: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """Return metrics that are read together: those of a group, in the order of a report."""
    groups: dict[str, list[str]] = {}
    for name in metrics_in_order(table["metric"]):
        groups.setdefault(quantity(name).group, []).append(name)
    others = groups.pop(Quantity.group, None)
    yield from groups.items()
    if others:
        yield Quantity.group, others


def single_or_all(run: RunView) -> Section:
    """Whether one block is enough."""
    table = run.table("single_or_all")
    views = _by_metric(run, "single_or_all", table, plots.single_or_all)
    lead = next(iter(views))
    return Section(
        id="single-or-all",
        title="One block, or all of them?",
        lead="The edit in one block at a time, beside the edit in all blocks at once.",
        views=tuple(views.values()),
        reading="Left: the level when only that block is edited; dashed lines are the edit of all blocks. "
        "Right: massive − control of each block, with the grey line at no difference. If single blocks lie "
        f"near the dashed line, one block is enough. {FEW_DRAWS} {INTERVALS}",
        conclusion=effect_findings.single_or_all(table, lead),
        answers=run.answers("single_or_all"),
        table="single_or_all",
        repeat=_repeat("single_or_all", "single_or_all", metric=lead),
    )


def dose(run: RunView) -> Section:
    """How the effect grows with the number of channels."""
    table = run.table("dose")
    views = _by_metric(run, "dose", table, plots.dose)
    lead = next(iter(views))
    return Section(
        id="dose",
        title="How many channels does it take?",
        lead="The same edit on the k strongest channels of each block, and on k control channels.",
        views=tuple(views.values()),
        reading="The horizontal axis doubles from tick to tick where doses do. Massive channels matter "
        "beyond their number if their curve leaves the controls' from small k on; curves that run together "
        f"say that only the number of edited channels counts. {FEW_DRAWS} {INTERVALS}",
        conclusion=effect_findings.dose(table, lead),
        answers=run.answers("dose"),
        table="dose",
        repeat=_repeat("dose", "dose", metric=lead),
    )


# ------------------------------------------------------------------------------------------------------- maps
def _map_section(run: RunView, name: str, title: str, lead: str, more: str) -> Section:
    table = run.table(name)
    kinds = [kind for kind in families_in_order(table["family"]) if kind != "massive"]
    controls: list[str | None] = [*kinds] or [None]
    metrics = metrics_in_order(table["metric"], first=_primary_metric(run, name))
    sites: list[dict[str, Any]] = [
        {"metric": metric, "control": control, "direction": direction}
        for metric in metrics
        for direction in sorted(table.loc[table["metric"] == metric, "direction"].unique())
        for control in controls
    ]
    shown = sites[:MOST_VIEWS]
    several = len(controls) > 1
    views = tuple(
        View(
            " · ".join(
                part
                for part in (
                    quantity(site["metric"]).title,
                    site["direction"],
                    family_name(site["control"]) if several else "",
                )
                if part
            ),
            plots.effect_map(table, **site),
        )
        for site in shown
    )
    return Section(
        id=name.replace("_", "-"),
        title=title,
        lead=lead,
        views=views,
        below=cell_pictures(run, name, table),
        reading="Each cell edits one block at one step; denoising runs from left (pure noise) to right. The "
        "first maps share a colour scale; in the difference, grey is none. Outlined cells, with the sign of "
        "their difference, stay significant at 0.05 after Benjamini–Hochberg over the map. That speaks of "
        "other prompts, not of other draws of the control, of which a map has one. "
        + more
        + _hidden(len(sites), len(shown)),
        conclusion=effect_findings.effect_map(table, sites[0]["metric"], sites[0]["direction"]),
        answers=run.answers(name),
        table=name,
        repeat=_repeat(name, "effect_map", **sites[0]),
        exploratory=True,
    )


def step_map(run: RunView) -> Section:
    """Where and when an edit moves the velocity of its own step."""
    return _map_section(
        run,
        "step_map",
        "Where and when do massive channels act on the velocity?",
        "One block edited at one step of the clean trajectory, read from the velocity of that same step.",
        "Nothing can accumulate over steps here: each cell is one forward pass.",
    )


def final_map(run: RunView) -> Section:
    """Where and when an edit moves the final image."""
    return _map_section(
        run,
        "final_map",
        "Where and when do massive channels act on the image?",
        "One block edited at one step, read at the end of the denoising.",
        "Later steps can repair what an early edit did, or amplify it.",
    )


def patch_map(run: RunView) -> Section:
    """Where and when massive channels carry one prompt's image into another's."""
    return _map_section(
        run,
        "patch_map",
        "Where and when do massive channels carry one prompt's picture into another's?",
        "Two prompts that differ in one concept, from the same noise: the massive channels of one cell are "
        "taken from the other prompt's run.",
        "Denoising patches the source into the other prompt's run (is it sufficient?), noising the reverse "
        "(is it necessary?). A value of 0 stays where it was, 1 arrives at the donor.",
    )


# -------------------------------------------------------------------------------------------------- the rules
def verdict_rule(run: RunView) -> Section:
    """How verdicts are made."""
    results = run.results
    if results is None:
        raise MissingTable(
            f"The verdicts of this run cannot be shown: {run.results_fault}"
            if run.results_fault
            else "This run judged no claim: it has no results.json."
        )
    rules = Markup("<blockquote><p>{}</p><p>{}</p></blockquote>").format(
        results.verdict_rule, results.claim_rule
    )
    judged = len(results.answers)
    primary = sum(answer.primary for answer in results.answers)
    return Section(
        id="verdict-rule",
        title="How verdicts are made",
        lead=f"{judged} claims were judged on up to {results.prompts} held-out prompts, {primary} of them as "
        "the primary answer to a question. Channels were chosen on other prompts.",
        extra=rules,
        reading="The rule was fixed before any number was seen. All verdicts with every effect behind them "
        "lie beside this page in results.json."
        + ("" if results.sham_difference is None else f" {sham_words(results.sham_difference)}"),
    )


def sham_words(difference: float) -> str:
    """Return what the sham did, as a sentence.

    >>> sham_words(0.0)
    'Sham: an edit that changes nothing gives the unedited run bit for bit (largest difference 0).'
    """
    if difference == 0:
        return "Sham: an edit that changes nothing gives the unedited run bit for bit (largest difference 0)."
    return (
        f"Sham: an edit that changes nothing moves the final latents by at most {number(difference, 2)}; "
        "effects of that size are numerical."
    )


MAP_SECTIONS: tuple[SectionBuilder, ...] = (step_map, final_map, patch_map)
"""Those that test every cell, none of them named beforehand."""

EFFECT_SECTIONS: tuple[SectionBuilder, ...] = (
    disruption,
    gallery,
    bias_or_carrier,
    semantics_or_detail,
    single_or_all,
    dose,
    *MAP_SECTIONS,
    verdict_rule,
)
