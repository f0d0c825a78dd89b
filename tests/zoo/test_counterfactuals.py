"""Pairs of captions that differ in one attribute."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput
from dit_lens.zoo.scenes import ATTRIBUTES, counterfactuals, parse_caption

pytestmark = pytest.mark.pure


@given(
    st.integers(1, 40),
    st.integers(0, 2**31),
    st.lists(st.sampled_from(list(ATTRIBUTES)), min_size=1, max_size=6, unique=True),
    st.sampled_from([None, True, False]),
)
@settings(max_examples=15, deadline=None)
def test_pairs_differ_in_the_attribute_whose_turn_it_is_and_in_nothing_else(
    count, seed, attributes, held_out
):
    pairs = counterfactuals(count, seed, attributes=attributes, held_out=held_out)
    assert len(pairs) == count
    for i, pair in enumerate(pairs):
        source, target = (parse_caption(scene.caption).attributes for scene in (pair.source, pair.target))
        assert [name for name in ATTRIBUTES if source[name] != target[name]] == [pair.attribute]
        assert pair.attribute == attributes[i % len(attributes)]
        assert held_out is None or pair.source.held_out == held_out
    captions = [scene.caption for pair in pairs for scene in (pair.source, pair.target)]
    assert len(set(captions)) == 2 * count


def test_a_seed_always_draws_the_same_pairs_and_another_one_others():
    assert counterfactuals(8, 3) == counterfactuals(8, 3) != counterfactuals(8, 4)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(BadInput, match="Did you mean 'colour'"):
        counterfactuals(1, 0, attributes=["color"])
    with pytest.raises(BadInput, match="none was named"):
        counterfactuals(1, 0, attributes=[])
    with pytest.raises(BadInput, match="5000 pairs"):
        counterfactuals(5000, 0)
