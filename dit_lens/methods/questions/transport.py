"""Can it be carried? What moves toward the source when massive channels do, from a prompt or from a picture.

arXiv 2605.13974 (claim 3): moving massive channels from one trajectory into another shifts the image toward
the source while much of the target stays. Here every way of carrying is measured alike: massive channels, as
many others (low, random, of the next ranks), others changed by as much (energy-matched), all channels, all
but the massive ones, and what a user would do instead (mixing latents, pixels or prompts).

The unit is the pair of prompts, or the picture: its directions, seeds and draws are averaged first. Of one
picture that was carried into several prompts' runs, each of these targets is a unit, and nothing is said
about other pictures.

Tables: `transport` and `transport_image` (group × direction or origin × family × strength × metric; of
pictures, `unit` says what n counts) and `transport_curves` (strength 1, all directions and groups, along
blocks, steps, k and part).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.methods.answers import Answer
from dit_lens.methods.questions.question import Answered, Judging
from dit_lens.methods.questions.transport_claims import IMAGE, TEXT, UNITS, Comparisons
from dit_lens.methods.questions.transport_tables import curves, families
from dit_lens.zoo.scenes import ATTRIBUTES

TITLES = {
    TEXT: "Can one prompt's picture be carried into another's?",
    IMAGE: "Can a picture's subject be carried into another prompt's run?",
}

PRIMARY = ("margin", "toward_latent")
"""The first of these that was measured decides; the others get an answer of their own."""

JUDGED = (*PRIMARY, "moved")

SIDES = {TEXT: "direction", IMAGE: "origin"}
"""Column of the table that tells directions, or origins of a picture's latents, apart."""


@dataclass(frozen=True)
class Transport:
    """The question about pairs of prompts (`transport_text`) or about pictures (`transport_image`).

    `unit` is what counts once: "pair", "picture", or "target" where one picture went into several.
    """

    name: str = TEXT
    unit: str = ""

    def __post_init__(self) -> None:
        if self.name not in TITLES:
            raise BadInput(
                f"There is no question {self.name!r} of transport; there are: {', '.join(TITLES)}."
            )
        units = UNITS[self.name]
        if not self.unit:
            object.__setattr__(self, "unit", units[0])
        if self.unit not in units:
            raise BadInput(f"{self.name} counts no {self.unit!r}; it counts: {', '.join(units)}.")

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
        name = "transport" if self.name == TEXT else IMAGE
        tables = {name: families(of_families, known, judging, side=SIDES[self.name])}
        if self.name == IMAGE:
            tables[name].insert(list(tables[name].columns).index("n") + 1, "unit", self.unit)
        else:
            tables["transport_curves"] = curves(shown, known, judging)
        return Answered(tables, tuple(self._answers(of_families, known, judging)))

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
            tests = Comparisons(self.name, side, rows, judging, self.unit)
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
