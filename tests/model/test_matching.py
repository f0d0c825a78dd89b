"""Latents of a run at the noise levels of another: whose they are, and which noise they have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.model.given import GivenPath
from dit_lens.model.matching import RULES, matched, matched_path

pytestmark = pytest.mark.pure


def falling(draw_size):
    levels = st.lists(st.integers(1, 1000), unique=True, min_size=1, max_size=draw_size)
    return levels.map(lambda found: [n / 1000 for n in sorted(found, reverse=True)] + [0.0])


@given(falling(12), falling(12))
@settings(max_examples=60, deadline=None)
def test_nearest_takes_latents_of_the_run_that_no_other_is_nearer_to(own, target):
    latents = torch.arange(len(own), dtype=torch.float32).view(-1, 1, 1, 1)
    found = matched(latents, own, target).flatten().long().tolist()
    for sigma, chosen in zip(target, found, strict=True):
        assert abs(own[chosen] - sigma) <= min(abs(each - sigma) for each in own) + 1e-6
    assert found == sorted(found) and found[-1] == len(own) - 1


@given(falling(12), falling(12))
@settings(max_examples=60, deadline=None)
def test_linear_has_the_very_noise(own, target):
    target = [s for s in target if s <= own[0]]
    if len(target) < 2:
        target = own
    clean, noise = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
    mixed = [torch.stack([(1 - s) * clean + s * noise for s in each]) for each in (own, target)]
    torch.testing.assert_close(matched(mixed[0], own, target, rule="linear"), mixed[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_a_runs_own_sigmas_give_its_latents_bit_for_bit(rule):
    own = [0.98, 0.7, 0.31, 0.02, 0.0]
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(matched(latents, own, own, rule=rule), latents)
    assert torch.equal(matched(latents, own, [*own[1::2], 0.0], rule=rule), latents[[1, 3, 4]])


@pytest.mark.parametrize(
    ("args", "rule", "says"),
    [
        ((torch.zeros(2, 1), [1.0, 0.0], [1.0, 0.0]), "nearst", "there are: nearest, linear"),
        ((torch.zeros(2, 1), [1.0, 0.5], [1.0, 0.0]), "nearest", "sigmas must fall to 0; got 1, 0.5"),
        ((torch.zeros(2, 1), [1.0, 0.0], [0.5, 1.0, 0.0]), "nearest", "target_sigmas must fall to 0"),
        ((torch.zeros(2, 1), [1.0, 0.0], []), "nearest", "target_sigmas must fall to 0"),
        ((torch.zeros(3, 1), [1.0, 0.0], [1.0, 0.0]), "nearest", "3 latents need as many sigmas; got 2"),
        ((torch.zeros(2, 1), [0.5, 0.0], [1.0, 0.0]), "linear", "begin at 0.5, and 1 was asked for"),
    ],
)
def test_what_cannot_be_matched_is_refused(args, rule, says):
    with pytest.raises(BadInput, match=says):
        matched(*args, rule=rule)


# ---------------------------------------------------------------------------------- carried into a run
AT, HOW = "blocks.1-2.resid_post.image", {"guidance_scale": 4.5, "max_sequence_length": 0}


def carried(lens, source=None, **paths):
    """Latents of a target of three steps into which a donor is patched: a trajectory, or a given path."""
    g = dl.InterventionGraph(sampling={"steps": 3, **HOW})
    donor = g.trajectory(prompt="blue", seed=0, **({"path": "source"} if source else {}))
    target = g.trajectory(prompt="a red circle", seed=0)
    g.patch(donor, into=target, at=AT, channels=[3, 9])
    more = {"paths": {"source": source}} if source else {}
    done = dl.run(lens, g, arms_per_forward=1, progress=False, images=False, **more)
    return done[target].latents


@pytest.mark.tiny
def test_a_run_of_the_same_steps_is_carried_as_a_trajectory_of_the_graph_is(tiny_lens):
    run = tiny_lens.generate(["a tree", "blue"], seeds=[0], steps=3, batch_size=1, progress=False, **HOW)
    paths = matched_path(tiny_lens, run, sampling=tiny_lens.sampling(steps=3, **HOW))
    assert [(path.prompt, path.seed) for path in paths] == [("a tree", 0), ("blue", 0)]
    assert torch.equal(paths[1].latents, run.latents[1].float())
    assert torch.equal(carried(tiny_lens, paths[1]), carried(tiny_lens))


@pytest.mark.tiny
def test_a_run_of_other_steps_is_carried_by_its_noise(tiny_sd3_lens):
    lens = tiny_sd3_lens
    run = lens.generate("blue", seeds=[0], steps=7, progress=False, **HOW)
    with pytest.raises(BadInput, match=r"7 steps .* and this run has 3 .* matched_path makes one"):
        carried(lens, GivenPath(run.latents[0], tuple(run.sigmas.tolist()), "blue", seed=0))
    (path,) = matched_path(lens, run, sampling=lens.sampling(steps=3, **HOW))
    levels = lens.generate("blue", seeds=[0], steps=3, progress=False, **HOW).sigmas
    nearest = [int(abs(run.sigmas - sigma).argmin()) for sigma in levels]
    assert torch.equal(path.latents, run.latents[0][nearest]) and nearest[0] == 0 and nearest[-1] == 7
    assert path.origin == "7 steps, matched by sigma (nearest)"
    moved = carried(lens, path)
    assert torch.equal(moved[0], carried(lens)[0]) and not torch.equal(moved[-1], carried(lens)[-1])
    with pytest.raises(BadInput, match="there are: nearest, linear"):
        matched_path(lens, run, rule="best")
