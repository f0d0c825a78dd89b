"""A declared analysis on a random model: what it leaves, what it refuses, how it goes on."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import dit_lens
from dit_lens.analysis import plan_analysis, run_analysis, write_report
from dit_lens.analysis.reading import read_spec
from dit_lens.analysis.run import spec_text
from dit_lens.analysis.spec import CHANNEL_SECTIONS
from dit_lens.errors import BadInput, RunFailure
from dit_lens.run.records import RunFolder

pytestmark = pytest.mark.tiny

SPEC = {
    "name": "small",
    "question": "Does a random model have massive channels?",
    "model": "a lens that is open already",
    "prompts": ["a large red plain star in the centre on a white background", "<script>alert(1)</script>"],
    "seeds": [0, 1],
    "sampling": {"steps": 2, "guidance_scale": 3.0, "max_sequence_length": 0},
    "channels": {"top_k": 3},
    "samples": {"count": 2, "blocks": "1-2", "steps": "all"},
}


@pytest.fixture(scope="module")
def run(tiny_sd3_lens: dit_lens.DiTLens, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "small"
    return RunFolder.read(run_analysis(SPEC, out, lens=tiny_sd3_lens, progress=False))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_leaves_tables_images_channels_and_a_report(run: RunFolder) -> None:
    assert set(run.table_names) == set(CHANNEL_SECTIONS)
    assert all(len(run.table(name)) for name in run.table_names)
    assert [(entry.prompt, entry.seed) for entry in run.images()] == [(p, 0) for p in SPEC["prompts"]]
    channels = run.channels()
    assert channels is not None
    assert {len(chosen) for chosen in channels["blocks"].values()} == {3}
    assert run.report_path.stat().st_size > 100_000


def test_the_record_says_what_ran(run: RunFolder, tiny_sd3_lens: dit_lens.DiTLens) -> None:
    record = run.record
    assert record.status == "finished"
    assert (record.model, record.fingerprint) == (tiny_sd3_lens.name, tiny_sd3_lens.fingerprint)
    assert record.seeds == (0, 1)
    assert record.sampling["steps"] == 2
    assert {"discovery", "tables", "token maps", "images"} <= set(record.timings)


def test_token_maps_cover_the_grid_of_each_sample(run: RunFolder, tiny_sd3_lens: dit_lens.DiTLens) -> None:
    maps = run.table("token_maps")
    rows, columns = tiny_sd3_lens.token_grid()
    assert set(maps["block"]) == {1, 2}
    assert set(maps["step"]) == {0, 1}
    assert (maps.groupby(["prompt_index", "seed", "block", "step", "channel"]).size() == rows * columns).all()


def test_the_written_spec_repeats_the_run(
    run: RunFolder, tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path
) -> None:
    again = RunFolder.read(
        run_analysis(run.path / "spec.yaml", tmp_path / "again", lens=tiny_sd3_lens, progress=False)
    )
    assert again.channels() == run.channels()
    for name in run.table_names:
        assert again.table(name).equals(run.table(name)), name
    ours, theirs = files(run.path), files(again.path)
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing <= {"run.json", "report.html"}, "only times and the command may differ"


def test_hostile_prompts_stay_text(run: RunFolder) -> None:
    html = run.report_path.read_text(encoding="utf-8")
    assert "<script>alert(1)</script>" not in html


def test_resuming_recomputes_nothing_that_is_there(
    run: RunFolder, tiny_sd3_lens: dit_lens.DiTLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(run.path)
    said: list[str] = []

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the transformer ran")

    forbidden.lens_identity = ""  # type: ignore[attr-defined]
    monkeypatch.setattr(tiny_sd3_lens.pipeline.transformer, "forward", forbidden)
    run_analysis(SPEC, run.path, lens=tiny_sd3_lens, progress=False, say=said.append)
    assert any("holds a finished run of this spec" in line for line in said)
    assert any("kept from the earlier run" in line for line in said)
    assert RunFolder.read(run.path).record.status == "finished"
    assert "discovery" in run.record.timings
    after = files(run.path)
    assert {name for name in after if after[name] != before.get(name)} <= {"run.json", "report.html"}


def test_a_run_that_was_cut_off_goes_on(
    run: RunFolder, tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cut"

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dit_lens.methods.token_maps.token_maps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_analysis(SPEC, out, lens=tiny_sd3_lens, progress=False)
    record = RunFolder.read(out).record
    assert (record.status, record.failure) == ("failed", "interrupted")
    assert not (out / "report.html").exists()
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]

    def again(*_: object, **__: object) -> None:
        raise AssertionError("discovery ran again")

    with monkeypatch.context() as patch:
        patch.setattr("dit_lens.methods.channels.discover", again)
        run_analysis(SPEC, out, lens=tiny_sd3_lens, progress=False)
    finished = RunFolder.read(out)
    assert finished.record.status == "finished"
    assert finished.channels() == run.channels()


def test_another_models_results_are_not_continued(
    run: RunFolder, make_pipeline, tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run_analysis({**SPEC, "sections": ["spectrum"]}, out, lens=tiny_sd3_lens, progress=False)
    pipeline = make_pipeline("sd3")
    pipeline.transformer.pos_embed.proj.bias.data += 1
    other = dit_lens.load(pipeline)
    before = files(out)
    with pytest.raises(BadInput, match=r"other weights.*--fresh"):
        run_analysis({**SPEC, "sections": ["spectrum"]}, out, lens=other, progress=False)
    assert files(out) == before
    run_analysis({**SPEC, "sections": ["spectrum"]}, out, lens=other, resume=False, progress=False)
    assert RunFolder.read(out).record.fingerprint == other.fingerprint


def test_a_run_whose_record_is_broken_goes_on_with_a_word_about_it_and_no_other_weights(
    make_pipeline, tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path
) -> None:
    out, spec = tmp_path / "run", {**SPEC, "sections": ["spectrum"], "samples": {"count": 0}}
    run_analysis(spec, out, lens=tiny_sd3_lens, progress=False)
    statistics = files(out / "statistics")
    (out / "run.json").write_text('{"schema_version": 1, "na')
    said: list[str] = []
    run_analysis(spec, out, lens=tiny_sd3_lens, progress=False, say=said.append)
    assert any("run.json cannot be read as JSON" in line and "writes it anew" in line for line in said)
    assert "Discovery: kept from the earlier run." in said
    assert RunFolder.read(out).record.status == "finished" and files(out / "statistics") == statistics
    pipeline = make_pipeline("sd3")
    pipeline.transformer.pos_embed.proj.bias.data += 1
    (out / "run.json").write_text("")
    with pytest.raises(BadInput, match=r"other weights.*--fresh"):
        run_analysis(spec, out, lens=dit_lens.load(pipeline), progress=False)
    assert (out / "run.json").read_text() == ""


def test_a_spec_edited_in_its_folder_is_not_taken_for_that_of_the_run(
    tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path
) -> None:
    # Why: the folder's spec was compared with itself, and the report told the new one of the old results.
    out, spec = tmp_path / "run", {**SPEC, "sections": ["spectrum"], "samples": {"count": 0}}
    run_analysis(spec, out, lens=tiny_sd3_lens, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(out)
    began = RunFolder.read(out).record.spec_hash
    assert began == read_spec(out / "spec.yaml").hash == read_spec(spec).hash
    edited = (out / "spec.yaml").read_text(encoding="utf-8").replace("a large red", "a small blue")
    (out / "spec.yaml").write_text(edited, encoding="utf-8")
    before = files(out)
    with pytest.raises(BadInput, match=r"edited after.*what differs: prompts\).*--fresh.*--out"):
        run_analysis(out / "spec.yaml", out, lens=tiny_sd3_lens, progress=False)
    assert files(out) == before
    with pytest.warns(UserWarning, match=f"spec.yaml was edited after the run.*{began}") as warned:
        write_report(out)
    assert [each.filename for each in warned] == [__file__]
    said: list[str] = []
    write_report(out, warn=said.append)
    assert len(said) == 1
    run_analysis(out / "spec.yaml", out, lens=tiny_sd3_lens, progress=False, resume=False)
    fresh = RunFolder.read(out)
    assert fresh.record.prompts[0].startswith("a small blue") and fresh.record.spec_hash != began
    assert any(each != before[name] for name, each in files(out).items() if name.startswith("statistics/"))


def test_a_run_from_before_the_hash_was_kept_goes_on(tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path) -> None:
    out, spec = tmp_path / "run", {**SPEC, "sections": ["spectrum"], "samples": {"count": 0}}
    run_analysis(spec, out, lens=tiny_sd3_lens, progress=False)
    record = json.loads((out / "run.json").read_text())
    del record["spec_hash"]
    (out / "run.json").write_text(json.dumps(record))
    said: list[str] = []
    write_report(out, warn=said.append)
    run_analysis(spec, out, lens=tiny_sd3_lens, progress=False, say=said.append)
    assert "Discovery: kept from the earlier run." in said and not any("edited" in line for line in said)
    assert RunFolder.read(out).record.spec_hash == read_spec(spec).hash


@pytest.mark.parametrize("resume", [True, False])
def test_a_newer_versions_run_is_left_alone(
    resume: bool, tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, spec = tmp_path / "run", {**SPEC, "sections": ["spectrum"], "samples": {"count": 0}}
    RunFolder.create(out, spec_text(read_spec(spec)))
    (out / "run.json").write_text('{"schema_version": 99}')
    before = files(out)
    monkeypatch.setattr("dit_lens.methods.channels.discover", lambda *_, **__: pytest.fail("something ran"))
    with pytest.raises(BadInput, match=r"schema_version 99.*pip install --upgrade") as refused:
        run_analysis(spec, out, lens=tiny_sd3_lens, resume=resume, progress=False)
    assert refused.value.exit_status == 2 and files(out) == before


def test_only_the_sections_asked_for_are_made(tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path) -> None:
    spec = {**SPEC, "sections": ["spectrum", "variance"], "samples": {"count": 0}}
    folder = RunFolder.read(run_analysis(spec, tmp_path / "two", lens=tiny_sd3_lens, progress=False))
    assert set(folder.table_names) == {"spectrum", "variance"}
    assert folder.images() == ()
    html = folder.report_path.read_text(encoding="utf-8")
    assert 'id="spectrum"' in html
    assert 'id="births"' not in html


def test_a_rule_that_finds_nothing_is_an_answer(tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path) -> None:
    spec = {**SPEC, "channels": {"rule": "2402.17762"}}
    folder = RunFolder.read(run_analysis(spec, tmp_path / "none", lens=tiny_sd3_lens, progress=False))
    channels = folder.channels()
    assert channels is not None
    assert not any(channels["blocks"].values())
    assert folder.report_path.exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("channels.top_k=33", ["channels.top_k", "32"]),
        ("samples.blocks=9", ["samples.blocks", "0 to 3"]),
        ("samples.steps=7", ["samples.steps", "0 to 1"]),
        ("channels.steps='3:9'", ["channels.steps", "0 to 1"]),
        ("channels.steps={sigma: [5, 6]}", ["channels.steps", "sigma"]),
        ("sampling.height=17", ["sampling", "multiples of"]),
        ("channels.stream=context", ["token_maps", "stream: image"]),
        ("sampling.max_sequence_length=9999", ["sampling", "512"]),
    ],
)
def test_a_spec_that_does_not_fit_the_model_is_refused_before_anything_is_written(
    tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path, override: str, expected: list[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(BadInput) as caught:
        run_analysis(SPEC, out, overrides=[override], lens=tiny_sd3_lens, progress=False)
    for part in expected:
        assert part in str(caught.value)
    assert not out.exists()


def test_the_unconditional_branch_needs_guidance(tiny_sd3_lens: dit_lens.DiTLens) -> None:
    with pytest.raises(BadInput, match=r"channels\.branch.*guidance_scale above 1"):
        plan_analysis(
            SPEC, overrides=["channels.branch=uncond", "sampling.guidance_scale=1"], lens=tiny_sd3_lens
        )


def test_the_plan_counts_the_forwards_that_run(
    tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_analysis(SPEC, overrides=["batch_size=3"], lens=tiny_sd3_lens)
    assert (plan.samples, plan.rows_per_forward) == (4, 6)
    assert json.loads(json.dumps(plan.as_data()))["hash"] == plan.spec.hash
    count = 0
    forward = tiny_sd3_lens.pipeline.transformer.forward

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal count
        count += 1
        return forward(*args, **kwargs)

    counted.lens_identity = ""  # type: ignore[attr-defined]
    monkeypatch.setattr(tiny_sd3_lens.pipeline.transformer, "forward", counted)
    run_analysis(SPEC, tmp_path / "run", overrides=["batch_size=3"], lens=tiny_sd3_lens, progress=False)
    assert count == plan.forwards + plan.sample_forwards


def test_planned_memory_is_what_the_statistics_hold(tiny_sd3_lens: dit_lens.DiTLens) -> None:
    from dit_lens.methods.channel_pass import ChannelPass, points_to_read
    from dit_lens.run.runner import observe

    plan = plan_analysis(SPEC, lens=tiny_sd3_lens)
    reducer = ChannelPass(tiny_sd3_lens.num_channels, 1, 3)
    batch = tiny_sd3_lens.prepare(SPEC["prompts"][:1], [0], plan.sampling)
    reducer.begin([(0, 0)])
    observe(tiny_sd3_lens, batch, points_to_read(tiny_sd3_lens.hook_points), reducer.visit)
    reducer.end()
    assert 0.5 < plan.statistics_bytes / reducer.nbytes < 1.5


def test_nan_ends_the_run_with_a_record_and_no_report(make_pipeline, tmp_path: Path) -> None:
    pipeline = make_pipeline("sd3")
    lens = dit_lens.load(pipeline)
    pipeline.transformer.transformer_blocks[1].ff.net[2].bias.data[5] = float("nan")
    with pytest.raises(RunFailure, match=r"NaN|not finite|infinite"):
        run_analysis(SPEC, tmp_path / "run", lens=lens, progress=False)
    record = RunFolder.read(tmp_path / "run").record
    assert record.status == "failed"
    assert "RunFailure" in str(record.failure)
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_report_is_rebuilt_from_its_folder(run: RunFolder) -> None:
    before = run.report_path.read_bytes()
    run.report_path.unlink()
    assert write_report(run.path) == run.report_path
    assert run.report_path.read_bytes() == before


def test_dual_attention_models_run_too(tiny_sd35_lens: dit_lens.DiTLens, tmp_path: Path) -> None:
    folder = RunFolder.read(run_analysis(SPEC, tmp_path / "run", lens=tiny_sd35_lens, progress=False))
    assert "attn2" in set(folder.table("births")["writer"])
