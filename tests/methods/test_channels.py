"""Choosing from statistics, and statistics on disk. No model: the activations are imaginary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dit_lens.errors import BadInput, RunFailure
from dit_lens.methods.channels import ChannelStatistics, discover
from dit_lens.methods.statistics_files import LABELS, NUMBERS
from tests.methods.synthetic import ImaginaryRun, imaginary_statistics, statistics_like

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def stats() -> ChannelStatistics:
    return imaginary_statistics()


# -------------------------------------------------------------------------------------------- select
@pytest.mark.parametrize("branch", ["cond", "uncond", "both"])
@pytest.mark.parametrize("statistic", ["abs_mean", "mean_abs", "p999"])
def test_top_k_ranks_the_mean_over_steps_and_branches(
    stats: ChannelStatistics, branch: str, statistic: str
) -> None:
    names = ["cond", "uncond"] if branch == "both" else [branch]
    cells = stats.data[statistic].sel(stream="image", branch=names, step=[1, 2]).astype(np.float64)
    means = cells.mean(("step", "branch")).values
    chosen = stats.select(top_k=3, statistic=statistic, branch=branch, steps=[1, 2])
    assert chosen.blocks == {b: tuple(np.argsort(-means[b])[:3].tolist()) for b in range(3)}
    assert chosen.selection == {"top_k": 3, "branch": branch, "steps": [1, 2]}
    assert chosen.statistic == statistic


def test_max_abs_is_a_maximum_over_steps_too(stats: ChannelStatistics) -> None:
    expected = stats.data["max_abs"].sel(stream="image").max(("step", "branch"))
    np.testing.assert_array_equal(stats.profile("max_abs", branch="both"), expected)


def test_the_default_rule_is_the_top_k_of_discovery(stats: ChannelStatistics) -> None:
    assert stats.select() == stats.select(top_k=4)
    assert stats.select().selection["steps"] == "all"


def test_ratio_and_rule() -> None:
    profile = np.ones((2, 24))
    profile[0, 5], profile[1, 6] = 10.0, 3.0
    made_up = statistics_like(profile, max_abs=profile * 50, mean_abs=profile / 10)
    assert made_up.select(ratio=4).blocks == {0: (5,), 1: ()}
    assert made_up.select(ratio=11).is_empty
    rule = made_up.select(rule="2402.17762")
    assert (rule.blocks, rule.statistic) == ({0: (5,), 1: (6,)}, "max_abs")
    assert made_up.select(rule="2402.17762", min_abs=200).blocks == {0: (5,), 1: ()}
    assert made_up.select(rule="2402.17762", min_abs=1e6).is_empty
    assert rule.selection == {
        "rule": "2402.17762", "min_abs": 100.0, "min_ratio": 1000.0, "branch": "cond", "steps": "all",
    }  # fmt: skip


def test_a_set_knows_where_it_came_from(stats: ChannelStatistics) -> None:
    provenance = stats.select().provenance
    assert provenance["fingerprint"] == "0123"
    assert provenance["seeds"] == [0, 1]
    assert provenance["prompts"]["count"] == 3
    assert len(provenance["prompts"]["sha256"]) == 64
    assert stats.select().model == "imaginary"


def test_the_context_stream_ends_before_the_last_block(stats: ChannelStatistics) -> None:
    assert list(stats.select(stream="context").blocks) == [0, 1]
    assert list(stats.select(stream="context", blocks="0-1").blocks) == [0, 1]
    with pytest.raises(BadInput, match=r"does not exist after block 2; it exists after blocks 0–1"):
        stats.select(stream="context", blocks=[1, 2])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"top_k": 25}, "top_k = 25 was asked for; there are 24 channels"),
        ({"top_k": 0}, "Use 1 to 24"),
        ({"top_k": 2, "ratio": 3.0}, "by top_k and ratio"),
        ({"ratio": 0}, "above 0"),
        ({"ratio": float("nan")}, "above 0"),
        ({"rule": "2402.1776"}, "Did you mean '2402.17762'"),
        ({"rule": "2402.17762", "min_abs": -1}, "min_abs is -1"),
        ({"rule": "2402.17762", "statistic": "mean_abs"}, "looks at max_abs"),
        ({"statistic": "absmean"}, "Did you mean 'abs_mean'"),
        ({"statistic": "variance"}, "there are: abs_mean, mean_abs, max_abs, p999"),
        ({"stream": "text"}, "there are: image, context"),
        ({"branch": "conditional"}, "there are: cond, uncond, both"),
        ({"steps": 3}, "there are 3, 0 to 2"),
        ({"steps": {"sigma": [2, 3]}}, "1, 0.6, 0.2"),
        ({"blocks": 7}, "there are 3, 0 to 2"),
    ],
)
def test_bad_requests_say_what_exists(stats: ChannelStatistics, asked: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        stats.select(**asked)  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_one_branch_serves_as_both_and_the_other_is_refused() -> None:
    unguided = imaginary_statistics(ImaginaryRun(branches=("cond",)))
    assert unguided.select(branch="both").blocks == unguided.select(branch="cond").blocks
    with pytest.raises(BadInput, match="No branch 'uncond'"):
        unguided.select(branch="uncond")


def test_agreement_of_the_two_readings() -> None:
    profile = np.ones((2, 24))
    profile[:, 3] = 9
    mixed_sign = profile.copy()
    mixed_sign[1, 3], mixed_sign[1, 8] = 1, 9
    assert statistics_like(profile, mean_abs=profile).agreement(1) == 1.0
    assert statistics_like(profile, mean_abs=mixed_sign).agreement(1) == 0.5


def test_repr_names_the_top_channels() -> None:
    profile = np.ones((2, 24))
    profile[:, 3] = 9
    text = repr(statistics_like(profile))
    assert "ChannelStatistics(made up: 1 samples, 1 steps, cond and uncond, 2 blocks, 24 channels" in text
    assert "image, top channel by abs_mean (× channel median) per block: 0: 3 (9.0×), 1: 3 (9.0×)" in text
    assert "0: 0, 1: 0" in repr(statistics_like(np.zeros((2, 24))))


# ------------------------------------------------------------------------------------------- on disk
def test_saving_and_loading_gives_the_same_statistics(stats: ChannelStatistics, tmp_path: Path) -> None:
    folder = stats.save(tmp_path / "stats")
    assert sorted(p.name for p in folder.iterdir()) == [LABELS, NUMBERS]
    again = ChannelStatistics.load(folder)
    xr.testing.assert_identical(again.data, stats.data)
    assert {name: again.data[name].dtype for name in again.data} == {
        name: stats.data[name].dtype for name in stats.data
    }
    assert (again.provenance, again.top_k, again.cost) == (stats.provenance, stats.top_k, stats.cost)
    assert again.select().to_json() == stats.select().to_json()


def test_saving_twice_replaces_and_gives_the_same_bytes(stats: ChannelStatistics, tmp_path: Path) -> None:
    folder = stats.save(tmp_path / "stats")
    first = [(folder / name).read_bytes() for name in (LABELS, NUMBERS)]
    stats.save(folder)
    assert [(folder / name).read_bytes() for name in (LABELS, NUMBERS)] == first
    assert [p.name for p in tmp_path.iterdir()] == ["stats"]


def test_a_folder_with_other_files_is_not_replaced(stats: ChannelStatistics, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match=r"holds other files \(thesis.tex\)"):
        stats.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(BadInput, match="it is a file"):
        stats.save(tmp_path / "thesis.tex")


def test_a_failed_save_leaves_the_old_statistics(
    stats: ChannelStatistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stats.save(tmp_path / "stats")
    before = (folder / NUMBERS).read_bytes()

    def full_disk(path: Path, content: bytes) -> Path:
        raise RunFailure("the disk is full")

    monkeypatch.setattr("dit_lens.methods.statistics_files.atomic_write", full_disk)
    with pytest.raises(RunFailure, match="the disk is full"):
        stats.save(folder)
    assert (folder / NUMBERS).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["stats"]


def _break_version(folder: Path) -> None:
    labels = json.loads((folder / LABELS).read_text())
    (folder / LABELS).write_text(json.dumps({**labels, "schema_version": 99}))


def _break_labels(folder: Path) -> None:
    labels = json.loads((folder / LABELS).read_text())
    labels["variables"]["abs_mean"].pop()
    (folder / LABELS).write_text(json.dumps(labels))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / LABELS).unlink(), "holds no channel statistics"),
        (lambda folder: (folder / NUMBERS).unlink(), "holds no channel statistics"),
        (lambda folder: (folder / LABELS).write_text("{"), "is damaged"),
        (lambda folder: (folder / LABELS).write_text("[]"), "schema_version None"),
        (lambda folder: (folder / NUMBERS).write_bytes(b"\0" * 40), "is damaged"),
        (_break_version, "schema_version 99"),
        (_break_labels, "do not fit"),
    ],
)
def test_damaged_statistics_are_named(
    stats: ChannelStatistics, tmp_path: Path, damage: object, says: str
) -> None:
    folder = stats.save(tmp_path / "stats")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(BadInput) as caught:
        ChannelStatistics.load(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)


def test_saved_statistics_are_read_without_torch(stats: ChannelStatistics, tmp_path: Path) -> None:
    folder = stats.save(tmp_path / "stats")
    code = (
        "import sys; from dit_lens.methods.channels import ChannelStatistics;"
        f"print(ChannelStatistics.load({str(folder)!r}).select()); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ChannelSet(imaginary")


# ------------------------------------------------------------------------- discover, before any forward
class NeverRuns:
    """A lens that has a width and would fail on anything else."""

    num_channels = 24


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": "a circle"}, "for example ['a circle']"),
        ({"prompts": None}, "needs a list of captions"),
        ({"prompts": ["a", 3]}, "prompts[1] is 3, a int"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": 0}, "give a list of whole numbers"),
        ({"seeds": [0, 1, 0]}, "repeat"),
        ({"seeds": [0.5]}, "seeds[0] is 0.5"),
        ({"seeds": [-1]}, "seeds[0] is -1"),
        ({"seeds": [True]}, "seeds[0] is True"),
        ({"top_k": 25}, "there are 24 channels"),
        ({"top_k": 0}, "Use 1 to 24"),
        ({"sampling": object(), "batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_requests_surface_before_the_model_is_touched(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        discover(NeverRuns(), **{"prompts": ["a circle"], **arguments})  # type: ignore[arg-type]
    assert says in str(caught.value)
