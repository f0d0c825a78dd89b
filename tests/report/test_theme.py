"""The look keeps its promises in numbers: contrast, colour blindness, even lightness."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from plotly.colors import sample_colorscale

import dit_lens.report
from dit_lens.report.theme import CATEGORICAL, DIVERGING, GRID, INK, NEUTRAL, PAPER, SEQUENTIAL, template

pytestmark = pytest.mark.pure

# Complete colour blindness, on linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
SEEN_WITH = {
    "all cones": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
_TO_XYZ = np.array([[0.41246, 0.35758, 0.18044], [0.21267, 0.71515, 0.07218], [0.01933, 0.11919, 0.95030]])
_WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> np.ndarray:
    """Linear RGB in [0, 1] of `#rrggbb` or `rgb(r, g, b)`."""
    if colour.startswith("#"):
        parts = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])
    else:
        parts = np.array([float(part) for part in re.findall(r"[\d.]+", colour)])
    parts = parts / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(colour: str, seen_with: str = "all cones") -> np.ndarray:
    """L*, a*, b* of a colour as it is seen."""
    ratio = _TO_XYZ @ np.clip(SEEN_WITH[seen_with] @ linear(colour), 0, 1) / _WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(first: str, second: str, seen_with: str = "all cones") -> float:
    return float(np.linalg.norm(lab(first, seen_with) - lab(second, seen_with)))


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio."""
    light, dark = sorted((float(_TO_XYZ[1] @ linear(each)) for each in (first, second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_measure_is_the_known_one() -> None:
    np.testing.assert_allclose(lab("#ffffff"), [100, 0, 0], atol=0.05)
    np.testing.assert_allclose(lab("#ff0000"), [53.24, 80.09, 67.20], atol=0.1)
    assert contrast("#000000", "#ffffff") == pytest.approx(21, abs=0.01)
    assert apart("#ff0000", "#00a000", "deuteranopia") < apart("#ff0000", "#00a000") / 2


@pytest.mark.parametrize("seen_with", SEEN_WITH)
def test_categories_stay_apart_however_they_are_seen(seen_with) -> None:
    closest = min(apart(a, b, seen_with) for a, b in itertools.combinations(CATEGORICAL, 2))
    assert closest >= 16


@pytest.mark.parametrize("seen_with", SEEN_WITH)
def test_quantities_get_lighter_without_a_step_back(seen_with) -> None:
    lightness = [lab(colour, seen_with)[0] for colour in sample_colorscale(SEQUENTIAL, np.linspace(0, 1, 64))]
    assert min(np.diff(lightness)) > 0
    assert lightness[-1] - lightness[0] > 70


def test_differences_are_symmetric_about_grey() -> None:
    colours = sample_colorscale([list(stop) for stop in DIVERGING], np.linspace(0, 1, 65))
    lightness = np.array([lab(colour)[0] for colour in colours])
    assert np.abs(lightness - lightness[::-1]).max() < 2, "as dark as far from 0"
    assert np.linalg.norm(lab(colours[32])[1:]) < 5, "0 has no hue"
    assert (np.diff(lightness[:33]) > 0).all() and (np.diff(lightness[32:]) < 0).all()


@pytest.mark.parametrize("seen_with", SEEN_WITH)
def test_the_signs_of_a_difference_are_told_apart(seen_with) -> None:
    assert apart(DIVERGING[0][1], DIVERGING[-1][1], seen_with) >= 85


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_colours_stand_out_in_both_modes(mode) -> None:
    assert contrast(INK[mode], PAPER[mode]) >= 7
    assert template(mode).layout.xaxis.gridcolor == GRID[mode]
    for colour in CATEGORICAL[:3]:
        assert contrast(colour, PAPER[mode]) >= 3
    for colour in (*CATEGORICAL, NEUTRAL):
        assert apart(colour, PAPER[mode]) >= 40


@pytest.mark.parametrize(("mode", "position"), [("light", 0), ("dark", 1)])
def test_badges_stand_out_from_the_card(mode, position) -> None:
    styles = (Path(dit_lens.report.__file__).parent / "templates").glob("*.css")
    style = "".join(path.read_text(encoding="utf-8") for path in sorted(styles))
    for name in ("good", "bad", "soft"):
        assert contrast(re.findall(rf"--{name}: (#\w{{6}})", style)[position], PAPER[mode]) >= 4.5
