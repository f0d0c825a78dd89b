"""Block × step maps: what an edit does in every cell, one block at one denoising step.

Two readouts. `final`: the image at the end, one run per cell, prompt and family. `step`: the guided velocity
at that step, one forward pass from the unedited latents; it is cheap and sees the edit before the later steps
can repair or amplify it.

Two kinds of edit. An ablation changes the channels by themselves. A patch carries them in from the run of a
*donor*, a prompt that differs in one attribute and starts from the same noise (`zoo.scenes.counterfactuals`).
Patching the source's channels into the target's run asks whether they suffice for the source's attribute
("denoising" of a corrupted run); patching the target's into the source's run asks whether the source needs
its own ("noising"). Source: arXiv 2309.16042, 2404.15255.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import Intervention, Zero
from dit_lens.methods.arms import READOUTS
from dit_lens.methods.controls import Control
from dit_lens.methods.map_arms import cell_edits, map_arms, mapped_blocks
from dit_lens.methods.map_cells import EffectMap, read_cells
from dit_lens.model.hook_points import select_steps
from dit_lens.words import known_words

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.cells import CellStore
    from dit_lens.run.material import MaterialSource

DIRECTIONS = ("denoising", "noising")
"""Source patched into target; target patched into source."""

DEFAULT_METRIC = {
    ("step", False): "velocity",
    ("step", True): "toward",
    ("final", False): "latent",
    ("final", True): "toward_latent",
}
"""(readout, whether the edit draws on a donor) → the metric of `effect_map`."""


@known_words
def effect_map(
    lens: DiTLens,
    channels: Any,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int] = (0,),
    *,
    controls: Mapping[str, Any] | Iterable[Control] = (),
    op: Intervention | None = None,
    readout: Literal["final", "step"] = "step",
    blocks: Any = "*",
    steps: Any = "all",
    branch: str = "both",
    tokens: Any = "all",
    stream: str | None = None,
    donors: Mapping[str, str] | None = None,
    metric: str | None = None,
    sampling: Sampling | None = None,
    store: CellStore | None = None,
    material: MaterialSource | None = None,
    arms_per_forward: int | None = None,
    resamples: int | None = None,
    progress: bool = True,
) -> EffectMap:
    """Effect of an edit of some channels in every block × step cell, beside its controls. Exploratory.

    Patching a donor's values into each cell: arXiv 2309.16042, 2404.15255.

    Args:
        lens: the model.
        channels: a ChannelSet, {block: channels} or channel numbers.
        prompts: those to judge on; for a set that was discovered, others than it was discovered on.
        seeds: each once; every prompt runs with each.
        controls: what `dl.controls` gives (draws of one kind are averaged), or {name: channels}.
        op: the edit; `Zero()`, or `Patch()` where donors are given.
        readout: "step", the velocity in one forward pass; or "final", the image at the end.
        blocks, steps: the map's cells; a fraction, range or list as in `parse_blocks` and `select_steps`.
        branch, tokens: where in a cell the edit acts; as in `InterventionGraph.edit`.
        stream: "image" or "context"; by default that of the channel set.
        donors: prompt → the prompt whose run (same seed) is patched in. With {target: source} the map shows
            where the channels suffice (denoising), with {source: target} where they are needed (noising).
        metric: of `dit_lens.methods.metrics.METRICS`; by default the velocity's or latent's relative
            distance, with donors the share of the way to the donor's.
        sampling: the model's default unless given.
        store: where cells are kept, so that a run can be continued.
        material: gives what `Mean("dataset")` and `Clamp` need; see `MaterialRequest`.
        arms_per_forward: most rows of one forward pass; None chooses.
        resamples: of the bootstrap and the sign flips.
        progress: whether a bar is drawn.

    Returns:
        Per family [block, step]: means and bootstrap intervals over prompts; massive − control with
        sign-flip p, Benjamini–Hochberg over the map.

    Raises:
        BadInput: before any forward pass: no such block, step, metric or donor, or an edit without channels.

    >>> found = dl.effect_map(lens, massive, held_out, controls=dl.controls(massive, stats, "random"),
    ...                       blocks=[3, 4], steps="::2", sampling=lens.sampling(steps=4))
    >>> found.values["massive"].shape, float(found.values["massive"].max().round(1))
    ((2, 2), 1.8)
    """
    from dit_lens.methods.measures import default_measures
    from dit_lens.methods.study import run_study
    from dit_lens.model.sampling import rows_of

    if op is None:
        from dit_lens.graph.interventions import Patch

        op = Zero() if donors is None else Patch()
    edits = cell_edits(channels, op, controls)
    drawing = any(edit.donor for edit in edits)
    if drawing != (donors is not None):
        raise BadInput(
            f"{op.op} draws on another run; give donors, a mapping prompt → donor prompt."
            if drawing
            else f"donors are given, and {op.op} draws on none; use op=Patch(), or leave out donors."
        )
    metric = metric or DEFAULT_METRIC[readout if readout in READOUTS else "step", drawing]
    rows, row_seeds = rows_of(prompts, seeds)
    distinct, seeds = tuple(dict.fromkeys(rows)), tuple(dict.fromkeys(row_seeds))
    sampling = sampling or lens.sampling()
    sigmas = tuple(float(s) for s in lens.prepare_rows([rows[0]], [row_seeds[0]], sampling).sigmas)
    arms = map_arms(
        edits,
        blocks=mapped_blocks(blocks, lens.num_blocks, edits),
        steps=select_steps(steps, sampling.steps, sigmas),
        stream=stream or getattr(channels, "stream", None) or "image",
        branch=branch,
        tokens=tokens,
        readout=readout,
    )
    measures = default_measures(lens, [metric])
    if not measures.of(arms[0]):
        alone = " without donors" if measures.needing("source") and not drawing else ""
        raise BadInput(
            f"The readout {readout!r} has no {metric!r}{alone}; try {DEFAULT_METRIC[readout, drawing]!r}."
        )
    done = run_study(
        lens,
        arms,
        distinct,
        seeds,
        sampling=sampling,
        measures=measures,
        store=store,
        donors=donors,
        material=material,
        arms_per_forward=arms_per_forward,
        progress=progress,
    )
    how = {} if resamples is None else {"resamples": resamples}
    return EffectMap.of(read_cells(done.effects, arms, metric), readout, sigmas=sigmas, **how)
