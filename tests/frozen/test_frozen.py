"""What is frozen stays: hashes, plans, run folders that open, and runs that say the same. See README.md.

With the environment variable DIT_LENS_FROZEN_EXACT, the folder of a corpus that this machine made, what a run
computes is compared bit for bit; else with the committed corpus, up to `PORTABLE`.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dit_lens.analysis import write_report
from dit_lens.analysis.files import packaged
from dit_lens.analysis.reading import read_spec
from dit_lens.graph.graph import InterventionGraph
from dit_lens.graph.interventions import OPERATIONS
from dit_lens.methods.answers import Results
from dit_lens.plain_yaml import load_yaml
from dit_lens.run.records import RunFolder
from tests.frozen import graphs
from tests.frozen.compare import EXACT, Tolerance, differences, sentences_agree, table_differences
from tests.frozen.corpus import (
    CELLS,
    DATA,
    GRAPHS,
    OLD,
    RUN_SPECS,
    RUNS,
    SPECS,
    graph_entry,
    open_lens,
    plan_entry,
    read_json,
    run,
    spec_entry,
)

PORTABLE = Tolerance(relative=1e-3, absolute=2.5e-4, bounds=20)
"""Last bits depend on the processor; see README.md for how far they were seen to carry."""

_GIVEN = os.environ.get("DIT_LENS_FROZEN_EXACT")
CORPUS = Path(_GIVEN) if _GIVEN else DATA
TOLERANCE = EXACT if _GIVEN else PORTABLE
if not (CORPUS / SPECS).is_file():
    raise pytest.UsageError(f"{CORPUS} holds no {SPECS}; make it: python -m tests.frozen.make --out {CORPUS}")

PROVENANCE = ("command", "started", "finished", "timings", "packages", "git", "python", "platform")
"""What a record says of its time and place, and not of its numbers."""

ALL_SECTIONS = {
    "spectrum", "ratio_map", "life", "agreement", "stability", "variance", "births", "adaln", "token_maps",
    "disruption", "bias_or_carrier", "semantics_or_detail", "single_or_all", "dose", "step_map", "final_map",
    "patch_map", "spatial", "transport_text", "transport_image", "detail_guidance",
}  # fmt: skip

opens = pytest.mark.pure
runs = pytest.mark.embedded
every_run = pytest.mark.parametrize("name", list(RUN_SPECS))


@pytest.fixture(scope="module")
def lens():
    return open_lens()


@pytest.fixture(scope="module")
def made(lens, tmp_path_factory):
    """Folders of frozen runs that are carried out anew, each once."""
    place, done = tmp_path_factory.mktemp("frozen"), {}

    def of(name: str) -> RunFolder:
        if name not in done:
            done[name] = RunFolder.read(run(name, place / name, lens))
        return done[name]

    return of


def frozen(name: str) -> RunFolder:
    return RunFolder.read(CORPUS / RUNS / name)


# ------------------------------------------------------------------------------------------- specs
@opens
def test_packaged_analyses_are_those_that_were_frozen() -> None:
    now = {name: spec_entry(name) for name in packaged()}
    before = {name: {key: each[key] for key in now[name]} for name, each in read_json(CORPUS / SPECS).items()}
    assert not differences(before, now)


@opens
def test_frozen_specs_are_read_as_before() -> None:
    for name, entry in read_json(CORPUS / SPECS).items():
        assert read_spec(entry["spec"]).hash == entry["hash"], name


@runs
def test_plans_of_frozen_specs_cost_the_same(lens) -> None:
    before = {name: each["plan"] for name, each in read_json(CORPUS / SPECS).items()}
    specs = {name: each["spec"] for name, each in read_json(CORPUS / SPECS).items()}
    assert not differences(before, {name: plan_entry(spec, lens) for name, spec in specs.items()})


# ------------------------------------------------------------------------------------------ graphs
@opens
def test_graphs_use_every_op() -> None:
    used = {edit.op.op for name in graphs.NAMES for edit in graphs.made(name).spec.edits}
    assert used == {"add", "clamp", "energy_matched", "identity", "mean", "noise", "patch", "patch_matched",
                    "resample", "scale", "token_shuffle", "zero"}  # fmt: skip
    assert used <= set(OPERATIONS)


@opens
def test_graphs_are_read_declared_and_written_as_before() -> None:
    before = read_json(CORPUS / GRAPHS)
    assert set(before) == set(graphs.NAMES)
    for name, entry in before.items():
        read, declared = InterventionGraph.from_yaml(entry["yaml"]), graphs.made(name)
        assert read.hash == declared.hash == entry["hash"], name
        assert read.to_yaml() == declared.to_yaml() == entry["yaml"], name
        assert InterventionGraph.from_data(read.to_data()).hash == entry["hash"], name


@runs
def test_plans_of_graphs_cost_the_same(lens) -> None:
    before = read_json(CORPUS / GRAPHS)
    now = {
        name: graph_entry(InterventionGraph.from_yaml(each["yaml"]), lens) for name, each in before.items()
    }
    assert not differences(before, now)


# ----------------------------------------------------------------------------------- runs that open
@opens
@every_run
def test_a_frozen_run_opens_and_its_report_shows_all_that_was_asked(name: str, tmp_path: Path) -> None:
    folder = RunFolder.read(shutil.copytree(CORPUS / RUNS / name, tmp_path / name))
    for entry in folder.images():  # the corpus keeps the index alone
        Image.new("RGB", (48, 48)).save(folder.image_path(entry))
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = write_report(folder.path, say=said.append, warn=said.append).read_text(encoding="utf-8")
    assert not said
    assert "Nothing to show here" not in page
    asked = read_spec(folder.path / "spec.yaml").sections
    assert not [section for section in asked if f'<section id="{anchor(section)}"' not in page]
    assert all(len(folder.table(table)) for table in folder.table_names)
    assert Results.load(folder.path).to_json() == folder.results_path.read_text(encoding="utf-8")
    assert folder.channels() and folder.record.status == "finished"


def anchor(section: str) -> str:
    return section.replace("_", "-")


@opens
def test_frozen_runs_ask_every_section() -> None:
    assert {each for name in RUN_SPECS for each in read_spec(RUN_SPECS[name]).sections} == ALL_SECTIONS


@opens
@every_run
def test_the_spec_of_a_frozen_run_is_read_with_the_hash_it_began_under(name: str) -> None:
    folder = frozen(name)
    assert read_spec(load_yaml(folder.spec_text, "spec.yaml")).hash == folder.record.spec_hash
    assert read_spec(RUN_SPECS[name]).hash == folder.record.spec_hash


@opens
def test_a_run_of_before_identities_opens(tmp_path: Path) -> None:
    """`old/maps.json` is the record of the run `maps` as version bb0f210 wrote it, without an identity."""
    folder = RunFolder.read(shutil.copytree(CORPUS / RUNS / "maps", tmp_path / "maps"))
    shutil.copyfile(OLD / "maps.json", folder.path / "run.json")
    said: list[str] = []
    write_report(folder.path, say=said.append, warn=said.append)
    assert not said and folder.record.identity is None


@opens
def test_results_of_before_units_and_findings_open_and_say_what_they_said(tmp_path: Path) -> None:
    """`old/stages_results.json` was written before answers held findings and effects their unit."""
    folder = RunFolder.read(shutil.copytree(CORPUS / RUNS / "stages", tmp_path / "stages"))
    shutil.copyfile(OLD / "stages_results.json", folder.results_path)
    read = json.loads(Results.load(folder.path).to_json())
    assert not differences(read_json(folder.results_path), read, may_grow=True)


# ------------------------------------------------------------------------- runs that say the same
@runs
@every_run
def test_a_run_anew_gives_the_same_record_spec_and_channels(name: str, made) -> None:
    before, now = frozen(name), made(name)
    assert now.spec_text == before.spec_text
    assert not differences(record(before), record(now))
    assert not differences(before.channels(), now.channels(), TOLERANCE)
    assert now.images() == before.images()


def record(folder: RunFolder) -> dict[str, Any]:
    return {key: value for key, value in read_json(folder.path / "run.json").items() if key not in PROVENANCE}


@runs
@every_run
def test_a_run_anew_gives_the_same_tables(name: str, made) -> None:
    before, now = frozen(name), made(name)
    assert now.table_names == before.table_names
    found = [
        each
        for table in before.table_names
        for each in table_differences(before.table(table), now.table(table), TOLERANCE, table)
    ]
    assert not found


@runs
@every_run
def test_a_run_anew_gives_the_same_verdicts_in_the_same_words(name: str, made) -> None:
    before, now = (read_json(folder.results_path) for folder in (frozen(name), made(name)))
    assert not differences(before, now, TOLERANCE)


@runs
@every_run
def test_a_run_anew_stores_its_results_at_the_same_addresses(name: str, made) -> None:
    before, now = (read_json(folder.path / CELLS) for folder in (frozen(name), made(name)))
    assert now["portable"] == before["portable"]
    if TOLERANCE.exact:
        assert now["addresses"] == before["addresses"]


# ------------------------------------------------------------------------------ the comparison itself
@opens
@pytest.mark.parametrize("tolerance", [EXACT, PORTABLE])
def test_a_changed_hash_cost_entry_or_verdict_is_found(tolerance: Tolerance) -> None:
    specs, results = read_json(DATA / SPECS), read_json(DATA / RUNS / "ablations" / "results.json")
    for data, path in (
        (specs, ("disruption", "hash")),
        (specs, ("disruption", "plan", "effects", "ablations", "block_passes")),
        (specs, ("spatial", "sections", 0)),
        (results, ("answers", 0, "outcome")),
        (results, ("answers", 0, "sentence")),
        (results, ("answers", 0, "effects", 0, "estimate")),
        (results, ("answers", 0, "effects", 0, "n")),
    ):
        assert not differences(data, data, tolerance)
        changed = with_change(data, path)
        (found,) = differences(data, changed, tolerance)
        assert str(path[-1]) in found
    fewer = {key: value for key, value in specs.items() if key != "spatial"}
    assert differences(specs, fewer, tolerance) == ["spatial is gone"]
    assert differences(fewer, specs, tolerance) == ["spatial is new"]
    assert not differences(fewer, specs, tolerance, may_grow=True)
    assert differences(specs, fewer, tolerance, may_grow=True) == ["spatial is gone"]
    assert differences([1, 2], [1, 2, 3], tolerance)


def with_change(data: Any, path: tuple[str | int, ...]) -> Any:
    """A copy of plain data with one value replaced by another of its type."""
    if not path:
        if isinstance(data, str):
            return f"{data}x"
        return data + 1 if isinstance(data, int) else data * 1.01
    copied = data.copy()
    copied[path[0]] = with_change(data[path[0]], path[1:])
    return copied


@opens
def test_a_changed_table_is_found() -> None:
    before = frozen("ablations").table("disruption")
    assert not table_differences(before, before.copy())
    assert not table_differences(before, nudged(before, 1 + 1e-6), PORTABLE)
    for tolerance, factor in ((EXACT, 1 + 1e-15), (PORTABLE, 1.01)):
        (found,) = table_differences(before, nudged(before, factor), tolerance, "disruption")
        assert found.startswith("disruption.estimate differs in 1 of")
    other = before.assign(control=before.control.where(before.index != 2, "high"))
    for changed in (other, before[::-1].reset_index(drop=True), before[:-1], before.drop(columns="metric"),
                    before[before.columns[::-1]], before.astype({"draws": "float64"})):  # fmt: skip
        assert table_differences(before, changed, PORTABLE)


def nudged(table: Any, factor: float) -> Any:
    """A copy in which the largest estimate is multiplied by a factor."""
    row = table.estimate.abs().idxmax()
    return table.assign(estimate=table.estimate.where(table.index != row, table.estimate * factor))


@opens
def test_sentences_may_move_in_their_last_digit_alone() -> None:
    before = "SSIM is 0.285 lower (95 % CI −0.183 to 0.327, n = 6 prompts, p = 0.031)."
    for now, agrees in (
        (before.replace("0.285", "0.286"), True),
        (before.replace("0.285", "0.385"), False),
        (before.replace("−0.183", "0.183"), False),
        (before.replace("6 prompts", "7 prompts"), False),
        (before.replace("lower", "higher"), False),
    ):
        assert sentences_agree(before, now, PORTABLE) is agrees
        assert differences(before, now)
    assert not sentences_agree("374386dc0e6cf3ec", "374386dc0e6cf3ed", PORTABLE)
