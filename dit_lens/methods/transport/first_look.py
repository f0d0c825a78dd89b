"""One picture carried into another, stronger and stronger: a first look, judged against nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lens.display import Summarised
from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph
from dit_lens.methods.channel_sets import ChannelSet, require_k
from dit_lens.methods.distances import share_of_the_way, ssim
from dit_lens.methods.pixels import save_png
from dit_lens.methods.transport.arms import token_numbers
from dit_lens.model.hook_points import parse_blocks, select_steps
from dit_lens.summary import Images, Summary, Table, number

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_lens.methods.measures import Measures
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.result import Result

TOP_K = 4
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
THEIR_RUNS, GIVEN = "the runs of these two prompts", "a set that was given"


@dataclass(frozen=True)
class Carried:
    """The target with the source's channels in it: how strongly, the picture, and what came of it.

    `toward_latent` is the share of the way from the target's final latent to the source's, None where the two
    are equal; `ssim` is to the target, None for pictures too small for it; `alignment` with the source's and
    with the target's prompt (cosines), None without a CLIP that knows the model's pictures.
    """

    strength: float
    picture: Image
    toward_latent: float | None
    ssim: float | None
    alignment: tuple[float, float] | None

    def as_data(self) -> dict[str, Any]:
        """Plain data, without the picture."""
        return {
            "strength": self.strength,
            "toward_latent": self.toward_latent,
            "ssim": self.ssim,
            "alignment": _by_prompt(self.alignment),
        }


@dataclass(frozen=True)
class CarryLook(Summarised):
    """Source, target, and the target with the source's channels in it at each strength.

    `tokens` are the image tokens that were carried, None for all; `tokens_from` is one of
    `dit_lens.methods.transport.subjects.WHERE`, as it was asked for.
    """

    source: str
    target: str
    seed: int
    model: str
    steps: tuple[int, ...]
    channels: dict[int, tuple[int, ...]]
    channels_from: str
    tokens: tuple[int, ...] | None
    tokens_from: str
    branch: str
    pictures: tuple[Image, Image]
    alignments: tuple[tuple[float, float] | None, tuple[float, float] | None]
    carried: tuple[Carried, ...]

    @property
    def labelled_images(self) -> list[tuple[str, Image]]:
        """Source, target and the target at every strength, for `dl.plots.images`."""
        ends = list(zip((f"source: {self.source}", f"target: {self.target}"), self.pictures, strict=True))
        return ends + [(f"strength {one.strength:g}", one.picture) for one in self.carried]

    def sheet(self) -> Image:
        """The grid: both prompts in words, then source, target and every strength, each with its label."""
        from dit_lens.methods.transport.sheet import labelled_grid

        source, target = self.pictures
        tiles = [(source, "source", ""), (target, "target", "")]
        for one in self.carried:
            way = "" if one.toward_latent is None else f"{round(100 * one.toward_latent) + 0:d} % of the way"
            tiles.append((one.picture, f"strength {one.strength:g}", way))
        head = [f"source: {self.source}", f"target: {self.target}"]
        return labelled_grid(tiles, head, foot=self._how())

    def _how(self) -> str:
        each = sorted({len(chosen) for chosen in self.channels.values()})
        amount = str(each[0]) if len(each) == 1 else f"{each[0]} to {each[-1]}"
        return (
            f"{self.model}, seed {self.seed}: {amount} channels in each of {len(self.channels)} blocks, at "
            f"{len(self.steps)} steps{self._places()}; from {self.channels_from}"
        )

    def _places(self) -> str:
        said = f", in the {self.branch} branch alone" if self.branch != "both" else ""
        if self.tokens_from == "all":
            return said
        run = "either run" if self.tokens_from == "union" else f"the {self.tokens_from}'s run"
        if self.tokens is None:
            return f"{said}, at all tokens, since no subject stands out in {run}"
        return f"{said}, at {len(self.tokens)} tokens of the subject in {run}"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the grid as a PNG, whole or not at all; raises `RunFailure` where that cannot be."""
        return save_png(path, self.sheet())

    def as_data(self) -> dict[str, Any]:
        """Plain data, without pictures."""
        return {
            "source": self.source,
            "target": self.target,
            "seed": self.seed,
            "model": self.model,
            "steps": list(self.steps),
            "channels": {str(block): list(chosen) for block, chosen in self.channels.items()},
            "channels_from": self.channels_from,
            "tokens": "all" if self.tokens is None else list(self.tokens),
            "tokens_from": self.tokens_from,
            "branch": self.branch,
            "unedited": {
                name: {"alignment": _by_prompt(value)}
                for name, value in zip(("source", "target"), self.alignments, strict=True)
            },
            "strengths": [one.as_data() for one in self.carried],
        }

    def summary(self) -> Summary:
        """Source, target, and the target at every strength, with how far each has moved."""
        rows = [
            (
                f"{one.strength:g}",
                number(one.toward_latent),
                number(one.ssim),
            )
            for one in self.carried
        ]
        title = f"{self.model}, seed {self.seed}: the source's channels in the target's run"
        shown = Table(("strength", "way to the source's latent", "SSIM to the target"), rows)
        note = f"Channels from {self.channels_from}."
        return Summary(title, (Images(self.labelled_images), shown), note)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [self._how(), f"{'strength':>8}  {'way to the source':>17}  {'SSIM to the target':>18}"]
        for one in self.carried:
            way = "–" if one.toward_latent is None else f"{round(one.toward_latent, 3) + 0.0:.3f}"
            alike = "–" if one.ssim is None else f"{one.ssim:.3f}"
            lines.append(f"{one.strength:>8g}  {way:>17}  {alike:>18}")
        return "\n".join(lines)


def _by_prompt(alignment: tuple[float, float] | None) -> dict[str, float] | None:
    return None if alignment is None else {"source": alignment[0], "target": alignment[1]}


def first_carry(
    lens: DiTLens,
    source: str,
    target: str,
    seed: int = 0,
    *,
    strengths: Sequence[float] = STRENGTHS,
    channels: ChannelSet | None = None,
    top_k: int | None = None,
    blocks: Any = "all",
    steps: Any = "all",
    tokens: str = "all",
    branch: str = "both",
    sampling: Sampling | None = None,
    progress: bool = False,
) -> CarryLook:
    """Carry the source's massive channels into the target's run, from the same noise, at several strengths.

    Without `channels`, the `top_k` (4) channels of the largest |mean over image tokens| in the runs of these
    two prompts are taken, which costs one more run of both. Fine for a look; to judge anything, choose
    channels on other prompts, as `dit-lens discover` does. With source = target nothing can move.

    Args:
        strengths: 0 leaves the target as it is, 1 puts the source's values in place of its own. In between
            each of n blocks draws what the last one left, and together they cover 1 − (1 − strength)ⁿ of a
            difference that stays the same.
        blocks, steps: where and when channels are carried; what `parse_blocks` and `select_steps` take.
        tokens: "all", or the subject's in the "source" run, the "target" run or either ("union"), as the
            channels cluster them; where they show none, all. Costs one more run of both.
        branch: of guidance: "both", "cond" or "uncond".

    Raises:
        BadInput: no strength, a block, step, channel or branch that the model does not have, a blank prompt,
            `channels` together with `top_k` or of another model, other `tokens`, or no channel in these
            blocks; before anything runs.

    >>> sampling = lens.sampling(steps=4)
    >>> first_carry(lens, "a large red circle", "a small blue star", sampling=sampling).save("grid.png").name
    'grid.png'
    """
    from dit_lens.methods.measures import default_measures
    from dit_lens.methods.transport.subjects import (
        require_image_stream,
        require_where,
        subjects,
        tokens_between,
    )
    from dit_lens.run.runner import run

    for name, prompt in (("source", source), ("target", target)):
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadInput(f"The {name} prompt is blank; say what the picture shows, such as: a red circle")
    if channels is not None and top_k is not None:
        raise BadInput("Channels were given, so top_k has nothing to choose; leave out one of the two.")
    if not len(strengths):
        raise BadInput("No strength was given; 1 puts the source's values in place of the target's.")
    if channels is not None:
        channels.require_found_in(lens)
    require_where(tokens)
    if channels is not None and tokens != "all":
        require_image_stream(channels.stream)
    sampling = sampling or lens.sampling()
    at = parse_blocks(blocks, lens.num_blocks)
    sigmas = lens.prepare_rows([target], [seed], sampling).sigmas.tolist()
    chosen_steps = select_steps(steps, sampling.steps, sigmas)
    measures = default_measures(lens)
    if branch not in (known := ("both", *sampling.branches)):
        raise BadInput(f"There is no branch {branch!r} at this guidance; there are: {', '.join(known)}.")
    if channels is None:
        k = TOP_K if top_k is None else top_k
        require_k(k, lens.num_channels)
        # A graph with any channels at all shows whether the rest fits, before the runs of the discovery.
        stand_in = {block: tuple(range(k)) for block in at}
        _graph(source, target, seed, strengths, stand_in, "image", chosen_steps, sampling).check(lens)
        channels = _quickly_discovered(lens, source, target, seed, k, sampling, progress)
        origin = THEIR_RUNS
    else:
        origin = GIVEN
    held = {block: channels.blocks[block] for block in at if channels.blocks.get(block)}
    if not held:
        there = [block for block, each in channels.blocks.items() if each]
        raise BadInput(
            f"There is no channel to carry in blocks {', '.join(map(str, at))}; the channel set has some in "
            f"blocks {', '.join(map(str, there)) or 'none'}."
        )
    carried: Any = "all"
    if tokens != "all":
        prompts = list(dict.fromkeys((source, target)))
        seen = subjects(lens, channels, prompts, [seed], sampling, progress=progress)
        carried = tokens_between(tokens, seen[source, seed], seen[target, seed])
    places = {"tokens": token_numbers(carried), "branch": branch}
    graph = _graph(source, target, seed, strengths, held, channels.stream, chosen_steps, sampling, **places)
    done = run(lens, graph, keep="final", sham=False, progress=progress)
    return CarryLook(
        source=source,
        target=target,
        seed=seed,
        model=lens.name,
        steps=chosen_steps,
        channels=held,
        channels_from=origin,
        tokens=None if carried == "all" else token_numbers(carried),
        tokens_from=tokens,
        branch=branch,
        pictures=(_image(done, "source"), _image(done, "target")),
        alignments=(
            _aligned(measures, _image(done, "source"), source, target),
            _aligned(measures, _image(done, "target"), source, target),
        ),
        carried=tuple(
            Carried(
                strength=strength,
                picture=_image(done, f"at {index}"),
                toward_latent=_way(done, f"at {index}"),
                ssim=_alike(measures, _image(done, f"at {index}"), _image(done, "target")),
                alignment=_aligned(measures, _image(done, f"at {index}"), source, target),
            )
            for index, strength in enumerate(map(float, strengths))
        ),
    )


def _graph(
    source: str,
    target: str,
    seed: int,
    strengths: Sequence[float],
    channels: dict[int, tuple[int, ...]],
    stream: str,
    steps: tuple[int, ...],
    sampling: Sampling,
    *,
    tokens: Any = "all",
    branch: str = "both",
) -> InterventionGraph:
    from dataclasses import asdict

    graph = InterventionGraph(sampling=asdict(sampling))
    donor = graph.trajectory(prompt=source, seed=seed, id="source")
    graph.trajectory(prompt=target, seed=seed, id="target")
    for index, strength in enumerate(strengths):
        into = graph.trajectory(prompt=target, seed=seed, id=f"at {index}")
        graph.patch(
            donor,
            into=into,
            at=[f"blocks.{block}.resid_post.{stream}" for block in channels],
            channels=channels,
            strength=float(strength),
            steps=list(steps),
            tokens=tokens,
            branch=branch,
        )
    return graph


def _quickly_discovered(
    lens: DiTLens, source: str, target: str, seed: int, top_k: int, sampling: Sampling, progress: bool
) -> ChannelSet:
    from dit_lens.methods.channels import discover

    prompts = list(dict.fromkeys((source, target)))
    stats = discover(lens, prompts, (seed,), sampling=sampling, top_k=top_k, progress=progress)
    return stats.select(top_k=top_k)


def _image(done: Result, trajectory: str) -> Image:
    image = done[trajectory].image
    assert image is not None, "images were asked for"
    return image


def _way(done: Result, trajectory: str) -> float | None:
    ends = (done[name].latents[-1:] for name in (trajectory, "target", "source"))
    value = float(share_of_the_way(*ends)[0])
    return None if math.isnan(value) else value


def _alike(measures: Measures, picture: Image, target: Image) -> float | None:
    if "ssim" not in measures.names:
        return None
    try:
        return float(ssim([picture], [target])[0])
    except BadInput:
        # Pictures smaller than its window have none.
        return None


def _aligned(measures: Measures, picture: Image, source: str, target: str) -> tuple[float, float] | None:
    from dit_lens.methods.scorers import score_images

    if measures.alignment is None:
        return None
    scores = score_images(measures.alignment, [picture, picture], [source, target])
    return float(scores[0]), float(scores[1])
