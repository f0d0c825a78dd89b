"""Carrying and guidance as stages of an analysis: specs, plans, resumed runs, tables, pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import ValidationError

from dit_lens.analysis.guidance import plan_guidance, run_guidance
from dit_lens.analysis.reading import read_spec
from dit_lens.analysis.stage_context import Asked, Found
from dit_lens.analysis.transport import plan_text, run_text, text_study
from dit_lens.analysis.transport_image import plan_image, run_image
from dit_lens.analysis.transport_spec import TEXT_ALONE, GuidanceSpec, SourceSpec, TransportSpec
from dit_lens.errors import BadInput
from dit_lens.methods.placeholder_statistics import placeholder_statistics
from dit_lens.methods.spatial import Mask, segment_prompt
from dit_lens.methods.transport.study import CarryStudy
from dit_lens.methods.transport.subjects import subjects
from dit_lens.report.carry_pictures import pairs_of
from dit_lens.run.records import RunFolder

pytestmark = pytest.mark.tiny

PAIRS = (("a red circle", "blue"), ("a cat", "two dogs"))
OF_PICTURES = {"controls": {"random": 1}, "strengths": (0.5,), "gallery": 1}
SMALL = {**OF_PICTURES, "curve_pairs": 1, "ks": (1, 2), "block_ranges": 2}


def shown_the_same_without_coords(folder, kind):
    """An older record has captions and file names alone, and its pictures are paired and named alike."""

    def seen(entries):
        return [
            (pair.title, pair.seed, [(one.name, one.full_name) for one in (*pair.massive, *pair.others)])
            for pair in pairs_of(entries)
        ]

    entries = [entry for entry in folder.images() if entry.kind == kind]
    assert entries and all(entry.coords for entry in entries)
    assert seen(entries) == seen([entry.model_copy(update={"coords": {}}) for entry in entries])


@pytest.fixture
def lens(tiny_sd3_lens):
    return tiny_sd3_lens


@pytest.fixture
def sampling(lens):
    return lens.sampling(steps=2, guidance_scale=4.5, max_sequence_length=0)


@pytest.fixture
def ask(lens, sampling):
    """What a stage is told, of an analysis that asks this section alone."""

    def asked(section, *, sampling=sampling, held_out=("a tree", "a dog"), **parts):
        spec = read_spec(
            {
                "model": "tiny", "prompts": ["a house"], "seeds": [0], "sections": [section],
                "channels": {"top_k": 2}, "effects": {"prompts": list(held_out)},
                **{name: part.model_dump(mode="json") for name, part in parts.items()},
            }
        )  # fmt: skip
        return Asked(spec, lens, sampling)

    return asked


@pytest.fixture
def found(lens, sampling, tmp_path):
    """What a stage is given to run with; what it says is in `found.said`."""
    stats = placeholder_statistics(lens, sampling, np.linspace(1, 0, 3))
    folder = RunFolder.create(tmp_path / "run", "name: test\n")
    said = []
    given = Found(stats, stats.select(top_k=2), folder, progress=False, say=said.append)
    return given, folder, said


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: TransportSpec(strengths=(0.5, 1.0)), "strengths"),
        (lambda: TransportSpec(strengths=(0.5, 0.5)), "more than once"),
        (lambda: TransportSpec(controls={}), "controls"),
        (lambda: TransportSpec(controls={"mean_set": 1}), "controls"),
        (lambda: SourceSpec(shows="a cat"), "shows describes image"),
        (lambda: SourceSpec(resize="crop"), "resize is given, and there is no image"),
        (lambda: SourceSpec(background="white"), "background is given, and there is no image"),
        (lambda: SourceSpec(mask="whole", mask_block="0.5"), "mask_block is given, and nothing is segmented"),
        (lambda: GuidanceSpec(weights=(0.0,)), "weights"),
        (lambda: GuidanceSpec(wieghts=(1.0,)), "wieghts"),
    ],
)
def test_specs_refuse_what_makes_no_sense(make_it, message) -> None:
    with pytest.raises(ValidationError, match=message):
        make_it()


def test_every_field_is_described() -> None:
    for kind in (TransportSpec, SourceSpec, GuidanceSpec):
        for name, field in kind.model_json_schema()["properties"].items():
            assert field.get("description"), f"{kind.__name__}.{name}"


@pytest.mark.parametrize("key", TEXT_ALONE)
def test_keys_that_carrying_from_pictures_does_not_read_are_refused(ask, key) -> None:
    given = {
        "pairs": PAIRS, "far_pairs": PAIRS, "prompt_strengths": (0.25,), "curve_pairs": 1, "block_ranges": 2,
        "step_ranges": ((0, 1),), "ks": (2,), "parts": ("mean",),
        "tokens": "union",
    }  # fmt: skip
    assert set(given) >= set(TEXT_ALONE)
    spec = TransportSpec(**{key: given[key]})
    with pytest.raises(BadInput, match=rf"transport\.{key} is given, and no section reads it.*{key}=null"):
        ask("transport_image", transport=spec)
    ask("transport_text", transport=spec)


def test_prompts_are_carried_planned_and_resumed(ask, found, monkeypatch) -> None:
    given, folder, told = found
    asked = ask("transport_text", transport=TransportSpec(pairs=PAIRS[:1], far_pairs=PAIRS[1:], **SMALL))
    plan = plan_text(asked)
    assert plan.groups == 2 and plan.forwards > 0
    answers = run_text(asked, given)
    assert answers[0].name == "transport_text.toward_latent" and answers[0].question == "transport_text"
    table = folder.table("transport")
    assert set(table["pair_group"]) == {"all"} and set(table["direction"]) == {"forward", "backward"}
    assert {"massive", "random", "all", "all_but_massive", "latent_blend", "prompt_blend"} <= set(
        table["family"]
    )
    assert set(folder.table("transport_curves")["axis"]) == {"blocks", "steps", "k", "part"}
    assert len(folder.table("transport_effects").groupby(["arm", "prompt"])) >= plan.cells
    shown_the_same_without_coords(folder, "carry")
    captions = {entry.caption for entry in folder.images() if entry.kind == "carry"}
    assert {
        "source",
        "target",
        "massive 0.5",
        "massive 1",
        "random 1",
        "all 1",
        "prompt_blend 0.5",
    } <= captions
    source = next(entry for entry in folder.images() if entry.caption == "source")
    assert (source.prompt, source.file) == (PAIRS[0][0], "carry-pair-000-forward-seed-0-source.png")
    monkeypatch.setattr(CarryStudy, "_run_bundle", lambda *a, **k: pytest.fail("ran again"))
    again = run_text(asked, given)
    assert again == answers and any("results were known" in line for line in told)
    pd.testing.assert_frame_equal(folder.table("transport"), table, check_exact=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TransportSpec(), r"^transport.pairs: No pairs"),
        (TransportSpec(pairs=(("a", "b"), ("a", "c"))), r"^transport.pairs: 'a' stands in two"),
        (TransportSpec(pairs=PAIRS, ks=(20,)), r"^transport: A dose of|^transport: .*20"),
        (TransportSpec(pairs=PAIRS, block_ranges=100), r"^transport.block_ranges: .* cut into 100 ranges"),
    ],
)
def test_pairs_are_needed_and_faults_name_their_key(ask, spec, message) -> None:
    with pytest.raises(BadInput, match=message):
        plan_text(ask("transport_text", transport=spec))


FEW = {**SMALL, "pairs": PAIRS[:1], "curve_pairs": 1, "strengths": (0.5,), "gallery": 0}


def edits_of(study) -> list:
    """(side, name, tokens, branch) of every edit, case by case."""
    return [
        (case.side, carry.name, edit.tokens, edit.branch)
        for bundle in study.bundles
        for case in bundle
        for carry in case.carries
        for edit in getattr(carry.does, "edits", ())
    ]


def test_all_tokens_in_both_branches_are_no_news_to_an_older_run(ask) -> None:
    """Neither the spec's identity nor a result's address may depend on keys that say what was done before."""
    plain = ask("transport_text", transport=TransportSpec(**FEW))
    asked = ask("transport_text", transport=TransportSpec(**FEW, tokens="all", branch="both"))
    assert not {"tokens", "branch"} & set(plain.spec.as_data()["transport"])
    assert asked.spec.hash == plain.spec.hash
    for study in (text_study(asked, asked.stand_in), text_study(plain, plain.stand_in)):
        assert {(tokens, branch) for *_, tokens, branch in edits_of(study)} == {("all", "both")}
    other = ask("transport_text", transport=TransportSpec(**FEW, tokens="union", branch="cond"))
    assert {"tokens": "union", "branch": "cond"}.items() <= other.spec.as_data()["transport"].items()
    assert other.spec.hash != plain.spec.hash


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_channels_are_carried_in_one_branch_where_that_is_asked(ask, lens, branch) -> None:
    asked = ask("transport_text", transport=TransportSpec(**FEW, branch=branch))
    study = text_study(asked, asked.stand_in)
    assert {each for *_, each in edits_of(study)} == {branch}
    graph, _ = study.graph(study.bundles[0])
    assert {edit.branches for edit in graph.check(lens).edits} == {(branch,)}


def test_tokens_are_those_of_the_subject_where_that_is_asked(ask) -> None:
    """By hand-made masks: the donor's are the source's, and curves and controls carry the same tokens."""
    masks = {
        (PAIRS[0][0], 0): Mask.from_tokens([1, 2], (4, 4)),
        (PAIRS[0][1], 0): Mask.from_tokens([2, 9], (4, 4)),
    }
    expected = {
        "source": {"forward": (1, 2), "backward": (2, 9)},
        "target": {"forward": (2, 9), "backward": (1, 2)},
        "union": {"forward": (1, 2, 9), "backward": (1, 2, 9)},
    }
    for where, by_side in expected.items():
        asked = ask("transport_text", transport=TransportSpec(**FEW, tokens=where))
        study = text_study(asked, asked.stand_in, masks)
        found = edits_of(study)
        assert {(side, tokens) for side, _, tokens, _ in found} == set(by_side.items())
        names = {name.partition(".")[0] for _, name, *_ in found}
        assert {"massive", "random-0", "all", "all_but_massive"} <= names
        assert any(".k-2" in name for _, name, *_ in found)


def test_a_run_without_a_subject_is_carried_whole_and_says_so(ask) -> None:
    nothing, everything = (Mask(np.full((4, 4), value)) for value in (False, True))
    asked = ask("transport_text", transport=TransportSpec(**FEW, tokens="source"))
    told: list[str] = []
    masks = {(PAIRS[0][0], 0): nothing, (PAIRS[0][1], 0): everything}
    study = text_study(asked, asked.stand_in, masks, told.append)
    assert {tokens for _, _, tokens, _ in edits_of(study)} == {"all"}
    assert told == [
        "a red circle → blue: no subject was found (source); all tokens are carried.",
        "blue → a red circle: nothing but subject was found (source); all tokens are carried.",
    ]


def test_masks_are_priced_made_once_and_again_the_same(ask, found, monkeypatch) -> None:
    given, folder, told = found
    asked = ask("transport_text", transport=TransportSpec(**FEW, tokens="union", branch="cond"))
    whole = plan_text(ask("transport_text", transport=TransportSpec(**FEW, branch="cond")))
    plan = plan_text(asked)
    # One more unedited run of each of the two prompts.
    assert (plan.cells, plan.forwards) == (whole.cells, whole.forwards + 2 * asked.sampling.steps)
    made = subjects(asked.lens, given.massive, PAIRS[0], [0], asked.sampling)
    last = segment_prompt(
        asked.lens, given.massive, PAIRS[0][0], blocks=[3], steps=[-1], sampling=asked.sampling
    )
    assert made[PAIRS[0][0], 0] == last.at(block=3)
    answers = run_text(asked, given)
    assert any(line == "Subjects: masks of 2 unedited runs, by massive channels." for line in told)
    table = folder.table("transport")
    monkeypatch.setattr(CarryStudy, "_run_bundle", lambda *a, **k: pytest.fail("ran again"))
    assert run_text(asked, given) == answers
    pd.testing.assert_frame_equal(folder.table("transport"), table, check_exact=True)


def test_tokens_and_branches_that_there_are_not_are_refused_by_their_key(ask, lens) -> None:
    base = {"model": "tiny", "prompts": ["a house"], "seeds": [0], "sections": ["transport_text"]}
    base |= {"effects": {"prompts": ["a tree", "a dog"]}}
    for key, value in (("tokens", "sources"), ("branch", "conditional")):
        with pytest.raises(
            BadInput, match=rf"transport\.{key}: must be 'all|transport\.{key}: must be 'both"
        ):
            read_spec({**base, "transport": {"pairs": PAIRS, key: value}})
    pictures = {**base, "sections": ["transport_image"], "transport": {"tokens": "union"}}
    with pytest.raises(BadInput, match=r"transport\.tokens is given, and no section reads it"):
        read_spec(pictures)
    plain = lens.sampling(steps=2, guidance_scale=1.0, max_sequence_length=0)
    with pytest.raises(BadInput, match=r"^transport\.branch: without guidance .*'uncond'.* only cond"):
        plan_text(ask("transport_text", sampling=plain, transport=TransportSpec(**FEW, branch="uncond")))
    assert plan_text(ask("transport_text", sampling=plain, transport=TransportSpec(**FEW, branch="cond")))
    asked = ask("transport_text", transport=TransportSpec(**FEW, tokens="union"))
    channels = asked.spec.channels.model_copy(update={"stream": "context"})
    asked = replace(asked, spec=asked.spec.model_copy(update={"channels": channels}))
    with pytest.raises(BadInput, match=r"^transport\.tokens: .*image tokens.*context stream"):
        plan_text(asked)


def test_a_stage_takes_its_own_steps_and_the_seeds_that_judge(ask) -> None:
    asked = ask("transport_text", transport=TransportSpec(pairs=PAIRS, steps=3, **SMALL))
    assert (asked.sampling.steps, asked.at_steps(3).sampling.steps) == (2, 3)
    assert asked.at_steps(None) == asked and asked.seeds == (0,)
    more, fewer = (
        plan_text(ask("transport_text", transport=TransportSpec(pairs=PAIRS, steps=n, **SMALL)))
        for n in (4, 2)
    )
    assert more.forwards > fewer.forwards
    assert {len(chosen) for chosen in asked.stand_in.massive.blocks.values()} == {2}


def saved_picture(lens, path):
    ramp = np.linspace(0, 255, lens.defaults.width, dtype=np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (lens.defaults.height, lens.defaults.width, 3)).copy()
    pixels[: lens.defaults.height // 2, : lens.defaults.width // 2] = (255, 0, 0)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_a_users_picture_is_carried_and_resumed(lens, ask, found, tmp_path, monkeypatch) -> None:
    given, folder, told = found
    source = SourceSpec(image=saved_picture(lens, tmp_path / "mine.png"), targets=PAIRS[1], shows="a corner")
    asked = ask("transport_image", transport=TransportSpec(**OF_PICTURES, seeds=(0, 3)), source=source)
    assert plan_image(asked).groups == 4
    answers = run_image(asked, given)
    assert answers[0].name == "transport_image.noised.toward_latent" and answers[0].outcome == "undecided"
    table = folder.table("transport_image")
    assert set(table["origin"]) == {"noised", "inverted"} and set(table["n"]) <= {0, 1, 2}
    effects = folder.table("transport_image_effects")
    assert {"change_inside", "change_outside"} <= set(effects["metric"])
    # Two captions and two seeds are one picture.
    assert set(table["unit"]) == {"target"} and set(effects["unit"]) == {"target-000", "target-001"}
    assert set(effects["seed"]) == {0, 3}
    assert all("n = 2 targets" in a.sentence or ".inside" in a.name for a in answers)
    assert all("One picture was carried into 2 targets" in a.sentence for a in answers)
    (inverted,) = folder.table("inversions").to_dict("records")
    assert (inverted["targets"], inverted["steps"], inverted["iterations"]) == (2, 2, 8)
    assert inverted["shows"] == "a corner" and inverted["psnr"] > 0
    assert "Pictures: 1, noised and inverted, carried into 2 targets." in told
    assert any(line.startswith("Sampling from the inverted path leads back to the picture") for line in told)
    assert any(entry.file.startswith("carry-image-") for entry in folder.images())
    monkeypatch.setattr(CarryStudy, "_run_bundle", lambda *a, **k: pytest.fail("ran again"))
    assert run_image(asked, given) == answers
    pd.testing.assert_frame_equal(folder.table("transport_image"), table, check_exact=True)


def test_a_mask_of_everything_is_said_to_have_no_outside(lens, ask, found, tmp_path) -> None:
    given, folder, told = found
    mask = Mask(np.ones(lens.token_grid(), dtype=bool)).save(tmp_path / "everything.json")
    source = SourceSpec(
        image=saved_picture(lens, tmp_path / "mine.png"),
        targets=("a cat",),
        mask=str(mask),
        origins=("noised",),
    )
    spec = TransportSpec(**OF_PICTURES, strength_pairs=0)
    answers = run_image(ask("transport_image", transport=spec, source=source), given)
    assert any("everything.json covers every token, so nothing lies outside" in line for line in told)
    assert not any(".inside" in answer.name for answer in answers)
    assert folder.table("inversions").empty
    measured = set(folder.table("transport_image")["metric"])
    assert "change_inside" in measured and "change_outside" not in measured, (
        "as the report's section reads it"
    )


def test_pictures_that_do_not_fit_are_refused_before_anything_runs(lens, ask, tmp_path) -> None:
    spec = TransportSpec(**OF_PICTURES)
    small = tmp_path / "small.png"
    Image.new("RGB", (5, 5)).save(small)
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (lens.defaults.width, lens.defaults.height), (0, 0, 0, 0)).save(clear)
    fine = saved_picture(lens, tmp_path / "fine.png")
    empty = tmp_path / "empty.png"
    Image.new("L", (lens.defaults.width, lens.defaults.height)).save(empty)
    values = np.eye(lens.token_grid()[0], dtype=bool)
    other = str(Mask(values, image_size=(64, 64)).save(tmp_path / "other.json"))
    for source, message in (
        ({"image": str(small)}, r"^source.image: .*5 × 5"),
        ({"image": str(clear)}, r"^source.image: .*background"),
        ({"image": str(tmp_path / "none.png")}, r"^source.image: "),
        ({"image": fine, "mask": str(empty)}, r"^source.mask: .*covers no token"),
        ({"image": fine, "mask": other}, r"^source.mask: .*other.json was made for pictures of 64 × 64"),
        ({"image": fine, "mask_block": "0-1"}, r"^source.mask_block: .*names 2 blocks"),
        ({"image": fine, "mask_block": 77}, r"^source.mask_block: "),
    ):
        with pytest.raises(BadInput, match=message):
            plan_image(
                ask("transport_image", transport=spec, source=SourceSpec(**source, targets=("a cat",)))
            )
    with pytest.raises(BadInput, match=r"source\.image is missing"):
        plan_image(ask("transport_image", transport=spec))
    with pytest.raises(BadInput, match=r"source\.targets is missing"):
        plan_image(ask("transport_image", transport=spec, source=SourceSpec(image=fine)))


def test_guidance_is_run_and_resumed(ask, found, monkeypatch) -> None:
    given, folder, _ = found
    spec = GuidanceSpec(prompts=2, weights=(0.5, 1.0), metrics=("detail_ratio", "ssim"), gallery=1)
    prompts = [prompt for pair in PAIRS for prompt in pair]
    asked = ask("detail_guidance", held_out=prompts, guidance=spec)
    plan = plan_guidance(asked)
    assert (plan.cells, plan.groups) == (2 * 2 * 5, 4)
    answers = run_guidance(asked, given)
    assert answers[0].primary and answers[0].name == "detail_guidance.cfg.w-0.5.detail_ratio"
    table = folder.table("guidance")
    still = table.query("weight == 0 and metric == 'ssim'")
    assert (still["mean"] == 1).all() and set(table["cfg"]) == {True, False}
    assert (table.query("weight == 1 and metric == 'ssim' and family == 'massive'")["mean"] < 1).all()
    shown_the_same_without_coords(folder, "guide")
    captions = {entry.caption for entry in folder.images() if entry.kind == "guide"}
    assert captions == {
        "target", "massive 0.5", "massive 1", "random_rank_window 0.5", "random_rank_window 1",
    }  # fmt: skip
    from dit_lens.methods.transport.guidance import GuidanceStudy

    monkeypatch.setattr(GuidanceStudy, "_measured", lambda *a: pytest.fail("ran again"))
    assert run_guidance(asked, given) == answers
    pd.testing.assert_frame_equal(folder.table("guidance"), table, check_exact=True)


def test_guidance_without_branches_to_guide_runs_without(lens, ask) -> None:
    plain = lens.sampling(steps=2, guidance_scale=1.0, max_sequence_length=0)
    spec = GuidanceSpec(prompts=1, metrics=("ssim",))
    assert plan_guidance(ask("detail_guidance", sampling=plain, guidance=spec)).groups == 1
