"""Massive channels: one streaming pass over prompts × seeds, and the sets chosen from its statistics."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from dit_lens.display import Summarised
from dit_lens.errors import BadInput, did_you_mean
from dit_lens.methods import statistics_files
from dit_lens.methods.channel_labels import RANKED, STATISTICS
from dit_lens.methods.channel_sets import (
    ChannelSet,
    at_least_ratio,
    by_hand,
    largest_ratio,
    massive_2402_17762,
    require_k,
    strongest,
)
from dit_lens.methods.discovery_request import captions_of, distinct_seeds, rows_at_once, sampling_of
from dit_lens.model.hook_points import parse_blocks, select_steps
from dit_lens.model.identity import RunIdentity
from dit_lens.summary import Facts, Fold, Part, Summary, Table, shortened
from dit_lens.words import known_words, methods_know_words

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import pandas as pd

    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

RULE = "2402.17762"
LOG_DEPTH = 16
"""Strongest channels logged per sample: stability can be asked for any k up to this (2 bytes per index)."""


@methods_know_words
@dataclass(frozen=True, repr=False)
class ChannelStatistics(Summarised):
    """Statistics of every channel, labelled by step, branch, block, stream and channel.

    Fields: `data`, an `xarray.Dataset` of float32 and float64 arrays such as `abs_mean` [step, branch,
    block, stream, channel] (all variables: see `ChannelPass.dataset`), in units of the activations;
    `provenance`, what was measured: model, fingerprint, prompts, seeds, sampling, device, dtype; `top_k`,
    the default size of a set; `cost`, counts of forwards and samples; `seconds`, wall time (not saved: equal
    runs save equal bytes).

    >>> stats = dl.discover(lens, prompts, seeds=[0], sampling={"steps": 4})
    >>> dict(stats.data["abs_mean"].sizes)
    {'step': 4, 'branch': 2, 'block': 8, 'stream': 2, 'channel': 128}
    >>> stats.select(top_k=2).blocks[4]
    (60, 34)
    """

    data: xr.Dataset
    provenance: Mapping[str, Any]
    top_k: int = 4
    cost: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.provenance.get("model", "?"))

    @property
    def num_channels(self) -> int:
        """Width of the streams."""
        return int(self.data.sizes["channel"])

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams that were measured."""
        return tuple(str(name) for name in self.data["stream"].values)

    @property
    def branches(self) -> tuple[str, ...]:
        """Guidance branches that were run."""
        return tuple(str(name) for name in self.data["branch"].values)

    def blocks(self, stream: str) -> tuple[int, ...]:
        """Blocks after which `stream` exists. Raises `BadInput` for an unknown stream.

        >>> stats.blocks("context")
        (0, 1, 2, 3, 4, 5, 6)
        """
        self._require("stream", stream, self.streams)
        present = self.data["abs_mean"].sel(stream=stream).notnull().any(("step", "branch", "channel"))
        return tuple(int(block) for block in self.data["block"].values[present.values])

    def profile(
        self,
        statistic: str = "abs_mean",
        *,
        stream: str = "image",
        branch: str = "cond",
        steps: Any = "all",
    ) -> xr.DataArray:
        """One statistic [block, channel]: mean over the steps and branches chosen; for `max_abs` the maximum.

        `statistic` is one of `abs_mean mean_abs max_abs p999 …`, of one `stream`; `steps` takes what
        `select_steps` takes. `branch="both"` takes every branch that was run; blocks without that stream are
        left out. Raises `BadInput` for a statistic, stream, branch or step that does not exist.

        >>> profile = stats.profile("abs_mean", steps="2:")
        >>> profile.shape, int(profile.sel(block=4).values.argmax())
        ((8, 128), 60)
        """
        self._require("statistic", statistic, STATISTICS)
        self._require("branch", branch, (*self.branches, "both"))
        chosen = self.data[statistic].sel(stream=stream, block=list(self.blocks(stream)))
        chosen = chosen.sel(branch=list(self.branches) if branch == "both" else [branch])
        chosen = chosen.isel(step=list(self._steps(steps)))
        if statistic == "max_abs":
            return chosen.max(("step", "branch"))
        # In float64, so that the order of near-equal channels does not hang on how xarray sums.
        return chosen.astype(np.float64).mean(("step", "branch"))

    def select(
        self,
        *,
        top_k: int | None = None,
        ratio: float | None = None,
        rule: str | None = None,
        chosen: Mapping[int, Sequence[int]] | None = None,
        statistic: str | None = None,
        stream: str = "image",
        branch: str = "cond",
        steps: Any = "all",
        blocks: Any = "all",
        min_abs: float = 100.0,
        min_ratio: float = 1000.0,
    ) -> ChannelSet:
        """Choose channels in every block by one rule.

        - `top_k`: the k largest (the protocol of arXiv 2605.13974 with `statistic="abs_mean"`). Default
          rule.
        - `ratio`: at least so many times the channel median.
        - `rule="2402.17762"`: largest |x| above `min_abs` and at least `min_ratio` × the median |x|, the
          definition of massive activations in language models. On a small model it usually finds none, and
          the set says so.
        - `chosen`: channels of your own, block → channels; blocks that it leaves out have none.

        `statistic` is `abs_mean` unless given; the rule looks at `max_abs` and at nothing else. `stream` is
        "image" or "context", `branch` "cond", "uncond" or "both"; `steps` and `blocks` take what
        `select_steps` and `parse_blocks` take. Raises `BadInput` for two rules at once, a k that no model of
        this width has, and anything that does not exist.

        >>> stats.select(ratio=5, branch="both", steps={"fraction": [0, 0.5]}).channels
        (0, 34, 45, 56, 60, 65, 114)
        >>> stats.select(chosen={4: [0, 34], 5: [0]}).channels
        (0, 34)
        >>> stats.select(rule="2402.17762").is_empty
        True
        """
        ways = {"top_k": top_k, "ratio": ratio, "rule": rule, "chosen": chosen}
        named = [name for name, value in ways.items() if value is not None]
        if len(named) > 1:
            raise BadInput(
                f"Channels were asked for by {' and '.join(named)}; choose one of {', '.join(ways)}."
            )
        statistic = statistic or ("abs_mean" if rule is None else "max_abs")
        self._require("statistic", statistic, RANKED)
        where = {"stream": stream, "branch": branch, "steps": steps}
        chosen_steps = list(self._steps(steps))
        every = len(chosen_steps) == self.data.sizes["step"]
        at = {"branch": branch, "steps": "all" if every else chosen_steps}
        there = self._chosen_blocks(stream, blocks)
        if rule is not None:
            self._require("rule", rule, (RULE,))
            if statistic != "max_abs":
                raise BadInput(
                    f"The rule of {RULE} looks at max_abs, and statistic={statistic!r} was asked for. "
                    "Leave statistic out, or select by ratio."
                )
            limits = {
                "min_abs": _positive("min_abs", min_abs),
                "min_ratio": _positive("min_ratio", min_ratio),
            }
            selection: dict[str, Any] = {"rule": rule, **limits, **at}
            values, typical = self.profile("max_abs", **where), self.profile("mean_abs", **where)
            picked = {b: massive_2402_17762(_row(values, b), _row(typical, b), **limits) for b in there}
        elif chosen is not None:
            selection = {"chosen": "by hand", **at}
            values = self.profile(statistic, **where)
            by_block = by_hand(chosen, self.blocks(stream), self.num_channels)
            ranked = {b: strongest(_row(values, b), self.num_channels) for b in there}
            picked = {b: tuple(c for c in ranked[b] if c in by_block.get(b, ())) for b in there}
        elif ratio is not None:
            threshold = _positive("ratio", ratio)
            selection = {"ratio": threshold, **at}
            values = typical = self.profile(statistic, **where)
            picked = {b: at_least_ratio(_row(values, b), threshold) for b in there}
        else:
            k = require_k(self.top_k if top_k is None else top_k, self.num_channels)
            selection = {"top_k": k, **at}
            values = self.profile(statistic, **where)
            picked = {b: strongest(_row(values, b), k) for b in there}
        provenance = self._short_provenance()
        if not any(picked.values()):
            provenance["largest"] = largest_ratio({b: (_row(values, b), _row(typical, b)) for b in there})
        return ChannelSet(
            model=self.model,
            statistic=statistic,
            stream=stream,
            selection=selection,
            provenance=provenance,
            blocks=picked,
        )

    def agreement(self, k: int | None = None, *, stream: str = "image", branch: str = "cond") -> float:
        """Mean Jaccard over blocks of the top `k` by `abs_mean` and by `mean_abs`: do the two readings agree?

        From 0 to 1; of one `stream` and `branch`; `k` is `top_k` unless given. Raises `BadInput` for one
        that does not exist.

        >>> round(stats.agreement(k=4), 2)
        0.72
        """
        sets = [
            self.select(top_k=k, statistic=name, stream=stream, branch=branch)
            for name in ("abs_mean", "mean_abs")
        ]
        return sets[0].jaccard(sets[1])

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables that `table` knows, one per figure of `dl.plots`."""
        from dit_lens.methods.channel_tables import TABLES

        return TABLES

    def table(self, name: str, massive: ChannelSet | None = None) -> pd.DataFrame:
        """One tidy table, such as `spectrum`: every stream, branch and statistic; see `channel_tables`.

        `name` is one of `table_names`. `massive` replaces the top k of its stream in `variance` and `adaln`.
        Raises `BadInput` for another name.

        >>> stats.table("spectrum").columns.tolist()
        ['stream', 'branch', 'block', 'rank', 'channel', 'statistic', 'value', 'ratio']
        """
        from dit_lens.methods.channel_tables import table

        return table(self, name, massive)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `statistics.safetensors` and `statistics.json` into a `folder`, whole or not at all.

        Replaces statistics saved there before. Raises `BadInput` when the folder holds anything else,
        `RunFailure` when it cannot be written.

        >>> sorted(file.name for file in stats.save("measured").iterdir())
        ['statistics.json', 'statistics.safetensors']
        """
        about = {"provenance": dict(self.provenance), "top_k": self.top_k, "cost": dict(self.cost)}
        return statistics_files.save(folder, self.data, about)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ChannelStatistics:
        """Read what `save` wrote into a `folder`; no torch needed.

        Raises `BadInput` for what is missing or damaged.

        >>> ChannelStatistics.load(stats.save("measured")).data.equals(stats.data)
        True
        """
        data, about = statistics_files.load(folder)
        return cls(data, about["provenance"], about["top_k"], about["cost"])

    def summary(self) -> Summary:
        """The strongest channel of each block and stream, as a multiple of the block's median channel."""
        sizes = self.data.sizes
        prompts = list(map(str, self.provenance.get("prompts", ())))
        about = {
            "measured on": f"{sizes['sample']} samples, {sizes['step']} steps, {' and '.join(self.branches)}",
            "model": f"{sizes['block']} blocks × {self.num_channels} channels",
            "prompts": shortened("; ".join(prompts), 200),
            "cost": f"{self.cost['forwards']} forwards" if "forwards" in self.cost else "",
        }
        parts: list[Part] = [Facts(about)]
        for stream in self.streams:
            profile = self.profile(stream=stream)
            values = profile.values
            median, top = np.median(values, axis=1), values.argmax(axis=1)
            rows = []
            for i, block in enumerate(profile["block"].values):
                ratio = f"{values[i, top[i]] / median[i]:.1f} ×" if median[i] > 0 else "–"
                rows.append((int(block), int(top[i]), ratio, f"{values[i, top[i]]:.3g}"))
            shown = Table(("block", "top channel", "of the median", "|mean over tokens|"), rows)
            title = f"{stream} stream, top channel of each block"
            parts.append(Fold(title, shown, opened=stream == "image"))
        return Summary(f"ChannelStatistics of {self.model}", tuple(parts))

    def __repr__(self) -> str:
        sizes = self.data.sizes
        lines = [
            f"ChannelStatistics({self.model}: {sizes['sample']} samples, {sizes['step']} steps, "
            f"{' and '.join(self.branches)}, {sizes['block']} blocks, {self.num_channels} channels, "
            f"{self.cost.get('forwards', '?')} forwards)"
        ]
        for stream in self.streams:
            values = self.profile(stream=stream)
            median = np.median(values.values, axis=1)
            best = values.values.argmax(axis=1)
            tops = [
                f"{block}: {channel} ({values.values[i, channel] / median[i]:.1f}×)"
                if median[i] > 0
                else f"{block}: {channel}"
                for i, (block, channel) in enumerate(zip(values["block"].values, best, strict=True))
            ]
            lines.append(
                f"  {stream}, top channel by abs_mean (× channel median) per block: {', '.join(tops)}"
            )
        return "\n".join(lines)

    def _steps(self, spec: Any) -> tuple[int, ...]:
        return select_steps(spec, self.data.sizes["step"], [float(s) for s in self.data["sigma"].values])

    def _chosen_blocks(self, stream: str, spec: Any) -> tuple[int, ...]:
        there = self.blocks(stream)
        if isinstance(spec, str) and spec in ("all", "*"):
            return there
        asked = parse_blocks(spec, self.data.sizes["block"])
        missing = [block for block in asked if block not in there]
        if missing:
            raise BadInput(
                f"Stream {stream!r} does not exist after block {missing[0]}; it exists after blocks "
                f"{there[0]}–{there[-1]}. Leave block {missing[0]} out, or ask for the image stream."
            )
        return asked

    def _require(self, what: str, asked: Any, there: Sequence[str]) -> None:
        if asked not in there:
            hint = did_you_mean(str(asked), there)
            raise BadInput(f"No {what} {asked!r} in these statistics; there are: {', '.join(there)}.{hint}")

    def _short_provenance(self) -> dict[str, Any]:
        """Provenance of a set: prompts by number and digest, since a thousand captions would bury the
        channels."""
        prompts = [str(prompt) for prompt in self.provenance.get("prompts", ())]
        digest = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
        rest = {
            key: value
            for key, value in self.provenance.items()
            if key not in ("prompts", "model", "identity")
        }
        if "identity" in self.provenance:
            rest["identity"] = RunIdentity.model_validate(self.provenance["identity"]).digest
        return {**rest, "prompts": {"count": len(prompts), "sha256": digest}}


@known_words
def discover(
    lens: DiTLens,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    sampling: Sampling | Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    top_k: int = 4,
    progress: bool = True,
) -> ChannelStatistics:
    """Measure every channel in one streaming pass over prompts × seeds.

    Memory is that of the statistics, whatever the number of prompts (save 2 bytes per logged channel index,
    see `SampleEffects`). Each step runs once for each batch, up to the last block and no further. What is
    measured, |mean over image tokens| above all, is that of arXiv 2605.13974.

    Args:
        lens: the model.
        prompts: captions; each is run with every seed.
        seeds: distinct whole numbers.
        sampling: a `Sampling`, or some of its fields over the model's defaults.
        batch_size: samples per forward (8 by default, fewer where images are large).
        top_k: how many channels count as massive unless a later question says otherwise.
        progress: draw a progress bar with the time left on stderr.

    Raises:
        BadInput: no lens, no prompts, duplicate seeds, a k beyond the width – before any forward pass.
        RunFailure: NaN or infinity in an activation, naming step, branch and hook point.

    >>> prompts = ["a large red circle on a white background", "a small blue star on a black background"]
    >>> stats = dl.discover(lens, prompts, seeds=[0, 1], sampling={"steps": 4})
    >>> stats.select(top_k=2).blocks[3]
    (60, 34)
    """
    if not hasattr(lens, "num_channels"):
        raise BadInput(f"discover takes a lens, then prompts and seeds; got {type(lens).__name__} first.")
    captions = captions_of(prompts)
    noise = distinct_seeds(seeds)
    require_k(top_k, lens.num_channels)
    from dit_lens.methods.units import units

    chosen = sampling_of(lens, sampling)
    at_once = rows_at_once(lens, chosen, batch_size)
    captions = units(lens, captions, chosen, judged=False)

    # Only these need torch; statistics that were saved can be read and drawn without it.
    from dit_lens.methods.channel_pass import ChannelPass, points_to_read
    from dit_lens.model.progress import ProgressBar
    from dit_lens.run.cells import require_unchanged
    from dit_lens.run.runner import observe

    identity = lens.identity(chosen)
    depth = min(lens.num_channels, max(LOG_DEPTH, top_k))
    reducer = ChannelPass(lens.num_channels, len(noise), depth)
    points = points_to_read(lens.hook_points)
    samples = [(p, s) for p in range(len(captions)) for s in range(len(noise))]
    batches = [samples[i : i + at_once] for i in range(0, len(samples), at_once)]
    forwards = len(batches) * chosen.steps
    started = time.monotonic()
    described = f"discovery: {len(samples)} samples, {forwards} forwards"
    with ProgressBar(forwards, described, enabled=progress) as bar:
        for batch in batches:
            rows = lens.prepare_rows([captions[p] for p, _ in batch], [noise[s] for _, s in batch], chosen)
            reducer.begin(batch)
            observe(lens, rows, points, reducer.visit, on_step=lambda *_: bar.advance())
            # The last step ends at its last read, before it counts as a step.
            bar.advance()
            reducer.end()
    require_unchanged(identity, lens.identity(chosen))
    provenance = {
        "model": lens.name,
        "fingerprint": lens.fingerprint,
        "prompts": list(captions),
        "seeds": list(noise),
        "sampling": asdict(chosen),
        "batch_size": at_once,
        "device": str(lens.device),
        "dtype": str(lens.dtype).removeprefix("torch."),
        "identity": identity.model_dump(mode="json"),
    }
    cost = {"forwards": forwards, "samples": len(samples), "steps": chosen.steps}
    return ChannelStatistics(reducer.dataset(), provenance, top_k, cost, time.monotonic() - started)


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise BadInput(f"{name} is {value!r}; it must be a number above 0.")
    return float(value)


def _row(values: xr.DataArray, block: int) -> np.ndarray:
    return np.asarray(values.sel(block=block).values)
