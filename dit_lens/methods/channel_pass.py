"""The one pass of discovery: visits in, a labelled dataset out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from dit_lens.errors import RunFailure
from dit_lens.methods.channel_labels import BRANCHES, EMBED, SOURCES, STATISTICS, WRITERS
from dit_lens.methods.variance import StepMoments, variance_shares
from dit_lens.model.hook_points import STREAMS, HookPoint
from dit_lens.run.reducers import Moments, RunningMean, SampleEffects, first_non_finite, token_statistics

if TYPE_CHECKING:
    import torch

Cell = tuple[int, str, HookPoint]


class Visit(Protocol):
    """What `dit_lens.run.runner.observe` says of the tensor that it hands over."""

    @property
    def step(self) -> int: ...
    @property
    def sigma(self) -> float: ...
    @property
    def branch(self) -> str: ...
    @property
    def point(self) -> HookPoint: ...


def points_to_read(available: Iterable[HookPoint]) -> tuple[HookPoint, ...]:
    """The hook points of `available` that discovery reads."""
    return tuple(
        point
        for point in available
        if point.component in ("resid_post", *WRITERS)
        or point.component.startswith("adaln.")
        or (point.component == "resid_pre" and point.block == 0)
    )


class ChannelPass:
    """Folds the visits of a denoising run into channel statistics.

    Per batch: `begin(samples)`, any number of `visit(...)`, `end()`. `merge` adds a pass over other samples;
    `dataset()` labels the result. State: about 13 float64 vectors of `channels` per (step, branch, block,
    stream), of which 7 are the statistics; see `SampleEffects` for what little grows with samples.

    Args:
        seeds: how many seeds each prompt has.
        depth: how many of a sample's strongest channels are logged.
    """

    def __init__(self, channels: int, seeds: int, depth: int) -> None:
        self.channels = channels
        self.seeds = seeds
        self.depth = depth
        self.sigmas: dict[int, float] = {}
        self.moments: dict[Cell, Moments] = {}
        self.signals: dict[Cell, RunningMean] = {}
        self.writes: dict[Cell, RunningMean] = {}
        self.effects: dict[tuple[str, HookPoint], SampleEffects] = {}
        self._samples: tuple[tuple[int, int], ...] = ()
        self._gates: dict[Cell, npt.NDArray[np.float64]] = {}

    def begin(self, samples: Sequence[tuple[int, int]]) -> None:
        """Announce a batch: the (prompt index, seed index) of each row. Raises `RunFailure` if one is
        open."""
        if self._samples:
            raise RunFailure("a batch began before the one in flight had ended")
        self._samples = tuple(samples)

    def visit(self, visit: Visit, tensor: torch.Tensor) -> None:
        """Take `[rows, tokens, channels]` (AdaLN signals: `[rows, channels]`) of one branch.

        Raises `RunFailure` at the first NaN or infinity, naming where and in which sample.
        """
        self.sigmas[visit.step] = float(visit.sigma)
        component = visit.point.component
        if component.startswith("adaln."):
            self._signal(visit, tensor)
        elif component in WRITERS:
            self._write(visit, tensor)
        elif component == "resid_pre":
            self._embedding(visit, tensor)
        else:
            self._residual(visit, tensor)

    def end(self) -> None:
        """End the batch in flight."""
        for effects in self.effects.values():
            effects.close(self._samples)
        self._samples = ()
        self._gates.clear()

    def merge(self, other: ChannelPass) -> None:
        """Add a pass over other samples of the same model and schedule."""
        self.sigmas.update(other.sigmas)
        for mine, theirs in ((self.signals, other.signals), (self.writes, other.writes)):
            for cell, mean in theirs.items():
                mine.setdefault(cell, RunningMean(mean.total.shape)).merge(mean)
        for cell, moments in other.moments.items():
            self.moments.setdefault(cell, Moments(self.channels)).merge(moments)
        for place, effects in other.effects.items():
            self.effects.setdefault(place, self._new_effects()).merge(effects)

    @property
    def nbytes(self) -> int:
        """Bytes of the state that stays between batches."""
        moments = sum(m.nbytes for m in self.moments.values())
        means = sum(m.total.nbytes for m in (*self.signals.values(), *self.writes.values()))
        return moments + means + sum(effects.nbytes for effects in self.effects.values())

    # ------------------------------------------------------------------------------------- one visit
    def _residual(self, visit: Visit, tensor: torch.Tensor) -> None:
        statistics = token_statistics(tensor)
        self._require_finite(visit, first_non_finite(statistics))
        self.moments.setdefault(_cell(visit), Moments(self.channels)).add(statistics)
        place = (visit.branch, visit.point)
        if place not in self.effects:
            self.effects[place] = self._new_effects()
        self.effects[place].add(statistics.mean)

    def _signal(self, visit: Visit, tensor: torch.Tensor) -> None:
        values = _numpy(tensor)
        self._require_finite(visit, _first_bad(values))
        self.signals.setdefault(_cell(visit), RunningMean((self.channels,))).add(values)
        if visit.point.component.startswith("adaln.gate_"):
            self._gates[_cell(visit)] = values

    def _write(self, visit: Visit, tensor: torch.Tensor) -> None:
        point = visit.point
        gate_name = f"adaln.gate_{WRITERS[point.component]}"
        gate_cell = (visit.step, visit.branch, HookPoint(gate_name, point.block, point.stream))
        gate = self._gates.pop(gate_cell, None)
        if gate is None:
            raise RunFailure(f"{point} was read before its gate {gate_cell[2]}; the write needs both")
        signed, magnitude = self._token_means(visit, tensor)
        # A gate is one number per row and channel, so it leaves the mean over tokens: the product of the
        # whole tensors need not exist.
        self._add_write(visit, gate * signed, np.abs(gate) * magnitude)

    def _embedding(self, visit: Visit, tensor: torch.Tensor) -> None:
        self._add_write(visit, *self._token_means(visit, tensor))

    def _token_means(
        self, visit: Visit, tensor: torch.Tensor
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        x = tensor.detach()
        x = x if x.is_floating_point() and x.element_size() >= 4 else x.float()
        signed, magnitude = _numpy(x.mean(dim=1)), _numpy(x.abs().mean(dim=1))
        self._require_finite(visit, _first_bad(magnitude))
        return signed, magnitude

    def _add_write(
        self, visit: Visit, signed: npt.NDArray[np.float64], magnitude: npt.NDArray[np.float64]
    ) -> None:
        mean = self.writes.setdefault(_cell(visit), RunningMean((2, self.channels)))
        mean.add(np.stack([signed, magnitude], axis=1))

    def _require_finite(self, visit: Visit, bad: tuple[int, int] | None) -> None:
        if bad is None:
            return
        row, channel = bad
        prompt, seed = self._samples[row]
        raise RunFailure(
            f"NaN or infinity at step {visit.step} (sigma {visit.sigma:.3g}), branch {visit.branch}, "
            f"{visit.point}, "
            f"channel {channel}, in prompt number {prompt} with seed number {seed}. Everything after it "
            f"would be NaN too. "
            "Load the model with dtype='float32' (or 'bfloat16' where float16 overflows), and run `dit-lens "
            "check` "
            "on it."
        )

    def _new_effects(self) -> SampleEffects:
        return SampleEffects(self.channels, self.seeds, self.depth)

    # --------------------------------------------------------------------------------------- labels
    def dataset(self) -> xr.Dataset:
        """Label everything; float32. What does not exist (context after the last block) is NaN, -1 in the
        log.

        Variables, with dimensions:
            `abs_mean mean_abs max_abs p999 mean variance` (step, branch, block, stream, channel), defined in
            `Moments.finish`; `<statistic>_median`: their median over channels, same without channel;
            `write_mean`, `write_mean_abs` (…, writer, channel): gate × output, added to the stream by each
            writer; writer `embed` stands at block 0 for what enters it;
            `adaln` (…, signal, channel): AdaLN signals averaged over samples;
            `variance_share` (branch, block, stream, source, channel), see `variance_shares`;
            `top_channels` (sample, branch, block, stream, rank): each sample's strongest channels by the
            step average of |token mean|.
        """
        if self._samples or not self.moments:
            raise RunFailure("statistics were asked for before a batch had been read to its end")
        cells = [*self.moments, *self.signals, *self.writes]
        axes: dict[str, list[Any]] = {
            "step": sorted(self.sigmas),
            "branch": [name for name in BRANCHES if any(cell[1] == name for cell in cells)],
            "block": sorted({_block(cell) for cell in cells}),
            "stream": [name for name in STREAMS if any(cell[2].stream == name for cell in cells)],
        }
        labeller = _Labeller(axes, self.channels)
        finished = {cell: moments.finish() for cell, moments in self.moments.items()}
        self._same_count()
        variables: dict[str, Any] = {}
        for name in STATISTICS:
            variables[name] = labeller.fill({cell: f[name] for cell, f in finished.items()})
            dims, values = variables[name]
            variables[f"{name}_median"] = (dims[:-1], _median(values))
        signals = list(dict.fromkeys(cell[2].component.removeprefix("adaln.") for cell in self.signals))
        variables |= labeller.with_kinds(
            "adaln",
            "signal",
            signals,
            {c: (c[2].component.removeprefix("adaln."), m.finish()) for c, m in self.signals.items()},
        )
        written = {cell: (_writer(cell[2]), mean.finish()) for cell, mean in self.writes.items()}
        writers = [w for w in (EMBED, *WRITERS.values()) if any(kind == w for kind, _ in written.values())]
        for i, name in enumerate(("write_mean", "write_mean_abs")):
            variables |= labeller.with_kinds(
                name, "writer", writers, {c: (w, values[i]) for c, (w, values) in written.items()}
            )
        variables["variance_share"] = labeller.over_places(
            self._shares(finished), ("source",), (len(SOURCES),)
        )
        some = next(iter(self.effects.values()))
        samples = sorted(sample for batch, _ in some.log for sample in batch)
        variables["top_channels"] = self._top_channels(axes, samples)
        coords = {
            **axes,
            "sigma": ("step", [self.sigmas[step] for step in axes["step"]]),
            "channel": np.arange(self.channels),
            "signal": signals,
            "writer": writers,
            "source": list(SOURCES),
            "sample_prompt": ("sample", [prompt for prompt, _ in samples]),
            "sample_seed": ("sample", [seed for _, seed in samples]),
        }
        return xr.Dataset(variables, coords=coords)

    def _same_count(self) -> None:
        counts: dict[Cell, int] = {}
        for states in (self.moments, self.signals, self.writes):
            counts |= {cell: state.count for cell, state in states.items()}
        if len(set(counts.values())) > 1:
            fewest = min(counts, key=lambda cell: counts[cell])
            raise RunFailure(
                f"cells saw different numbers of samples ({sorted(set(counts.values()))}); the fewest at "
                f"step "
                f"{fewest[0]}, branch {fewest[1]}, {fewest[2]}. Averages over them would not be comparable."
            )

    def _shares(self, finished: dict[Cell, dict[str, Any]]) -> dict[tuple[str, HookPoint], Any]:
        shares = {}
        for (branch, point), effects in self.effects.items():
            steps = [finished[(step, branch, point)] for step in sorted(self.sigmas)]
            fields = ("mean", "between", "within", "max_abs")
            moments = StepMoments(**{name: np.stack([step[name] for step in steps]) for name in fields})
            by_source = variance_shares(moments, *effects.finish())
            shares[(branch, point)] = np.stack([by_source[source] for source in SOURCES])
        return shares

    def _top_channels(self, axes: dict[str, list[Any]], samples: list[tuple[int, int]]) -> tuple[Any, Any]:
        dims = ("sample", "branch", "block", "stream", "rank")
        dtype = np.int16 if self.channels <= np.iinfo(np.int16).max else np.int32
        shape = (len(samples), *(len(axes[name]) for name in dims[1:4]), self.depth)
        out = np.full(shape, -1, dtype=dtype)
        row_of = {sample: i for i, sample in enumerate(samples)}
        for (branch, point), effects in self.effects.items():
            at = (
                axes["branch"].index(branch),
                axes["block"].index(point.block),
                axes["stream"].index(point.stream),
            )
            for batch, indices in effects.log:
                out[([row_of[sample] for sample in batch], *at)] = indices
        return dims, out


class _Labeller:
    """Places vectors of cells in arrays whose axes are the labels."""

    def __init__(self, axes: dict[str, list[Any]], channels: int) -> None:
        self.dims = ("step", "branch", "block", "stream")
        self.channels = channels
        self._at = {name: {label: i for i, label in enumerate(labels)} for name, labels in axes.items()}
        self._shape = tuple(len(axes[name]) for name in self.dims)

    def index(self, cell: Cell) -> tuple[int, int, int, int]:
        step, branch, point = cell
        at = self._at
        return (
            at["step"][step],
            at["branch"][branch],
            at["block"][point.block],
            at["stream"][point.stream],
        )

    def fill(self, cells: dict[Cell, Any]) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
        out = np.full((*self._shape, self.channels), np.nan, dtype=np.float32)
        for cell, vector in cells.items():
            out[self.index(cell)] = vector
        return (*self.dims, "channel"), out

    def with_kinds(
        self, name: str, axis: str, kinds: list[str], cells: dict[Cell, tuple[str, Any]]
    ) -> dict[str, Any]:
        out = np.full((*self._shape, len(kinds), self.channels), np.nan, dtype=np.float32)
        for cell, (kind, vector) in cells.items():
            out[(*self.index(cell), kinds.index(kind))] = vector
        return {name: ((*self.dims, axis, "channel"), out)}

    def over_places(
        self, places: dict[tuple[str, HookPoint], Any], extra: tuple[str, ...], sizes: tuple[int, ...]
    ) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
        out = np.full((*self._shape[1:], *sizes, self.channels), np.nan, dtype=np.float32)
        for (branch, point), values in places.items():
            at = self._at
            out[at["branch"][branch], at["block"][point.block], at["stream"][point.stream]] = values
        return (*self.dims[1:], *extra, "channel"), out


def _cell(visit: Visit) -> Cell:
    return (visit.step, visit.branch, visit.point)


def _block(cell: Cell) -> int:
    block = cell[2].block
    if block is None:
        raise RunFailure(f"{cell[2]} lies outside the blocks and has no place in channel statistics")
    return block


def _writer(point: HookPoint) -> str:
    return WRITERS.get(point.component, EMBED)


def _numpy(tensor: torch.Tensor) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return values


def _first_bad(values: npt.NDArray[np.float64]) -> tuple[int, int] | None:
    bad = np.argwhere(~np.isfinite(values))
    return (int(bad[0, 0]), int(bad[0, 1])) if len(bad) else None


def _median(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    # Absent cells are all NaN and stay NaN; np.median says so without a warning.
    return np.asarray(np.median(values, axis=-1), dtype=np.float32)
