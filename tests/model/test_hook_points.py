"""Addresses: parsing, order, and selections that survive another depth or step count."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.model.hook_points import (
    COMPONENTS,
    GLOBAL_COMPONENTS,
    STREAMS,
    HookPoint,
    HookPoints,
    in_forward_order,
    parse_blocks,
    select,
    select_steps,
)

pytestmark = pytest.mark.pure

points = st.one_of(
    st.sampled_from(GLOBAL_COMPONENTS).map(HookPoint),
    st.builds(HookPoint, st.sampled_from(COMPONENTS), st.integers(0, 60), st.sampled_from(STREAMS)),
)


def model(blocks: int = 8) -> list[HookPoint]:
    """Points of a small SD3: the context ends with the last block."""
    found = [HookPoint("temb"), HookPoint("velocity")]
    for i in range(blocks):
        for stream in STREAMS:
            found.append(HookPoint("resid_pre", i, stream))
            if stream == "image" or i < blocks - 1:
                found += [HookPoint(c, i, stream) for c in ("attn_out", "mlp_out", "resid_post")]
    return found


def names(selected) -> list[str]:
    return [str(point) for point in selected]


@given(points)
def test_an_address_survives_text_and_back(point):
    assert HookPoint.parse(str(point)) == point


@given(st.lists(points, max_size=30))
def test_forward_order_is_total_and_ignores_the_order_given(chosen):
    assert in_forward_order(chosen) == in_forward_order(chosen[::-1])
    keys = [point.forward_key for point in in_forward_order(chosen)]
    assert keys == sorted(set(keys))


def test_forward_order_of_a_block():
    shuffled = [
        "velocity",
        "blocks.0.resid_post.image",
        "blocks.0.mlp_out.context",
        "blocks.0.attn_out.context",
        "blocks.0.adaln.gate_mlp.image",
        "blocks.0.adaln.shift_attn.context",
        "blocks.0.mlp_out.image",
        "blocks.1.resid_pre.image",
        "blocks.0.resid_pre.context",
        "temb",
        "blocks.0.attn2_out.image",
    ]
    assert names(in_forward_order([HookPoint.parse(p) for p in shuffled])) == [
        "temb",
        "blocks.0.resid_pre.context",
        "blocks.0.adaln.gate_mlp.image",
        "blocks.0.adaln.shift_attn.context",
        "blocks.0.attn_out.context",
        "blocks.0.attn2_out.image",
        "blocks.0.mlp_out.image",
        "blocks.0.mlp_out.context",
        "blocks.0.resid_post.image",
        "blocks.1.resid_pre.image",
        "velocity",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("blocks.3.resid_pots.image", "Did you mean 'resid_post'"),
        ("blocks.3.resid_post.picture", "Streams: image, context"),
        ("blocks.x.resid_post.image", "is no hook point"),
        ("velocty", "Did you mean 'velocity'"),
        ("", "is no hook point"),
    ],
)
def test_a_wrong_address_says_what_exists(text, says):
    with pytest.raises(BadInput, match=says):
        HookPoint.parse(text)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (("temb", 3, None), "it takes no block and no stream"),
        (("velocity", None, "image"), "it takes no block and no stream"),
        (("resid_post", None, "image"), "needs a block number from 0 up, not None"),
        (("resid_post", -1, "image"), "needs a block number from 0 up, not -1"),
        (("resid_post", True, "image"), "needs a block number from 0 up, not True"),
        (("resid_post", 3, None), "Streams: image, context"),
    ],
)
def test_a_place_of_the_wrong_parts_is_refused(parts, says):
    with pytest.raises(BadInput, match=says):
        HookPoint(*parts)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("blocks.4.resid_post.image", ["blocks.4.resid_post.image"]),
        ("blocks.6-7.resid_post.image", ["blocks.6.resid_post.image", "blocks.7.resid_post.image"]),
        ("blocks.0,2-3.attn_out.context", [f"blocks.{i}.attn_out.context" for i in (0, 2, 3)]),
        ("blocks.0.25-0.5.mlp_out.image", ["blocks.2.mlp_out.image", "blocks.3.mlp_out.image"]),
        ("blocks.0.5.resid_post.image", ["blocks.4.resid_post.image"]),
        ("blocks.*.resid_post.context", [f"blocks.{i}.resid_post.context" for i in range(7)]),
        ("blocks.7", [f"blocks.7.{c}" for c in ("resid_pre.image", "resid_pre.context", "attn_out.image",
                                                "mlp_out.image", "resid_post.image")]),
        ("temb", ["temb"]),
        (["velocity", "temb"], ["temb", "velocity"]),
    ],
)  # fmt: skip
def test_patterns(pattern, expected):
    assert names(select(pattern, model())) == expected


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("blocks.7.resid_post.context", r"blocks 0–6 have it.*context stream ends"),
        ("blocks.5-7.resid_post.context", r"Block 7 has no 'resid_post.context'"),
        ("blocks.8.resid_post.image", "no block 8: there are 8, 0 to 7"),
        ("blocks.*.resid_pots.image", r"Did you mean 'resid_post.image'"),
        ("block.1.resid_post.image", r"Did you mean 'blocks.1.resid_post.image'"),
        ("blocks.9-2.resid_post.image", "no block 9"),
        ("blocks.5-2.resid_post.image", "runs backwards"),
        ("blocks.0.9-0.1.resid_post.image", "it needs 0 ≤ low < high ≤ 1"),
        ("blocks.1.5.resid_post.image", "no fraction of depth: fractions lie between 0.0 and 1.0"),
        ("blocks.3.resid_post", "add .image or .context, such as blocks.3.resid_post.image"),
        ("blocks.*.mlp_ou?", "names no stream: add .image or .context"),
        ([], "No hook point was named"),
    ],
)
def test_a_pattern_that_cannot_be_met_is_refused_by_name(pattern, says):
    with pytest.raises(BadInput, match=says):
        select(pattern, model())


@given(st.integers(1, 60), st.floats(0, 1))
def test_fractions_cut_the_depth_into_parts_that_neither_overlap_nor_leave_gaps(size, cut):
    def part(low, high):
        try:
            return parse_blocks({"fraction": [low, high]}, size)
        except BadInput:
            return ()

    assert part(0, cut) + part(cut, 1) == tuple(range(size))


@given(st.integers(1, 40), st.data())
def test_slices_of_steps_are_python_slices(size, data):
    start, stop = (data.draw(st.one_of(st.none(), st.integers(-size, size))) for _ in range(2))
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    expected = tuple(range(size))[slice(start, stop)]
    if expected:
        assert select_steps(text, size) == expected
    else:
        with pytest.raises(BadInput):
            select_steps(text, size)


def test_steps_by_noise_level():
    sigmas = [1.0, 0.8, 0.5, 0.2, 0.0]
    assert select_steps({"sigma": [0.4, 0.9]}, 4, sigmas) == (1, 2)
    with pytest.raises(BadInput, match=r"Steps start at 1, 0.8, 0.5, 0.2"):
        select_steps({"sigma": [0.3, 0.4]}, 4, sigmas)
    with pytest.raises(BadInput, match="need a noise schedule"):
        select_steps({"sigma": [0, 1]}, 4)


@pytest.mark.parametrize(
    "spec",
    [
        4, [0, 4], "4", "0:9", True, "two", 1.5, [], None, {"part": [0, 1]}, {"fraction": 0.5},
        {"fraction": [0.5, "x"]}, {"fraction": [0.9, 0.1]}, {"sigma": [0, 1]},
    ],
)  # fmt: skip
def test_steps_that_do_not_exist_are_refused(spec):
    with pytest.raises(BadInput):
        select_steps(spec, 4)


def test_steps_from_the_end():
    assert select_steps(-1, 4) == (3,)
    assert select_steps([3, 0, "1:3"], 4) == (0, 1, 2, 3)


def test_steps_at_a_stride():
    assert select_steps("::2", 5) == (0, 2, 4)
    assert select_steps("1:-1:3", 8) == (1, 4)
    for text in ("::0", "::-1", "4::2"):
        with pytest.raises(BadInput):
            select_steps(text, 4)


def test_the_listing_shows_every_address_with_its_shape():
    listing = HookPoints(model(2), lambda point: ("rows", 5))
    assert len(str(listing).splitlines()) == len(listing) == len(model(2))
    assert "blocks.1.resid_post.image" in str(listing)
    assert listing.shape("temb") == ("rows", 5)
    assert "10" in repr(listing) or str(len(listing)) in repr(listing)


def test_addresses_load_no_torch():
    code = "import sys, dit_lens.model.hook_points; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
