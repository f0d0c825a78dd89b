"""The gallery is a finished run of the main job, made by committed code, and README quotes what it found."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
GALLERY = ROOT / "reports" / "shapes-sd3"
MOST = 15 * 1024**2
"""Bytes: history keeps every copy."""

pytestmark = [
    pytest.mark.pure,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only the repository holds the gallery"),
]

ANSWERS = {
    "Does zeroing them disrupt": ("disruption.alignment", "disruption.semantics"),
    "A bias or a carrier": ("bias_or_carrier.carrier.alignment",),
    "One block costs detail": ("semantics_or_detail.both",),
    "Is one block enough": ("single_or_all.single.alignment", "single_or_all.all.alignment"),
    "Do they outline": ("spatial.outline", "spatial.exclusive", "spatial.everywhere"),
    "Can they be carried": ("transport_text.margin", "transport_text.moved.position"),
}
"""How a row of README's table begins, and the answers of results.json whose numbers it may quote; the first
is the verdict."""

OUTCOMES = {"supported for alignment": "supported", "carrier": "supported"}
"""Verdicts that the table says in its own words."""


def data(name: str) -> Any:
    return json.loads((GALLERY / name).read_text(encoding="utf-8"))


@cache
def answer(name: str) -> Any:
    found = [each for each in data("results.json")["answers"] if each["name"] == name]
    assert found, f"the gallery's run has no answer {name}"
    return found[0]


def section() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text[
        text.index("## What the embedded model shows") : text.index("## What keeps a comparison fair")
    ]


def rows() -> list[tuple[str, str, str]]:
    lines = [line.strip("| ").split(" | ") for line in section().splitlines() if line.startswith("| ")]
    assert lines[0][0] == "question"
    return [(question, verdict, numbers) for question, verdict, numbers in lines[1:]]


INTERVAL = re.compile(r"(?<!from )\b(\d+\.\d+) to (\d+\.\d+)([^();]*)")
DECIMAL = re.compile(r"\d+\.\d+")
P = re.compile(r"\bp ([=<]) (\d+\.\d+)")
N = re.compile(r"\bn = (\d+)")


def p_of(effect: Any) -> float:
    return effect["p"] if effect["p_adjusted"] is None else effect["p_adjusted"]


def says(text: str, effect: Any) -> bool:
    """Whether every p and n of a text are those of an effect, the p corrected where there is a correction."""
    p = p_of(effect)
    fits = [
        occurs(number, [p]) if relation == "=" else p < float(number) for relation, number in P.findall(text)
    ]
    return all(fits) and all(int(number) == effect["n"] for number in N.findall(text))


def unfounded(text: str, found: list[Any]) -> list[str]:
    """What a text says that none of these answers found.

    An interval belongs to the number before it and to the n and p behind it: one effect must have them all.
    Every other number must be one of an effect, or stand in a sentence.
    """
    effects = [effect for each in found for effect in each["effects"]]
    wrong = []
    for part in INTERVAL.finditer(text):
        estimate = DECIMAL.findall(text[: part.start()])[-1:]
        ends = sorted(part.groups()[:2], key=float)
        if not any(
            all(occurs(number, [abs(effect["estimate"])]) for number in estimate)
            and all(map(occurs, ends, sorted([abs(effect[key])] for key in ("ci_low", "ci_high"))))
            and says(part[3], effect)
            for effect in effects
        ):
            wrong.append(part[0])
    sizes = [abs(e[key]) for e in effects for key in ("estimate", "ci_low", "ci_high") if e[key] is not None]
    sizes += [float(number) for each in found for number in DECIMAL.findall(each["sentence"])]
    rest = INTERVAL.sub("", text)
    wrong += [
        each[0]
        for each in (*P.finditer(rest), *N.finditer(rest))
        if not any(says(each[0], e) for e in effects)
    ]
    return wrong + [number for number in DECIMAL.findall(P.sub("", rest)) if not occurs(number, sizes)]


def occurs(number: str, among: list[float]) -> bool:
    """Whether one of these is this number, to as many decimals as it has."""
    decimals = len(number.partition(".")[2])
    return any(f"{each:.{decimals}f}" == number for each in among)


def test_it_is_whole() -> None:
    for name in ("report.html", "run.json", "results.json", "spec.yaml", "channels.json"):
        assert (GALLERY / name).is_file(), f"{name} is missing: make demo, then make gallery"
    assert list((GALLERY / "tables").glob("*.parquet"))
    shown = data("images/index.json")
    assert shown
    assert all((GALLERY / "images" / each["file"]).is_file() for each in shown)
    # What single cells measured, and the raw statistics, stay behind.
    assert not [name for name in ("cells", "journal", "statistics") if (GALLERY / name).exists()]


def test_it_is_light() -> None:
    assert sum(path.stat().st_size for path in GALLERY.rglob("*") if path.is_file()) <= MOST


def test_it_is_a_finished_run_of_committed_code() -> None:
    record = data("run.json")
    assert record["status"] == "finished" and record["failure"] is None
    assert record["git"] is not None, "an installed copy made it, whose code nobody can look up"
    assert record["git"]["dirty"] is False, "no commit holds the code that made it"
    assert record["model"] == "shapes-sd3"
    assert record["fingerprint"] == data("results.json")["fingerprint"]


def test_it_names_no_place_of_the_machine_that_made_it() -> None:
    assert not re.search(r"(?:^|[\s='\"])[/~]\w", data("run.json")["command"])
    for name in ("run.json", "spec.yaml", "results.json", "channels.json", "report.html"):
        text = (GALLERY / name).read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.:/])/(?:home|root|tmp|work|Users)/\w", text), name


def test_every_row_of_the_readme_has_its_answers() -> None:
    assert len(rows()) == len(ANSWERS)
    for question, _, _ in rows():
        assert [key for key in ANSWERS if question.startswith(key)], question


@pytest.mark.parametrize("start", ANSWERS)
def test_the_readmes_row_is_what_was_found(start: str) -> None:
    _, verdict, numbers = next(row for row in rows() if row[0].startswith(start))
    first, *others = (answer(name) for name in ANSWERS[start])
    assert first["primary"] and OUTCOMES.get(verdict, verdict) == first["outcome"]
    assert unfounded(numbers, [first, *others]) == []


def test_a_number_of_another_effect_is_unfounded() -> None:
    effect = {
        "estimate": -0.257,
        "ci_low": -0.377,
        "ci_high": -0.13,
        "n": 12,
        "p": 0.0054,
        "p_adjusted": 0.011,
    }
    other = {**effect, "estimate": 0.2, "ci_low": -0.05, "ci_high": 0.383, "p_adjusted": 0.3}
    found = [{"effects": [effect, other], "sentence": "The level is 0.967."}]
    for true in (
        "0.26 lower (0.13 to 0.38, n = 12, p = 0.011), p < 0.02",
        "0.257 lower; 0.97 before",
        "n = 12",
    ):
        assert unfounded(true, found) == [], true
    for false in (
        "0.20 higher (0.13 to 0.38)", "0.257 lower (0.13 to 0.38, p = 0.30)", "0.257 (0.13 to 0.38, n = 13)",
        "0.257 (0.05 to 0.38)", "p = 0.005", "0.258 lower", "n = 36",
    ):  # fmt: skip
        assert unfounded(false, found), false


def test_mixing_is_ahead_of_carrying_where_readme_and_notebook_04_say_so() -> None:
    assert "blending pixels or prompts to the same SSIM carries more" in section()
    ahead = {e["control"]: e["estimate"] < 0 for e in answer("transport_text.blends.margin")["effects"]}
    assert ahead["pixel_blend"] and ahead["prompt_blend"]


def test_the_readmes_channels_are_those_that_were_found() -> None:
    import pandas as pd

    text = " ".join(section().split())
    blocks = [set(channels) for channels in data("channels.json")["blocks"].values()]
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    assert f"{words[len(set.union(*blocks))]} different channels fill the top four" in text
    assert f"{words[len(set.intersection(*blocks))]} of them are in every block" in text

    tables = GALLERY / "tables"
    rule = "stream == 'image' and branch == 'cond'"
    spectrum = pd.read_parquet(tables / "spectrum.parquet").query(f"{rule} and statistic == 'abs_mean'")
    largest = spectrum.loc[spectrum["ratio"].idxmax()]
    assert f"the largest stands at {largest['ratio']:.1f} × its block's median" in text
    assert f"(block {largest['block']}, mean over steps)" in text

    share = pd.read_parquet(tables / "variance.parquet").query(rule).groupby("source")["share"].mean()
    token, prompt, step = (f"{100 * share[name]:.0f} %" for name in ("token", "prompt", "step"))
    assert (
        f"{token} lies between the tokens of one image, {prompt} between prompts and {step} between" in text
    )
