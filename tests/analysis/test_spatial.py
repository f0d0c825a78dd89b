"""The spatial stage of an analysis: its spec, its price, what it leaves, and how it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from dit_lens.analysis import spatial_files
from dit_lens.analysis.spatial import SpatialSpec, plan_spatial, run_spatial
from dit_lens.analysis.spatial_files import THUMBNAIL, MaskRows, thumbnail
from dit_lens.errors import BadInput
from dit_lens.methods.channels import discover
from dit_lens.methods.controls import serving
from dit_lens.methods.spatial import RULES, Clustering, Mask
from dit_lens.methods.spatial.clustering import METHODS, NORMALISATIONS
from dit_lens.run.records import RunFolder

pytestmark = pytest.mark.tiny

CHOOSE = ("a red circle", "a blue star", "a green cross")
JUDGE = ("a red star", "a blue cross", "a green circle", "a pink ring", "a grey square")
MASKS = {p: Mask.from_tokens([i % 3, i % 3 + 4, i % 3 + 5], (4, 4)) for i, p in enumerate(CHOOSE + JUDGE)}


def truth_folder(place: Path, masks=MASKS) -> str:
    place.mkdir(exist_ok=True)
    entries = []
    for number, (prompt, mask) in enumerate(masks.items()):
        mask.save(place / f"{number}.json")
        entries.append({"prompt": prompt, "file": f"{number}.json"})
    (place / "masks.yaml").write_text(yaml.safe_dump(entries))
    return str(place)


def a_spec(truth: str, **options) -> SpatialSpec:
    small = {"controls": {"low": 1, "random": 2}, "doses": (1, 2), "overlays": 2, "prompts": 4}
    return SpatialSpec(truth=truth, **{**small, **options})


@pytest.fixture(scope="module")
def sampling(tiny_sd3_lens):
    return tiny_sd3_lens.sampling(steps=4)


@pytest.fixture(scope="module")
def stats(tiny_sd3_lens, sampling):
    return discover(tiny_sd3_lens, list(CHOOSE), sampling=sampling, progress=False)


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> str:
    return truth_folder(tmp_path_factory.mktemp("truth") / "masks")


def go(lens, spec, sampling, stats, folder, **options):
    options = {"progress": False, "batch_size": 2, **options}
    return run_spatial(
        spec, lens, sampling, stats, stats.select(top_k=3), CHOOSE, JUDGE, (0,), folder, **options
    )


# ---------------------------------------------------------------- the spec
def test_the_spec_names_what_the_library_has() -> None:
    fields = SpatialSpec.model_fields
    assert get_args(fields["normalise"].annotation) == NORMALISATIONS
    assert get_args(fields["method"].annotation) == METHODS
    assert get_args(fields["rule"].annotation) == RULES
    assert tuple(SpatialSpec().controls) == serving("spatial")
    how, spec = Clustering(), SpatialSpec()
    assert (how.normalise, how.method, how.clusters, how.rule) == (
        spec.normalise,
        spec.method,
        spec.clusters,
        spec.rule,
    )
    schema = SpatialSpec.model_json_schema()["properties"]
    assert all(schema[name].get("description") for name in fields)
    assert SpatialSpec.model_validate(json.loads(spec.model_dump_json())) == spec


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompts": 0}, "greater than or equal to 1"),
        ({"clusters": 1}, "greater than or equal to 2"),
        ({"rule": "brigther"}, "'border', 'brighter' or 'smaller'"),
        ({"controls": {}}, "at least 1 item"),
        ({"controls": {"energy_matched": 5}}, "'low', 'random' or 'random_rank_window'"),
        ({"doses": [4, 4]}, "spatial.doses holds 4 more than once"),
        ({"seeds": [1, 1]}, "spatial.seeds holds 1 more than once"),
        ({"overlay": 3}, "Extra inputs"),
    ],
)
def test_a_spec_that_says_nonsense_is_refused(given, said) -> None:
    with pytest.raises(ValidationError, match=said):
        SpatialSpec.model_validate(given)


# ---------------------------------------------------------------- the plan
def test_the_plan_counts_what_will_run(tiny_sd3_lens, sampling, stats, truth, tmp_path) -> None:
    spec = a_spec(truth)
    plan = plan_spatial(spec, tiny_sd3_lens, sampling, CHOOSE, JUDGE, (0,), top_k=3, batch_size=2)
    assert (plan.calibration, plan.held_out) == (CHOOSE, JUDGE[:4])
    assert (plan.blocks, plan.steps, plan.seeds) == ((0, 1, 2, 3), (0, 1, 2, 3), (0,))
    assert plan.forwards == (2 + 2) * 4
    assert "\n" not in str(plan)
    assert "4 prompts, 1 seed, places chosen on 3 others: 4 blocks, 4 steps, 16 forwards" in str(plan)
    assert json.loads(json.dumps(plan.as_data()))["clusterings"] == plan.clusterings
    assert plan.minutes(tiny_sd3_lens) > 0
    folder = RunFolder.create(tmp_path / "run", "a: 1")
    go(tiny_sd3_lens, spec, sampling, stats, folder)
    table = folder.table("spatial")
    places = len(folder.table("spatial_k")[["block", "step"]].drop_duplicates())
    assert len(table) == plan.clusterings if places == 2 else len(table) < plan.clusterings


def test_nothing_runs_on_bad_input(tiny_sd3_lens, sampling, truth, tmp_path, monkeypatch) -> None:
    lens = tiny_sd3_lens
    monkeypatch.setattr("dit_lens.run.runner.observe", lambda *_, **__: pytest.fail("something ran"))

    def plan(spec=None, choose=CHOOSE, judge=JUDGE, **options):
        return plan_spatial(spec or a_spec(truth), lens, sampling, choose, judge, (0,), **options)

    lacking = truth_folder(tmp_path / "lacking", {CHOOSE[0]: MASKS[CHOOSE[0]]})
    for spec, said in (
        (a_spec(truth, blocks="9"), "spatial.blocks: .*9"),
        (a_spec(truth, steps=[4]), "spatial.steps: .*4"),
        (a_spec(truth, clusters=17), "spatial.clusters: 17 clusters were asked for, of 16 tokens"),
        (a_spec(truth, branch="uncond", doses=(33,)), "spatial.doses: .*33"),
        (a_spec("pictuer"), "spatial.truth: truth is 'pictuer'"),
        (a_spec("picture"), "spatial.truth: .*48 × 48 pixels; these have 16 × 16"),
        (a_spec(lacking), "spatial.truth: There is no mask for prompt 'a blue star'"),
    ):
        with pytest.raises(BadInput, match=said):
            plan(spec)
    for options, said in (
        ({"judge": (*JUDGE, CHOOSE[0])}, "'a red circle' stands among the prompts that choose"),
        ({"judge": ()}, "spatial.prompts: there is no prompt"),
        ({"choose": ()}, "spatial.calibration: there is no prompt"),
        ({"stream": "context"}, "spatial: channels.stream is 'context'"),
        ({"top_k": 20}, "spatial.controls: "),
    ):
        with pytest.raises(BadInput, match=said):
            plan(**options)


def test_steps_may_be_written_as_anywhere_and_the_last_belongs_to_them(
    tiny_sd3_lens, sampling, truth
) -> None:
    def steps(written) -> tuple[int, ...]:
        spec = a_spec(truth, steps=written)
        return plan_spatial(spec, tiny_sd3_lens, sampling, CHOOSE, JUDGE, (0,)).steps

    assert steps(1) == (1, 3)
    assert steps("::2") == (0, 2, 3)
    assert steps(-1) == (3,)
    assert steps({"fraction": [0, 0.5]}) == (0, 1, 3)
    assert steps({"sigma": [0.99, 1.0]}) == (0, 3)


# ---------------------------------------------------------------- the run
@pytest.fixture(scope="module")
def done(tiny_sd3_lens, sampling, stats, truth, tmp_path_factory):
    """(folder, answers, what was said) of a run from start to end."""
    folder = RunFolder.create(tmp_path_factory.mktemp("done") / "run", "a: 1")
    said: list[str] = []
    answers = go(tiny_sd3_lens, a_spec(truth), sampling, stats, folder, say=said.append)
    return folder, answers, said


def test_a_run_leaves_tables_and_answers(done) -> None:
    folder, answers, said = done
    table = folder.table("spatial")
    assert set(table.study) == {"calibration", "families", "over_k"}
    assert set(table[table.study == "calibration"].prompt) == set(CHOOSE)
    assert set(table[table.study != "calibration"].prompt) == set(JUDGE[:4])
    assert set(table[table.study == "calibration"].family) == {"massive"}
    families = table[table.study == "families"]
    assert set(families.family) == {"massive", "low", "random", "all", "all_but_massive"}
    assert not table.family.str.contains("/").any()
    # Every family everywhere; further draws of a control only at the steps where claims are judged.
    judged = folder.table("spatial_k")[["block", "step"]].drop_duplicates()
    first = families[families.draw == 0]
    assert all(set(own.step) == {0, 1, 2, 3} for _, own in first.groupby("family"))
    assert set(families[families.draw > 0].step) == set(judged.step)
    assert set(families[families.draw > 0].family) == {"random"}
    over_k = table[table.study == "over_k"]
    assert set(over_k[over_k.family == "massive"].k) == {1, 2, 4, 8, 16, 32}
    assert folder.table("spatial_blocks").n.eq(4).all()
    assert answers[0].primary
    assert {each.question for each in answers} == {"spatial"}
    assert "spatial.outline" in [each.name for each in answers]
    assert any(line.startswith("Spatial: 3 prompts choose block") for line in said)


def test_judged_prompts_have_no_part_in_the_choice(
    tiny_sd3_lens, sampling, stats, truth, tmp_path, done
) -> None:
    """Other truths for the judged prompts: other verdicts, the same place."""
    turned = {p: m.complement() if p in JUDGE else m for p, m in MASKS.items()}
    folder = RunFolder.create(tmp_path / "run", "a: 1")
    go(tiny_sd3_lens, a_spec(truth_folder(tmp_path / "t", turned)), sampling, stats, folder)
    place = ["block", "step"]
    here, there = (each.table("spatial_k") for each in (folder, done[0]))
    assert here[place].drop_duplicates().equals(there[place].drop_duplicates())
    assert not here["mean"].equals(there["mean"])
    means = done[0].table("spatial").query("study == 'calibration'").groupby(place).iou.mean()
    first = tuple(there[place].iloc[0])
    assert means[first] == means.max()


def test_a_run_that_was_cut_off_goes_on(
    tiny_sd3_lens, sampling, stats, truth, tmp_path, monkeypatch, done
) -> None:
    place = tmp_path / "run"
    folder = RunFolder.create(place, "a: 1")
    real, saves = MaskRows._save, []

    def failing(rows, *arguments) -> None:
        real(rows, *arguments)
        saves.append(len(rows.table()))
        if len(saves) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(MaskRows, "_save", failing)
    with pytest.raises(KeyboardInterrupt):
        go(tiny_sd3_lens, a_spec(truth), sampling, stats, folder)
    monkeypatch.setattr(MaskRows, "_save", real)
    assert len(folder.table("spatial")) == saves[2]
    again = RunFolder.create(place, "a: 1", resume=True)
    said: list[str] = []
    answers = go(tiny_sd3_lens, a_spec(truth), sampling, stats, again, say=said.append)
    for name in ("spatial", "spatial_blocks", "spatial_k"):
        assert again.table(name).equals(done[0].table(name)), name
    assert answers == done[1]
    # Three calibration prompts and the first batch of judged ones.
    assert "5 samples kept from the earlier run" in said[-1]
    assert [e.file for e in again.images()] == [e.file for e in done[0].images()]


def test_what_is_there_is_not_run_again(tiny_sd3_lens, sampling, stats, truth, monkeypatch, done) -> None:
    folder, answers, _ = done
    monkeypatch.setattr(tiny_sd3_lens, "prepare_rows", lambda *_: pytest.fail("something ran"))
    assert go(tiny_sd3_lens, a_spec(truth), sampling, stats, folder) == answers
    before = folder.table("spatial")
    with pytest.raises(pytest.fail.Exception, match="something ran"):
        go(tiny_sd3_lens, a_spec(truth, rule="smaller"), sampling, stats, folder)
    assert folder.table("spatial").equals(before)


def test_the_pictures_of_masks(done) -> None:
    folder, _, _ = done
    entries = [entry for entry in folder.images() if entry.kind == "mask"]
    assert {entry.prompt for entry in entries} == set(JUDGE[:2])
    own = [entry for entry in entries if entry.prompt == JUDGE[0]]
    step = int(folder.table("spatial_k").step.iloc[0])
    assert [entry.caption for entry in own[:2]] == ["generated image", "true mask"]
    table = folder.table("spatial").query(
        f"study == 'families' and family == 'massive' and step == {step} and prompt == {JUDGE[0]!r}"
    )
    expected = [f"after block {row.block}, step {step}, IoU {row.iou:.2f}" for row in table.itertuples()]
    assert [entry.caption for entry in own[2:]] == expected
    assert len(expected) == 4


def test_large_pictures_are_reduced_and_small_ones_left() -> None:
    from PIL import Image

    assert thumbnail(Image.new("RGB", (1024, 512))).size == (THUMBNAIL, THUMBNAIL // 2)
    assert thumbnail(Image.new("RGB", (48, 48))).size == (48, 48)


def test_no_channels_and_no_subject(tiny_sd3_lens, sampling, stats, truth, tmp_path, monkeypatch) -> None:
    folder = RunFolder.create(tmp_path / "run", "a: 1")
    said: list[str] = []
    nothing = stats.select(rule="2402.17762")
    assert nothing.is_empty
    spec = a_spec(truth)
    answers = run_spatial(
        spec, tiny_sd3_lens, sampling, stats, nothing, CHOOSE, JUDGE, (0,), folder, say=said.append
    )
    assert answers == ()
    assert said == ["Spatial: no channel passes the rule, so there is nothing to cluster by."]
    assert folder.table_names == ()

    from dit_lens.methods.spatial import FunctionTruth

    monkeypatch.setattr(
        "dit_lens.methods.spatial.as_truth", lambda _: FunctionTruth(lambda sample: None, "nobody")
    )
    with pytest.raises(
        BadInput, match=r"spatial\.truth: nobody finds no subject in any of the 3 calibration"
    ):
        go(tiny_sd3_lens, spec, sampling, stats, folder)


def test_without_overlays_and_with_files_no_picture_is_made(
    tiny_sd3_lens, sampling, stats, truth, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(tiny_sd3_lens, "decode", lambda latents: pytest.fail("a picture was made"))
    folder = RunFolder.create(tmp_path / "run", "a: 1")
    assert go(tiny_sd3_lens, a_spec(truth, overlays=0), sampling, stats, folder)
    assert folder.images() == ()


def test_rows_of_another_version_are_made_again(tmp_path, done) -> None:
    folder = RunFolder.create(tmp_path / "run", "a: 1")
    folder.write_table(spatial_files.TABLE, done[0].table("spatial").drop(columns="dropped"))
    assert MaskRows(folder, Clustering()).table().empty
    folder.write_table(spatial_files.TABLE, done[0].table("spatial"))
    assert len(MaskRows(folder, Clustering()).table()) == len(done[0].table("spatial"))
    assert MaskRows(folder, Clustering(clusters=3)).table().empty


# ---------------------------------------------------------------- the trained model
@pytest.mark.embedded
def test_the_stage_on_the_trained_model_and_its_section(embedded_lens, tmp_path) -> None:
    from dit_lens.report.section import RunView
    from dit_lens.report.spatial_sections import spatial
    from dit_lens.zoo.scenes import sample_scenes

    lens = embedded_lens
    captions = list(dict.fromkeys(scene.caption for scene in sample_scenes(12, seed=3)))
    choose, judge = captions[:3], captions[3:9]
    stats = discover(lens, choose, progress=False)
    spec = SpatialSpec(
        blocks="6-7", steps=[5], controls={"low": 1, "random": 1}, doses=(4,), dose_draws=1, overlays=1
    )
    folder = RunFolder.create(tmp_path / "run", "a: 1")
    answers = run_spatial(
        spec, lens, lens.defaults, stats, stats.select(top_k=4), choose, judge, (0,), folder, progress=False
    )
    assert {"spatial.outline", "spatial.exclusive"} <= {each.name for each in answers}
    blocks = folder.table("spatial_blocks")
    level = blocks[(blocks.block == 7) & (blocks.step == 5)].set_index("family")["mean"]
    assert level["massive"] > level[["low", "random"]].max() + 0.2
    section = spatial(RunView(folder))
    assert "generated image" in section.extra
    assert section.conclusion.startswith("After block")
    assert np.isfinite(blocks.loc[blocks.n > 1, "ci_low"]).all()
