"""Figures as pictures, drawn by a browser through kaleido."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from dit_lens.report import plots
from dit_lens.report.theme import PAPER
from tests.report.browser import require_pictures

pytestmark = pytest.mark.browser


def test_a_picture_is_drawn_on_its_paper(tables, tmp_path) -> None:
    require_pictures()
    figure = plots.agreement(tables["agreement"])
    path = plots.save(figure, tmp_path / "figure.png", mode="dark", width=400, scale=1)
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        picture = opened.convert("RGB")
    assert picture.width == 400
    assert "#{:02x}{:02x}{:02x}".format(*picture.getpixel((1, 1))) == PAPER["dark"]
    colours = picture.getcolors(2**20)
    assert colours is not None and len(colours) > 20, "something is drawn"
