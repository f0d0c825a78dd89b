"""Studies of carrying: right numbers, nothing computed twice, pictures as donors, faults found first."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.methods.distances import share_of_the_way
from dit_lens.methods.measures import Measures
from dit_lens.methods.placeholder_statistics import placeholder_statistics
from dit_lens.methods.questions import Setting
from dit_lens.methods.regions import region_change
from dit_lens.methods.spatial import Mask
from dit_lens.methods.transport import Blend, Carry, CarryStudy, Case, Donor, curve_carries, family_carries
from dit_lens.methods.transport import study as module
from dit_lens.methods.transport.arms import carried_families, token_numbers
from dit_lens.methods.transport.pairs import groups_of, read_pairs
from dit_lens.methods.transport.pictures import Paths, Picture, rendered, subject, tokens_of
from dit_lens.model.given import GivenPath
from dit_lens.run.cells import CellStore

pytestmark = pytest.mark.tiny

WITH_A_MASK = ("change_inside", "change_outside")

SAMPLING = {"steps": 3, "guidance_scale": 4.5, "max_sequence_length": 0}
PROMPTS = ("a red circle", "blue")
MEASURES = Measures(["toward_latent", "latent"])


@pytest.fixture
def lens(tiny_sd3_lens):
    return tiny_sd3_lens


@pytest.fixture
def setting(lens):
    stats = placeholder_statistics(lens, lens.sampling(**SAMPLING), np.linspace(1, 0, 4))
    return Setting(
        massive=stats.select(top_k=2),
        stats=stats,
        num_blocks=lens.num_blocks,
        num_steps=3,
        controls={"random": 2},
    )


def pair_study(lens, carries, seeds=(0,), measures=MEASURES, **more):
    bundles = tuple(
        tuple(
            Case(PROMPTS[i], seed, Donor.of_prompt(PROMPTS[1 - i]), carries, "pair-000", "all", side)
            for i, side in enumerate(("backward", "forward"))
        )
        for seed in seeds
    )
    return CarryStudy(lens, bundles, lens.sampling(**SAMPLING), measures, **more)


# ------------------------------------------------------------------------------------------------ arms
def test_every_family_has_its_arms_and_every_draw_its_own(setting) -> None:
    carries = family_carries(setting, carried_families())
    assert [carry.name for carry in carries] == [
        "massive.s-1", "low.s-1", "random-0.s-1", "random-1.s-1", "random_rank_window-0.s-1",
        "energy_matched-0.s-1", "all.s-1", "all_but_massive.s-1",
    ]  # fmt: skip
    edits = {carry.name: carry.does.edits[0] for carry in carries}
    assert edits["energy_matched-0.s-1"].channels == edits["random-0.s-1"].channels
    assert edits["energy_matched-0.s-1"].op.op == "patch_matched" and edits["all.s-1"].channels == "all"
    massive, rest = (edits[name].channels.blocks[1] for name in ("massive.s-1", "all_but_massive.s-1"))
    assert sorted([*massive, *rest]) == list(range(setting.stats.num_channels))


def test_curves_vary_one_thing_at_a_time(setting) -> None:
    axes = {"blocks": [2], "steps": [(0, 0.5), (0.5, 1)], "k": [4, 1], "part": ["mean"]}
    carries = curve_carries(setting, axes, k_families=("massive", "random"))
    assert [(c.axis, c.at, c.family) for c in carries if c.axis != "blocks"] == [
        ("steps", "0–1", "massive"), ("steps", "2–2", "massive"),
        ("k", "1", "massive"), ("k", "4", "massive"), ("k", "1", "random"), ("k", "4", "random"),
        ("part", "mean", "massive"),
    ]  # fmt: skip
    ranges = [c.does.edits[0].at for c in carries if c.axis == "blocks"]
    assert sum(map(len, ranges)) == setting.num_blocks and not set(ranges[0]) & set(ranges[1])
    assert carries[-1].does.edits[0].op.part == "mean"
    assert {len(c.does.edits[0].channels.blocks[0]) for c in carries if c.at == "4"} == {4}


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda s: family_carries(s, ["masive"]), "no family 'masive'.*Did you mean 'massive'"),
        (lambda s: family_carries(s, ["massive"], strengths=[1.5]), "strength is 1.5; it lies between"),
        (lambda s: curve_carries(s, {"depth": [1]}), "no axis 'depth'"),
        (lambda s: curve_carries(s, {"steps": [(0.4, 0.45)]}), "hold none of its 3"),
        (lambda s: Blend("alpha_blend", 0.5), "no blend 'alpha_blend'"),
        (lambda s: Blend("pixel_blend", -0.1), "lies between 0 and 1"),
        (lambda s: Case("a", 0, Donor.of_prompt("a"), (), "u", "all", "forward"), "its own source"),
        (lambda s: Case("a", 0, Donor.of_prompt("b"), (), "u", "all", "forward", "sky"), "no mask 'sky'"),
        (lambda s: read_pairs([("a", "b"), ("c", "a")], attributes=False), "'a' stands in two places"),
        (lambda s: read_pairs([("a red star", "a red star on the left")]), "differ in no attribute"),
        (lambda s: read_pairs([]), "No pairs"),
    ],
)
def test_what_cannot_be_carried_is_refused(setting, make_it, message) -> None:
    with pytest.raises(BadInput, match=message):
        make_it(setting)


def test_pairs_are_grouped_by_what_differs() -> None:
    pairs = read_pairs(
        [("a red star", "a blue star"), ("a small red cross", "a large blue cross"), ("a circle", "a square")]
    )
    assert [pair.group for pair in pairs] == ["colour", "all", "shape"]
    assert groups_of(pairs) == ("shape", "colour", "all")
    assert pairs[0].ends("forward") == ("a blue star", "a red star") == pairs[0].ends("backward")[::-1]
    assert token_numbers(np.array([[True, False], [False, True]])) == (0, 3)
    assert token_numbers([2, 5]) == (2, 5)


# ----------------------------------------------------------------------------------------------- study
def test_numbers_are_those_of_the_runs_and_both_directions_share_a_graph(lens, setting, tmp_path) -> None:
    carries = family_carries(setting, ["massive"])
    study = pair_study(lens, carries)
    graph, paths = study.graph(study.bundles[0])
    assert not paths and len(graph.spec.trajectories) == 4
    import dit_lens as dl

    done = dl.run(lens, graph, images=False, progress=False)
    ends = {name: done[name].latents[-1:] for name in ("run-0", "run-1", "0.massive.s-1")}
    way = share_of_the_way(ends["0.massive.s-1"], ends["run-0"], ends["run-1"])[0]
    found = study.run(CellStore(tmp_path), progress=False)
    rows = found.effects.query("metric == 'toward_latent' and side == 'backward'")
    assert rows["value"].item() == pytest.approx(way, abs=1e-9) and way != 0
    assert found.computed == 2 and found.sham_difference is not None


def test_what_is_known_is_not_run_again_and_what_is_damaged_is(lens, setting, tmp_path, monkeypatch) -> None:
    carries = (
        *family_carries(setting, ["massive", "low"]),
        Carry(Blend("prompt_blend", 0.5), "prompt_blend", 0.5),
    )
    store = CellStore(tmp_path)
    whole = pair_study(lens, carries, seeds=(0, 1)).run(progress=False)
    # A run that ended after its first bundle.
    pair_study(lens, carries, seeds=(0,)).run(store, progress=False)
    rest = pair_study(lens, carries, seeds=(0, 1)).run(CellStore(tmp_path), progress=False)
    assert (rest.known, rest.computed) == (6, 6)
    pd.testing.assert_frame_equal(rest.effects, whole.effects, check_exact=True)
    broken = next(tmp_path.glob("cells/*/*.json"))
    broken.write_text(json.dumps({"no": "cell"}))
    mended = pair_study(lens, carries, seeds=(0, 1)).run(CellStore(tmp_path), progress=False)
    assert (mended.dropped, mended.known, mended.computed) == (1, 6, 6)
    pd.testing.assert_frame_equal(mended.effects, whole.effects, check_exact=True)
    monkeypatch.setattr(module.CarryStudy, "_run_bundle", lambda *a, **k: pytest.fail("ran again"))
    again = pair_study(lens, carries, seeds=(0, 1)).run(CellStore(tmp_path), progress=False)
    assert again.computed == 0 and again.sham_difference is None
    pd.testing.assert_frame_equal(again.effects, whole.effects, check_exact=True)


def test_a_picture_that_is_missing_is_made_again_and_numbers_stay(lens, setting, tmp_path) -> None:
    study = pair_study(lens, family_carries(setting, ["massive"]))
    before = study.run(CellStore(tmp_path), progress=False)
    seen = []
    after = study.run(
        CellStore(tmp_path),
        progress=False,
        images=lambda case, name: case.side == "forward" and name in ("source", "massive.s-1"),
        on_image=lambda case, name, image: seen.append((case.side, name)),
    )
    assert seen == [("forward", "source"), ("forward", "massive.s-1")] and after.computed == 0
    pd.testing.assert_frame_equal(before.effects, after.effects, check_exact=True)


def test_a_plan_counts_what_a_run_does(lens, setting) -> None:
    carries = (
        *family_carries(setting, carried_families()),
        Carry(Blend("prompt_blend", 0.5), "prompt_blend", 0.5),
    )
    plan = pair_study(lens, carries, seeds=(0, 1)).plan()
    assert (plan.cells, plan.groups) == (4 * len(carries), 2)
    # Four mixed runs are priced beside two graphs, of which one has shams.
    assert sum(count for _, count in plan.plans) == 2 + 4


# -------------------------------------------------------------------------------------------- pictures
def picture(lens, value=0.0):
    height, width = lens.defaults.height, lens.defaults.width
    ramp = torch.linspace(-1, 1, width).expand(3, height, width).clone()
    return Picture("picture-000", (ramp + value).clamp(-1, 1), None, "", PROMPTS[0])


def test_paths_are_made_once_and_are_the_same_when_made_again(lens, tmp_path, monkeypatch) -> None:
    sampling = lens.sampling(**SAMPLING)
    one = Paths(lens, sampling, tmp_path)
    first = {origin: one.of(picture(lens), origin, 0) for origin in ("noised", "inverted")}
    assert first["noised"][1] is None and first["inverted"][1] > 0
    assert first["noised"][0] != first["inverted"][0]
    assert one.of(picture(lens, 0.1), "noised", 0)[0] != first["noised"][0]
    fresh = Paths(lens, sampling).of(picture(lens), "inverted", 0)
    assert fresh == first["inverted"]
    monkeypatch.setattr(Paths, "_made", lambda *a: pytest.fail("made again"))
    kept = Paths(lens, sampling, tmp_path).of(picture(lens), "inverted", 0)
    assert kept == first["inverted"]


def test_a_picture_is_carried_and_its_path_is_part_of_the_result(lens, setting) -> None:
    sampling = lens.sampling(**SAMPLING)
    path, _ = Paths(lens, sampling).of(picture(lens), "noised", 0)
    other, _ = Paths(lens, sampling).of(picture(lens, 0.3), "noised", 0)
    carries = family_carries(setting, ["massive", "all"])
    cases = [Case(PROMPTS[0], 0, Donor("", None, p), carries, "u", "all", "noised") for p in (path, other)]
    study = CarryStudy(lens, ((cases[0],),), sampling, MEASURES)
    assert study.key(cases[0], carries[0]).address != study.key(cases[1], carries[0]).address
    found = study.run(progress=False).effects.set_index(["arm", "metric"])["value"]
    assert found["all.s-1", "latent"] > found["massive.s-1", "latent"] > 0


def test_change_is_measured_by_the_mask_of_the_case(lens, setting, tmp_path) -> None:
    sampling = lens.sampling(**SAMPLING)
    path, _ = Paths(lens, sampling).of(picture(lens), "noised", 0)
    rows, columns = lens.token_grid()
    left = Mask(np.broadcast_to(np.arange(columns) < columns // 2, (rows, columns)))
    carries = (
        *family_carries(setting, ["all"], tokens=left),
        Carry(Blend("pixel_blend", 1.0), "pixel_blend", 1.0),
    )

    def study(mask):
        case = Case(PROMPTS[0], 0, Donor("", None, path), carries, "u", "all", "noised", mask)
        return CarryStudy(lens, ((case,),), sampling, Measures(WITH_A_MASK))

    seen = {}
    found = study(left).run(
        CellStore(tmp_path),
        progress=False,
        images=lambda case, name: True,
        on_image=lambda case, name, image: seen.update({name: image}),
    )
    inside = left.to_pixels(seen["target"].height, seen["target"].width)
    values = found.effects.set_index(["arm", "metric"])["value"]
    for name in ("all.s-1", "pixel_blend.s-1"):
        made = seen["source"] if name == "pixel_blend.s-1" else seen[name]
        expected = region_change([made], [seen["target"]], inside)
        for metric in WITH_A_MASK:
            assert values[name, metric] == pytest.approx(expected[metric].item()) and values[name, metric] > 0
    # Another mask is another measurement, of the arm and of the blend alike; none has none.
    other = study(left.complement()).run(CellStore(tmp_path), progress=False)
    assert (other.known, other.computed) == (0, 2)
    swapped = other.effects.set_index(["arm", "metric"])["value"]
    assert swapped["pixel_blend.s-1", "change_inside"] == values["pixel_blend.s-1", "change_outside"]
    assert study(left.complement()).run(CellStore(tmp_path), progress=False).known == 2
    assert study(None).run(progress=False).effects["value"].isna().all()


def test_the_subject_of_the_sources_picture_is_the_mask_in_the_embedded_world(lens, setting) -> None:
    from dit_lens.methods.pixels import as_pixels
    from dit_lens.methods.transport.made import Made
    from dit_lens.zoo.scenes import Scene, render, subject_mask

    scene = Scene("star", "red", "large", "on the left", "white", "plain")
    case = Case("a", 0, Donor.of_prompt("b"), (), "u", "all", "forward", "subject")
    made = object.__new__(Made)
    made.measures = Measures(WITH_A_MASK)
    source = Image.fromarray((as_pixels([render(scene)])[0] * 255).round().astype(np.uint8))
    inside = made._inside(case, source)
    assert np.array_equal(inside, subject_mask(scene)) and 0 < inside.mean() < 1
    made.measures = MEASURES
    assert made._inside(case, source) is None


def test_a_path_of_ones_own_run_carries_nothing(lens, setting) -> None:
    sampling = lens.sampling(**SAMPLING)
    own = lens.generate(PROMPTS[0], seeds=[0], progress=False, batch_size=1, **SAMPLING)
    path = GivenPath(own.latents[0], tuple(own.sigmas.tolist()), PROMPTS[0], seed=0)
    case = Case(
        PROMPTS[0], 0, Donor(PROMPTS[0], None, path), family_carries(setting, ["all"]), "u", "all", "noised"
    )
    study = CarryStudy(lens, ((case,),), sampling, MEASURES, arms_per_forward=1)
    found = study.run(progress=False).effects.set_index("metric")["value"]
    assert found["latent"] == 0


def test_a_subject_is_found_by_the_pictures_own_channels(lens, setting) -> None:
    sampling = lens.sampling(**SAMPLING)
    path, _ = Paths(lens, sampling).of(picture(lens), "noised", 0)
    mask = subject(lens, path, setting.massive, block=1, seed=0, sampling=sampling)
    assert mask.grid == lens.token_grid() and mask == subject(
        lens, path, setting.massive, block=1, seed=0, sampling=sampling
    )
    heard = []
    assert tokens_of(mask.difference(mask), picture(lens), heard.append) == "all"
    assert "no subject was found; the whole image is carried" in heard[0]
    with pytest.raises(BadInput, match="channels of block 9, and there are none"):
        subject(lens, path, setting.massive, block=9, seed=0, sampling=sampling)


def test_scenes_are_unseen_and_their_targets_differ_in_everything() -> None:
    from dit_lens.methods.carried import differences
    from dit_lens.zoo.scenes import ATTRIBUTES, parse_caption

    found = rendered(6, 5, (48, 48))
    assert len({p.shows for p in found} | {p.target for p in found}) == 12
    assert all(parse_caption(p.shows).held_out for p in found)
    assert all(set(differences(p.target, p.shows)[0]) == set(ATTRIBUTES) for p in found)
    assert [p.target for p in rendered(6, 5, (48, 48))] == [p.target for p in found]
    with pytest.raises(BadInput, match="48 × 48"):
        rendered(1, 0, (64, 64))


def test_only_metrics_of_a_finished_image_are_taken(lens) -> None:
    with pytest.raises(BadInput, match="'velocity' is no metric of a finished image"):
        pair_study(lens, (), measures=Measures(["velocity"]))
