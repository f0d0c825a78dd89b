"""The CLIP that ships with the package as scorer and reader of the embedded world."""

from __future__ import annotations

import numpy as np
import pytest

from dit_lens import zoo
from dit_lens.methods.attribute_scores import attribute_scores
from dit_lens.methods.scorers import ClipAlignment, EmbeddedAlignment, score_images
from dit_lens.zoo.scenes import render, sample_scenes

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        not (zoo.scorer_path() / "config.json").exists(),
        reason="the embedded scorer shapes-clip is not in this checkout",
    ),
]


def test_a_picture_aligns_with_its_own_prompt() -> None:
    scenes = sample_scenes(64, 31, held_out=True)
    images = [render(scene) for scene in scenes]
    prompts = [scene.caption for scene in scenes]
    own = score_images(EmbeddedAlignment(), images, prompts)
    other = score_images(EmbeddedAlignment(), images, prompts[1:] + prompts[:1])
    assert (own > other).mean() >= 0.9
    assert (np.abs(own) <= 1 + 1e-6).all()


def test_the_same_clip_by_its_folder_gives_the_same_scores() -> None:
    scenes = sample_scenes(8, 32, held_out=True)
    images, prompts = [render(scene) for scene in scenes], [scene.caption for scene in scenes]
    by_name = ClipAlignment(str(zoo.scorer_path())).score(images, prompts)
    np.testing.assert_allclose(by_name, EmbeddedAlignment().score(images, prompts), atol=1e-4)


def test_held_out_renderings_are_read_far_above_chance() -> None:
    scenes = sample_scenes(128, 33, held_out=True)
    scores = attribute_scores([render(scene) for scene in scenes], [scene.caption for scene in scenes])
    assert scores["semantics"].mean() >= 0.8
    assert scores["detail"].mean() >= 0.6
