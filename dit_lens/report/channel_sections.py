"""The sections about massive channels: what they are, where they live, what they depend on, how they look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dit_lens.inline_html import data_uri
from dit_lens.report import findings, plots
from dit_lens.report.downloads import of_json
from dit_lens.report.image_lists import image_list, repeat
from dit_lens.report.section import (
    SAMPLE,
    MissingTable,
    RunView,
    Section,
    SectionBuilder,
    Tile,
    View,
    nearest_words,
    picture,
    selection_words,
)
from dit_lens.report.text import count, shorten, times

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MOST_SAMPLES = 24  # token-map figures in one report
MOST_IMAGES = 60
BLOCKS_AT_ONCE = 12  # bars of one variance figure stay readable


# ---------------------------------------------------------------------------------------- which rows to show
def _sites(table: pd.DataFrame, coordinates: Sequence[str]) -> list[dict[str, Any]]:
    """Return the coordinates that occur in a table, those a reader asks for first in front."""
    prefer = {"image": 0, "cond": 0, "context": 1, "uncond": 1, "both": 2}
    there = table[list(coordinates)].drop_duplicates().to_dict("records")
    return sorted(
        there, key=lambda site: [(prefer.get(str(value), 3), str(value)) for value in site.values()]
    )


def _at(table: pd.DataFrame, site: dict[str, Any]) -> pd.DataFrame:
    for name, value in site.items():
        table = table[table[name] == value]
    return table


def _views(
    table: pd.DataFrame, draw: Callable[..., go.Figure], sites: Sequence[dict[str, Any]]
) -> tuple[View, ...]:
    return tuple(View(_label(site), draw(table, **site)) for site in sites)


def _label(site: dict[str, Any]) -> str:
    return " · ".join(f"top {value}" if name == "k" else str(value) for name, value in site.items())


def _with_statistic(run: RunView, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return sites with the run's own statistic first; the others follow for its leading site only."""
    sites = _sites(table, ("stream", "branch", "statistic"))
    own = [site for site in sites if site["statistic"] == run.statistic] or sites
    lead = own[0]
    rest = [site for site in sites if site not in own and site["stream"] == lead["stream"]]
    return own + [site for site in rest if site["branch"] == lead["branch"]]


def _repeat(name: str, site: dict[str, Any]) -> str:
    arguments = "".join(f", {key}={value!r}" for key, value in site.items())
    return (
        "from dit_lens.report import plots\n"
        "from dit_lens.run.records import RunFolder\n\n"
        f'table = RunFolder.read(".").table("{name}")  # in the run folder\n'
        f"plots.{name}(table{arguments}).show()"
    )


# -------------------------------------------------------------------------------------------------- sections
def channel_set(run: RunView) -> Section:
    """The channels this run calls massive."""
    if run.channels is None:
        raise MissingTable("This run wrote no channel set (channels.json).")
    blocks = {str(block): list(chosen) for block, chosen in run.channels.get("blocks", {}).items()}
    distinct = {channel for chosen in blocks.values() for channel in chosen}
    rows = Markup("").join(
        Markup("<tr><th scope='row'>{}</th><td>{}</td></tr>").format(
            block,
            Markup(" ").join(Markup("<span class='chip'>{}</span>").format(channel) for channel in chosen)
            or "none",
        )
        for block, chosen in sorted(blocks.items(), key=lambda item: int(item[0]))
    )
    table = Markup(
        "<div class='scroll'><table class='channels'><thead><tr><th scope='col'>block</th>"
        "<th scope='col'>channels, largest first</th></tr></thead><tbody>{}</tbody></table></div>"
    ).format(rows)
    return Section(
        id="channels",
        title="Which channels are massive?",
        lead=f"The set that every later question is about, chosen by: {selection_words(run.channels)}.",
        extra=table,
        reading="One row per transformer block: the residual stream after that block is ranked by the "
        "statistic, and the channels that pass the rule are listed. A channel that stays over many rows "
        "is a property of the model rather than of one layer. The same set lies beside this page as "
        "channels.json.",
        conclusion=findings.channel_set(blocks, nearest_words(run.channels)),
        download=of_json("channels.json", run.channels, "download the set as JSON"),
        repeat=_REPEAT_SET,
        tiles=(Tile(str(len(distinct)), f"different massive channels in {count(len(blocks), 'block')}"),),
    )


_REPEAT_SET = (
    "from dit_lens.run.records import RunFolder\n\n"
    'channels = RunFolder.read(".").channels()  # in the run folder\n'
    'for block, chosen in channels["blocks"].items():\n'
    "    print(block, chosen)"
)


def spectrum(run: RunView) -> Section:
    """The channel spectrum of each block."""
    table = run.table("spectrum")
    sites = _with_statistic(run, table)
    return Section(
        id="spectrum",
        title="How far do they stand out?",
        lead="Every channel of the residual stream, sorted by size, as a multiple of the block's median "
        "channel.",
        views=_views(table, plots.spectrum, sites),
        reading="Both axes are logarithmic. A model without massive channels draws a line that leaves the "
        "median gently; a massive channel is a point high above the first ranks, labelled with its "
        "number. The dotted line is the median channel. Values are averaged over steps, prompts and "
        "seeds.",
        conclusion=findings.spectrum(_at(table, sites[0])),
        table="spectrum",
        repeat=_repeat("spectrum", sites[0]),
    )


def ratio_map(run: RunView) -> Section:
    """Where and when the top channel is how large."""
    table = run.table("ratio_map")
    sites = _with_statistic(run, table)
    return Section(
        id="ratio-map",
        title="Where and when?",
        lead="The strongest channel of each block at each denoising step, as a multiple of the median "
        "channel.",
        views=_views(table, plots.ratio_map, sites),
        reading="Each cell is one block at one step; its number is the channel that leads there, its "
        "colour the ratio on a logarithmic scale. Denoising runs from left (pure noise) to right. "
        "Vertical stripes mean that the timestep drives the size, horizontal bands that depth does.",
        conclusion=findings.ratio_map(_at(table, sites[0])),
        tiles=_peak(_at(table, sites[0])),
        table="ratio_map",
        repeat=_repeat("ratio_map", sites[0]),
    )


def _peak(rows: pd.DataFrame) -> tuple[Tile, ...]:
    """Return the first card's number: the highest ratio, and whose it is."""
    rows = rows.dropna(subset=["ratio"])
    if rows.empty:
        return ()
    peak = rows.loc[rows["ratio"].idxmax()]
    where = f"channel {int(peak['channel'])} in block {int(peak['block'])}"
    return (Tile(times(peak["ratio"]), f"the median channel: the highest ratio, of {where}"),)


def life(run: RunView) -> Section:
    """The top channels through depth and time."""
    table = run.table("life")
    sites = _with_statistic(run, table)
    return Section(
        id="life",
        title="How do the top channels live?",
        lead="The same few channels followed through the blocks, and through the denoising steps.",
        views=_views(table, plots.life, sites),
        reading="Lines are means, bands reach from the smallest to the largest value: over steps on the "
        "left, over blocks on the right. A band that stays narrow on the left means that a block sets the "
        "size whatever the step.",
        conclusion=findings.life(_at(table, sites[0])),
        table="life",
        repeat=_repeat("life", sites[0]),
    )


def stability(run: RunView) -> Section:
    """How far the set depends on what was run."""
    table = run.table("stability")
    sites = _sites(table, ("stream", "branch", "k"))
    return Section(
        id="stability",
        title="Is it always the same set?",
        lead="Overlap of top-k sets chosen from single prompts, seeds, steps, and neighbouring blocks.",
        views=_views(table, plots.stability, sites),
        reading="A Jaccard overlap of 1 means that two sets are the same, 0 that they share nothing. Each "
        "point is a mean over pairs (their number is in the hover). The dotted line is what two random "
        "sets of that size share.",
        conclusion=findings.stability(_at(table, sites[0])),
        table="stability",
        repeat=_repeat("stability", sites[0]),
    )


def agreement(run: RunView) -> Section:
    """Whether the two readings of the statistic agree."""
    table = run.table("agreement")
    sites = _sites(table, ("stream", "branch", "k"))
    return Section(
        id="agreement",
        title="Does the definition matter?",
        lead="“Absolute channel mean” can be read as |mean over tokens| or as the mean of |value|; the "
        "two differ for channels that change sign over the image.",
        views=_views(table, plots.agreement, sites),
        reading="Bars at 1 mean that both readings choose the same channels, so the choice does not "
        "matter there. The dotted line is the overlap of two random sets of that size.",
        conclusion=findings.agreement(_at(table, sites[0])),
        table="agreement",
        repeat=_repeat("agreement", sites[0]),
    )


def variance(run: RunView) -> Section:
    """What drives each massive channel."""
    table = run.table("variance")
    sites = _sites(table, ("stream", "branch"))
    views: list[View] = []
    for site in sites:
        blocks = sorted(int(block) for block in _at(table, site)["block"].unique())
        chunks = [blocks[start : start + BLOCKS_AT_ONCE] for start in range(0, len(blocks), BLOCKS_AT_ONCE)]
        for chunk in chunks:
            part = f" · blocks {chunk[0]}–{chunk[-1]}" if len(chunks) > 1 else ""
            views.append(View(_label(site) + part, plots.variance(table, **site, blocks=chunk)))
    return Section(
        id="variance",
        title="What drives them?",
        lead="The variance of each massive channel, split over denoising step, prompt, seed, their "
        "interaction, and the position of the token.",
        views=tuple(views),
        reading="Each bar adds up to the channel's whole variance. A channel driven by the step is a "
        "clock, one driven by prompt or seed carries content, one driven by the token carries a layout "
        "over the image.",
        conclusion=findings.variance(_at(table, sites[0])),
        table="variance",
        repeat=_repeat("variance", sites[0]),
    )


def births(run: RunView) -> Section:
    """Which layer writes the channel."""
    table = run.table("births")
    sites = _sites(table, ("stream", "branch"))
    return Section(
        id="births",
        title="Where are they born?",
        lead="How much the attention and the MLP of each block write into each top channel of the residual "
        "stream.",
        views=_views(table, plots.births, sites),
        reading="A tall bar is a layer that writes much into the channel: where it is born or fed. Blocks "
        "without tall bars merely carry it along. Writes may cancel, so bars say who moves the channel, "
        "not what remains of it. Hovering shows each write's part of all writes into the channel, and the "
        "channel's rank among all that the layer writes.",
        conclusion=findings.births(_at(table, sites[0])),
        table="births",
        repeat=_repeat("births", sites[0]),
    )


def adaln(run: RunView) -> Section:
    """What AdaLN does at the massive channels."""
    table = run.table("adaln")
    sites = _sites(table, ("stream", "branch"))
    return Section(
        id="adaln",
        title="Does AdaLN single them out?",
        lead="The shift, scale and gate that each block takes from the timestep and the pooled text, at "
        "the massive channels, ranked among all channels.",
        views=_views(table, plots.adaln, sites),
        reading="100 means that the signal is larger (in magnitude) at this channel than at any other, 50 "
        "that it is as large as at a typical one (dotted). A gate near 100 means that the block lets "
        "through more of its write there than elsewhere.",
        conclusion=findings.adaln(_at(table, sites[0])),
        table="adaln",
        repeat=_repeat("adaln", sites[0]),
    )


def token_maps(run: RunView) -> Section:
    """The massive channels over the image tokens, beside the image."""
    table = run.table("token_maps")
    sites = _sites(table, ("stream", "branch"))
    rows = _at(table, sites[0])
    samples = rows[["prompt_index", "seed", "step", "prompt"]].drop_duplicates()
    samples = samples.sort_values(["prompt_index", "seed", "step"], ascending=[True, True, False])
    views = tuple(
        _sample_view(run, rows, sample, sites[0]) for sample in samples.head(MOST_SAMPLES).to_dict("records")
    )
    more = len(samples) - len(views)
    hidden = f" {count(more, 'more map set')} can be drawn from the table." if more > 0 else ""
    return Section(
        id="token-maps",
        title="What do they look like?",
        lead="Massive channels over the grid of image tokens, beside the image that was being generated.",
        views=views,
        reading="One map per block and channel, each in its own colour range (written above it): bright is "
        "large. A map "
        "that shows the subject carries a layout; a flat map is a constant that every token shares." + hidden,
        conclusion=findings.token_maps(rows),
        table="token_maps",
        repeat=_repeat("token_maps", sites[0]),
    )


def _sample_view(run: RunView, rows: pd.DataFrame, sample: dict[str, Any], site: dict[str, Any]) -> View:
    seed, prompt = int(str(sample["seed"])), str(sample["prompt"])
    of_sample = rows[(rows["prompt_index"] == sample["prompt_index"]) & (rows["seed"] == sample["seed"])]
    entry = next((one for one in run.samples if one.prompt == prompt and one.seed == seed), None)
    figure = plots.token_maps(
        of_sample,
        picture(run, entry) if entry else None,
        step=int(str(sample["step"])),
        **site,
    )
    return View(f"{shorten(prompt, 60)} · seed {seed} · step {sample['step']}", figure)


def images(run: RunView) -> Section:
    """The plain samples of the run."""
    samples = run.samples
    if not samples:
        where = " Its gallery shows images under every edit." if run.arm_images else ""
        raise MissingTable(f"This run kept no plain samples.{where}")
    shown = samples[:MOST_IMAGES]
    figures = Markup("").join(
        Markup(
            "<figure class='tile'><img src='{}' alt='{}' decoding='async'><figcaption>{}<small>seed "
            "{}{}</small></figcaption></figure>"
        ).format(
            data_uri(picture(run, entry), longest=384),
            f"Generated image for the prompt: {entry.prompt} (seed {entry.seed})",
            entry.prompt,
            entry.seed,
            f" · {entry.caption}" if entry.caption and entry.caption != entry.prompt else "",
        )
        for entry in shown
    )
    rest = len(samples) - len(shown)
    return Section(
        id="images",
        title="Which images were made?",
        lead="Samples of this run, each with its prompt and seed.",
        extra=Markup("<div class='gallery'>{}</div>").format(figures),
        reading="These are plain samples: nothing was edited. Their original files lie in images/."
        + (f" {count(rest, 'more image')} can be found there." if rest else ""),
        conclusion=f"{count(len(samples), 'image')} from "
        f"{count(len({entry.prompt for entry in samples}), 'prompt')} and "
        f"{count(len({entry.seed for entry in samples}), 'seed')}.",
        download=image_list("images", samples),
        repeat=repeat(f"each.kind == {SAMPLE!r}", 'f"{each.prompt} · seed {each.seed}"'),
    )


CHANNEL_SECTIONS: tuple[SectionBuilder, ...] = (
    channel_set,
    spectrum,
    ratio_map,
    life,
    stability,
    agreement,
    variance,
    births,
    adaln,
    token_maps,
    images,
)
