"""What channel sets, statistics, maps, studies, masks and verdicts show in a notebook's cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dit_lens.inline_html import card, facts, faint, folded, grid, heat, shortened, table, thumbnails

if TYPE_CHECKING:
    from dit_lens.methods.answers import Answer, Results
    from dit_lens.methods.channel_sets import ChannelSet
    from dit_lens.methods.channels import ChannelStatistics
    from dit_lens.methods.map_cells import EffectMap
    from dit_lens.methods.spatial.first_look import FirstLook
    from dit_lens.methods.spatial.masks import Mask
    from dit_lens.methods.study import StudyPlan, StudyResult
    from dit_lens.methods.transport.first_look import CarryLook

_MOST_METRICS = 8
_OUTCOMES = {"supported": "● supported", "not supported": "✕ not supported", "undecided": "○ undecided"}


def channel_set_html(chosen: ChannelSet) -> str:
    """The channels of every block, strongest first, and the rule that chose them."""
    how = ", ".join(f"{key} = {value}" for key, value in chosen.selection.items())
    about = facts({"model": chosen.model, "chosen by": f"{chosen.statistic}: {how}"})
    if chosen.is_empty:
        nothing = f"Empty: no channel of any of the {len(chosen.blocks)} blocks meets this rule."
        shown = faint(f"{nothing} {chosen.nearest}")
    else:
        rows = [
            (block, shortened(", ".join(map(str, channels)), 300) or "–")
            for block, channels in chosen.blocks.items()
        ]
        shown = table(("block", "channels"), rows)
    count = len(chosen.channels)
    title = f"ChannelSet: {count} different {'channel' if count == 1 else 'channels'}, {chosen.stream} stream"
    return card(title, about, shown)


def statistics_html(stats: ChannelStatistics) -> str:
    """The strongest channel of each block and stream, as a multiple of the block's median channel."""
    sizes = stats.data.sizes
    prompts = list(map(str, stats.provenance.get("prompts", ())))
    about = {
        "measured on": f"{sizes['sample']} samples, {sizes['step']} steps, {' and '.join(stats.branches)}",
        "model": f"{sizes['block']} blocks × {stats.num_channels} channels",
        "prompts": shortened("; ".join(prompts), 200),
        "cost": f"{stats.cost['forwards']} forwards" if "forwards" in stats.cost else "",
    }
    parts = [facts(about)]
    for stream in stats.streams:
        profile = stats.profile(stream=stream)
        values = profile.values
        median, top = np.median(values, axis=1), values.argmax(axis=1)
        rows = []
        for i, block in enumerate(profile["block"].values):
            ratio = f"{values[i, top[i]] / median[i]:.1f} ×" if median[i] > 0 else "–"
            rows.append((int(block), int(top[i]), ratio, f"{values[i, top[i]]:.3g}"))
        shown = table(("block", "top channel", "of the median", "|mean over tokens|"), rows)
        parts.append(folded(f"{stream} stream, top channel of each block", shown, opened=stream == "image"))
    return card(f"ChannelStatistics of {stats.model}", *parts)


def effect_map_html(found: EffectMap) -> str:
    """The map in small, where it peaks, and in how many cells it is beyond each control."""
    words = repr(found).splitlines()
    title, lines = words[0], words[1:]
    values = found.values["massive"]
    drawn = heat(values, f"{found.metric} by block (down) and step (across), massive channels")
    scale = (
        f"blocks {found.blocks[0]}–{found.blocks[-1]} down, steps {found.steps[0]}–{found.steps[-1]} across"
    )
    finite = values[np.isfinite(values)]
    if finite.size:
        scale += f"; faint {finite.min():.3g}, full {finite.max():.3g}"
    return card(title, drawn, faint(scale), *(faint(line.strip()) for line in lines))


def study_html(result: StudyResult) -> str:
    """Means over prompts and seeds, one row per arm; every other number is in `effects`."""
    effects = result.effects
    # Single attributes are many, and their mean is a metric of its own.
    metrics = [name for name in dict.fromkeys(effects["metric"]) if not name.startswith("attribute.")]
    means = effects.pivot_table(index="arm", columns="metric", values="value", aggfunc="mean", sort=False)
    rows: list[tuple[Any, ...]] = []
    for arm in result.arms:
        cells = [
            means.at[arm.name, metric] if arm.name in means.index and metric in means.columns else np.nan
            for metric in metrics[:_MOST_METRICS]
        ]
        rows.append((arm.name, *("–" if np.isnan(cell) else f"{cell:.3g}" for cell in cells)))
    worst = result.sham["max_abs_difference"].max() if len(result.sham) else 0.0
    more = f", the first {_MOST_METRICS} of them here" if len(metrics) > _MOST_METRICS else ""
    about = {
        "prompts × seeds": f"{effects['prompt'].nunique()} × {effects['seed'].nunique()}",
        "values": f"{len(effects):,} of {effects['metric'].nunique()} metrics{more}",
        "results": f"{result.computed} computed, {result.known} known, {result.dropped} damaged",
        "nothing edited": f"latents move by at most {worst:.2g}",
    }
    note = (
        "Means over prompts and seeds. dl.plots.levels draws them with intervals; effects holds every value."
    )
    shown = table(("arm", *metrics[:_MOST_METRICS]), rows)
    return card(f"StudyResult: {len(result.arms)} arms", facts(about), shown, note=note)


def study_plan_html(plan: StudyPlan) -> str:
    """What a study will do and cost."""
    share = plan.block_passes / plan.passes_without_reuse if plan.passes_without_reuse else 1.0
    about = {
        "results": f"{plan.cells:,}, {plan.known:,} of them known",
        "to run": f"{plan.groups:,} graphs, {plan.forwards:,} forwards of at most "
        f"{plan.arms_per_forward} arms",
        "block passes": f"{plan.block_passes:,}, {share:.2f} of those without reuse",
        "memory": f"{plan.held_bytes / 1e6:.3g} MB held for reuse",
    }
    return card("StudyPlan", facts(about))


def mask_html(mask: Mask) -> str:
    """The mask drawn, a square per token."""
    rows, columns = mask.grid
    share = f"{len(mask.tokens)} of {rows * columns} tokens ({mask.share:.0%}), {rows} × {columns}"
    size = f"for images of {mask.image_size[0]} × {mask.image_size[1]} px" if mask.image_size else ""
    return card(
        f"Mask: {share}",
        grid(mask.tolist(), f"Mask of {share}"),
        note="; ".join(filter(None, (mask.about, size))),
    )


def results_html(results: Results) -> str:
    """Every verdict with its sentence, question by question."""
    questions = dict.fromkeys(answer.question for answer in results.answers)
    answers = [answer for question in questions for answer in results.of(question)]
    outcomes = [answer.outcome for answer in answers]
    about = {
        "judged on": f"{results.prompts} held-out prompts, seeds {', '.join(map(str, results.seeds))}",
        "verdicts": ", ".join(
            f"{outcomes.count(outcome)} {outcome}" for outcome in _OUTCOMES if outcome in outcomes
        ),
    }
    rows = [
        (_OUTCOMES[each.outcome], each.name, folded(each.claim, faint(each.sentence))) for each in answers
    ]
    shown = table(("verdict", "answer", "claim; open it for the numbers"), rows)
    return card(f"Results of {results.model}", facts(about), shown)


def answer_html(answer: Answer) -> str:
    """A verdict, and the effect against each control behind it."""
    rows = [
        (each.control, _number(each.estimate), f"{_number(each.ci_low)} to {_number(each.ci_high)}", each.n,
         _number(each.p_adjusted if each.p_adjusted is not None else each.p))
        for each in answer.effects
    ]  # fmt: skip
    columns = ("against", f"difference in {answer.metric or 'score'}", "95 % CI", "n", "p, corrected")
    return card(
        f"{_OUTCOMES[answer.outcome]}: {answer.claim}", faint(answer.sentence), table(columns, rows),
        note=answer.reason,
    )  # fmt: skip


def first_look_html(look: FirstLook) -> str:
    """The picture, and the mask over it after each block."""
    about = {"prompt": look.prompt, "step": look.step, "channels": f"from {look.channels_from}"}
    title = f"{look.model}, seed {look.seed}: the subject as massive channels outline it"
    return card(title, facts(about), thumbnails(look.labelled_images))


def carry_look_html(look: CarryLook) -> str:
    """Source, target, and the target at every strength, with how far each has moved."""
    rows = [(f"{one.strength:g}", _number(one.toward_latent), _number(one.ssim)) for one in look.carried]
    title = f"{look.model}, seed {look.seed}: the source's channels in the target's run"
    shown = table(("strength", "way to the source's latent", "SSIM to the target"), rows)
    return card(title, thumbnails(look.labelled_images), shown, note=f"Channels from {look.channels_from}.")


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3g}"
