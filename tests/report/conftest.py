"""A run folder of synthetic rows: every table of a run, from a seed, in its exact columns."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dit_lens.methods.answers import RESULTS, Results
from dit_lens.report import build_comparison, build_report
from dit_lens.run.provenance import GitState
from dit_lens.run.records import RunFolder
from dit_lens.run.run_record import RunRecord
from tests.report.browser import Visit, chromium, visits
from tests.report.synthetic_carry import carry_tables, write_carried
from tests.report.synthetic_cells import arms, write_cells
from tests.report.synthetic_effects import arm_picture, effect_tables, results, write_arms
from tests.report.synthetic_spatial import spatial_tables, write_masks

HOSTILE = '<script>alert(1)</script> "quoted" <b>%{x}</b> $x$ & </script><img src=x onerror=alert(2)>'
PROMPTS = ("a large red circle on a blue background", HOSTILE)
BLOCKS, STEPS, CHANNELS, GRID, K = 8, 10, 128, 12, 4
SITES = [(stream, branch) for stream in ("image", "context") for branch in ("cond", "uncond")]
SIGMA = np.linspace(1.0, 0.1, STEPS)


def _massive(block: int) -> list[int]:
    return [81, 17, 40, 5] if block else [3, 81, 99, 17]


def synthetic_tables(seed: int = 0) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, object]]] = {
        name: []
        for name in (
            "spectrum", "ratio_map", "life", "stability", "agreement", "variance", "births", "adaln",
            "token_maps",
        )
    }  # fmt: skip
    for stream, branch in SITES:
        site = {"stream": stream, "branch": branch}
        for block in range(BLOCKS - (stream == "context")):
            value = rng.lognormal(0, 0.5, CHANNELS)
            value[_massive(block)] *= [1 + 2 * block, 1 + block, 2.5, 2]
            order = np.argsort(-value)
            for statistic, factor in (("abs_mean", 1.0), ("mean_abs", 1.1)):
                for rank, channel in enumerate(order, start=1):
                    rows["spectrum"].append(
                        {**site, "block": block, "rank": rank, "channel": channel, "statistic": statistic,
                         "value": factor * value[channel], "ratio": value[channel] / np.median(value)}
                    )  # fmt: skip
            for step in range(STEPS):
                when = {"step": step, "sigma": SIGMA[step], "block": block, "statistic": "abs_mean"}
                for position, channel in enumerate(_massive(block)):
                    ratio = (1 + 2 * block / (position + 1)) * (0.6 + step / STEPS) * rng.uniform(0.9, 1.1)
                    entry = {**site, **when, "channel": channel, "value": 2 * ratio, "ratio": ratio}
                    rows["life"].append(entry)
                    if position == 0:
                        rows["ratio_map"].append(entry)
            for axis in ("prompt", "seed", "step", "block"):
                jaccard = np.nan if axis == "seed" and stream == "context" else rng.uniform(0.6, 1)
                rows["stability"].append(
                    {
                        **site,
                        "axis": axis,
                        "block": block,
                        "k": K,
                        "jaccard": jaccard,
                        "chance": 0.016,
                        "n": 6,
                    }
                )
            rows["agreement"].append(
                {**site, "block": block, "k": K, "jaccard": rng.choice([1.0, 0.6]), "chance": 0.016}
            )
            for channel in _massive(block):
                where = {**site, "block": block, "channel": channel}
                shares = rng.dirichlet([4, 1, 1, 0.5, 6])
                for source, share in zip(
                    ("step", "prompt", "seed", "interaction", "token"), shares, strict=True
                ):
                    rows["variance"].append({**where, "source": source, "share": share})
                for writer in ("attn", "mlp", "embed") if block == 0 else ("attn", "mlp"):
                    size = rng.exponential(1 + 6 * (channel == 81 and block == 1 and writer == "mlp"))
                    rows["births"].append(
                        {
                            **where,
                            "writer": writer,
                            "value": size,
                            "rank": int(rng.integers(1, 60)),
                            "share": 0.1,
                        }
                    )
                for signal in ("shift_attn", "scale_attn", "gate_attn", "shift_mlp", "scale_mlp", "gate_mlp"):
                    percentile = 100 * rng.beta(4 if "gate" in signal else 1.5, 1)
                    rows["adaln"].append({**where, "signal": signal, "value": 0.3, "percentile": percentile})
    across, down = np.meshgrid(np.arange(GRID), np.arange(GRID))
    for index, prompt in enumerate(PROMPTS):
        for block in (1, 4):
            for channel in _massive(block):
                blob = np.exp(-((across - 4 - index) ** 2 + (down - 6) ** 2) / 8) * block
                grid = blob + rng.normal(0, 0.1, blob.shape)
                for row, col in np.ndindex(GRID, GRID):
                    rows["token_maps"].append(
                        {"prompt": prompt, "prompt_index": index, "seed": 0, "stream": "image",
                         "branch": "cond", "block": block, "step": STEPS - 1, "channel": channel,
                         "row": row, "col": col, "value": grid[row, col]}
                    )  # fmt: skip
    return {name: pd.DataFrame(entries) for name, entries in rows.items()}


def picture(index: int, size: int = 48) -> Image.Image:
    """A disc on a background: something to look at where a generated image would be."""
    across, down = np.meshgrid(np.arange(size), np.arange(size))
    inside = (across - 18 - 4 * index) ** 2 + (down - 26) ** 2 < 144
    colours = np.array([[40, 70, 160], [205, 60, 50]], dtype=np.uint8)
    return Image.fromarray(colours[inside.astype(int)])


def write_run(path: Path, tables: dict[str, pd.DataFrame], **record: object) -> Path:
    folder = RunFolder.create(path, f"# {HOSTILE}\nseeds: [0, 1]\n")
    for name, table in tables.items():
        folder.write_table(name, table)
    folder.write_channels(
        {
            "schema_version": 1, "model": "shapes-sd3", "statistic": "abs_mean", "stream": "image",
            "selection": {"top_k": K}, "provenance": {},
            "blocks": {str(block): _massive(block) for block in range(BLOCKS)},
        }
    )  # fmt: skip
    for index, prompt in enumerate(PROMPTS):
        folder.write_image(f"sample_{index}", picture(index), prompt=prompt, seed=0, caption=HOSTILE)
    known: dict[str, object] = {
        "name": "massive_activations", "title": "Massive activations in shapes-sd3",
        "question": "Which channels are massive, where do they come from, and what do they depend on?",
        "command": f"dit-lens run '{HOSTILE}'", "status": "finished",
        "started": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        "finished": datetime(2026, 1, 2, 3, 6, 45, tzinfo=timezone.utc),
        "model": "shapes-sd3", "fingerprint": "ab" * 32, "device": "cpu", "dtype": "float32",
        "prompts": PROMPTS, "seeds": (0, 1), "sampling": {"steps": STEPS, "guidance_scale": 4.5},
        "timings": {"load": 1.25, "discover": 150.0, "report": 2.5}, "packages": {"torch": "2.13.0"},
        "git": GitState(commit="c" * 40, branch="main", dirty=True), "python": "3.11.7", "platform": "Linux",
    }  # fmt: skip
    folder.write_record(RunRecord.model_validate({**known, **record}))
    return path


@pytest.fixture(scope="session")
def tables() -> dict[str, pd.DataFrame]:
    return synthetic_tables()


@pytest.fixture(scope="session")
def effects() -> dict[str, pd.DataFrame]:
    return effect_tables()


@pytest.fixture(scope="session")
def run_dir(
    tmp_path_factory: pytest.TempPathFactory,
    tables: dict[str, pd.DataFrame],
    effects: dict[str, pd.DataFrame],
) -> Path:
    """A finished run in a folder whose own name is hostile, with all tables, images, verdicts; read only."""
    path = write_run(
        tmp_path_factory.mktemp("runs") / 'it\'s "a" <run>',
        {**tables, **effects, **spatial_tables(), **carry_tables(), "arms": arms()},
    )
    folder = RunFolder(path)
    write_masks(folder, PROMPTS)
    write_arms(folder, PROMPTS)
    write_cells(folder, PROMPTS)
    write_carried(folder, (PROMPTS, (HOSTILE, "another target")))
    write_carried(folder, (("", PROMPTS[0]),), begin="carry-image")
    write_carried(folder, (("", PROMPTS[0]),), begin="guide", kind="guide")
    folder.write_image("hostile", arm_picture(0, 9), prompt=HOSTILE, seed=0, caption=HOSTILE, kind="arm")
    results().save(path / RESULTS)
    return path


@pytest.fixture(scope="session")
def report(run_dir: Path) -> Path:
    """The report of `run_dir`; read only."""
    return build_report(run_dir)


@pytest.fixture(scope="session")
def html(report: Path) -> str:
    """The text of that report."""
    return report.read_text(encoding="utf-8")


@pytest.fixture
def make_run(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Write a run of the tables given."""

    def make(tables: dict[str, pd.DataFrame], **record: object) -> Path:
        return write_run(tmp_path / "run", tables, **record)

    return make


OTHER = "another 'run' <b>"


@pytest.fixture(scope="session")
def other_dir(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second run: other verdicts, channels, pictures, spec and versions; read only."""
    path = tmp_path_factory.mktemp("others") / OTHER
    shutil.copytree(run_dir, path)
    folder = RunFolder(path)
    record = folder.record
    folder.write_record(
        record.model_copy(
            update={
                "title": HOSTILE,
                "fingerprint": "cd" * 32,
                "packages": {"torch": "2.14.0"},
                "seeds": (0, 2),
            }
        )
    )
    channels = folder.channels()
    assert channels is not None
    folder.write_channels({**channels, "blocks": {**channels["blocks"], "3": [81, 17, 40, 6]}})
    spec = f"# {HOSTILE}\nseeds: [0, 2]\nsampling: {{steps: 8}}\n"
    (path / "spec.yaml").write_text(spec, encoding="utf-8")
    before, answers = Results.load(run_dir).answers[0], results(seed=3).answers
    outcome = "undecided" if before.outcome == "supported" else "supported"
    changed = answers[0].model_copy(update={"outcome": outcome, "claim": HOSTILE})
    own = answers[-1].model_copy(update={"name": f"only here {HOSTILE}", "claim": HOSTILE})
    results(seed=3).model_copy(update={"answers": (changed, *answers[1:-1], own)}).save(path / RESULTS)
    return path


@pytest.fixture(scope="session")
def comparison(run_dir: Path, other_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison of both runs, the hostile one first; read only."""
    return build_comparison(other_dir, run_dir, tmp_path_factory.mktemp("pages") / "a 'b' <c>.html")


# ------------------------------------------------------------------------------------------------ in Chromium
@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Callable[..., Visit]]:
    """Open the report at a width and in a mode."""
    with visits(browser) as open_page:
        yield lambda width=1280, mode="light": open_page(report, width, mode)


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Open any page."""
    with visits(browser) as opening:
        yield opening
