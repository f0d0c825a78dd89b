"""The benchmark counts what it says it counts, and its three programs compute the same map."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from itertools import product
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import dit_lens as dl

pytestmark = pytest.mark.embedded

FOLDER = Path(__file__).parent.parent / "analyses"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("benchmark")
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("benchmark", "benchmark_programs"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def found(bench):
    return bench.benchmark(steps=2, arms_per_forward=1, progress=False)


def test_three_programs_compute_the_same_map_and_ours_reaches_the_floor(found):
    whole = found["map"]
    blocks, steps = 8, 2
    floor = steps * blocks * (blocks - 1) // 2 + blocks**2 * steps * (steps - 1) // 2 + steps * blocks
    everything = blocks**2 * steps**2 + steps * blocks
    assert (whole["floor"], whole["without_reuse"], whole["cells"]) == (floor, everything, blocks * steps)
    passes = {name: each["block_passes"] for name, each in whole["programs"].items()}
    assert passes == {"dit_lens": floor, "hooks": everything, "nnsight": everything}
    for each in whole["programs"].values():
        # One arm per forward: nothing that a batch could round.
        assert each["latents_apart"] == 0.0
        assert each["pixels_apart"] == 0
        assert len(each["seconds"]) == 1 and each["seconds"][0] > 0
        assert each["dit_lens_takes"]["block_passes"] == floor / each["block_passes"]
    # Far from the full size, where the share is 0.50, and on a machine that may be busy: less time, no more.
    assert whole["programs"]["hooks"]["dit_lens_takes"]["processor_seconds"] < 0.9


def test_the_clean_path_is_the_pipelines(found):
    clean = found["clean"]
    assert clean["equal"]
    # The claim is 1.10; a test on a busy machine only shows that nothing grew out of hand.
    assert clean["generate_takes"]["processor_seconds"] < 1.5


def test_edits_do_something_and_a_batch_differs_by_little(bench):
    whole = bench.benchmark(steps=1, arms_per_forward=3, channels=(5, 60), progress=False)["map"]
    assert whole["programs"]["hooks"]["forwards"] == 1 + 3
    assert whole["programs"]["hooks"]["latents_apart"] < 1e-3
    programs = sys.modules["benchmark_programs"]
    task = programs.Task(((7, 0), (0, 0)), 8, 1, 4.5, 2, (5, 60))
    lens = dl.load("shapes-sd3")
    latents = programs.with_hooks(lens.pipeline, 0)(task, lambda work: None).latents
    assert not torch.equal(latents[1], latents[0]) and not torch.equal(latents[2], latents[0])


def test_the_formulas_are_what_plans_reach(bench, tiny_sd3_lens):
    assert bench.floor(8, 20) == 12_880 and bench.without_reuse(8, 20) == 25_760
    for steps in (1, 3):
        g = dl.InterventionGraph(sampling={"steps": steps})
        for block, step in product(range(4), range(steps)):
            arm = g.trajectory(prompt="x", seed=0)
            g.edit(arm, at=f"blocks.{block}.resid_post.image", op="zero", channels=[0], steps=[step])
        plan = g.plan(tiny_sd3_lens, sham=False)
        assert plan.block_passes == bench.floor(4, steps)
        assert plan.passes_without_reuse == bench.without_reuse(4, steps)


def test_programs_take_turns_and_never_run_at_once(bench):
    inside, order, most = [], [], []

    def program(name, units):
        def run(tell):
            for _ in range(units):
                inside.append(name)
                most.append(len(inside))
                order.append(name)
                inside.remove(name)
                tell(10)
            return name.upper()

        return run

    told = []
    baton = bench.Baton({"a": 100, "b": 300}, told.append)
    assert baton.run({"a": program("a", 10), "b": program("b", 30)}) == {"a": "A", "b": "B"}
    assert max(most) == 1 and sum(told) == 400
    # Side by side: neither is done before the other is well under way.
    assert {"a", "b"} == set(order[:3]) and order[:20].count("b") == pytest.approx(15, abs=2)
    assert baton.clocks["b"].done == 300 and threading.active_count() < 50

    def fails(tell):
        tell(50)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        bench.Baton({"a": 100, "b": 300}, told.append).run({"a": fails, "b": program("b", 30)})


def test_the_command_line(bench, found, monkeypatch):
    asked = []

    def stand_in(model, **more):
        asked.append((model, more))
        return found

    monkeypatch.setattr(bench, "benchmark", stand_in)
    runner = CliRunner(env={"COLUMNS": "140"})
    shown = runner.invoke(bench.app, ["--full", "--channels", "3, 7"])
    assert shown.exit_code == 0
    assert asked[0][0] == "shapes-sd3"
    assert (asked[0][1]["steps"], asked[0][1]["channels"]) == (None, (3, 7))
    for part in ("dit_lens takes", "hooks", "nnsight", "Floor of block passes", "are equal"):
        assert part in shown.output
    assert json.loads(runner.invoke(bench.app, ["--json"]).stdout)["map"]["cells"] == 16
    wrong = runner.invoke(bench.app, ["--channels", "x"])
    assert wrong.exit_code == 2 and "write channel numbers with commas" in wrong.output
    usage = runner.invoke(bench.app, ["--help"])
    assert usage.exit_code == 0 and "python analyses/benchmark.py" in usage.output
