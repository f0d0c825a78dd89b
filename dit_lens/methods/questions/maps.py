"""Where and when do massive channels act? Block × step maps: exploratory, one test per cell.

Three maps, each beside one control in the same cells:

- `step_map`: the edit in one block at one step, read off the guided velocity of that step.
- `final_map`: the same, read off the image at the end.
- `patch_map`: the massive channels of a donor prompt, one attribute away, carried in with the same noise, and
  read as the share of the way that the velocity moves to the donor's. In the direction "denoising" the
  source's channels go into the target's run (do they suffice?), in "noising" the target's into the source's
  (are they needed?). Source: arXiv 2309.16042, 2404.15255.

A map tests every cell, so its p-values are corrected by Benjamini–Hochberg: among the cells that pass, a
share of 5 % is expected to be false. The cell with the largest effect was found by looking; its estimate is
biased upwards, and the sentence says that the map is exploratory.

Tables `step_map`, `final_map`, `patch_map`, one row per metric, family, direction, block and step: columns
`dit_lens.methods.map_cells.COLUMNS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.interventions import Patch
from dit_lens.methods.answers import Answer, any_of
from dit_lens.methods.arms import Arm
from dit_lens.methods.controls import channels_alone, controls, fairest_first
from dit_lens.methods.map_arms import CellEdit, cell_edits, map_arms, mapped_blocks
from dit_lens.methods.map_cells import (
    TREATMENT,
    Comparison,
    MapCells,
    cells_frame,
    compare_cells,
    read_cells,
)
from dit_lens.methods.metrics import quantity
from dit_lens.methods.questions.arm_sets import declared
from dit_lens.methods.questions.question import Answered, Judging, Question, Setting
from dit_lens.methods.questions.sentences import (
    concluded,
    control_words,
    difference,
    figure,
    treatment_words,
)
from dit_lens.methods.stats import judge, smallest_p
from dit_lens.model.hook_points import select_steps

STEP, FINAL, PATCH = "step_map", "final_map", "patch_map"

TITLES = {
    STEP: "Where and when do massive channels act on the velocity?",
    FINAL: "Where and when do massive channels act on the image?",
    PATCH: "Where and when do massive channels carry one prompt's picture into another's?",
}

SOURCES = {
    STEP: ("2605.13974", "2510.11538"),
    FINAL: ("2605.13974", "2510.11538"),
    PATCH: ("2605.13974", "2309.16042"),
}

PRIMARY = {
    STEP: ("velocity",),
    # One cell seldom moves what a prompt scores; a graded distance to the unedited image shows it.
    FINAL: ("ssim", "psnr", "latent"),
    PATCH: ("toward", "toward_latent"),
}
"""The first of these that was measured is judged; the others are shown."""

_DOES = {
    STEP: "changes the velocity",
    FINAL: "changes the image",
    PATCH: "moves it towards its donor",
}

_DIRECTIONS = {
    "denoising": "patching the source's massive channels into the target's run",
    "noising": "patching the target's massive channels into the source's run",
}


@dataclass(frozen=True)
class Maps:
    """Which cells the maps have, and what each cell is compared with.

    Args:
        blocks, steps: as in `parse_blocks` and `select_steps`.
        control: a kind of control, of which the first draw is taken; by default the fairest that the setting
            declares. `patch_map` takes one that is a choice of channels alone, the fairest where another is
            asked for: energy is no part of a patch.
        pairs: (source, target) prompts of `patch_map`.
        readout: of `patch_map`.
        sigmas: noise level at the start of each step, for the tables.

    >>> Maps(steps={"fraction": [0, 0.5]}).question("step_map").name
    'step_map'
    """

    blocks: Any = "*"
    steps: Any = "all"
    control: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    readout: Literal["final", "step"] = "step"
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple((source, target) for source, target in self.pairs))
        object.__setattr__(self, "sigmas", tuple(float(sigma) for sigma in self.sigmas))
        prompts = [prompt for pair in self.pairs for prompt in pair]
        twice = next((prompt for prompt in prompts if prompts.count(prompt) > 1), None)
        if twice is not None:
            raise BadInput(
                f"{twice!r} stands in two places of the pairs; a prompt has one donor, so each stands once."
            )

    @property
    def donors(self) -> dict[str, str]:
        """Prompt → the prompt whose run is patched in: each prompt of a pair has the other."""
        return {a: b for source, target in self.pairs for a, b in ((target, source), (source, target))}

    def question(self, name: str) -> Question:
        """The question of that name about these cells.

        Raises:
            BadInput: it is none of the three maps.
        """
        if name not in TITLES:
            raise BadInput(
                f"There is no map {name!r}; there are: {', '.join(TITLES)}.{did_you_mean(name, TITLES)}"
            )

        def arms(setting: Setting) -> tuple[Arm, ...]:
            return self._arms(name, setting)

        def answer(
            effects: pd.DataFrame,
            arms: Sequence[Arm],
            *,
            metrics: Sequence[str],
            judging: Judging | None = None,
        ) -> Answered:
            return self._answer(name, effects, arms, metrics, judging or Judging())

        return Question(name, TITLES[name], SOURCES[name], arms, answer)

    def _arms(self, name: str, setting: Setting) -> tuple[Arm, ...]:
        edits = self._edits(name, setting)
        sigmas = self.sigmas or tuple(float(sigma) for sigma in setting.stats.data["sigma"].values)
        return map_arms(
            edits,
            blocks=mapped_blocks(self.blocks, setting.num_blocks, edits),
            steps=select_steps(self.steps, setting.num_steps, sigmas),
            stream=setting.stream,
            branch=setting.branch,
            readout=self._readout(name),
        )

    def _edits(self, name: str, setting: Setting) -> tuple[CellEdit, ...]:
        if setting.massive.is_empty:
            raise BadInput(
                "The rule finds no massive channel in any block, so there is nothing to map. Choose channels "
                "by top_k, or by a lower ratio."
            )
        op = Patch() if name == PATCH else setting.op
        if name == PATCH:
            patchable = channels_alone("maps")
            kind = self.control if self.control in patchable else patchable[0]
        else:
            kind = self.control or declared(setting, fairest_first("effects"))[0]
        drawn = controls(setting.massive, setting.stats, kind, seed=setting.seed, op=op)
        return cell_edits(setting.massive, op, drawn)

    def _readout(self, name: str) -> Literal["final", "step"]:
        return {STEP: "step", FINAL: "final"}.get(name, self.readout)  # type: ignore[return-value]

    # ------------------------------------------------------------------------------------------ answers
    def _answer(
        self, name: str, effects: pd.DataFrame, arms: Sequence[Arm], metrics: Sequence[str], judging: Judging
    ) -> Answered:
        readout = self._readout(name)
        mine = [
            arm
            for arm in arms
            if arm.protocol == "single_cell"
            and arm.readout == readout
            and arm.draws_on_donor == (name == PATCH)
        ]
        if not mine:
            raise BadInput(f"{name} needs the arms that its arms() declares, and got none of them.")
        if name == PATCH and not self.pairs:
            raise BadInput("patch_map needs its pairs (source, target) to tell its two directions apart.")
        there = set(effects.loc[effects["arm"].isin([arm.name for arm in mine]), "metric"])
        wanted = [metric for metric in dict.fromkeys(metrics) if metric in there]
        if name == PATCH:
            # Distances to the unedited run say nothing about where a patch leads.
            wanted = [metric for metric in wanted if metric in PRIMARY[PATCH]] or wanted
        if not wanted:
            raise BadInput(
                f"{name} was given the metrics {', '.join(metrics) or '(none)'}, and its arms have "
                f"{', '.join(sorted(there)) or 'none'}. Measure {PRIMARY[name][0]}."
            )
        primary = next((metric for metric in PRIMARY[name] if metric in wanted), wanted[0])
        frames, answers = [], []
        for direction, prompts in self._directions(name, effects, mine):
            for metric in wanted:
                cells = read_cells(effects, mine, metric, prompts=prompts)
                judged = metric == primary
                found = [
                    compare_cells(
                        cells,
                        control,
                        interval=judged,
                        confidence=judging.confidence,
                        resamples=judging.resamples,
                        seed=judging.seed,
                    )
                    for control in cells.families
                    if control != TREATMENT
                ]
                frames.append(cells_frame(cells, found, sigmas=self.sigmas, direction=direction))
                if judged:
                    answers.append(self._verdict(name, direction, cells, found[0], mine[0], judging))
        # Denoising comes first: whether the channels suffice is what the map is about.
        answers[0] = answers[0].model_copy(update={"primary": True})
        return Answered({name: pd.concat(frames, ignore_index=True)}, tuple(answers))

    def _directions(
        self, name: str, effects: pd.DataFrame, arms: Sequence[Arm]
    ) -> list[tuple[str, list[str] | None]]:
        """Directions and the prompts of each; None for all."""
        if name != PATCH:
            return [("", None)]
        ran = set(effects.loc[effects["arm"].isin([arm.name for arm in arms]), "prompt"])
        sides = {
            "denoising": [target for _, target in self.pairs if target in ran],
            "noising": [source for source, _ in self.pairs if source in ran],
        }
        found = [(direction, prompts) for direction, prompts in sides.items() if prompts]
        if not found:
            raise BadInput("None of the pairs' prompts was run; give the study the prompts of the pairs.")
        return list(found)

    def _verdict(
        self,
        name: str,
        direction: str,
        cells: MapCells,
        found: Comparison,
        arm: Arm,
        judging: Judging,
    ) -> Answer:
        """Is there any cell in which massive channels do more than their control? And where most?"""
        metric = quantity(cells.metric)
        side = metric.disrupted
        every = [
            found.effect(cells, i, j, confidence=judging.confidence)
            for i in range(len(cells.blocks))
            for j in range(len(cells.steps))
        ]
        verdicts = [judge(effect, direction=side, alpha=judging.alpha) for effect in every]
        outcome = any_of(verdict.outcome for verdict in verdicts)
        row, column = cells.peak()
        at_peak = row * len(cells.steps) + column
        peak = every[at_peak]
        passing = sum(verdict.outcome == "supported" for verdict in verdicts)
        # What one-sided counting would hide: a map may be full of cells in which the control does more.
        less = int(found.passing(judging.alpha, falls=not cells.falls).sum())
        control = control_words(found.control)
        what = _DIRECTIONS.get(direction) or treatment_words(arm)
        claim = f"in some block and step, {what} {_DOES[name]} more than its control, {control}"
        reason = {
            "supported": f"{passing} of {len(every)} cells pass; the control does more in {less}",
            "not supported": "in no cell does the verdict leave room for it",
            "undecided": _why_undecided(int(cells.n.max()), len(every), judging),
        }[outcome]
        return concluded(
            name=".".join(filter(None, (name, direction, cells.metric))),
            question=name,
            claim=claim,
            sources=SOURCES[name],
            metric=cells.metric,
            direction=side,
            outcome=outcome,
            reason=reason,
            qualifier="exploratory map",
            findings=(
                f"{passing} of {len(every)} cells pass Benjamini–Hochberg at {judging.alpha:g}; the control "
                f"does more in {less}" + ("" if outcome == "supported" else f"; {reason}"),
                f"The edit of massive channels does most in {self._cell(cells, row, column)}, where mean "
                f"{metric.title} is {figure(float(cells.means(TREATMENT)[row, column]))}",
                f"There, against {control}, {difference(metric, peak)}: massive channels "
                + _there(verdicts[at_peak].outcome),
            ),
            effects=(replace(peak, name=f"{peak.name} (peak)"),),
        )

    def _cell(self, cells: MapCells, row: int, column: int) -> str:
        step = cells.steps[column]
        sigma = f" (sigma {figure(self.sigmas[step])})" if step < len(self.sigmas) else ""
        return f"block {cells.blocks[row]} at step {step}{sigma}"


def _why_undecided(n: int, cells: int, judging: Judging) -> str:
    """Why a map in which no cell passes excludes none: p-values of few prompts are coarse."""
    if smallest_p(n) > judging.alpha:
        return f"{n} prompt{'' if n == 1 else 's'} cannot give a p-value of {judging.alpha:g} or less"
    # Random sign patterns stand for all where there are too many; then these limit p.
    least = max(smallest_p(n), 2 / (judging.resamples + 1) if 2**n > judging.resamples else 0.0)
    needed = math.ceil(cells * least / judging.alpha)
    if needed > 1:
        return (
            f"with {n} prompts no cell can pass unless {needed} of the {cells} reach the smallest p-value "
            f"({least:.2g}) at once"
        )
    return "no cell passes the correction, yet an effect that matters is not excluded in some"


def _there(outcome: str) -> str:
    return {
        "supported": "exceed their control in this cell",
        "not supported": "do not exceed their control in this cell",
    }.get(outcome, "are not told from their control in this cell")


STEP_MAP, FINAL_MAP, PATCH_MAP = (Maps().question(name) for name in TITLES)
