"""What an analysis concluded: claims, the effects they were judged on, and the file `results.json`.

A claim "against every control" is an intersection of claims, one per control: it is supported only if every
one of them is (an intersection–union test, which needs no correction; Holm's is applied all the same, since
every control is also reported by itself). Loads without torch and pandas.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dit_lens.atomic import atomic_write
from dit_lens.display import Summarised
from dit_lens.errors import BadInput
from dit_lens.methods.stats import VERDICT_RULE, Effect, judge
from dit_lens.methods.verdicts import ALPHA, Direction, Outcome
from dit_lens.summary import Facts, Fold, Note, Summary, Table, number

SCHEMA_VERSION = 1

RESULTS = "results.json"

CLAIM_RULE = (
    "A claim against several controls is supported if every one of them is beaten, not supported if the "
    "verdict on any of them is not supported, and undecided otherwise. p-values are corrected (Holm) over "
    "all comparisons that share a claim and a metric: the controls, and the blocks, doses or protocols of "
    "that claim. "
    "Each question has one primary answer, whose metric is fixed by rule and not by the data; the other "
    "answers are secondary, and each stands for itself."
)

_SIGNED = {"supported": "● supported", "not supported": "✕ not supported", "undecided": "○ undecided"}

_EFFECT_FIELDS = {
    "name": "The metric, and the coordinate (block, protocol, dose) where the claim has several.",
    "estimate": "Mean over prompts of treatment − control, in the metric's unit; null without prompts.",
    "ci_low": "Lower end of the bootstrap confidence interval over prompts; null for fewer than two.",
    "ci_high": "Upper end of that interval.",
    "n": "Prompts (or other units) that were compared; seeds are averaged within a prompt.",
    "p": "Two-sided sign-flip p-value; null where there is no test.",
    "p_adjusted": "The same after correction; null where one test stands alone.",
    "control": "What the treatment is compared with: a kind of control, or another arm.",
    "note": "What was left out, the rank among random draws, and why a value is null.",
    "sd": "Standard deviation of the paired differences, in the metric's unit.",
    "confidence": "Share of such intervals that cover the true mean.",
    "unit": "What n counts: prompt, pair (of prompts), picture or target.",
    "draw_estimates": "Treatment − each draw of a control that involves chance; empty for other controls.",
}


@dataclass(frozen=True)
class Joint:
    """The verdict on a claim that several effects must bear out together.

    `outcomes` pairs with `effects`. `weakest` is the effect that decides: of a supported claim the smallest
    one in the claimed direction (the control that was beaten least), else the smallest of those that deny
    the claim. `reason` is that effect's.
    """

    outcome: Outcome
    reason: str
    effects: tuple[Effect, ...]
    outcomes: tuple[Outcome, ...]
    weakest: Effect

    @property
    def beaten(self) -> tuple[Effect, ...]:
        """Effects that support the claim."""
        return tuple(e for e, o in zip(self.effects, self.outcomes, strict=True) if o == "supported")


def judge_all(effects: Sequence[Effect], *, direction: Direction, alpha: float = ALPHA) -> Joint:
    """Judge a claim that every one of these effects must support, by `CLAIM_RULE`.

    Args:
        effects: one per control, corrected together (`methods.stats.compare` and `correct`).
        direction: the side of the controls that the claim names.

    Raises:
        BadInput: no effects, an unknown direction, alpha outside (0, 1).

    >>> large = Effect("distance", 0.3, 0.2, 0.4, 24, 0.0002, 0.0004, "low", sd=0.2)
    >>> small = Effect("distance", 0.1, 0.05, 0.2, 24, 0.003, 0.003, "random", sd=0.2)
    >>> found = judge_all([large, small], direction="greater")
    >>> found.outcome, found.weakest.control
    ('supported', 'random')
    """
    if not effects:
        raise BadInput("A claim needs at least one effect to be judged on; none was measured.")
    verdicts = [judge(effect, direction=direction, alpha=alpha) for effect in effects]
    outcomes = tuple(verdict.outcome for verdict in verdicts)
    outcome = all_of(outcomes)
    sign = 1.0 if direction == "greater" else -1.0

    def size(i: int) -> float:
        estimate = effects[i].estimate
        # What could not be estimated decides before anything that could.
        return float("-inf") if estimate is None else sign * estimate

    at = min((i for i, each in enumerate(outcomes) if each == outcome), key=size)
    return Joint(outcome, verdicts[at].reason, tuple(effects), outcomes, effects[at])


def all_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Outcome of "all of these claims hold": one that is denied denies it.

    >>> all_of(["supported", "undecided"]), all_of(["undecided", "not supported"])
    ('undecided', 'not supported')
    """
    found = set(outcomes)
    for outcome in ("not supported", "undecided"):
        if outcome in found:
            return outcome
    return "supported"


def any_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Outcome of "at least one of these claims holds": only denying all denies it.

    >>> any_of(["supported", "not supported"]), any_of(["undecided", "not supported"])
    ('supported', 'undecided')
    """
    found = set(outcomes)
    for outcome in ("supported", "undecided"):
        if outcome in found:
            return outcome
    return "not supported"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Answer(_Frozen, Summarised):
    """One claim and what the run says about it."""

    name: str
    """Unique in a run: the question, and what tells its answers apart, joined by dots."""
    question: str
    """The section of the analysis, which is also the name of its table."""
    claim: str
    """What would be the case if the outcome were `supported`, as a clause."""
    sources: tuple[str, ...] = ()
    """arXiv ids of the papers that make or discuss the claim."""
    metric: str
    """What was measured; empty for a claim that rests on several metrics."""
    direction: Literal["greater", "less"]
    """The side of the controls on which the treatment's metric lies if the claim holds; for a claim on
    several metrics, that of its scores."""
    outcome: Literal["supported", "not supported", "undecided"]
    """The verdict, by the rules in `verdict_rule` and `claim_rule`."""
    reason: str
    """Which part of the rule decided."""
    sentence: str
    """Verdict, effect, interval, n, p and the control that was beaten least, for a reader: the outcome, the
    claim and the findings in one text."""
    effects: tuple[Effect, ...]
    """Treatment − control for every control of the claim, corrected together."""
    primary: bool = False
    """Whether this answers its question first; one answer of a question does."""
    qualifier: str = ""
    """What kind of verdict this is where it is no plain one, such as "exploratory map"."""
    findings: tuple[str, ...] = ()
    """What the verdict rests on, in sentences, what decides first; empty in results of before there were
    any."""

    @property
    def stated(self) -> str:
        """The claim as a sentence, behind the kind of verdict where it is no plain one."""
        clause = (f"{self.qualifier}: " if self.qualifier else "") + self.claim.rstrip(".")
        return f"{clause[:1].upper()}{clause[1:]}."

    def summary(self) -> Summary:
        """The verdict, and the effect against each control behind it."""
        rows = [
            (
                each.control,
                number(each.estimate),
                f"{number(each.ci_low)} to {number(each.ci_high)}",
                each.n,
                number(each.p_adjusted if each.p_adjusted is not None else each.p),
            )
            for each in self.effects
        ]
        columns = ("against", f"difference in {self.metric or 'score'}", "95 % CI", "n", "p, corrected")
        title = f"{_SIGNED[self.outcome]}: {self.claim}"
        return Summary(title, (Note(self.sentence), Table(columns, rows)), self.reason)

    def to_data(self) -> dict[str, Any]:
        """Plain JSON values, one per field."""
        return self.model_dump(mode="json")


class Results(_Frozen, Summarised):
    """Everything that a run concluded, and on what: the content of `results.json`.

    >>> results = Results(model="shapes-sd3", fingerprint="00", dtype="float32", prompts=24, seeds=(0,),
    ...                   sham_difference=0.0)
    >>> Results.from_json(results.to_json()) == results
    True
    """

    schema_version: Annotated[int, Field(ge=1)] = SCHEMA_VERSION
    """Version of this layout."""
    model: str
    """The model's name."""
    fingerprint: str
    """Digest of its weights."""
    dtype: str
    """Type of its weights in this run."""
    prompts: Annotated[int, Field(ge=0)]
    """How many held-out prompts the effects were judged on."""
    seeds: tuple[int, ...]
    """Seeds of the starting noise, averaged within a prompt."""
    sham_difference: float | None = None
    """Largest absolute difference between final latents of the unedited run and of a run with an edit that
    changes nothing; 0 means bit for bit the same."""
    answers: tuple[Answer, ...] = ()
    """Every answer, question by question."""
    verdict_rule: str = VERDICT_RULE
    """How one effect is judged."""
    claim_rule: str = CLAIM_RULE
    """How a claim against several controls is judged, and how p-values are corrected."""

    @model_validator(mode="after")
    def _distinct(self) -> Results:
        names = [answer.name for answer in self.answers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two answers are called {twice!r}")
        return self

    def __getitem__(self, name: str) -> Answer:
        for answer in self.answers:
            if answer.name == name:
                return answer
        raise KeyError(name)

    def of(self, question: str) -> tuple[Answer, ...]:
        """The answers to one question, the primary one first."""
        found = [answer for answer in self.answers if answer.question == question]
        return tuple(sorted(found, key=lambda answer: not answer.primary))

    def __repr__(self) -> str:
        lines = [f"  {each.outcome:<13}  {each.name}" for each in self.answers]
        return "\n".join([f"Results({self.model}: {len(lines)} verdicts on {self.prompts} prompts)", *lines])

    __str__ = __repr__

    def summary(self) -> Summary:
        """Every verdict with its sentence, question by question."""
        questions = dict.fromkeys(answer.question for answer in self.answers)
        answers = [answer for question in questions for answer in self.of(question)]
        outcomes = [answer.outcome for answer in answers]
        about = {
            "judged on": f"{self.prompts} held-out prompts, seeds {', '.join(map(str, self.seeds))}",
            "verdicts": ", ".join(
                f"{outcomes.count(outcome)} {outcome}" for outcome in _SIGNED if outcome in outcomes
            ),
        }
        rows = [(_SIGNED[each.outcome], each.name, Fold(each.claim, Note(each.sentence))) for each in answers]
        shown = Table(("verdict", "answer", "claim; open it for the numbers"), rows)
        return Summary(f"Results of {self.model}", (Facts(about), shown))

    def to_data(self) -> dict[str, Any]:
        """Plain JSON values, one per field."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """JSON text, ending in a newline; equal results give equal text."""
        return json.dumps(self.to_data(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON, whole or not at all; raises `RunFailure` when the place cannot be written."""
        return atomic_write(path, self.to_json())

    @classmethod
    def from_json(cls, text: str, place: str | os.PathLike[str] = RESULTS) -> Results:
        """The results that `to_json` wrote; `place` names them in errors.

        Raises:
            BadInput: no JSON, a newer schema, or fields that are missing, unknown or of the wrong kind.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise BadInput(f"{place} is not JSON ({error}). Run the analysis again.") from error
        version = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(version, bool) or not isinstance(version, int):
            raise BadInput(f"{place} is damaged: it has no schema_version. Run the analysis again.")
        if version > SCHEMA_VERSION:
            raise BadInput(
                f"{place} has schema_version {version}; this dit_lens reads up to {SCHEMA_VERSION}. "
                "Update it: pip install --upgrade dit-lens"
            )
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise BadInput(f"{place} is damaged: {where}: {first['msg']}. Run the analysis again.") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """Read `results.json`, or that of a run folder; raises `BadInput` as `from_json`, or if it is absent.

        >>> Results.load("reports/massive_activations")["disruption.semantics"].outcome
        'supported'
        """
        place = Path(path)
        place = place / RESULTS if place.is_dir() else place
        try:
            text = place.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"Cannot read the results {place}: {getattr(error, 'strerror', None) or error}. "
                "A run whose analysis asks for effects writes them."
            ) from error
        return cls.from_json(text, place)


def results_schema() -> dict[str, Any]:
    """JSON Schema of `results.json`; every field says what it holds.

    >>> results_schema()["required"]
    ['model', 'fingerprint', 'dtype', 'prompts', 'seeds']
    """
    schema = Results.model_json_schema(mode="validation")
    schema["title"] = "dit_lens results"
    schema["description"] = "What a run concluded: one answer per claim, with the effects it was judged on."
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    effect = schema["$defs"]["Effect"]
    effect["description"] = "A paired difference, treatment − control, over prompts."
    for field, description in _EFFECT_FIELDS.items():
        effect["properties"][field]["description"] = description
    return schema
