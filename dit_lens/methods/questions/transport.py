"""Can it be carried? What moves toward the source when massive channels do, from a prompt or from a picture.

arXiv 2605.13974 (claim 3): moving massive channels from one trajectory into another shifts the image toward
the source while much of the target stays. Here every way of carrying is measured alike: massive channels, as
many others (low, random, of the next ranks), others changed by as much (energy-matched), all channels, all
but the massive ones, and what a user would do instead (mixing latents, pixels or prompts).

The unit is the pair of prompts, or the picture: its directions, seeds and draws are averaged first.

Tables: `transport` and `transport_image` (group × direction or origin × family × strength × metric) and
`transport_curves` (strength 1, all directions and groups, along blocks, steps, k and part).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.methods.answers import Answer
from dit_lens.methods.questions.judged import corrected, joint_answer
from dit_lens.methods.questions.levels import Contrast, Measured, metric_of
from dit_lens.methods.questions.question import Answered, Judging
from dit_lens.methods.questions.sentences import control_words, figure, levels
from dit_lens.methods.resampling import mean_interval
from dit_lens.methods.transport.arms import CONTROLS, FAMILIES, MASSIVE
from dit_lens.methods.transport.blends import KINDS as BLENDS
from dit_lens.methods.transport.pairs import EVERYTHING
from dit_lens.methods.verdicts import Effect
from dit_lens.zoo.scenes import ATTRIBUTES

TEXT, IMAGE = "transport_text", "transport_image"

TITLES = {
    TEXT: "Can one prompt's picture be carried into another's?",
    IMAGE: "Can a picture's subject be carried into another prompt's run?",
}

SOURCES = ("2605.13974",)

PRIMARY = ("margin", "toward_latent")
"""The first of these that was measured decides; the others get an answer of their own."""

JUDGED = (*PRIMARY, "moved")

SIDES = {TEXT: "direction", IMAGE: "origin"}
"""Column of the table that tells directions, or origins of a picture's latents, apart."""

_UNITS = {TEXT: "pair", IMAGE: "picture"}

_CLAIMS = {
    "margin": "moves the image toward the source, by its alignment with both prompts,",
    "toward_latent": "moves the final latents toward the source's",
    "moved": "gives the image more of the attributes in which the source differs",
}


@dataclass(frozen=True)
class Transport:
    """The question about pairs of prompts (`transport_text`) or about pictures (`transport_image`)."""

    name: str = TEXT

    def __post_init__(self) -> None:
        if self.name not in TITLES:
            raise BadInput(
                f"There is no question {self.name!r} of transport; there are: {', '.join(TITLES)}."
            )

    @property
    def title(self) -> str:
        """The section's heading."""
        return TITLES[self.name]

    def answer(
        self, effects: pd.DataFrame, *, metrics: Sequence[str], judging: Judging | None = None
    ) -> Answered:
        """Tables and answers, the primary one first.

        Args:
            effects: as `CarryStudy.run` gives them.
            metrics: those that were measured, in the order in which tables show them.

        Raises:
            BadInput: no values, no massive channels at strength 1, or nothing to compare them with.
        """
        judging = judging or Judging()
        known = [
            m for m in dict.fromkeys(metrics) if effects.loc[effects["metric"] == m, "value"].notna().any()
        ]
        if not known:
            raise BadInput(f"{self.name}: none of the metrics {', '.join(metrics) or '(none)'} has a value.")
        shown = effects[effects["metric"].isin(known)]
        of_families = shown[shown["axis"] == ""]
        tables = {
            "transport" if self.name == TEXT else IMAGE: self._families(of_families, known, judging),
        }
        if self.name == TEXT:
            tables["transport_curves"] = curves(shown, known, judging)
        return Answered(tables, tuple(self._answers(of_families, known, judging)))

    # ----------------------------------------------------------------------------------------- tables
    def _families(self, effects: pd.DataFrame, metrics: Sequence[str], judging: Judging) -> pd.DataFrame:
        keys = ["group", "side", "family", "strength", "metric"]
        order = {family: i for i, family in enumerate((*FAMILIES, *BLENDS))}
        groups = {name: i for i, name in enumerate((*ATTRIBUTES, EVERYTHING))}
        rows = [
            (*at, *_level(rows, judging)) for at, rows in effects.groupby(keys, sort=False, observed=True)
        ]
        table = pd.DataFrame(
            rows,
            columns=["pair_group", SIDES[self.name], "family", "strength", "metric", "mean", "ci_low",
                     "ci_high", "n"],
        )  # fmt: skip
        places = [
            table["pair_group"].map(lambda g: groups.get(g, len(groups))),
            table["family"].map(lambda f: order.get(f, len(order))),
            table["metric"].map(lambda m: list(metrics).index(m)),
        ]
        ranked = table.assign(_g=places[0], _f=places[1], _m=places[2])
        ranked = ranked.sort_values(["_g", SIDES[self.name], "_f", "strength", "_m"], kind="stable")
        return ranked.drop(columns=["_g", "_f", "_m"]).reset_index(drop=True)

    # ---------------------------------------------------------------------------------------- answers
    def _answers(self, effects: pd.DataFrame, metrics: Sequence[str], judging: Judging) -> Iterable[Answer]:
        sides = [None] if self.name == TEXT else list(dict.fromkeys(effects["side"]))
        judged = [metric for metric in JUDGED if metric in metrics]
        if not judged:
            raise BadInput(f"{self.name} is judged by {', '.join(JUDGED)}, and none of them was measured.")
        primary = (
            next(metric for metric in PRIMARY if metric in metrics)
            if set(PRIMARY) & set(metrics)
            else judged[0]
        )
        first = True
        for side in sides:
            rows = effects if side is None else effects[effects["side"] == side]
            tests = _Tests(self.name, side, rows, judging)
            for metric in judged:
                yield tests.against_controls(metric, primary=first and metric == primary)
            if {"change_inside", "change_outside"} <= set(metrics):
                yield from tests.inside_and_outside()
            first = False
            if side is None:
                moved = [f"moved.{name}" for name in ATTRIBUTES if f"moved.{name}" in metrics]
                yield from tests.attributes(moved)
                yield from tests.against_the_rest(primary)
                yield from tests.against_blends(primary)


class _Tests:
    """The comparisons of one question, or of one of its sides."""

    def __init__(self, question: str, side: str | None, effects: pd.DataFrame, judging: Judging) -> None:
        self.question, self.side, self.judging = question, side, judging
        self.effects = effects
        self.arms: dict[str, list[str]] = {}
        full = effects[effects["strength"] == 1]
        for family, rows in full.groupby("family", sort=False):
            self.arms[str(family)] = list(dict.fromkeys(rows["arm"]))
        if MASSIVE not in self.arms:
            raise BadInput(f"{question} compares massive channels carried at strength 1, and they were not.")
        self.measured = Measured(_by_unit(effects), judging)

    def _name(self, *parts: str) -> str:
        return ".".join(filter(None, (self.question, self.side, *parts)))

    def _contrast(self, family: str) -> Contrast:
        arms = self.arms[family]
        return {arm: 1 / len(arms) for arm in arms}

    def _what(self) -> str:
        if self.question == TEXT:
            return "carrying massive channels over from another prompt's run"
        how = {"noised": "a noised picture", "inverted": "an inverted picture"}
        return f"carrying massive channels over from {how.get(str(self.side), 'a picture')}"

    def _effects(self, metric: str, controls: Sequence[str]) -> dict[str, Effect]:
        return {
            control: self.measured.effect(
                metric, self._contrast(MASSIVE), self._contrast(control), control_name=control
            )
            for control in controls
        }

    def _means(self, metric: str, families: Sequence[str]) -> dict[str, float]:
        named = {"massive": MASSIVE} | {control_words(f): f for f in families if f != MASSIVE}
        return {words: self.measured.mean(metric, self._contrast(family)) for words, family in named.items()}

    def _controls(self) -> list[str]:
        found = [control for control in CONTROLS if control in self.arms]
        if not found:
            raise BadInput(f"{self.question} needs a control: one of {', '.join(CONTROLS)}, at strength 1.")
        return found

    def against_controls(self, metric: str, *, primary: bool) -> Answer:
        """More than every other choice of channels?"""
        controls = self._controls()
        found = corrected(self._effects(metric, controls))
        shown = [*controls, *(f for f in ("all", "all_but_massive") if f in self.arms)]
        claim = f"{self._what()} {_CLAIMS[metric]} more than every control"
        return self._answer(
            list(found.values()),
            name=self._name(metric),
            claim=claim,
            metric=metric,
            primary=primary,
            extra=[levels(metric_of(metric), self._means(metric, shown))],
        )

    def attributes(self, metrics: Sequence[str]) -> Iterable[Answer]:
        """Which attributes ride on massive channels? Corrected over all attributes and controls."""
        controls = self._controls()
        found = corrected(
            {
                (metric, control): effect
                for metric in metrics
                for control, effect in self._effects(metric, controls).items()
            }
        )
        for metric in metrics:
            level = self.measured.level(metric, self._contrast(MASSIVE))
            attribute = metric.removeprefix("moved.")
            rate = (
                f"Transfer rate of {attribute}: {figure(level.mean)} (95 % CI {figure(level.low)} to "
                f"{figure(level.high)}, n = {level.n} prompts)"
                if np.isfinite(level.low)
                else f"Transfer rate of {attribute}: {figure(level.mean)} (n = {level.n} prompts)"
            )
            before = self._unedited(metric)
            yield self._answer(
                [found[metric, control] for control in controls],
                name=self._name(metric),
                claim=f"{self._what()} gives the image the source's {attribute} more often than every "
                "control",
                metric=metric,
                comparisons=len(found),
                extra=[rate, before, levels(metric_of(metric), self._means(metric, controls))],
            )

    def _unedited(self, metric: str) -> str:
        """How often the unedited target reads as the source's already, where that was measured."""
        rows = self.effects[
            (self.effects["metric"] == metric)
            & (self.effects["family"] == "latent_blend")
            & self.effects["strength"].isin([0.0, 1.0])
        ]
        means = rows.groupby("strength")["value"].mean()
        if not {0.0, 1.0} <= set(means.index):
            return ""
        return (
            f"The unedited target reads so in {figure(means[0.0])}, the source itself in {figure(means[1.0])}"
        )

    def against_the_rest(self, metric: str) -> Iterable[Answer]:
        """More than all other channels together?"""
        if "all_but_massive" not in self.arms:
            return
        found = self._effects(metric, ["all_but_massive"])
        yield self._answer(
            list(found.values()),
            name=self._name("rest", metric),
            claim=f"{self._what()} {_CLAIMS[metric]} more than all other channels together",
            metric=metric,
            words={"all_but_massive": "all other channels together"},
        )

    def against_blends(self, metric: str) -> Iterable[Answer]:
        """More than a blend that changes the picture as much? Blends are taken at the same SSIM."""
        there = [kind for kind in BLENDS if kind in set(self.effects["family"])]
        equal = at_equal_change(self.effects, there, metric, arms=self.arms[MASSIVE])
        if equal is None:
            return
        columns = ["arm", "prompt", "seed", "metric", "value"]
        both = pd.concat([_by_unit(self.effects)[columns], equal[columns]], ignore_index=True)
        measured = Measured(both, self.judging)
        found = {
            kind: measured.effect(metric, self._contrast(MASSIVE), {f"{kind}.equal": 1.0}, control_name=kind)
            for kind in dict.fromkeys(equal["family"])
        }
        words = {
            "latent_blend": "latents blended",
            "pixel_blend": "pixels blended",
            "prompt_blend": "prompt embeddings blended",
        }
        shown = {"massive": measured.mean(metric, self._contrast(MASSIVE))} | {
            words[kind]: measured.mean(metric, {f"{kind}.equal": 1.0}) for kind in found
        }
        yield self._answer(
            list(corrected(found).values()),
            name=self._name("blends", metric),
            claim=f"{self._what()} {_CLAIMS[metric]} more than blending that changes it as much",
            metric=metric,
            words={kind: f"{words[kind]} to the same SSIM" for kind in found},
            extra=[levels(metric_of(metric), shown)],
        )

    def inside_and_outside(self) -> Iterable[Answer]:
        """More inside the carried mask than outside? Of pictures alone: prompts carry every token."""
        if self.question == TEXT:
            return
        rows = _by_unit(self.effects[self.effects["metric"].isin(["change_inside", "change_outside"])])
        # Both sides become one metric, and outside an arm of its own, so that they are compared in pairs.
        outside = rows["metric"] == "change_outside"
        arms = rows["arm"].where(~outside, rows["arm"] + ".outside")
        measured = Measured(rows.assign(arm=arms, metric="change_inside"), self.judging)
        inside = self._contrast(MASSIVE)
        beside = {f"{arm}.outside": weight for arm, weight in inside.items()}
        found = measured.effect("change_inside", inside, beside, control_name="outside")
        if not found.n:
            return
        yield self._answer(
            [found],
            name=self._name("inside"),
            claim=f"{self._what()} changes the image more inside the carried mask than outside of it",
            metric="change_inside",
            title="root mean square change of pixels",
            words={"outside": "the pixels outside the mask"},
        )

    def _answer(self, effects: Sequence[Effect], **about: Any) -> Answer:
        made = joint_answer(effects, direction="greater", alpha=self.judging.alpha, sources=SOURCES, **about)
        return made.model_copy(
            update={"sentence": of_units(made.sentence, _UNITS[self.question]), "question": self.question}
        )


def _by_unit(effects: pd.DataFrame) -> pd.DataFrame:
    """Effects as `Measured` reads them: the unit in place of the prompt, its sides as further seeds."""
    sides = {side: i for i, side in enumerate(sorted(set(effects["side"])))}
    seeds = effects["seed"] * len(sides) + effects["side"].map(sides)
    return pd.DataFrame(
        {
            "arm": effects["arm"],
            "prompt": effects["unit"],
            "seed": seeds,
            "metric": effects["metric"],
            "value": effects["value"],
            "family": effects["family"],
        }
    )


def at_equal_change(
    effects: pd.DataFrame, kinds: Sequence[str], metric: str, *, arms: Sequence[str]
) -> pd.DataFrame | None:
    """Each blend's metric at the strength at which its SSIM to the target is that of the edited image.

    Linear between the strengths that were measured, which must include 0 and 1; where the edit changed the
    image more than the source itself differs, the source's value. Rows as `_by_unit` makes them, arms called
    "<kind>.equal". None where SSIM or blends are missing.
    """
    rows = _by_unit(effects).assign(strength=effects["strength"])
    at = ["prompt", "seed"]
    edited = rows[(rows["arm"].isin(list(arms))) & (rows["metric"] == "ssim")].groupby(at)["value"].mean()
    found = []
    for kind in kinds:
        mine = rows[(rows["family"] == kind) & rows["metric"].isin(["ssim", metric])]
        table = mine.pivot_table(index=[*at, "strength"], columns="metric", values="value")
        if not {"ssim", metric} <= set(table.columns):
            continue
        for key, curve in table.groupby(level=[0, 1]):
            curve = curve.dropna()
            strengths = curve.index.get_level_values("strength")
            if key not in edited.index or not {0.0, 1.0} <= set(strengths):
                continue
            order = np.argsort(curve["ssim"].to_numpy(), kind="stable")
            x, y = curve["ssim"].to_numpy()[order], curve[metric].to_numpy()[order]
            value = float(np.interp(edited[key], x, y))
            found.append((f"{kind}.equal", *key, metric, value, kind))
    if not found:
        return None
    return pd.DataFrame(found, columns=["arm", "prompt", "seed", "metric", "value", "family"])


def curves(effects: pd.DataFrame, metrics: Sequence[str], judging: Judging) -> pd.DataFrame:
    """The table `transport_curves`; an axis' point "all" is the comparison of families, on its units."""
    varied = effects[effects["axis"] != ""]
    rows = []
    for (axis, family), part in varied.groupby(["axis", "family"], sort=False):
        points = [(at, each) for at, each in part.groupby("at", sort=False)]
        if axis != "k":
            whole = effects[
                (effects["axis"] == "")
                & (effects["family"] == family)
                & (effects["strength"] == 1)
                & (effects["draw"] == 0)
                & effects["unit"].isin(set(part["unit"]))
            ]
            points.append(("all", whole))
        for at, each in points:
            for metric in metrics:
                here = each[each["metric"] == metric]
                if len(here):
                    rows.append((axis, str(at), family, metric, *_level(here, judging)))
    columns = ["axis", "value", "family", "metric", "mean", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=columns)


def _level(rows: pd.DataFrame, judging: Judging) -> tuple[float, float, float, int]:
    """(mean, interval, n) over units; sides, seeds and draws of a unit are averaged first."""
    values = rows.dropna(subset="value").groupby("unit")["value"].mean().to_numpy()
    if not len(values):
        return np.nan, np.nan, np.nan, 0
    found = mean_interval(
        values, confidence=judging.confidence, resamples=judging.resamples, seed=judging.seed
    )
    low, high = (np.nan if end is None else end for end in (found.low, found.high))
    return float(values.mean()), low, high, len(values)


def of_units(sentence: str, unit: str) -> str:
    """A sentence whose counts of prompts are counts of other units.

    >>> of_units("n = 3 prompts, n = 1 prompt", "pair")
    'n = 3 pairs, n = 1 pair'
    """
    counted = re.sub(r"(n = \d+) prompt(s?)\b", rf"\1 {unit}\2", sentence)
    return re.sub(r"\b(\d+) prompts cannot", rf"\1 {unit}s cannot", counted)


__all__ = ["IMAGE", "PRIMARY", "TEXT", "Transport", "at_equal_change", "curves", "of_units"]
