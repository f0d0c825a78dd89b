"""Words that the embedded model never met are named, once per command, on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dit_lens import zoo
from dit_lens.errors import RunFailure

pytestmark = pytest.mark.embedded

DOG, OWL, STAR = "a red dog", "a dog and an owl", "a large red star"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Commands that read prompts, which stop where the model would be run."""

    def enough(*_: object, **__: object) -> None:
        raise RunFailure("enough")

    for place in ("channels.discover", "spatial.first_look", "transport.first_look.first_carry"):
        monkeypatch.setattr(f"dit_lens.methods.{place}", enough)
    for place in ("run_analysis", "plan_analysis"):
        monkeypatch.setattr(f"dit_lens.analysis.{place}", enough)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(f"{DOG}\n{OWL}\n")
    chosen_on = f"prompts={json.dumps([DOG, OWL])}"
    return {
        "discover": ["--prompts", "prompts.txt"],
        "segment": [f"{DOG} and an owl"],
        "transport": [DOG, OWL],
        "run": ["massive_activations", "--set", chosen_on],
        "plan": ["massive_activations", "--set", chosen_on],
    }


@pytest.mark.parametrize("name", ["discover", "segment", "transport", "run", "plan"])
def test_the_embedded_model_says_which_words_it_never_met(dit, commands, name) -> None:
    model = ["shapes-sd3"] if name == "discover" else []
    done = dit(name, *model, *commands[name])
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    (note,) = [line for line in done.stderr.splitlines() if line.startswith("Note:")]
    assert "without these words: dog, and, an, owl." in note
    assert note.endswith(str(zoo.card_path()))
    assert "cyan" in zoo.card_path().read_text(encoding="utf-8")


def test_its_own_words_are_not_remarked_on(dit, commands) -> None:
    assert "Note:" not in dit("segment", STAR).stderr
    assert "Note:" not in dit("transport", STAR, "a small blue shape at the top").stderr


def test_other_models_know_their_own_words(dit, commands, model: Path) -> None:
    assert "Note:" not in dit("segment", DOG, "--model", model).stderr
    assert "Note:" not in dit("discover", model, *commands["discover"]).stderr


def test_many_foreign_words_stay_one_line(dit, commands) -> None:
    done = dit("segment", " ".join(f"word{i}" for i in range(30)))
    (note,) = [line for line in done.stderr.splitlines() if line.startswith("Note:")]
    assert "word7 and 22 more." in note
