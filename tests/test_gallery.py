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

QUESTIONS = {
    "Does zeroing them disrupt": "disruption",
    "A bias or a carrier": "bias_or_carrier",
    "One block costs detail": "semantics_or_detail",
    "Is one block enough": "single_or_all",
    "Do they outline": "spatial",
    "Can they be carried": "transport_text",
}
"""How a row of README's table begins, and the question of results.json that it reports."""

OUTCOMES = {"supported for alignment": "supported", "carrier": "supported"}
"""Verdicts that the table says in its own words."""


def data(name: str) -> Any:
    return json.loads((GALLERY / name).read_text(encoding="utf-8"))


@cache
def answers(question: str) -> list[Any]:
    found = [each for each in data("results.json")["answers"] if each["question"] == question]
    assert found, f"the gallery's run did not ask {question}"
    return found


def section() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text[
        text.index("## What the embedded model shows") : text.index("## What keeps a comparison fair")
    ]


def rows() -> list[tuple[str, str, str]]:
    lines = [line.strip("| ").split(" | ") for line in section().splitlines() if line.startswith("| ")]
    assert lines[0][0] == "question"
    return [(question, verdict, numbers) for question, verdict, numbers in lines[1:]]


def measured(question: str) -> tuple[list[float], list[float], set[int]]:
    """(Sizes, p-values, n) of a question: those of its effects, and the numbers that its sentences name."""
    effects = [effect for answer in answers(question) for effect in answer["effects"]]
    p = [e[key] for e in effects for key in ("p", "p_adjusted") if e[key] is not None]
    sizes = [abs(e[key]) for e in effects for key in ("estimate", "ci_low", "ci_high") if e[key] is not None]
    for answer in answers(question):
        sizes += [float(number) for number in re.findall(r"\d+\.\d+", answer["sentence"])]
    return sizes, p, {e["n"] for e in effects}


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


def test_every_row_of_the_readme_has_its_question() -> None:
    assert len(rows()) == len(QUESTIONS)
    for question, _, _ in rows():
        assert [key for key in QUESTIONS if question.startswith(key)], question


@pytest.mark.parametrize("start", QUESTIONS)
def test_the_readmes_row_is_what_was_found(start: str) -> None:
    _, verdict, numbers = next(row for row in rows() if row[0].startswith(start))
    (primary,) = [each for each in answers(QUESTIONS[start]) if each["primary"]]
    assert OUTCOMES.get(verdict, verdict) == primary["outcome"]
    sizes, p, n = measured(QUESTIONS[start])
    for relation, number in re.findall(r"\bp ([=<]) (\d+\.\d+)", numbers):
        assert occurs(number, p) if relation == "=" else min(p) < float(number), f"p {relation} {number}"
    for number in re.findall(r"\bn = (\d+)", numbers):
        assert int(number) in n, f"n = {number}"
    rest = re.sub(r"\bp [=<] \d+\.\d+", "", numbers)
    for number in re.findall(r"\d+\.\d+", rest):
        assert occurs(number, sizes), f"{number} in: {numbers}"


def test_mixing_is_ahead_of_carrying_where_readme_and_notebook_04_say_so() -> None:
    assert "blending pixels or prompts to the same SSIM carries more" in section()
    (blends,) = [each for each in answers("transport_text") if each["name"] == "transport_text.blends.margin"]
    ahead = {each["control"]: each["estimate"] < 0 for each in blends["effects"]}
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
