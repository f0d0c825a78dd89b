"""Effect questions of a declared analysis, on a random model: what they leave, refuse and take up again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import dit_lens
from dit_lens.analysis import plan_analysis, run_analysis, write_report
from dit_lens.analysis.effects import studies
from dit_lens.analysis.reading import read_spec
from dit_lens.analysis.spec import EFFECT_SECTIONS, split
from dit_lens.errors import BadInput
from dit_lens.methods.answers import Results
from dit_lens.run.records import RunFolder

pytestmark = pytest.mark.tiny

SPEC = {
    "name": "effects",
    "model": "a lens that is open already",
    "prompts": ["a star", "a circle"],
    "seeds": [0, 1],
    "sampling": {"steps": 2, "guidance_scale": 3.0, "max_sequence_length": 0},
    "channels": {"top_k": 2},
    "samples": {"count": 0},
    "sections": ["spectrum", *EFFECT_SECTIONS],
    "effects": {
        "prompts": ["a square", "a <b>cross</b>", "a diamond"],
        "seeds": [3],
        "controls": {"low": 1, "random": 2, "energy_matched": 1},
        "doses": [1, 2],
        "gallery": 1,
        "maps": {"prompts": 2, "final_prompts": 1, "final_steps": [0], "pairs": 1, "blocks": "1-2"},
        "pairs": [["a red star", "a blue star"], ["a red circle", "a blue circle"]],
    },
}


def tables(folder: RunFolder) -> dict[str, pd.DataFrame]:
    return {name: folder.table(name) for name in folder.table_names}


@pytest.fixture(scope="module")
def run(tiny_sd3_lens: dit_lens.DiTLens, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "effects"
    return RunFolder.read(run_analysis(SPEC, out, lens=tiny_sd3_lens, progress=False))


def test_every_section_has_its_table_and_an_answer(run: RunFolder) -> None:
    assert {"spectrum", *EFFECT_SECTIONS, "effects", "arms", "sham"} == set(run.table_names)
    results = Results.load(run.path)
    assert {answer.question for answer in results.answers} == set(EFFECT_SECTIONS)
    assert all(answer.sentence for answer in results.answers)
    assert results.prompts == 3
    assert results.seeds == (3,)
    assert results.sham_difference is not None


def test_the_report_tells_the_verdicts_and_keeps_prompts_inert(run: RunFolder) -> None:
    page = run.report_path.read_text(encoding="utf-8")
    for section in EFFECT_SECTIONS:
        assert f'id="{section.replace("_", "-")}"' in page
    assert 'id="life"' not in page, "a section that was not asked for"
    assert "<b>cross</b>" not in page


def test_effects_are_measured_on_held_out_prompts_alone(run: RunFolder) -> None:
    effects, arms = run.table("effects"), run.table("arms")
    ablations = effects[effects["study"] == "ablations"]
    assert set(ablations["prompt"]) == set(SPEC["effects"]["prompts"])  # type: ignore[index]
    assert set(effects.loc[effects["study"] == "step_map", "prompt"]) == {"a square", "a <b>cross</b>"}
    assert set(effects.loc[effects["study"] == "patch_map", "prompt"]) == {"a red star", "a blue star"}
    assert run.record.prompts == ("a star", "a circle")
    assert set(effects["arm"]) <= set(arms["arm"])
    assert not ablations.duplicated(["arm", "prompt", "seed", "metric"]).any()


def test_the_gallery_holds_every_arm_of_one_prompt_once(run: RunFolder) -> None:
    pictures = [entry for entry in run.images() if entry.kind == "arm"]
    arms = run.table("arms")
    of_ablations = set(arms.loc[arms["study"] == "ablations", "arm"])
    assert {entry.caption for entry in pictures} == of_ablations
    assert {(entry.prompt, entry.seed) for entry in pictures} == {("a square", 3)}
    assert len(pictures) == len(of_ablations)


def test_a_second_run_computes_nothing_and_a_fresh_one_the_same(
    run: RunFolder, tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(run)
    results = (run.path / "results.json").read_bytes()
    fresh = RunFolder.read(
        run_analysis(run.path / "spec.yaml", tmp_path / "fresh", lens=tiny_sd3_lens, progress=False)
    )
    assert (fresh.path / "results.json").read_bytes() == results

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the transformer ran")

    forbidden.lens_identity = ""  # type: ignore[attr-defined]
    monkeypatch.setattr(tiny_sd3_lens.pipeline.transformer, "forward", forbidden)
    run_analysis(SPEC, run.path, lens=tiny_sd3_lens, progress=False)
    assert (run.path / "results.json").read_bytes() == results
    for name, table in before.items():
        pd.testing.assert_frame_equal(run.table(name), table)
        pd.testing.assert_frame_equal(fresh.table(name), table)


def test_a_run_that_is_not_resumed_forgets_its_cells_and_is_priced_anew(
    tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path
) -> None:
    spec = {**SPEC, "sections": ["dose"], "effects": {**SPEC["effects"], "limit": 1}}  # type: ignore[dict-item]
    said: list[str] = []
    how = {"lens": tiny_sd3_lens, "progress": False, "timing": True, "say": said.append}
    for _ in range(2):
        run_analysis(spec, tmp_path / "run", resume=False, **how)
    assert not any("are known" in line for line in said)
    assert sum(line.startswith("  time        about ") for line in said) == 2
    said.clear()
    run_analysis(spec, tmp_path / "run", **how)
    assert any("are known" in line for line in said)
    assert not any(line.startswith("  time ") for line in said), "what is left was not priced"


def test_a_report_is_rebuilt_with_its_verdicts(run: RunFolder) -> None:
    page = run.report_path.read_bytes()
    run.report_path.unlink()
    assert write_report(run.path).read_bytes() == page


def test_a_rule_that_finds_nothing_leaves_nothing_to_edit(
    tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path
) -> None:
    said: list[str] = []
    spec = {**SPEC, "channels": {"rule": "2402.17762"}, "sections": ["spectrum", "disruption"]}
    place = run_analysis(spec, tmp_path / "run", lens=tiny_sd3_lens, progress=False, say=said.append)
    assert any("nothing to edit or to follow" in line for line in said)
    assert not (place / "results.json").exists()
    assert "No channel passes the rule" in (place / "report.html").read_text(encoding="utf-8")


def test_the_plan_counts_the_passes_that_run(
    tiny_sd3_lens: dit_lens.DiTLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {**SPEC, "sections": ["disruption", "final_map"]}
    plan = plan_analysis(spec, lens=tiny_sd3_lens)
    rows = 0
    for block in tiny_sd3_lens.pipeline.transformer.transformer_blocks:
        # Skipping replaces a block's own forward; what is inside runs only if the block does.
        forward = block.attn.forward

        def counted(*args: object, _forward: object = forward, **kwargs: object) -> object:
            nonlocal rows
            rows += kwargs["hidden_states"].shape[0]  # type: ignore[attr-defined]
            return _forward(*args, **kwargs)  # type: ignore[operator]

        counted.lens_identity = ""  # type: ignore[attr-defined]
        monkeypatch.setattr(block.attn, "forward", counted)
    run_analysis(spec, tmp_path / "run", lens=tiny_sd3_lens, progress=False)
    discovery = plan.samples * 2 * tiny_sd3_lens.num_blocks * 2
    effects = sum(each.block_passes for _, each in plan.effects) * 2  # both branches are rows
    assert rows == discovery + effects
    assert plan.as_data()["effects"]["final_map"]["prompts"] == 1
    assert plan.minutes(tiny_sd3_lens) > 0
    assert "final_map" in str(plan)


def test_a_plan_says_where_no_verdict_is_possible(tiny_sd3_lens: dit_lens.DiTLens) -> None:
    judged = [f"a {colour} star" for colour in ("red", "green", "blue", "yellow", "black", "purple")]
    effects = {**SPEC["effects"], "prompts": judged}  # type: ignore[dict-item]
    spec = {**SPEC, "sections": ["disruption", "final_map"], "effects": effects}
    lines = str(plan_analysis(spec, lens=tiny_sd3_lens)).splitlines()
    few = [line for line in lines if "too few" in line]
    assert few == ["  too few     no p-value can reach 0.05 on fewer than 6 prompts: final_map 1"]
    only = {**spec, "sections": ["disruption"]}
    only["effects"] = {key: effects[key] for key in ("prompts", "seeds", "controls")}
    assert "too few" not in str(plan_analysis(only, lens=tiny_sd3_lens))


def test_prompts_are_split_where_none_are_held_out() -> None:
    spec = read_spec({**SPEC, "sections": ["disruption"], "effects": {"limit": 1}, "prompts": list("abcd")})
    chosen, judged = split(spec)
    assert len(chosen) == 2
    assert len(judged) == 2
    assert not set(chosen) & set(judged)
    assert studies(spec)[0].prompts == judged[:1]
    assert studies(spec)[0].seeds == (0,)
    assert split(read_spec({**SPEC, "sections": ["spectrum"], "effects": {}}))[0] == ("a star", "a circle")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("effects.prompts=['a star']", "must be held out"),
        ("effects.op=zer", "Did you mean 'zero'?"),
        (
            "effects.op={op: clamp, quantile: 0.9}",
            "edit is {op: clamp, quantile: 0.9}. Leave energy_matched out",
        ),
        ("effects.op={op: clamp, quantile: 0.9} effects.controls={low: 1}", "discovery keeps means"),
        ("effects.op={op: patch}", "donor"),
        ("effects.controls={randon: 2}", "Did you mean 'random'?"),
        ("effects.controls={random: 5000}", "1000"),
        ("effects.doses=[1, 40]", "40"),
        ("effects.steps='5:9'", "0 to 1"),
        ("effects.branch=left", "branch"),
        ("effects.metrics=[ssmi]", "Did you mean 'ssim'?"),
        ("effects.metrics=[semantics]", "embedded model"),
        ("effects.alignment=no/such/clip", "no/such/clip"),
        ("effects.maps.blocks=7", "0 to 3"),
        ("effects.maps.steps=9", "0 to 1"),
        ("effects.pairs=[['a', 'b'], ['b', 'c']] effects.maps.pairs=2", "'b' stands in two places"),
        ("effects.pairs=[['a']]", "effects.pairs.0"),
        ("effects.gallery=99", "16"),
        ("sections=[spectrum]", "no section asks for effects"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs_or_is_written(
    tiny_sd3_lens: dit_lens.DiTLens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    override: str,
    expected: str,
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the transformer ran")

    forbidden.lens_identity = ""  # type: ignore[attr-defined]
    monkeypatch.setattr(tiny_sd3_lens.pipeline.transformer, "forward", forbidden)
    overrides = [f"effects.{part}" if i else part for i, part in enumerate(override.split(" effects."))]
    with pytest.raises(BadInput) as caught:
        run_analysis(SPEC, tmp_path / "run", overrides=overrides, lens=tiny_sd3_lens, progress=False)
    assert expected in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_damaged_results_file_costs_the_verdicts_only(run: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    data = json.loads((copy / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps({**data, "schema_version": 99}))
    with pytest.warns(UserWarning, match="schema_version 99") as warned:
        page = write_report(copy).read_text(encoding="utf-8")
    assert [warning.filename for warning in warned] == [__file__], (
        "the warning names who asked for the report"
    )
    assert "schema_version 99" in page
