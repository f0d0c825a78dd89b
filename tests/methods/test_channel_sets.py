"""Channel sets: rules, JSON that repeats byte for byte, and files that are not one."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dit_lens.errors import BadInput, RunFailure
from dit_lens.methods.channel_sets import ChannelSet, at_least_ratio, massive_2402_17762, strongest

pytestmark = pytest.mark.pure


def a_set(blocks: dict[int, tuple[int, ...]] | None = None, **fields: object) -> ChannelSet:
    values = {
        "model": "m",
        "statistic": "abs_mean",
        "stream": "image",
        "selection": {"top_k": 2},
        "provenance": {"seeds": [0], "sampling": {"steps": 4, "guidance_scale": 4.5}},
        "blocks": {0: (7, 3), 1: (7, 5)} if blocks is None else blocks,
    }
    return ChannelSet.model_validate({**values, **fields})


# ---------------------------------------------------------------------------------------------- rules
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.data())
def test_strongest_takes_the_largest_in_order(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    found = strongest(np.array(values), k)
    assert len(set(found)) == k
    assert [values[c] for c in found] == sorted(values, reverse=True)[:k]


@pytest.mark.parametrize("k", [0, -1, 4, True, 2.0, "2"])
def test_a_bad_k_says_what_exists(k: object) -> None:
    with pytest.raises(BadInput, match="Use 1 to 3"):
        strongest(np.ones(3), k)  # type: ignore[arg-type]


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=30), st.floats(0.5, 20))
def test_ratio_takes_exactly_those_at_or_above(values: list[float], ratio: float) -> None:
    found = at_least_ratio(np.array(values), ratio)
    threshold = ratio * np.median(values)
    assert set(found) == {i for i, value in enumerate(values) if value >= threshold}
    assert [values[c] for c in found] == sorted((values[c] for c in found), reverse=True)


def test_the_rule_of_2402_17762_needs_both_conditions() -> None:
    mean_abs = np.array([0.1, 0.1, 0.1, 0.1, 300.0])
    max_abs = np.array([101.0, 99.0, 100.0, 0.2, 400.0])
    assert massive_2402_17762(max_abs, mean_abs) == (4, 0)
    assert massive_2402_17762(max_abs, mean_abs * 2) == (4,)
    assert massive_2402_17762(max_abs, mean_abs, min_abs=99) == (4, 0, 2)
    assert massive_2402_17762(max_abs / 10, mean_abs / 10) == ()


# ------------------------------------------------------------------------------------------ the value
def test_json_has_the_declared_fields_in_order() -> None:
    value = json.loads(a_set().to_json())
    assert list(value) == [
        "schema_version", "model", "statistic", "stream", "selection", "provenance", "blocks",
    ]  # fmt: skip
    assert value["schema_version"] == 1
    assert value["blocks"] == {"0": [7, 3], "1": [7, 5]}


def test_equal_sets_give_equal_bytes_in_whatever_order_they_were_made() -> None:
    one = a_set({11: (1,), 2: (3, 4)}, provenance={"b": {"y": [{"q": 1, "p": 2}], "x": 2}, "a": 3})
    other = a_set({2: (3, 4), 11: (1,)}, provenance={"a": 3, "b": {"x": 2, "y": [{"p": 2, "q": 1}]}})
    assert one.to_json() == other.to_json()
    assert list(json.loads(one.to_json())["blocks"]) == ["2", "11"]


def test_saving_and_loading_gives_the_same_set(tmp_path: Path) -> None:
    chosen = a_set()
    path = chosen.save(tmp_path / "deep" / "massive.json")
    assert ChannelSet.load(path) == chosen
    assert path.read_text() == chosen.to_json()
    assert [p.name for p in path.parent.iterdir()] == ["massive.json"]


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        a_set().model = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [
        lambda chosen: chosen.blocks.__setitem__(1, (1, 2)),
        lambda chosen: chosen.blocks.update({1: (1, 2)}),
        lambda chosen: chosen.blocks.__ior__({1: (1, 2)}),
        lambda chosen: chosen.blocks.setdefault(9, ()),
        lambda chosen: chosen.blocks.pop(1),
        lambda chosen: chosen.blocks.popitem(),
        lambda chosen: chosen.blocks.clear(),
        lambda chosen: chosen.blocks.__delitem__(1),
        lambda chosen: setattr(chosen, "blocks", {1: (1, 2)}),
    ],
)
def test_its_channels_cannot_be_exchanged_under_its_provenance(change: Callable[[ChannelSet], None]) -> None:
    chosen = a_set()
    with pytest.raises(BadInput, match=r"cannot be changed.*stats\.select\(chosen="):
        change(chosen)
    assert chosen == a_set() and chosen.blocks == {0: (7, 3), 1: (7, 5)}


def test_equal_sets_hash_alike_and_copies_are_as_closed() -> None:
    assert {a_set(), a_set({1: (7, 5), 0: (7, 3)})} == {a_set()}
    assert len({a_set(), a_set({0: (3, 7), 1: (7, 5)})}) == 2
    copy = deepcopy(a_set())
    assert copy == a_set() and hash(copy) == hash(a_set())
    with pytest.raises(BadInput):
        copy.blocks[0] = ()


def test_repr_shows_the_channels_and_says_when_there_are_none() -> None:
    assert "block  0: 7, 3" in repr(a_set())
    empty = a_set({0: (), 1: ()}, statistic="max_abs", selection={"rule": "2402.17762"})
    assert empty.is_empty
    assert "empty: no channel of any of the 2 blocks" in repr(empty)
    assert "rule=2402.17762" in repr(empty)
    assert empty.channels == ()
    assert "block  0: –" in repr(a_set({0: (), 1: (2,)}))


def test_jaccard() -> None:
    assert a_set().jaccard(a_set()) == 1.0
    assert a_set().jaccard(a_set({0: (7, 9), 1: (0, 1)})) == pytest.approx((1 / 3 + 0) / 2)
    # A block that is empty on both sides says nothing, one that is empty on one side says 0.
    assert a_set({0: (1,), 1: ()}).jaccard(a_set({0: (1,), 1: ()})) == 1.0
    assert a_set({0: (1,), 1: ()}).jaccard(a_set({0: (1,), 1: (2,)})) == 0.5
    assert np.isnan(a_set({0: ()}).jaccard(a_set({0: ()})))
    with pytest.raises(BadInput, match="without a common block"):
        a_set({0: (1,)}).jaccard(a_set({1: (1,)}))


# ---------------------------------------------------------------------------------------- bad files
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("\ud800".encode("utf-8", "surrogatepass"), "is not JSON"),
        ('{"blocks": {"0": [1], "0": [2]}}', "the key '0' stands twice"),
        ("[1]", "not a channel set: the file: "),
        ("{}", "model: Field required"),
        ('"schema_version": 2', "schema_version: Value error, is 2; this dit_lens reads 1"),
        ('"blocks": {"0": ["a"]}', "blocks.0.0"),
        ('"blocks": {"0": [1.5]}', "blocks.0.0"),
        ('"blocks": {"x": [1]}', "blocks.x"),
        ('"blocks": {"0": [1, 1]}', "names a channel twice"),
        ('"blocks": {"-1": [1]}', "count from 0"),
        ('"blocks": {"0": [-1]}', "count from 0"),
        ('"model": 3', "model: "),
        ('"extra": 3', "extra: Extra inputs"),
    ],
)
def test_a_file_that_is_no_channel_set(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = tmp_path / "set.json"
    if isinstance(text, str) and text.startswith('"'):
        text = json.dumps({**json.loads(a_set().to_json()), **json.loads("{" + text + "}")})
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput) as caught:
        ChannelSet.load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="dit-lens discover"):
        ChannelSet.load(tmp_path / "no.json")
    with pytest.raises(BadInput, match="Cannot read"):
        ChannelSet.load(tmp_path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.mkdir()
    with pytest.raises(RunFailure, match="Cannot write"):
        a_set().save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["set.json"]
