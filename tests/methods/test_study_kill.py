"""A study that is killed at any moment, and continued each time, gives the table of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.tiny,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed study is a forked process"),
]

# Everything is imported once; each study is a fork that the parent kills. Forks and threads do not go
# together, hence a process of its own with one thread.
PROGRAM = """
import json, os, random, signal, sys, time
from pathlib import Path

import torch

torch.set_num_threads(1)

import dit_lens as dl
from dit_lens.graph.interventions import Noise, Patch, Zero
from dit_lens.methods.arms import CLEAN, Arm, ArmEdit, ablation_arm
from dit_lens.methods.measures import Measures
from dit_lens.methods.study import run_study
from dit_lens.run.cells import CellStore
from dit_lens.zoo.random_pipelines import random_pipeline
from tests.oracles import batching_changes_bits

place, seed = Path(sys.argv[1]), int(sys.argv[2])
dice = random.Random(seed)
lens = dl.load(random_pipeline("sd3"))
lens.generate("warm", steps=1, max_sequence_length=0, progress=False)
channels = {0: (3, 9), 1: (3,), 2: (9, 4), 3: (3,)}
arms = [
    CLEAN,
    ablation_arm("massive", "massive", channels, Zero()),
    *(ablation_arm(f"random-{i}", "random", [10 + i], Zero(), draw=i) for i in range(3)),
    ablation_arm("noise", "noise", channels, Noise(0.5, seed=1)),
    ablation_arm("late", "massive", channels, Zero(), blocks=[2], steps=[2]),
    ablation_arm("step", "massive", channels, Zero(), blocks=[1], step=1, readout="step"),
    ablation_arm("patch", "patch", channels, Patch(), donor=True),
]
prompts = ["a large star", "green", "a small square", "a red circle", "blue"]
donors = {"a red circle": "blue", "blue": "a red circle", "a large star": "pink", "green": "pink",
          "a small square": "green"}


def study(store):
    return run_study(
        lens, arms, prompts, [0, 1], measures=Measures(("latent", "psnr", "velocity", "toward_latent")),
        sampling={"steps": 3, "max_sequence_length": 0}, store=store, donors=donors, progress=False,
        # By twos: with an odd number of rows one runs alone, and a row alone has other last bits.
        arms_per_forward=2,
    )


def told(result):
    rows = [[*row[:4], float(row[4]).hex()] for row in result.effects.itertuples(index=False)]
    sham = [[*row[:2], float(row[2]).hex()] for row in result.sham.itertuples(index=False)]
    return {"rows": rows, "sham": sham, "known": result.known, "computed": result.computed,
            "dropped": result.dropped, "batching": batching_changes_bits(lens)}


def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(3)
        os._exit(0)
    return pid


def ended(pid):
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    assert os.waitstatus_to_exitcode(status) == 0, "a study failed"
    return "finished"


def whole(folder, out):
    out.write_text(json.dumps(told(study(CellStore(folder)))))


def dying(folder, writes):
    # Dies at the n-th time that a file takes its place: between the results of a batch, for one.
    left = [writes]
    rename = Path.replace

    def replace(self, target):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return rename(self, target)

    Path.replace = replace
    study(CellStore(folder))


started = time.monotonic()
ended(child(lambda: whole(place / "undisturbed", place / "undisturbed.json")))
length = time.monotonic() - started

# Ten random moments. Where a study is quicker than its killer, the next kills hit another one.
kills, known = 0, [[]]
while kills < 10:
    folder = place / f"killed-{len(known) - 1}"
    pid = child(lambda: study(CellStore(folder)))
    time.sleep(dice.uniform(0.0, length / 3))
    os.kill(pid, signal.SIGKILL)
    end = ended(pid)
    kills += end == "killed"
    known[-1].append(len(CellStore(folder)))
    if end == "finished":
        known.append([])
for i in range(len(known)):
    ended(child(lambda: whole(place / f"killed-{i}", place / f"killed-{i}.json")))

# Mostly within the results of one batch. A batch of two prompts has eighteen: more have to be allowed at
# times, or it could never be finished.
writes, end = 0, "killed"
while end == "killed":
    after = dice.randrange(9) + dice.choice([0, 0, 19])
    end = ended(child(lambda: dying(place / "dying", after)))
    writes += end == "killed"
    assert writes < 200, "no progress"
ended(child(lambda: whole(place / "dying", place / "dying.json")))

temporary = [str(p) for p in place.rglob("*.tmp")]
print(json.dumps({"kills": kills, "known": known, "writes": writes, "temporary": temporary}))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What the program said, and the folder of its studies."""
    place = tmp_path_factory.mktemp("killed")
    seed = int.from_bytes(os.urandom(4), "big")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place), str(seed)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    return place, json.loads(done.stdout.splitlines()[-1])


def read(place, name):
    return json.loads((place / f"{name}.json").read_text())


def test_the_table_equals_that_of_an_undisturbed_study_row_for_row_and_bit_for_bit(killed) -> None:
    place, said = killed
    undisturbed = read(place, "undisturbed")
    for name in ("dying", *(f"killed-{i}" for i in range(len(said["known"])))):
        continued = read(place, name)
        assert continued["rows"] == undisturbed["rows"], name
        assert continued["sham"] == undisturbed["sham"], name
        assert continued["dropped"] == 0, name
    # Where batches change last bits, the sham shows it, so that equality is no accident.
    assert any(float.fromhex(row[2]) > 0 for row in undisturbed["sham"]) or not undisturbed["batching"]


def test_it_was_killed_ten_times_and_nothing_was_lost_or_counted_twice(killed) -> None:
    place, said = killed
    assert said["kills"] == 10
    for i, known in enumerate(said["known"]):
        assert known == sorted(known)
        last = read(place, f"killed-{i}")
        assert last["known"] + last["computed"] == 90
        assert last["known"] == (known[-1] if known else 0)
    assert any(0 < count < 90 for known in said["known"] for count in known), "all kills came too early"
    for name in ("undisturbed", "killed-0", "dying"):
        assert len(list((place / name / "cells").glob("*/*.json"))) == 90
        rows = [tuple(row[:4]) for row in read(place, name)["rows"]]
        assert len(set(rows)) == len(rows)


def test_it_was_killed_between_the_results_of_a_batch_too_and_left_nothing_half(killed) -> None:
    _, said = killed
    # How many depends on where the dice fall; a handful are enough to meet the middle of a batch.
    assert said["writes"] >= 3
    assert said["temporary"] == []
