"""Block × step maps as numbers: the cells of an effects table, their means, and what differs from a control.

Maps are exploratory: they test every cell at once, so their p-values are corrected by Benjamini–Hochberg.
Only numpy, pandas and scipy are needed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dit_lens.display import Summarised
from dit_lens.errors import BadInput
from dit_lens.methods.metrics import quantity
from dit_lens.methods.multiplicity import benjamini_hochberg
from dit_lens.methods.resampling import RESAMPLES, mean_interval, sign_flip_p, smallest_p
from dit_lens.methods.verdicts import Effect
from dit_lens.summary import Heat, Note, Summary

if TYPE_CHECKING:
    import pandas as pd

    from dit_lens.methods.arms import Arm

Array = npt.NDArray[np.float64]

TREATMENT = "massive"

COLUMNS = (
    "metric", "family", "control", "direction", "block", "step", "sigma",
    "mean", "difference", "p", "p_adjusted", "n",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class MapCells:
    """One metric of every (block, step) cell: family → float64 [prompt, block, step], seeds averaged.

    A (prompt, seed) counts in a cell where every arm of that cell has a finite value; NaN where none does.
    """

    metric: str
    blocks: tuple[int, ...]
    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    values: Mapping[str, Array]

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self.values)

    @property
    def n(self) -> npt.NDArray[np.int64]:
        """Prompts that count, [block, step]."""
        first = next(iter(self.values.values()))
        return np.isfinite(first).sum(axis=0)

    @property
    def falls(self) -> bool:
        """Whether the metric falls where an edit disrupts more."""
        return quantity(self.metric).disrupted == "less"

    def means(self, family: str) -> Array:
        """Mean over prompts, [block, step]; NaN in a cell without values."""
        return _mean(self.values[family])

    def differences(self, control: str, treatment: str = TREATMENT) -> Array:
        """Treatment − control of every prompt, [prompt, block, step]."""
        return self.values[treatment] - self.values[control]

    def peak(self, family: str = TREATMENT) -> tuple[int, int]:
        """Position (in `blocks`, in `steps`) of the cell in which this family disrupts most."""
        means = self.means(family)
        size = np.where(np.isfinite(means), -means if self.falls else means, -np.inf)
        row, column = np.unravel_index(int(size.argmax()), size.shape)
        return int(row), int(column)


def read_cells(
    effects: pd.DataFrame, arms: Sequence[Arm], metric: str, *, prompts: Sequence[str] | None = None
) -> MapCells:
    """The cells of one map, from a study's effects table.

    Args:
        effects: columns arm, prompt, seed, metric, value.
        arms: single-cell arms of one map: one readout, the same cells and draws for every family.
        prompts: those that count; by default all that these arms have.

    Raises:
        BadInput: no such arms, cells that are missing for a family, or no value of this metric.
    """
    cells = {arm.name: arm for arm in arms if arm.protocol == "single_cell"}
    if not cells:
        raise BadInput("A map needs arms of single cells (one block at one step), and there are none.")
    rows = effects[effects["arm"].isin(list(cells)) & (effects["metric"] == metric)]
    if prompts is not None:
        rows = rows[rows["prompt"].isin(list(prompts))]
    if rows.empty:
        there = ", ".join(sorted(set(effects.loc[effects["arm"].isin(list(cells)), "metric"]))) or "none"
        raise BadInput(f"The map's arms have no values of {metric!r}; they have {there}.")
    blocks = tuple(sorted({int(arm.block or 0) for arm in cells.values()}))
    steps = tuple(sorted({int(arm.step or 0) for arm in cells.values()}))
    draws = list(dict.fromkeys((arm.family, arm.draw) for arm in cells.values()))
    missing = len(draws) * len(blocks) * len(steps) - len(cells)
    if missing:
        raise BadInput(
            f"{abs(missing)} of the map's {len(draws)} × {len(blocks)} × {len(steps)} arms (draws, blocks, "
            f"steps) are {'missing' if missing > 0 else 'there twice'}. Give one map's arms at a time."
        )
    # Sorted, so that the order of the table's rows cannot move a resampled number.
    known_prompts, known_seeds = (tuple(sorted(set(rows[name]))) for name in ("prompt", "seed"))
    grid = np.full((len(draws), len(known_prompts), len(known_seeds), len(blocks), len(steps)), np.nan)
    index = [{value: i for i, value in enumerate(axis)} for axis in (draws, known_prompts, known_seeds)]
    block_at = {block: i for i, block in enumerate(blocks)}
    step_at = {step: i for i, step in enumerate(steps)}
    for name, prompt, seed, value in zip(*(rows[c] for c in ("arm", "prompt", "seed", "value")), strict=True):
        arm = cells[name]
        at = (index[0][arm.family, arm.draw], index[1][prompt], index[2][seed])
        grid[(*at, block_at[int(arm.block or 0)], step_at[int(arm.step or 0)])] = value
    # Pairs: what lacks one arm of a cell counts for none of them.
    grid[:, ~np.isfinite(grid).all(axis=0)] = np.nan
    per_prompt = _mean(np.moveaxis(grid, 2, 0))
    values = {
        family: per_prompt[[i for i, each in enumerate(draws) if each[0] == family]].mean(axis=0)
        for family in dict.fromkeys(family for family, _ in draws)
    }
    return MapCells(metric, blocks, steps, known_prompts, values)


def flip_signs(differences: Array, *, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Two-sided sign-flip p of every cell: [prompt, block, step] → [block, step].

    NaN in a cell with fewer than two prompts. All cells with the same prompts see the same signs.
    """
    shape = differences.shape[1:]
    columns = differences.reshape(len(differences), -1).T
    finite = np.isfinite(columns)
    p = np.full(len(columns), np.nan)
    for pattern in np.unique(finite, axis=0):
        cells = (finite == pattern).all(axis=1)
        if pattern.sum() > 1:
            kept = columns[np.ix_(cells, pattern)]
            p[cells] = sign_flip_p(kept, resamples=resamples, seed=seed)
    return p.reshape(shape)


def corrected(p: Array) -> Array:
    """Benjamini–Hochberg over all cells of a map; NaN stays NaN and counts as no test."""
    known: list[float | None] = [None if np.isnan(each) else float(each) for each in p.ravel()]
    found = benjamini_hochberg(known)
    return np.array([np.nan if q is None else q for q in found]).reshape(p.shape)


def intervals(
    values: Array, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Array, Array]:
    """Bootstrap interval of every cell's mean over prompts: two [block, step]; NaN where there is none."""
    shape = values.shape[1:]
    low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    for at in np.ndindex(*shape):
        column = values[(slice(None), *at)]
        column = column[np.isfinite(column)]
        if len(column) > 1:
            found = mean_interval(column, confidence=confidence, resamples=resamples, seed=seed)
            low[at], high[at] = (np.nan if end is None else end for end in (found.low, found.high))
    return low, high


@dataclass(frozen=True, eq=False)
class Comparison:
    """Treatment − one control in every cell, [block, step]: means, intervals, p, and p over all cells
    (Benjamini–Hochberg)."""

    control: str
    difference: Array
    low: Array
    high: Array
    p: Array
    p_adjusted: Array
    sd: Array

    def passing(self, alpha: float, *, falls: bool) -> npt.NDArray[np.bool_]:
        """Cells in which the treatment disrupts more than the control, at this false discovery rate."""
        side = self.difference < 0 if falls else self.difference > 0
        return np.asarray(side & (np.nan_to_num(self.p_adjusted, nan=1.0) <= alpha))

    def effect(self, cells: MapCells, row: int, column: int, *, confidence: float = 0.95) -> Effect:
        """One cell's difference as a value, with what is needed to judge it."""

        def number(values: Array) -> float | None:
            value = float(values[row, column])
            return None if np.isnan(value) else value

        n = int(cells.n[row, column])
        return Effect(
            name=f"{cells.metric}, block {cells.blocks[row]}, step {cells.steps[column]}",
            estimate=number(self.difference),
            ci_low=number(self.low),
            ci_high=number(self.high),
            n=n,
            p=number(self.p),
            p_adjusted=number(self.p_adjusted),
            control=self.control,
            note="" if n > 1 else "one prompt gives no interval and no p-value",
            sd=number(self.sd),
            confidence=confidence,
        )


def compare_cells(
    cells: MapCells,
    control: str,
    *,
    interval: bool = True,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Treatment − control in every cell; without `interval` the (slow) intervals are NaN."""
    differences = cells.differences(control)
    p = flip_signs(differences, resamples=resamples, seed=seed)
    none = np.full(p.shape, np.nan)
    low, high = none, none
    if interval:
        low, high = intervals(differences, confidence=confidence, resamples=resamples, seed=seed)
    return Comparison(control, _mean(differences), low, high, p, corrected(p), _sd(differences))


def cells_frame(
    cells: MapCells,
    comparisons: Sequence[Comparison],
    *,
    sigmas: Sequence[float] = (),
    direction: str = "",
) -> pd.DataFrame:
    """One row per family and cell, columns `COLUMNS`.

    `difference`, `p` and `p_adjusted` (treatment − `control`, Benjamini–Hochberg over the map) stand on the
    treatment's rows, which are repeated for each control; on the others they are NaN. `sigma` is the noise
    level at which the step starts, NaN where `sigmas` does not say.
    """
    import pandas as pd

    none = np.full((len(cells.blocks), len(cells.steps)), np.nan)
    parts: list[tuple[str, str, Array, Array, Array]] = [
        (TREATMENT, each.control, each.difference, each.p, each.p_adjusted) for each in comparisons
    ] or [(TREATMENT, "", none, none, none)]
    parts += [(family, "", none, none, none) for family in cells.families if family != TREATMENT]
    rows = []
    for family, control, difference, p, p_adjusted in parts:
        means = cells.means(family)
        for i, block in enumerate(cells.blocks):
            for j, step in enumerate(cells.steps):
                sigma = float(sigmas[step]) if step < len(sigmas) else np.nan
                rows.append(
                    (cells.metric, family, control, direction, block, step, sigma, means[i, j],
                     difference[i, j], p[i, j], p_adjusted[i, j], int(cells.n[i, j]))
                )  # fmt: skip
    numbers = ("sigma", "mean", "difference", "p", "p_adjusted")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(numbers, "float64"))


@dataclass(frozen=True, eq=False)
class EffectMap(Summarised):
    """Effect of an edit in every block × step cell, for a channel set and its controls. Exploratory.

    Fields: `values`, `ci_low`, `ci_high`, family → float64 [block, step], mean over prompts with its
    bootstrap interval, in the metric's unit; `comparisons`, control → treatment − control with sign-flip p
    and p over all cells (Benjamini–Hochberg); `cells`, the values of every prompt; `readout`, "step" or
    "final"; `sigmas`, the noise level of every step of the schedule.

    >>> cells = MapCells("velocity", blocks=(3, 4), steps=(0,), prompts=("a", "b"),
    ...                  values={"massive": np.array([[[2.0], [3.0]], [[1.0], [4.0]]])})
    >>> EffectMap.of(cells, "step").values["massive"].tolist()
    [[1.5], [3.5]]
    """

    cells: MapCells
    readout: Literal["final", "step"]
    sigmas: tuple[float, ...] = ()
    values: Mapping[str, Array] = field(default_factory=dict)
    ci_low: Mapping[str, Array] = field(default_factory=dict)
    ci_high: Mapping[str, Array] = field(default_factory=dict)
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        cells: MapCells,
        readout: Literal["final", "step"],
        *,
        sigmas: Sequence[float] = (),
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> EffectMap:
        """The map of these `cells`; `resamples` and `seed` are those of intervals and sign flips.

        `readout` and `sigmas` as in `EffectMap`.
        """
        how: dict[str, Any] = {"resamples": resamples, "seed": seed}
        ends = {family: intervals(values, **how) for family, values in cells.values.items()}
        controls = [family for family in cells.families if family != TREATMENT]
        return cls(
            cells=cells,
            readout=readout,
            sigmas=tuple(map(float, sigmas)),
            values={family: cells.means(family) for family in cells.families},
            ci_low={family: low for family, (low, _) in ends.items()},
            ci_high={family: high for family, (_, high) in ends.items()},
            comparisons={control: compare_cells(cells, control, **how) for control in controls},
        )

    @property
    def metric(self) -> str:
        """The metric, a key of `dit_lens.methods.metrics.METRICS`."""
        return self.cells.metric

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of the map, its rows."""
        return self.cells.blocks

    @property
    def steps(self) -> tuple[int, ...]:
        """Denoising steps of the map, its columns."""
        return self.cells.steps

    def to_frame(self) -> pd.DataFrame:
        """One row per family and cell: see `cells_frame`; with the interval of each mean beside it.

        >>> found = dl.effect_map(lens, massive, held_out, controls={"quiet": [5]}, blocks=[3], steps=[0],
        ...                       sampling=lens.sampling(steps=4))
        >>> found.to_frame()[["family", "block", "step"]].values.tolist()
        [['massive', 3, 0], ['quiet', 3, 0]]
        """
        frame = cells_frame(self.cells, tuple(self.comparisons.values()), sigmas=self.sigmas)
        at = [
            (family, self.blocks.index(block), self.steps.index(step))
            for family, block, step in zip(frame["family"], frame["block"], frame["step"], strict=True)
        ]
        place = list(frame.columns).index("mean") + 1
        frame.insert(place, "ci_low", [float(self.ci_low[family][i, j]) for family, i, j in at])
        frame.insert(place + 1, "ci_high", [float(self.ci_high[family][i, j]) for family, i, j in at])
        return frame

    @property
    def table_names(self) -> tuple[str, ...]:
        """The one table of a map, called as in a run folder: `step_map` or `final_map`, by its readout."""
        return (f"{self.readout}_map",)

    def table(self, name: str) -> pd.DataFrame:
        """`to_frame()`, for `dl.plots.effect_map`.

        Raises `BadInput` for a `name` that `table_names` does not have.
        """
        if name not in self.table_names:
            raise BadInput(f"This map is no {name!r}; its one table is {self.table_names[0]!r}.")
        return self.to_frame()

    def summary(self) -> Summary:
        """The map in small, where it peaks, and in how many cells it is beyond each control."""
        title, *lines = repr(self).splitlines()
        values = self.values[TREATMENT]
        drawn = Heat(values, f"{self.metric} by block (down) and step (across), massive channels")
        scale = (
            f"blocks {self.blocks[0]}–{self.blocks[-1]} down, steps {self.steps[0]}–{self.steps[-1]} across"
        )
        finite = values[np.isfinite(values)]
        if finite.size:
            scale += f"; faint {finite.min():.3g}, full {finite.max():.3g}"
        return Summary(title, (drawn, Note(scale), *(Note(line.strip()) for line in lines)))

    def __repr__(self) -> str:
        cells, counts = self.cells, self.cells.n
        row, column = cells.peak()
        where = f"block {self.blocks[row]}, step {self.steps[column]}"
        if self.steps[column] < len(self.sigmas):
            where += f" (sigma {self.sigmas[self.steps[column]]:.2g})"
        lines = [
            f"EffectMap({self.metric}, readout {self.readout}: {len(self.blocks)} blocks × {len(self.steps)} "
            f"steps, n = {int(counts.max())} prompts, exploratory)",
            f"  {TREATMENT}: peak {self.values[TREATMENT][row, column]:.3g} "
            f"(95 % CI {self.ci_low[TREATMENT][row, column]:.3g} to "
            f"{self.ci_high[TREATMENT][row, column]:.3g}) at {where}",
        ]
        for name, found in self.comparisons.items():
            passing = int(found.passing(0.05, falls=cells.falls).sum())
            lines.append(
                f"  − {name}: {found.difference[row, column]:+.3g} there; beyond it in {passing} of "
                f"{counts.size} cells (Benjamini–Hochberg, 0.05)"
            )
        if smallest_p(int(counts.max())) > 0.05:
            lines.append(f"  {int(counts.max())} prompts are too few for any cell to reach p = 0.05")
        return "\n".join(lines)


def _mean(values: Array) -> Array:
    """Mean over the first axis, of what is finite; NaN where nothing is."""
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    total = np.where(finite, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _sd(values: Array) -> Array:
    """Sample standard deviation over the first axis; NaN for fewer than two values."""
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    squares = np.where(finite, (values - _mean(values)) ** 2, 0.0).sum(axis=0)
    spread: Array = np.sqrt(np.divide(squares, count - 1, out=np.full(count.shape, np.nan), where=count > 1))
    return spread
