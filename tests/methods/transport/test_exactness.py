"""What carrying must do exactly: nothing at strength 0 or from oneself, everything if all is carried."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dit_lens as dl
from dit_lens.methods.measures import Measures
from dit_lens.methods.placeholder_statistics import placeholder_statistics
from dit_lens.methods.questions import Setting
from dit_lens.methods.transport import Blend, Carry, CarryStudy, Case, Donor, family_carries
from dit_lens.methods.transport.blends import blend, prompt_blends

pytestmark = pytest.mark.tiny

SAMPLING = {"steps": 3, "guidance_scale": 4.5, "max_sequence_length": 0}
TARGET, SOURCE = "a red circle", "blue"


def latents(lens, edits, *, source=SOURCE, arms_per_forward=1):
    """(target, source, edited) latents of every step."""
    graph = dl.InterventionGraph(sampling=SAMPLING)
    graph.trajectory(prompt=TARGET, seed=3, id="target", until="end")
    graph.trajectory(prompt=source, seed=3, id="source", until="end")
    graph.trajectory(prompt=TARGET, seed=3, id="edited", until="end")
    for at, options in edits:
        graph.patch("source", into="edited", at=at, **options)
    done = dl.run(lens, graph, images=False, progress=False, arms_per_forward=arms_per_forward)
    return tuple(done[name].latents for name in ("target", "source", "edited"))


EVERYTHING = [
    ("blocks.*.resid_post.image", {}),
    ("blocks.*.resid_post.context", {}),
]


@pytest.mark.parametrize("part", ["all", "mean", "residual"])
def test_strength_0_leaves_the_target_bit_for_bit(tiny_lens, part) -> None:
    target, source, edited = latents(
        tiny_lens, [("blocks.*.resid_post.image", {"strength": 0.0, "part": part})]
    )
    assert torch.equal(target, edited)
    assert not torch.equal(target, source)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_what_is_its_own_source_stays_as_it_is(tiny_lens, strength) -> None:
    target, source, edited = latents(
        tiny_lens, [("blocks.*.resid_post.image", {"strength": strength})], source=TARGET
    )
    assert torch.equal(target, edited) and torch.equal(target, source)


def test_everything_and_temb_gives_the_sources_image_and_without_temb_not(tiny_lens) -> None:
    target, source, edited = latents(tiny_lens, [*EVERYTHING, ("temb", {})])
    far = (target - source)[1:].abs().max()
    # All that the velocity is made of is the source's, so nothing is left but rounding: stated as 1e-5 of
    # the distance between the two runs, and on the CPU in float32 none at all.
    assert (edited - source).abs().max() <= 1e-5 * far
    _, source, without = latents(tiny_lens, EVERYTHING)
    assert (without - source)[-1].abs().max() > 1e-3 * far


def test_a_batch_moves_the_sources_image_by_rounding_alone(tiny_lens) -> None:
    target, source, edited = latents(tiny_lens, [*EVERYTHING, ("temb", {})], arms_per_forward=4)
    assert (edited - source).abs().max() <= 1e-4 * (target - source).abs().max()


def setting(lens):
    stats = placeholder_statistics(lens, lens.sampling(**SAMPLING), np.linspace(1, 0, 4))
    return Setting(
        massive=stats.select(top_k=2),
        stats=stats,
        num_blocks=lens.num_blocks,
        num_steps=SAMPLING["steps"],
        controls={"random": 1},
    )


def test_an_empty_mask_carries_nothing_and_a_full_one_everything(tiny_sd3_lens) -> None:
    lens = tiny_sd3_lens
    rows, columns = lens.token_grid()
    carried = {}
    for name, mask in (
        ("none", torch.zeros(rows, columns, dtype=torch.bool)),
        ("all", torch.ones(rows, columns, dtype=torch.bool)),
        ("every", "all"),
    ):
        carries = family_carries(setting(lens), ["massive", "low"], tokens=mask)
        case = Case(TARGET, 0, Donor.of_prompt(SOURCE), carries, "pair-000", "all", "forward")
        study = CarryStudy(lens, ((case,),), lens.sampling(**SAMPLING), Measures(["latent", "psnr"]))
        effects = study.run(progress=False).effects
        carried[name] = effects.set_index(["arm", "metric"])["value"]
    assert (carried["none"].xs("latent", level="metric") == 0).all()
    assert (carried["none"].xs("psnr", level="metric") == 100).all()
    assert carried["all"].equals(carried["every"]) and (carried["all"].xs("latent", level="metric") > 0).all()


# ---------------------------------------------------------------------------------------------- blends
def test_mixed_prompts_are_the_plain_runs_at_their_ends_and_neither_between(tiny_sd3_lens) -> None:
    lens = tiny_sd3_lens
    sampling = lens.sampling(**SAMPLING)
    rows = [(TARGET, SOURCE, 3, strength) for strength in (0.0, 0.5, 1.0)]
    mixed = prompt_blends(lens, rows, sampling)
    # The same rows in a batch of the same size.
    prompts = [TARGET, TARGET, SOURCE]
    plain = lens.generate(prompts, seeds=[3], batch_size=3, progress=False, **SAMPLING).latents[:, -1]
    assert torch.equal(mixed[0], plain[0]) and torch.equal(mixed[2], plain[2])
    assert not torch.equal(mixed[1], mixed[0]) and not torch.equal(mixed[1], mixed[2])


def test_a_blend_is_exact_at_its_ends() -> None:
    a, b = torch.randn(2, 1, 3, 4, 4).unbind()
    assert blend(a, b, 0) is a and blend(a, b, 1) is b
    torch.testing.assert_close(blend(a, b, 0.25), a + 0.25 * (b - a))


def test_blends_share_the_study_and_their_ends_are_target_and_source(tiny_sd3_lens) -> None:
    lens = tiny_sd3_lens
    carries = tuple(
        Carry(Blend(kind, s), kind, s)
        for kind in ("latent_blend", "pixel_blend", "prompt_blend")
        for s in (0.0, 0.5, 1.0)
    )
    case = Case(TARGET, 0, Donor.of_prompt(SOURCE), carries, "pair-000", "all", "forward")
    measures = Measures(["toward_latent", "psnr"])
    study = CarryStudy(lens, ((case,),), lens.sampling(**SAMPLING), measures)
    pictures = {}
    effects = study.run(
        progress=False,
        images=lambda case, name: True,
        on_image=lambda case, name, image: pictures.__setitem__(name, image),
    ).effects.set_index(["family", "strength", "metric"])["value"]
    for kind in ("latent_blend", "prompt_blend"):
        assert effects[kind, 0.0, "toward_latent"] == 0 and effects[kind, 1.0, "toward_latent"] == 1
        assert effects[kind, 0.0, "psnr"] == 100
        assert pictures[f"{kind}.s-1"] == pictures["source"] != pictures[f"{kind}.s-0.5"]
    assert effects["latent_blend", 0.5, "toward_latent"] == pytest.approx(0.5)
    assert effects["pixel_blend", 0.0, "psnr"] == 100 and pictures["pixel_blend.s-1"] == pictures["source"]
    assert effects.xs("toward_latent", level="metric")["pixel_blend"].isna().all()
