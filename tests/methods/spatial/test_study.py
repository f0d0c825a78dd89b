"""Masks harvested while a model runs, the study's table, and where the trained model stands."""

from __future__ import annotations

import numpy as np
import pytest

from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph
from dit_lens.methods.channel_sets import ChannelSet
from dit_lens.methods.channels import discover
from dit_lens.methods.spatial.clustering import Clustering, segment
from dit_lens.methods.spatial.families import (
    ChannelFamily,
    as_families,
    channel_families,
    families_over_k,
)
from dit_lens.methods.spatial.harvest import Place, plan_harvest, segment_prompt, segment_samples
from dit_lens.methods.spatial.masks import Mask
from dit_lens.methods.spatial.overlap import chance_iou, overlap
from dit_lens.methods.spatial.study import COLUMNS, best_place, spatial_study
from dit_lens.model.hook_points import HookPoint
from dit_lens.run.runner import observe, run

pytestmark = pytest.mark.tiny

PROMPTS = ("a red circle", "a blue star", "a green cross")
SAMPLING = {"steps": 3}
CHANNELS = {0: (1, 5, 9), 3: (2, 3)}
CENTRE = Mask.from_tokens([5, 6, 9, 10], (4, 4))


@pytest.fixture(scope="module")
def stats(tiny_sd3_lens):
    return discover(tiny_sd3_lens, list(PROMPTS), sampling=SAMPLING, progress=False)


def study(lens, families=None, prompts=PROMPTS, **options):
    options = {"truth": dict.fromkeys(PROMPTS, CENTRE), "sampling": SAMPLING, "progress": False, **options}
    return spatial_study(lens, families or {"mine": CHANNELS}, prompts, **options)


# ---------------------------------------------------------------- harvest
def test_a_harvested_mask_is_the_mask_of_the_activations(tiny_sd3_lens) -> None:
    lens = tiny_sd3_lens
    plan = plan_harvest(
        lens, {"mine": CHANNELS}, PROMPTS, (0, 4), steps=[0, 2], branch="both", sampling=SAMPLING
    )
    kept = {}
    batch = lens.prepare(PROMPTS, (0, 4), plan.sampling)
    points = [HookPoint("resid_post", block, "image") for block in CHANNELS]
    observe(lens, batch, points, lambda at, x: kept.update({at: x.clone()}), steps=[0, 2])
    samples = list(segment_samples(lens, plan))
    assert [(each.prompt, each.seed) for each in samples] == [(p, s) for p in PROMPTS for s in (0, 4)]
    for row, sample in enumerate(samples):
        assert len(sample.masks) == 2 * 2 * 2
        for at, values in kept.items():
            channels = CHANNELS[at.point.block]
            place = Place("mine", 0, len(channels), at.point.block, at.step, at.branch)
            expected = segment(values[row][:, channels], (4, 4), image_size=(16, 16))
            assert sample.masks[place].mask == expected
            assert sample.picture is None
    assert plan.clusterings == sum(len(each.masks) for each in samples)


def test_pictures_are_those_of_the_plain_run(tiny_sd3_lens) -> None:
    lens = tiny_sd3_lens
    plan = plan_harvest(lens, {"mine": CHANNELS}, PROMPTS[:2], (1,), steps=[0], sampling=SAMPLING)
    plain = lens.generate(PROMPTS[:2], [1], **SAMPLING, progress=False)
    samples = list(segment_samples(lens, plan, pictures=True))
    for sample, image in zip(samples, plain.images, strict=True):
        assert np.abs(np.asarray(sample.picture, float) - np.asarray(image, float)).max() <= 1
        mask = next(iter(sample.masks.values())).mask
        assert mask.overlay(sample.picture).size == image.size


def test_one_prompt_for_a_first_look(tiny_sd3_lens) -> None:
    seen = segment_prompt(tiny_sd3_lens, CHANNELS, PROMPTS[1], 4, steps=[0, 2], sampling=SAMPLING)
    plan = plan_harvest(
        tiny_sd3_lens, {"massive": CHANNELS}, PROMPTS[1:2], (4,), steps=[0, 2], sampling=SAMPLING
    )
    (sample,) = segment_samples(tiny_sd3_lens, plan)
    assert seen.masks == sample.masks
    assert seen.at(block=3, step=2) == sample.masks[Place("massive", 0, 2, 3, 2, "cond")].mask
    assert seen.picture is not None
    assert seen.picture.size == (16, 16)
    with pytest.raises(BadInput, match="There are 2 masks at family massive, block 3, and one must be meant"):
        seen.at(block=3)
    with pytest.raises(BadInput, match="There are 0 masks"):
        seen.at(block=1, step=2)
    with pytest.raises(BadInput, match="no 'layer'"):
        seen.at(layer=3)
    with pytest.raises(BadInput, match="give one caption"):
        segment_prompt(tiny_sd3_lens, CHANNELS, list(PROMPTS))


def test_what_the_model_does_not_have_is_refused(tiny_sd3_lens) -> None:
    def plan(families=None, prompts=PROMPTS, **options):
        return plan_harvest(
            tiny_sd3_lens, families or {"mine": CHANNELS}, prompts, sampling=SAMPLING, **options
        )

    assert plan(blocks="all").blocks == plan().blocks == (0, 3)
    assert plan().steps == (2,)
    for options, said in (
        ({"blocks": [1, 2]}, "asked for are 1, 2"),
        ({"blocks": [9]}, "9"),
        ({"steps": [3]}, "3"),
        ({"branch": "neither"}, "No branch 'neither'"),
        ({"prompts": []}, "No prompts"),
        ({"families": {"mine": {0: (99,)}}}, "names channel 99; .* has 0 to 31"),
    ):
        with pytest.raises(BadInput, match=said):
            plan(**options)
    with pytest.raises(BadInput, match="16 tokens"):
        next(segment_samples(tiny_sd3_lens, plan(), Clustering(clusters=17)))


# ---------------------------------------------------------------- families
def test_the_usual_families(stats) -> None:
    massive = stats.select(top_k=4)
    families = channel_families(
        massive, stats, controls_drawn={"low": 1, "random": 3, "random_rank_window": 2}
    )
    assert [(f.name, f.draw) for f in families] == [
        ("massive", 0),
        ("low", 0),
        *(("random", draw) for draw in range(3)),
        *(("random_rank_window", draw) for draw in range(2)),
        ("all", 0),
        ("all_but_massive", 0),
    ]
    by_name = {(f.name, f.draw): f for f in families}
    for block, chosen in massive.blocks.items():
        assert set(by_name["all", 0].blocks[block]) == set(range(32))
        assert set(by_name["all_but_massive", 0].blocks[block]) == set(range(32)) - set(chosen)
        for each in families[:-2]:
            assert each.k(block) == 4
            assert each.name == "massive" or not set(each.blocks[block]) & set(chosen)


def test_families_over_k_are_ranked_as_the_set_was(stats) -> None:
    massive = stats.select(top_k=2, statistic="mean_abs", blocks=[1, 3])
    families = families_over_k(massive, stats, [32, 1, 4, 1], controls_drawn={"random": 2})
    assert [(f.name, f.draw, f.k(1)) for f in families] == [
        ("massive", 0, 1),
        ("random", 0, 1),
        ("random", 1, 1),
        ("massive", 0, 4),
        ("random", 0, 4),
        ("random", 1, 4),
        ("massive", 0, 32),
    ]
    assert families[3].blocks == stats.select(top_k=4, statistic="mean_abs", blocks=[1, 3]).blocks


def test_families_that_make_no_sense(stats) -> None:
    massive = stats.select(top_k=4)
    with pytest.raises(BadInput, match="'energy_matched' is no choice of channels"):
        channel_families(massive, stats, controls_drawn={"energy_matched": 1})
    with pytest.raises(BadInput, match="context stream"):
        channel_families(stats.select(top_k=4, stream="context"), stats)
    with pytest.raises(BadInput, match="context stream"):
        as_families({"words": stats.select(top_k=4, stream="context")})
    with pytest.raises(BadInput, match="no channel in any block"):
        ChannelFamily("none", {0: ()})
    with pytest.raises(BadInput, match="No channel family"):
        as_families([])
    with pytest.raises(BadInput, match="stands twice with 1 channels in block 0"):
        as_families([ChannelFamily("mine", {0: (1,)}), ChannelFamily("mine", {0: (2,)})])
    with pytest.raises(BadInput, match="give a ChannelSet"):
        as_families({"mine": 3})
    assert [f.draw for f in as_families({"mine": [{0: (1,)}, {0: (2,)}]})] == [0, 1]
    assert isinstance(massive, ChannelSet)
    assert as_families({"mine": massive})[0].blocks == massive.blocks


# ---------------------------------------------------------------- the table
def test_the_table(tiny_sd3_lens) -> None:
    seen = []
    table = study(
        tiny_sd3_lens,
        seeds=(0, 1),
        steps=[1, 2],
        on_sample=lambda sample, truth: seen.append((sample, truth)),
    )
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 3 * 2 * 2 * 2 == sum(len(sample.masks) for sample, _ in seen)
    assert table.isna().sum().sum() == 0
    assert set(table.k) == {2, 3}
    row = table.iloc[5]
    sample = next(s for s, _ in seen if (s.prompt, s.seed) == (row.prompt, row.seed))
    mask = sample.masks[Place("mine", 0, row.k, row.block, row.step, "cond")].mask
    each = overlap(mask, CENTRE)
    assert (row.iou, row.precision, row.recall) == (each.iou, each.precision, each.recall)
    assert row.chance == chance_iou(int(mask.values.sum()), 4, 16)
    assert (row.foreground_share, row.truth_share, row.everything) == (mask.share, 0.25, 0.25)
    assert all(truth == CENTRE for _, truth in seen)


def test_the_truth_is_looked_at_after_the_fact_only(tiny_sd3_lens) -> None:
    here, there = (
        study(tiny_sd3_lens),
        study(tiny_sd3_lens, truth=dict.fromkeys(PROMPTS, CENTRE.complement())),
    )
    assert here.foreground_share.equals(there.foreground_share)
    assert not here.iou.equals(there.iou)


def test_batches_and_order_do_not_matter(tiny_sd3_lens) -> None:
    together, alone = study(tiny_sd3_lens), study(tiny_sd3_lens, batch_size=1)
    assert together.drop(columns="iou").shape == alone.drop(columns="iou").shape
    backwards = study(tiny_sd3_lens, prompts=PROMPTS[::-1], batch_size=1)
    order = ["prompt", "seed", "family", "draw", "block", "step"]
    assert alone.sort_values(order, ignore_index=True).equals(backwards.sort_values(order, ignore_index=True))


def test_a_sample_without_a_truth_has_no_overlap(tiny_sd3_lens) -> None:
    table = study(tiny_sd3_lens, truth=lambda sample: CENTRE if sample.prompt == PROMPTS[0] else None)
    known = table.prompt == PROMPTS[0]
    measured = ["iou", "precision", "recall", "chance", "everything", "truth_share"]
    assert table[known][measured].notna().all(axis=None)
    assert table[~known][measured].isna().all(axis=None)
    assert table.foreground_share.notna().all()


def test_a_run_without_pictures_ends_after_its_last_read(tiny_sd3_lens, monkeypatch) -> None:
    monkeypatch.setattr(tiny_sd3_lens, "decode", lambda latents: pytest.fail("a picture was made"))
    assert len(study(tiny_sd3_lens, steps=[0])) == 6


def test_nothing_runs_on_bad_input(tiny_sd3_lens, monkeypatch) -> None:
    monkeypatch.setattr(tiny_sd3_lens, "prepare_rows", lambda *_: pytest.fail("something ran"))
    for options, said in (
        ({"truth": {PROMPTS[0]: CENTRE}}, "no mask for prompt 'a blue star'"),
        ({"truth": "picture"}, "48 × 48 pixels; these have 16 × 16"),
        ({"prompts": [PROMPTS[0], PROMPTS[0]]}, "stands twice"),
        ({"how": Clustering(clusters=17)}, "17 clusters were asked for, of 16 tokens"),
    ):
        with pytest.raises(BadInput, match=said):
            study(tiny_sd3_lens, **options)


def test_the_best_place_is_that_of_the_mean(tiny_sd3_lens) -> None:
    table = study(tiny_sd3_lens, steps=[0, 1, 2])
    block, step = best_place(table, "mine")
    means = {key: rows.iou.mean() for key, rows in table.groupby(["block", "step"])}
    assert means[block, step] == max(means.values())
    with pytest.raises(BadInput, match="No finite IoU of family 'massive' in this table; it has: mine"):
        best_place(table)


# ---------------------------------------------------------------- masks in edits
def test_a_mask_edits_its_tokens_and_no_others(tiny_sd3_lens) -> None:
    def final(tokens) -> np.ndarray:
        graph = InterventionGraph(sampling=SAMPLING)
        target = graph.trajectory(prompt=PROMPTS[0], seed=0)
        graph.edit(target, at="blocks.1.resid_post.image", op="zero", tokens=tokens, channels=[3, 4])
        return run(tiny_sd3_lens, graph, progress=False, images=False)[target].latents.numpy()

    full = Mask(np.ones((4, 4), bool))
    assert np.array_equal(final(CENTRE), final(list(CENTRE.tokens)))
    assert np.array_equal(final(full), final("all"))
    assert not np.array_equal(final(CENTRE), final(CENTRE.complement()))
    with pytest.raises(BadInput, match="was made for 2 × 8 tokens"):
        final(Mask(np.eye(2, 8, dtype=bool)))
    # An empty mask edits nothing, bit for bit.
    graph = InterventionGraph(sampling=SAMPLING)
    unedited = graph.trajectory(prompt=PROMPTS[0], seed=0)
    plain = run(tiny_sd3_lens, graph, progress=False, images=False)[unedited].latents.numpy()
    assert np.array_equal(final(Mask(np.zeros((4, 4), bool))), plain)


# ---------------------------------------------------------------- the trained model
@pytest.mark.embedded
def test_massive_channels_of_the_trained_model_outline_the_subject(embedded_lens) -> None:
    from dit_lens.zoo.scenes import sample_scenes

    lens = embedded_lens
    # Small subjects have four tokens or so, and two clusters of tokens often miss them.
    scenes = [scene for scene in sample_scenes(20, seed=3) if scene.size != "small"]
    prompts = [scene.caption for scene in scenes[:6]]
    stats = discover(lens, prompts[:2], progress=False)
    families = channel_families(stats.select(top_k=4), stats, controls_drawn={"low": 1, "random": 3})
    table = spatial_study(lens, families, prompts, blocks=[7], steps=[5], progress=False)
    mean = table.groupby("family").iou.mean()
    chance = table.groupby("family").chance.mean()
    assert mean["massive"] > 0.5 > max(mean["low"], mean["random"])
    assert mean["massive"] > chance["massive"] + 0.3
    # Nor is the outline theirs alone.
    assert mean["all_but_massive"] > 0.5
    other = Clustering(rule="brighter")
    by_paper = spatial_study(lens, families[:1], prompts, blocks=[7], steps=[5], how=other, progress=False)
    assert by_paper.iou.mean() < mean["massive"]
