"""What carrying is compared with, claim by claim: other channels, blends, the rest of the image.

The unit is the pair of prompts, or the picture; of one picture that was carried into several targets, the
target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.methods.answers import Answer
from dit_lens.methods.controls import serving
from dit_lens.methods.metrics import quantity
from dit_lens.methods.questions.judged import corrected, joint_answer
from dit_lens.methods.questions.levels import Contrast, Level, Measured, change
from dit_lens.methods.questions.question import Judging
from dit_lens.methods.questions.sentences import control_words, figure, levels, listing
from dit_lens.methods.resampling import EXACT
from dit_lens.methods.transport.arms import MASSIVE
from dit_lens.methods.transport.blends import KINDS as BLENDS
from dit_lens.methods.verdicts import Effect

TEXT, IMAGE = "transport_text", "transport_image"

SOURCES = ("2605.13974",)

UNITS = {TEXT: ("pair",), IMAGE: ("picture", "target")}
"""What may count once in each question, the usual first. A target does where all have the same source: then
nothing is found out about other sources."""

_EXCESS = "change_inside − change_outside"

_CLAIMS = {
    "margin": "moves the image toward the source, by its alignment with both prompts,",
    "toward_latent": "moves the final latents toward the source's",
    "moved": "gives the image more of the attributes in which the source differs",
}


class Comparisons:
    """The comparisons of one question, or of one of its sides."""

    def __init__(
        self, question: str, side: str | None, effects: pd.DataFrame, judging: Judging, unit: str
    ) -> None:
        self.question, self.side, self.judging, self.unit = question, side, judging, unit
        self.effects = effects
        self.arms: dict[str, list[str]] = {}
        full = effects[effects["strength"] == 1]
        for family, rows in full.groupby("family", sort=False):
            self.arms[str(family)] = list(dict.fromkeys(rows["arm"]))
        if MASSIVE not in self.arms:
            raise BadInput(f"{question} compares massive channels carried at strength 1, and they were not.")
        self.measured = Measured(by_unit(effects), judging, unit=unit)

    def _name(self, *parts: str) -> str:
        return ".".join(filter(None, (self.question, self.side, *parts)))

    def _contrast(self, family: str) -> Contrast:
        arms = self.arms[family]
        return {arm: 1 / len(arms) for arm in arms}

    def _what(self) -> str:
        if self.question == TEXT:
            return "carrying massive channels over from another prompt's run"
        how = {"noised": "a noised picture", "inverted": "an inverted picture"}
        if self.unit == "target":
            how = {side: words.replace(words.split()[0], "one", 1) for side, words in how.items()}
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
        kinds = serving("transport")
        found = [control for control in kinds if control in self.arms]
        if not found:
            raise BadInput(f"{self.question} needs a control: one of {', '.join(kinds)}, at strength 1.")
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
            extra=[levels(quantity(metric), self._means(metric, shown))],
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
            level = self.measured.level(metric, self._contrast(MASSIVE), rate=True)
            attribute = metric.removeprefix("moved.")
            rate = f"Transfer rate of {attribute}: {figure(level.mean)} ({self._interval(level)})"
            before = self._unedited(metric)
            yield self._answer(
                [found[metric, control] for control in controls],
                name=self._name(metric),
                claim=f"{self._what()} gives the image the source's {attribute} more often than every "
                "control",
                metric=metric,
                comparisons=len(found),
                extra=[rate, before, levels(quantity(metric), self._means(metric, controls))],
            )

    def _interval(self, level: Level) -> str:
        """Interval and n of a rate, and why the interval is an exact one where it is."""
        n = f"n = {level.n} {self.unit}{'' if level.n == 1 else 's'}"
        if not np.isfinite(level.low):
            return n
        ends = f"{100 * self.judging.confidence:g} % CI {figure(level.low)} to {figure(level.high)}"
        if level.note == EXACT:
            ends += f", exact binomial as no two {self.unit}s differ"
        return f"{ends}, {n}"

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
        both = pd.concat([by_unit(self.effects)[columns], equal[columns]], ignore_index=True)
        measured = Measured(both, self.judging, unit=self.unit)
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
            extra=[levels(quantity(metric), shown), self._how_blends_were_read(equal, words)],
        )

    def _how_blends_were_read(self, equal: pd.DataFrame, words: Mapping[str, str]) -> str:
        """Between which strengths blends were interpolated, and where the source stands in for one."""
        named: dict[str, list[str]] = {}
        for kind in dict.fromkeys(equal["family"]):
            strengths = sorted(set(self.effects.loc[self.effects["family"] == kind, "strength"]))
            named.setdefault(listing([f"{s:g}" for s in strengths]), []).append(words[kind])
        between = "; ".join(
            f"{listing(kinds)}: {each}" if len(named) > 1 else each for each, kinds in named.items()
        )
        units, beyond = (set(rows["prompt"]) for rows in (equal, equal[equal["beyond"]]))
        said = f"Blends are interpolated between the strengths that were measured ({between})"
        unit = self.unit
        if not beyond:
            return f"{said}; in no {unit} did the edit change the picture more than the source itself differs"
        return (
            f"{said}; in {len(beyond)} of {len(units)} {unit}s the edit changed the picture, in at least one "
            "run, more than the source itself differs, and there the source's value stands in for the blend's"
        )

    def inside_and_outside(self) -> Iterable[Answer]:
        """More concentrated inside the carried mask than with other channels?

        Whatever is carried inside a mask changes the image most there. So the difference between inside and
        outside is compared with that of every control; that of massive channels alone is only described. Of
        pictures alone: prompts carry every token, unless a spec asks otherwise.
        """
        if self.question == TEXT:
            return
        rows = by_unit(self.effects[self.effects["metric"].isin(["change_inside", "change_outside"])])
        # Both sides become one metric, and outside an arm of its own, so that they are compared in pairs.
        outside = rows["metric"] == "change_outside"
        arms = rows["arm"].where(~outside, rows["arm"] + ".outside")
        measured = Measured(rows.assign(arm=arms, metric="change_inside"), self.judging, unit=self.unit)
        controls = self._controls()
        both = {family: self._sides(family) for family in (MASSIVE, *controls)}
        excess = {family: change(*sides) for family, sides in both.items()}
        apart = measured.level("change_inside", excess[MASSIVE])
        if not apart.n:
            return
        found = {
            control: measured.effect(
                "change_inside", excess[MASSIVE], excess[control], control_name=control, name=_EXCESS
            )
            for control in controls
        }
        inside, outside = (
            measured.mean("change_inside", side, beside=both[MASSIVE]) for side in both[MASSIVE]
        )
        means = {"massive": excess[MASSIVE]} | {control_words(f): excess[f] for f in controls}
        title = "change of pixels inside the mask beyond that outside"
        yield self._answer(
            list(corrected(found).values()),
            name=self._name("inside"),
            claim=f"{self._what()} concentrates the image's change inside the carried mask more than every "
            "control",
            metric="change_inside",
            title=title,
            extra=[
                levels(
                    replace(quantity("change_inside"), title=title),
                    {words: measured.mean("change_inside", each) for words, each in means.items()},
                ),
                f"Massive channels by themselves change pixels by {figure(inside)} inside and "
                f"{figure(outside)} outside (root mean square; the difference is {figure(apart.mean)}, "
                f"{self._interval(apart)})",
            ],
        )

    def _sides(self, family: str) -> tuple[Contrast, Contrast]:
        """A family inside the mask, and outside of it."""
        inside = self._contrast(family)
        return inside, {f"{arm}.outside": weight for arm, weight in inside.items()}

    def _answer(self, effects: Sequence[Effect], *, extra: Sequence[str] = (), **about: Any) -> Answer:
        return joint_answer(
            effects,
            direction="greater",
            alpha=self.judging.alpha,
            sources=SOURCES,
            extra=[*extra, self._whose()],
            **about,
        )

    def _whose(self) -> str:
        """Of how many pictures an answer speaks, where it is one."""
        if self.unit != "target":
            return ""
        n = self.effects["unit"].nunique()
        return (
            f"One picture was carried into {n} target{'' if n == 1 else 's'}, so nothing is said about other "
            "pictures"
        )


def by_unit(effects: pd.DataFrame) -> pd.DataFrame:
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
    image more than the source itself differs, the source's value, and `beyond` is true. Rows as `by_unit`
    makes them, arms called "<kind>.equal". None where SSIM or blends are missing.
    """
    rows = by_unit(effects).assign(strength=effects["strength"])
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
            found.append((f"{kind}.equal", *key, metric, value, kind, bool(edited[key] < x[0])))
    if not found:
        return None
    return pd.DataFrame(found, columns=["arm", "prompt", "seed", "metric", "value", "family", "beyond"])
