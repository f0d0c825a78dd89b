"""Hostile text stays text, wherever it goes."""

from __future__ import annotations

import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_lens.report.text import number, plot_text, script_json, shorten, spans

pytestmark = pytest.mark.pure


@given(st.text())
def test_a_plot_label_holds_no_markup_and_loses_nothing(text: str) -> None:
    label = plot_text(text, limit=10_000)
    assert not re.search(r"[<>${}%]", label)
    assert html.unescape(label) == html.unescape(html.escape(" ".join(text.split())))


@given(st.text(min_size=1), st.integers(5, 40))
def test_wrapping_adds_line_breaks_and_no_other_tag(text: str, width: int) -> None:
    label = plot_text(text, limit=10_000, width=width)
    assert not re.search(r"[<>]", label.replace("<br>", ""))


@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text()), st.lists))
def test_json_in_a_script_cannot_close_it_and_says_the_same(value: object) -> None:
    text = script_json(value)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == value


@given(st.text(), st.integers(1, 50))
def test_shortening_keeps_the_limit(text: str, limit: int) -> None:
    assert len(shorten(text, limit)) <= limit


@given(st.sets(st.integers(0, 60), min_size=1))
def test_spans_name_each_number_once(values: set[int]) -> None:
    named: list[int] = []
    for part in spans(sorted(values)).split(", "):
        first, _, last = part.partition("–")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(values)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (14.25, "14.2"),
        (99.96, "100"),
        (1536.4, "1,536"),
        (-0.5, "−0.5"),
        (1e-7, "1.00\xa0×\xa010⁻⁷"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown
