"""Arguments swapped or of another kind at the library's doors: a message that says what was expected."""

from __future__ import annotations

import numpy as np
import pytest

import dit_lens as dl
from tests.methods.synthetic import imaginary_statistics

pytestmark = pytest.mark.tiny


def test_controls_say_which_argument_is_which() -> None:
    stats = imaginary_statistics()
    massive = stats.select(top_k=2)
    for given, got in (
        ((stats, massive), "ChannelStatistics, ChannelSet"),
        ((massive, massive), "ChannelSet"),
    ):
        with pytest.raises(dl.BadInput, match=f"takes a channel set and the statistics .* got .*{got}"):
            dl.controls(*given, "low")  # type: ignore[arg-type, call-arg]


def test_discover_and_run_say_where_the_lens_stands(tiny_sd3_lens: dl.DiTLens) -> None:
    graph = dl.InterventionGraph()
    with pytest.raises(dl.BadInput, match="got InterventionGraph, DiTLens"):
        dl.run(graph, tiny_sd3_lens)  # type: ignore[arg-type]
    with pytest.raises(dl.BadInput, match="got DiTLens, str"):
        dl.run(tiny_sd3_lens, "a star")  # type: ignore[arg-type]
    with pytest.raises(dl.BadInput, match="a lens, then prompts and seeds; got list first"):
        dl.discover(["a star"], tiny_sd3_lens, [0])  # type: ignore[arg-type]


def test_a_channel_set_by_hand_is_told_how_it_is_made() -> None:
    for given, fields in (
        (({4: [0]},), {}),
        ((), {"blocks": {4: (0, 34)}}),
        (
            (),
            {"model": "m", "statistic": "abs_mean", "stream": "image", "selection": {}, "blocks": {0: (-1,)}},
        ),
    ):
        with pytest.raises(dl.BadInput, match=r"stats\.select\(chosen=\{4: \[0, 34\]\}\)"):
            dl.ChannelSet(*given, **fields)
    own = imaginary_statistics().select(chosen={1: [0, 3]})
    assert dl.ChannelSet.model_validate_json(own.to_json()) == own == dl.ChannelSet(**own.model_dump())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"op": dl.Zero}, r"edits.0: op: An edit is the class Zero; give a value of it, Zero\(\)."),
        ({"op": dl.Scale}, r"edits.0: op: An edit is the class Scale; give a value of it, Scale\(factor\)."),
        (
            {"channels": [2, -1]},
            "edits.0: channels.1: -1 does not fit: it should be greater than or equal to 0.",
        ),
        ({"tokens": [-1]}, "edits.0: tokens.0: -1 does not fit: it should be greater than or equal to 0."),
        ({"channels": [1.5]}, "edits.0: channels.0: 1.5 does not fit: it should be a valid integer."),
    ],
)
def test_an_edit_names_what_is_wrong_in_one_line(changed: dict[str, object], said: str) -> None:
    graph = dl.InterventionGraph()
    arm = graph.trajectory(prompt="a star", seed=0)
    with pytest.raises(dl.BadInput, match=f"^{said}$"):
        graph.edit(arm, **{"at": "blocks.1.resid_post.image", "op": "zero", **changed})  # type: ignore[arg-type]


def test_a_mask_of_channels_is_told_in_one_line_how_to_become_numbers() -> None:
    mask = np.arange(128) == 60
    graph = dl.InterventionGraph()
    arm = graph.trajectory(prompt="a star", seed=0)
    for channels in (mask, {1: mask}, mask.tolist()):
        with pytest.raises(dl.BadInput, match=r"^channels is a mask of 128 .*np\.flatnonzero\(mask\)\.$"):
            graph.edit(arm, at="blocks.1.resid_post.image", op="zero", channels=channels)
    graph.edit(arm, at="blocks.1.resid_post.image", op="zero", channels=np.flatnonzero(mask))
    assert graph.spec.edits[0].channels == (60,)


def test_numbers_of_numpys_are_numbers(tiny_sd3_lens: dl.DiTLens) -> None:
    sampling = tiny_sd3_lens.sampling(steps=np.int64(2), height=np.int32(16), guidance_scale=np.float32(3))
    assert sampling == tiny_sd3_lens.sampling(steps=2, height=16, guidance_scale=3.0)
    assert [type(each) for each in (sampling.steps, sampling.guidance_scale)] == [int, float]
    made, plain = (
        dl.InterventionGraph(sampling={"steps": steps, "guidance_scale": scale})
        for steps, scale in ((np.int64(2), np.float64(3)), (2, 3.0))
    )
    made.trajectory(prompt="a star", seed=np.int64(3), steps=np.uint8(4))  # type: ignore[arg-type]
    plain.trajectory(prompt="a star", seed=3, steps=4)
    assert made.spec == plain.spec and made.to_yaml() == plain.to_yaml()
    for wrong in ({"steps": np.True_}, {"steps": np.float64(2)}, {"guidance_scale": np.float32("nan")}):
        with pytest.raises(dl.BadInput, match=f"sampling.{next(iter(wrong))} is "):
            tiny_sd3_lens.sampling(**wrong)
    with pytest.raises(dl.BadInput, match="seed"):
        made.trajectory(prompt="a star", seed=np.float64(3))  # type: ignore[arg-type]
