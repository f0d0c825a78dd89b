"""The model card's program on a few captions: it measures the models that ship, and writes what it found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from dit_lens import zoo
from tests.report.browser import require_pictures

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif("shapes-sd3" not in zoo.names(), reason="shapes-sd3 is not in this checkout"),
]


def test_the_card_says_what_was_measured(tmp_path: Path) -> None:
    from dit_lens.zoo import card

    require_pictures()
    card.main(captions=2, out=tmp_path)
    numbers = json.loads((tmp_path / "card.json").read_text())
    assert numbers["captions"] == 2
    assert numbers["generator"]["clip"].keys() == numbers["generator"]["nearest_rendering"].keys()
    # The four strongest channels of each block, strongest first, by both readings.
    assert [row["block"] for row in numbers["spectrum"]] == list(range(8))
    for row in numbers["spectrum"]:
        for reading in ("abs_mean", "mean_abs"):
            assert row[reading]["ratios"] == sorted(row[reading]["ratios"], reverse=True)
            assert len(set(row[reading]["channels"])) == 4

    text = (tmp_path / "README.md").read_text()
    assert f"{numbers['parameters']['transformer'] / 1e6:.1f}" in text
    pictures = set(re.findall(r"\((card/[^)]+)\)", text))
    assert len(pictures) == 3
    for name in pictures:
        with Image.open(tmp_path / name) as picture:
            assert picture.getextrema() != ((255, 255),) * 3, f"{name} is blank"


def test_the_committed_card_is_of_the_models_that_ship() -> None:
    """Counted anew: a model that was trained again needs its card measured again."""
    import dit_lens as dl
    from dit_lens.zoo import card

    stored = json.loads((card.HERE / "card.json").read_text())
    pipeline = dl.load("shapes-sd3").pipeline
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        assert stored["parameters"][part] == sum(p.numel() for p in getattr(pipeline, part).parameters())
