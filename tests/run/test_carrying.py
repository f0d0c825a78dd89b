"""Carrying activations from one trajectory into another: what is exact, matched, or not claimed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dit_lens as dl
from dit_lens.graph.interventions import PatchMatched
from dit_lens.graph.site import NO_MATERIAL
from tests.oracles import edit_with_hooks

pytestmark = pytest.mark.tiny

STEPS, GUIDANCE = 3, 4.5
SOURCE, TARGET = "a large blue star", "a red circle"


def graph(**sampling):
    return dl.InterventionGraph(
        sampling={"steps": STEPS, "guidance_scale": GUIDANCE, "max_sequence_length": 0, **sampling}
    )


def run(lens, g, **more):
    return dl.run(lens, g, **{"progress": False, "images": False, **more})


@pytest.mark.parametrize("at", ["blocks.*.resid_post.image", "blocks.1.resid_post.image"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_matched_control_displaces_as_much_as_the_patch_would_at_every_block(
    tiny_lens, monkeypatch, at, strength
):
    seen = []
    plain = PatchMatched.apply

    def watched(op, x, site, material=NO_MATERIAL):
        new = plain(op, x, site, material)
        before = 0 if material.displaced is None else material.displaced
        if material.source is not None and x.any():
            treated = list(op.treatment_channels)
            seen.append(((new - x + before).norm(dim=-1), (material.source - x)[..., treated]))
        return new

    monkeypatch.setattr(PatchMatched, "apply", watched)
    g = graph()
    source = g.trajectory(prompt=SOURCE, seed=0)
    arm = g.trajectory(prompt=TARGET, seed=0)
    g.edit(arm, at=at, channels=[7, 9], op=PatchMatched((3, 5), strength), source=source)
    run(tiny_lens, g, sham=False)
    blocks = 4 if "*" in at else 1
    assert len(seen) == blocks * STEPS * 2
    # Within a forward the branches take turns: both of a block, then both of the next.
    for first in range(0, len(seen), blocks * 2):
        for branch in range(2):
            treatment = 0
            for control, apart in seen[first + branch : first + blocks * 2 : 2]:
                treatment = treatment + strength * (apart - treatment)
                expected = treatment.norm(dim=-1)
                assert ((control - expected).abs() <= 0.01 * expected + 1e-5).all()


EVERYWHERE = {"channels": "all", "tokens": "all", "steps": "all", "branch": "both"}


def carried(*, temb=True, image=None, **more):
    """Everything of the source into the target but what is said: of the image stream alone, or of all."""
    g = graph()
    source = g.trajectory(prompt=SOURCE, seed=3, id="source")
    target = g.trajectory(prompt=TARGET, seed=3, id="target")
    for at, own in (
        ("blocks.*.resid_post.context", {}),
        ("blocks.*.resid_post.image", image or {}),
        *([("temb", {})] if temb else []),
    ):
        g.patch(source, into=target, at=at, **{**EVERYWHERE, **more, **own})
    return g


def test_everything_carried_from_the_first_step_on_is_the_source(tiny_lens):
    """Both streams of all blocks, all tokens and channels, and `temb`, which the last norm reads."""
    done = run(tiny_lens, carried(), arms_per_forward=1, images=True)
    # Alone in its forwards, bit for bit.
    assert torch.equal(done["target"].latents, done["source"].latents)
    assert done["target"].image.tobytes() == done["source"].image.tobytes()
    unedited = done.baselines[TARGET, 3].latents
    assert (done["source"].latents - unedited).abs().max() > 1e-2
    # In a batch, whose rows change last bits, within 1e-4 of latents of the order of 1.
    done = run(tiny_lens, carried(), arms_per_forward=4)
    torch.testing.assert_close(done["target"].latents, done["source"].latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "left_out",
    [
        {"temb": False},
        {"steps": "1:"},
        {"image": {"tokens": list(range(15))}},
        {"image": {"channels": list(range(1, 32))}},
    ],
    ids=str,
)
def test_with_anything_left_out_it_is_not_the_source(tiny_lens, left_out):
    """Each case leaves out one thing of what, as a whole, is the source bit for bit."""
    done = run(tiny_lens, carried(**left_out), arms_per_forward=1)
    apart = (done["target"].latents - done["source"].latents).abs().max()
    assert apart > 1e-4
    assert not torch.equal(done["target"].latents, done.baselines[TARGET, 3].latents)


AT = ["blocks.*.resid_post.image"]
NOTHING = {
    "strength 0": {"op": dl.Patch(0.0), "channels": [1, 5]},
    "strength 0 of a control": {"op": PatchMatched((0, 2), 0.0), "channels": [1, 5]},
    "strength 0 of a part": {"op": dl.Patch(0.0, part="mean"), "channels": [1, 5]},
    "strength 0 with norms kept": {"op": dl.Patch(0.0, ln_preserving=True), "channels": [1, 5]},
}


@pytest.mark.parametrize("edit", NOTHING.values(), ids=NOTHING)
def test_strength_zero_leaves_the_target_bit_for_bit(tiny_lens, edit):
    g = graph()
    source, target = (g.trajectory(prompt=prompt, seed=3) for prompt in (SOURCE, TARGET))
    g.edit(target, at=AT, source=source, **edit)
    done = run(tiny_lens, g, arms_per_forward=1, images=True)
    assert torch.equal(done[target].latents, done.baselines[TARGET, 3].latents)
    assert done[target].image.tobytes() == done.baselines[TARGET, 3].image.tobytes()


@pytest.mark.parametrize(
    "op",
    [
        dl.Patch(),
        dl.Patch(0.4),
        dl.Patch(0.7, part="residual"),
        dl.Patch(ln_preserving=True),
        PatchMatched((0, 2)),
    ],
    ids=repr,
)
def test_a_source_like_the_target_leaves_it_bit_for_bit(tiny_lens, op):
    g = graph()
    source, target = (g.trajectory(prompt=TARGET, seed=3) for _ in range(2))
    g.edit(target, at=AT, source=source, op=op, channels=[1, 5, 6])
    done = run(tiny_lens, g, arms_per_forward=1)
    assert torch.equal(done[target].latents, done[source].latents)


@pytest.mark.parametrize(
    "tokens", [np.zeros((4, 4), bool), np.zeros(16, bool), "nowhere"], ids=["grid", "row", "named"]
)
@pytest.mark.parametrize(
    "op", [dl.Patch(), dl.Zero(), dl.Zero(ln_preserving=True), dl.Zero(part="mean")], ids=repr
)
def test_an_empty_mask_leaves_the_target_bit_for_bit(tiny_lens, tokens, op):
    g = graph()
    # By their ids, which a graph read from data knows; handles belong to the graph that gave them.
    source, target = (str(g.trajectory(prompt=prompt, seed=3)) for prompt in (SOURCE, TARGET))
    donor = source if isinstance(op, dl.Patch) else None
    if isinstance(tokens, str):
        data = g.to_data() | {"masks": {"nowhere": {"tokens": []}}}
        g = dl.InterventionGraph.from_data(data)
    g.edit(target, at=AT, tokens=tokens, op=op, source=donor)
    g.edit(target, at="blocks.2.attn_out.image", tokens=np.zeros(16, bool), op="zero")
    # As the edits of other trajectories do not touch it, nor does the batch.
    other = g.trajectory(prompt=TARGET, seed=3)
    g.edit(other, at=AT, op="zero", channels=[1])
    done = run(tiny_lens, g, arms_per_forward=4)
    assert torch.equal(done[target].latents, done.baselines[TARGET, 3].latents)
    assert done[target].start is None and done[other].start == 0
    assert done.proof.edits == 4 * STEPS * 2


@pytest.mark.parametrize(
    "at", ["blocks.*.resid_post.image", "blocks.*.resid_pre.context", "blocks.*.mlp_out.image"]
)
@pytest.mark.parametrize("part", ["all", "mean", "residual"])
def test_matched_controls_through_all_blocks_equal_plain_hooks(tiny_pair, at, part):
    """What adds up in a residual stream is taken back; what a block writes anew is not."""
    pipeline, lens = tiny_pair
    g = graph()
    source = g.trajectory(prompt=SOURCE, seed=3)
    for k, op in enumerate(
        (PatchMatched((0, 2), 0.5, part=part), dl.EnergyMatched((0, 2), part=part), PatchMatched((4,), -1.0))
    ):
        arm = g.trajectory(prompt=TARGET, seed=3)
        donor = None if k == 1 else source
        g.edit(arm, at=at, channels=[1, 5, 6], tokens=[0, 2, 3], op=op, source=donor, steps="1:")
    done = run(lens, g, arms_per_forward=1)
    paths, _ = edit_with_hooks(pipeline, g.check(lens))
    for each in list(done.trajectories.values())[1:]:
        assert torch.equal(each.latents[1:], paths[each.id])
        assert not torch.equal(each.latents, done.baselines[TARGET, 3].latents)


@pytest.mark.embedded
def test_in_the_trained_model_everything_carried_is_the_source(embedded_lens):
    """Batched as runs are by default: latents of the order of 1 within 1e-3, pixels within one level."""
    g = graph()
    prompts = (
        "a large red plain star in the centre on a white background",
        "a small blue striped circle on the left on a black background",
    )
    source, *targets = (g.trajectory(prompt=prompt, seed=3) for prompt in (*prompts, prompts[1]))
    for target, more in zip(targets, (["temb"], []), strict=True):
        g.patch(source, into=target, at=["blocks.*.resid_post.*", *more])
    done = run(embedded_lens, g, images=True)
    carried, without_temb = (done[target] for target in targets)
    torch.testing.assert_close(carried.latents, done[source].latents, rtol=1e-3, atol=1e-3)
    pixels = [np.asarray(each.image, dtype=int) for each in (done[source], carried, without_temb)]
    assert np.abs(pixels[1] - pixels[0]).max() <= 1
    assert np.abs(pixels[2] - pixels[0]).max() > 1


@pytest.mark.parametrize("at", ["blocks.*.resid_post.image", "blocks.1.resid_post.image"])
def test_energy_matched_displaces_as_much_as_zeroing_would_at_every_block(tiny_sd3_lens, monkeypatch, at):
    seen = []
    plain = dl.EnergyMatched.apply

    def watched(op, x, site, material=NO_MATERIAL):
        new = plain(op, x, site, material)
        before = 0 if material.displaced is None else material.displaced
        control = (new - x + before)[..., list(site.channels)].norm(dim=-1)
        seen.append((control, x[..., list(op.treatment_channels)].norm(dim=-1)))
        return new

    monkeypatch.setattr(dl.EnergyMatched, "apply", watched)
    sampling = {"steps": 2, "guidance_scale": 2.0, "max_sequence_length": 0}
    g = dl.InterventionGraph(sampling=sampling)
    arm = g.trajectory(prompt="a star", seed=0)
    g.edit(arm, at=at, channels=[7, 9], op=dl.EnergyMatched((3, 5), seed=1))
    dl.run(tiny_sd3_lens, g, images=False, sham=False, progress=False)
    runs = [control for control, _ in seen if control.any()]
    assert len(runs) == (4 if "*" in at else 1) * 2 * 2
    for control, treatment in seen:
        torch.testing.assert_close(control, treatment, rtol=1e-3, atol=1e-4)
