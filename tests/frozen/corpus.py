"""What is frozen, and how it is made: specs with their plans, graphs with theirs, finished run folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lens.analysis import plan_analysis, run_analysis
from dit_lens.analysis.files import packaged
from dit_lens.analysis.reading import read_spec
from tests.frozen import graphs

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens

HERE = Path(__file__).parent
DATA = HERE / "data"
"""The committed corpus."""

OLD = HERE / "old"
"""Files that earlier versions wrote; they are never made anew."""

SPECS, GRAPHS, RUNS, CELLS = "specs.json", "graphs.json", "runs", "cells.json"

RUN_SPECS = {place.stem: place for place in sorted((HERE / "specs").glob("*.yaml"))}
"""Name of a frozen run → the spec behind it."""

_KEPT = ("run.json", "spec.yaml", "results.json", "channels.json", "tables/*.parquet", "images/index.json")


def open_lens() -> DiTLens:
    """The embedded model on the CPU."""
    import dit_lens

    return dit_lens.load("shapes-sd3", device="cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """How sums are cut over threads decides their last bits."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def spec_entry(name: str) -> dict[str, Any]:
    """A packaged analysis as it is read."""
    spec = read_spec(name)
    return {"hash": spec.hash, "sections": list(spec.sections), "spec": spec.as_data()}


def plan_entry(source: Any, lens: DiTLens) -> dict[str, Any]:
    """What an analysis would cost."""
    return as_json(plan_analysis(source, lens=lens).as_data())


def graph_entry(graph: Any, lens: DiTLens) -> dict[str, Any]:
    """A graph, its hash, and its costs: as usual, and with few arms per forward and no sham."""
    return {
        "hash": graph.hash,
        "plan": as_json(graph.plan(lens).as_data()),
        "plan of three arms": as_json(graph.plan(lens, arms_per_forward=3, sham=False).as_data()),
        "yaml": graph.to_yaml(),
    }


def run(name: str, out: Path, lens: DiTLens) -> Path:
    """Carry out a frozen run into a folder `out` that does not exist yet, and list its cells there."""
    with one_thread():
        run_analysis(RUN_SPECS[name], out, lens=lens, progress=False)
    write_json(out / CELLS, cells(out))
    return out


def cells(folder: Path) -> dict[str, list[str]]:
    """Addresses of a run's stored results, 16 digits each, and what they are without digests of latents.

    A picture's path is named by a digest of its latents, which another processor computes otherwise.
    """
    from dit_lens.run.cells import CellKey

    keys = [
        CellKey.model_validate(json.loads(place.read_text(encoding="utf-8"))["key"])
        for place in folder.glob("cells/*/*.json")
    ]
    portable = [
        key.model_copy(update={"donor": "path"}) if (key.donor or "").startswith("path ") else key
        for key in keys
    ]
    return {
        "addresses": sorted(key.address[:16] for key in keys),
        "portable": sorted(key.address[:16] for key in portable),
    }


def make(out: Path, lens: DiTLens) -> Iterator[str]:
    """Write the whole corpus into the folder `out`, and say what is done."""
    out.mkdir(parents=True, exist_ok=True)
    names = packaged()
    entries = {name: {**spec_entry(name), "plan": plan_entry(name, lens)} for name in names}
    write_json(out / SPECS, entries)
    yield f"{len(entries)} packaged analyses and their plans"
    write_json(out / GRAPHS, {name: graph_entry(graphs.made(name), lens) for name in graphs.NAMES})
    yield f"{len(graphs.NAMES)} intervention graphs and their plans"
    shutil.rmtree(out / RUNS, ignore_errors=True)
    for name in RUN_SPECS:
        made = run(name, out / "whole" / name, lens)
        for pattern in (*_KEPT, CELLS):
            for place in made.glob(pattern):
                target = out / RUNS / name / place.relative_to(made)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place, target)
        shutil.rmtree(out / "whole")
        yield f"run {name}: {len(list((out / RUNS / name / 'tables').iterdir()))} tables"


def as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def read_json(place: Path) -> Any:
    return json.loads(place.read_text(encoding="utf-8"))


def write_json(place: Path, value: Any) -> None:
    place.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
