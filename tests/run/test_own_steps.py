"""Trajectories with another number of steps than their graph: matched by noise, in Python and in YAML."""

from __future__ import annotations

import pytest
import torch

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph
from dit_lens.model.matching import matched_path

pytestmark = pytest.mark.tiny

SAMPLING = {"steps": 4, "max_sequence_length": 0}
AT = "blocks.*.resid_post.image"
YAML = """
sampling: {steps: 4, max_sequence_length: 0}
trajectories:
  - {id: source, prompt: a red star, seed: 3, steps: 7, match: linear}
  - {id: target, prompt: a blue circle, seed: 0}
edits:
  - {into: target, at: blocks.*.resid_post.image, op: patch, source: source, channels: [3, 9]}
"""


def carried(steps: int | None, match: str | None = None) -> InterventionGraph:
    graph = InterventionGraph(sampling=SAMPLING)
    source = graph.trajectory(prompt="a red star", seed=3, id="source", steps=steps, match=match)
    target = graph.trajectory(prompt="a blue circle", seed=0, id="target")
    graph.patch(source, into=target, at=AT, channels=[3, 9])
    return graph


@pytest.mark.parametrize("rule", ["nearest", "linear"])
def test_it_equals_a_path_matched_by_hand(tiny_sd3_lens: dl.DiTLens, rule: str) -> None:
    source = tiny_sd3_lens.generate("a red star", 3, progress=False, **{**SAMPLING, "steps": 7})
    (path,) = matched_path(tiny_sd3_lens, source, sampling=tiny_sd3_lens.sampling(**SAMPLING), rule=rule)
    by_hand = InterventionGraph(sampling=SAMPLING)
    donor = by_hand.trajectory(prompt="a red star", seed=3, path="source")
    target = by_hand.trajectory(prompt="a blue circle", seed=0)
    by_hand.patch(donor, into=target, at=AT, channels=[3, 9])
    expected = dl.run(tiny_sd3_lens, by_hand, paths={"source": path}, progress=False)[target]
    result = dl.run(tiny_sd3_lens, carried(7, rule), progress=False)
    assert torch.equal(result["target"].latents, expected.latents)
    assert result["source"].image is None
    assert not torch.equal(
        expected.latents, dl.run(tiny_sd3_lens, carried(None), progress=False)["target"].latents
    )


def test_the_graphs_own_number_of_steps_is_no_difference(tiny_sd3_lens: dl.DiTLens) -> None:
    plain = dl.run(tiny_sd3_lens, carried(None), arms_per_forward=1, progress=False)
    matched = dl.run(tiny_sd3_lens, carried(4), arms_per_forward=1, progress=False)
    assert torch.equal(plain["target"].latents, matched["target"].latents)


def test_yaml_and_the_builder_make_one_value_that_is_drawn_and_priced(tiny_sd3_lens: dl.DiTLens) -> None:
    read = InterventionGraph.from_yaml(YAML)
    built = carried(7, "linear")
    assert read.hash == built.hash != carried(7).hash != carried(None).hash
    assert InterventionGraph.from_yaml(read.to_yaml()).hash == read.hash
    assert "in 7 steps of its own, matched by sigma (linear)" in read.show()
    plan = read.plan(tiny_sd3_lens)
    assert plan.own_steps == 7 and "7 forwards" in str(plan)
    assert plan.as_data()["own_runs"] == [{"prompt": "a red star", "seed": 3, "steps": 7}]


def test_one_run_serves_all_that_draw_on_it(
    tiny_sd3_lens: dl.DiTLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = carried(7)
    again = graph.trajectory(prompt="a red star", seed=3, id="again", steps=7, match="linear")
    graph.read(again, at="blocks.1.resid_post.image", steps=-1, reduce="mean")
    asked = []
    generate = type(tiny_sd3_lens).generate

    def counted(*arguments: object, **options: object) -> object:
        asked.append(options["steps"])
        return generate(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(tiny_sd3_lens), "generate", counted)
    dl.run(tiny_sd3_lens, graph, progress=False)
    assert asked == [7] and graph.plan(tiny_sd3_lens).own_steps == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 7, "path": "p"}, r"trajectories\.0\.steps: .*two places, by path and steps"),
        ({"steps": 7, "until": "end"}, "has no end of its own"),
        ({"match": "linear"}, r"trajectories\.0\.match: .*nothing to match"),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(tiny_sd3_lens: dl.DiTLens, options, says) -> None:
    graph = InterventionGraph(sampling=SAMPLING)
    source = graph.trajectory(prompt="a red star", seed=3, id="source", **options)
    target = graph.trajectory(prompt="a blue circle", seed=0, id="target")
    graph.patch(source, into=target, at=AT, channels=[3])
    with pytest.raises(BadInput, match=says):
        graph.check(tiny_sd3_lens)


def test_it_is_drawn_on_and_not_edited(tiny_sd3_lens: dl.DiTLens) -> None:
    graph = carried(7)
    graph.edit("source", at=AT, op="zero", channels=[1])
    with pytest.raises(BadInput, match="only drawn on and read"):
        graph.check(tiny_sd3_lens)
    unused = InterventionGraph(sampling=SAMPLING)
    unused.trajectory(prompt="a red star", seed=3, steps=7)
    with pytest.raises(BadInput, match=r"trajectories\.0\.steps: .*nothing draws on it"):
        unused.check(tiny_sd3_lens)
    with pytest.raises(BadInput, match="steps"):
        InterventionGraph().trajectory(prompt="a star", seed=0, steps=0)
    with pytest.raises(BadInput, match="match"):
        InterventionGraph().trajectory(prompt="a star", seed=0, steps=3, match="closest")
