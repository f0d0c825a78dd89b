"""YAML is read as plain data, and of two equal keys none is taken."""

from __future__ import annotations

import pytest
import yaml

from dit_lens.errors import BadInput
from dit_lens.plain_yaml import load_yaml, load_yaml_and_lines

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: {b: [1, 2.5, null, true]}\nc: 'd'",
        '{"a": {"1": [0], "2": []}}',
        "base: &b {x: 1, y: 2}\nover: {<<: *b, x: 3}\nagain: *b\n",
        # A mapping that was merged into another before its own turn came.
        "z: &z {k: 0}\nx: {y: &a {<<: *z, k: 1}}\nb: {<<: *a, k: 2}\n",
    ],
)
def test_what_has_no_equal_keys_reads_as_ever(text: str) -> None:
    assert load_yaml(text, "here") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "here:3: a: the key stands twice, first in line 1"),
        ("a:\n- {b: 1}\n- {b: 1,\n   b: 2}", "here:4: a.1.b: the key stands twice, first in line 3"),
        ("{1: a, '1': b}", "1: the key stands twice"),
        ("{10: a, 0xA: b}", "0xA: the key stands twice"),
        ("{yes: a, true: b}", "true: the key stands twice"),
        ("a: &x {b: 1, b: 2}\nc: *x", "a.b: the key stands twice"),
        ("a: [", "here:1: this is no YAML"),
        ("a: 1\n--- \nb: 2", "this is no YAML"),
        ("a: !!python/name:os.system", "only plain data"),
        ("{[1]: 2}", "only plain data"),
        ("2024-13-45: x", "this is no YAML"),
    ],
)
def test_what_is_not_taken_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_yaml(text, "here")
    assert said in str(refused.value)


def test_aliases_of_aliases_take_no_time() -> None:
    laughs = ["a0: &a0 [1, 2]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    data, lines = load_yaml_and_lines("\n".join(laughs), "here")
    assert data["a59"][0] is data["a58"] and len(lines) < 60 * 4
