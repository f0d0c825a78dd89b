"""Arguments swapped or of another kind at the library's doors: a message that says what was expected."""

from __future__ import annotations

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
