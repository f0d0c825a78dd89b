"""Metrics against closed forms and independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.methods import distances, image_metrics
from dit_lens.methods.attribute_scores import asked_attributes, attribute_scores
from dit_lens.methods.frequency import band_change
from dit_lens.methods.pixels import as_pixels
from dit_lens.zoo.nearest import NearestRendering
from dit_lens.zoo.scenes import ATTRIBUTES, SEMANTIC, render, sample_scenes

pytestmark = pytest.mark.pure


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=shape)


# ---------------------------------------------------------------------------------------------- pixels
def test_every_kind_of_image_gives_the_same_pixels() -> None:
    bytes_ = np.random.default_rng(0).integers(0, 256, size=(2, 5, 4, 3), dtype=np.uint8)
    expected = bytes_ / 255
    kinds = [
        bytes_,
        list(bytes_),
        [Image.fromarray(b) for b in bytes_],
        expected,
        list(expected),
        torch.from_numpy(expected).permute(0, 3, 1, 2),
        torch.from_numpy(bytes_).permute(0, 3, 1, 2),
    ]
    for images in kinds:
        np.testing.assert_array_equal(as_pixels(images), expected)


def test_overshoot_is_clipped_and_transparency_dropped() -> None:
    assert as_pixels([np.full((2, 2, 3), 1.01)]).max() == 1.0
    assert as_pixels([Image.new("RGBA", (2, 3), (255, 0, 0, 255))]).shape == (1, 3, 2, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        ([np.zeros((2, 2))], r"\[H, W, 3\]"),
        ([np.zeros((2, 2, 3)), np.zeros((3, 2, 3))], "differ in size"),
        ([np.full((2, 2, 3), np.nan)], "not finite"),
        ([np.full((2, 2, 3), 200.0)], "to 200; floats must lie in"),
        ([np.full((2, 2, 3), -1.0)], "from -1"),
        (torch.zeros(2, 2, 3), r"\[n, 3, H, W\]"),
        ([np.zeros((0, 2, 3))], "no pixels"),
    ],
)
def test_what_is_no_image_is_refused(images, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=message):
        as_pixels(images)


# -------------------------------------------------------------------------------------- along the steps
@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], {"relative": 0, "rms": 0, "cosine": 0}),
        ([6.0, 8.0], [3.0, 4.0], {"relative": 1, "rms": np.sqrt(12.5), "cosine": 0}),
        ([-4.0, 3.0], [3.0, 4.0], {"relative": np.sqrt(2), "rms": 5, "cosine": 1}),
        ([0.0, 0.0], [3.0, 4.0], {"relative": 1, "rms": np.sqrt(12.5), "cosine": np.nan}),
        ([3.0, 4.0], [0.0, 0.0], {"relative": np.nan, "rms": np.sqrt(12.5), "cosine": np.nan}),
    ],
)
def test_distances_in_closed_form(a: list[float], b: list[float], expected: dict[str, float]) -> None:
    for kind, value in expected.items():
        found = distances.step_distance(np.array([[a]]), np.array([[b]]), kind)  # type: ignore[arg-type]
        assert found.shape == (1, 1)
        assert found[0, 0] == pytest.approx(value, nan_ok=True)


def test_distances_of_half_precision_tensors() -> None:
    a = torch.full((1, 2, 4), 3.0, dtype=torch.bfloat16)
    np.testing.assert_array_equal(distances.step_distance(a, a / 2), [[1.0, 1.0]])


def test_steps_that_do_not_pair_are_refused() -> None:
    latents = noise(2, 6, 3, 4, 4)
    with pytest.raises(BadInput, match="step by step"):
        distances.step_distance(latents, latents[:, 1:])
    with pytest.raises(BadInput, match="no distance 'l2'"):
        distances.step_distance(latents, latents, "l2")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- pictures
def test_psnr_in_closed_form() -> None:
    black = np.zeros((3, 4, 4, 3))
    edited = black + np.array([0.1, 0.01, 0.0])[:, None, None, None]
    np.testing.assert_allclose(distances.psnr(edited, black), [20.0, 40.0, distances.PSNR_CAP])


def test_psnr_equals_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    a, b = noise(1, 16, 16, 3), noise(1, 16, 16, 3, seed=1)
    expected = peak_signal_noise_ratio(torch.from_numpy(a), torch.from_numpy(b), data_range=1.0)
    assert distances.psnr(a, b)[0] == pytest.approx(float(expected))


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 from its formula, the image mirrored at its edges."""
    from scipy.ndimage import convolve1d

    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(x: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            x = convolve1d(x, window, axis=axis, mode="mirror")
        return x

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())


def test_ssim_equals_its_formula() -> None:
    a = noise(2, 24, 30, 3)
    b = np.clip(a + 0.2 * (noise(2, 24, 30, 3, seed=1) - 0.5), 0, 1)
    np.testing.assert_allclose(
        distances.ssim(a, b), [plain_ssim(x, y) for x, y in zip(a, b, strict=True)], atol=1e-6
    )
    np.testing.assert_allclose(distances.ssim(a[:1], a[:1]), [1.0])


def test_ssim_needs_a_window_of_pixels() -> None:
    with pytest.raises(BadInput, match="window of 11 pixels; the images are 8 × 8"):
        distances.ssim(noise(1, 8, 8, 3), noise(1, 8, 8, 3))


def test_image_metrics_by_name() -> None:
    image = noise(2, 16, 16, 3)
    found = image_metrics.compare_images(1 - image, image, ["change_high", "psnr"])
    assert list(found) == ["change_high", "psnr"]
    assert all(values.shape == (2,) for values in found.values())
    every = ("psnr", "ssim", "change_low", "change_high", "detail_ratio")
    assert image_metrics.image_metrics() == every == tuple(image_metrics.compare_images(image, image))
    with pytest.raises(BadInput, match=r"no image metric 'pnsr'.*Did you mean 'psnr'"):
        image_metrics.compare_images(image, image, ["pnsr"])
    with pytest.raises(BadInput, match="do not pair"):
        image_metrics.compare_images(image, image[:1])


# ------------------------------------------------------------------------------------------ frequencies
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.tuples(st.integers(2, 17), st.integers(2, 17)), st.floats(0.01, 0.3))
def test_the_bands_share_out_the_whole_change(seed: int, size: tuple[int, int], cutoff: float) -> None:
    a, b = noise(2, *size, 3, seed=seed), noise(2, *size, 3, seed=seed + 1)
    change = band_change(a, b, cutoff=cutoff)
    whole = ((a - b) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(change.low**2 + change.high**2, whole, rtol=1e-9)
    back = band_change(b, a, cutoff=cutoff)
    np.testing.assert_allclose(change.high, back.high)
    np.testing.assert_allclose(change.detail_ratio * back.detail_ratio, 1, rtol=1e-9)


def wave(period: float, amplitude: float = 0.2) -> np.ndarray:
    rows = np.arange(48)[:, None, None]
    return np.broadcast_to(0.5 + amplitude * np.sin(2 * np.pi * rows / period), (48, 48, 3))[None]


@pytest.mark.parametrize(("period", "band"), [(48, "low"), (16, "low"), (8, "low"), (6, "high"), (3, "high")])
def test_a_wave_lies_in_one_band(period: int, band: str) -> None:
    change = band_change(wave(period), np.full((1, 48, 48, 3), 0.5))
    other = {"low": "high", "high": "low"}[band]
    assert getattr(change, band)[0] == pytest.approx(0.2 / np.sqrt(2))
    assert getattr(change, other)[0] == pytest.approx(0, abs=1e-12)
    assert np.isnan(change.detail_ratio[0])


def test_detail_ratio_counts_what_detail_is_left() -> None:
    assert band_change(wave(4, 0.1), wave(4, 0.2)).detail_ratio[0] == pytest.approx(0.5)
    assert band_change(wave(48), wave(4)).detail_ratio[0] == pytest.approx(0, abs=1e-9)


def test_the_worlds_detail_is_high_and_its_colour_is_not() -> None:
    scene = sample_scenes(1, 5)[0].with_(detail="plain", size="large", colour="red", background="black")
    plain = [render(scene)]
    striped = band_change([render(scene.with_(detail="striped"))], plain)
    recoloured = band_change([render(scene.with_(colour="cyan"))], plain)
    share = [c.high[0] ** 2 / (c.high[0] ** 2 + c.low[0] ** 2) for c in (striped, recoloured)]
    assert share[0] > 0.5 > 3 * share[1]
    # The subject's sharp edges are high frequencies too, so the ratio moves less than the change.
    assert 1.05 < striped.detail_ratio[0] < 2


@pytest.mark.parametrize("cutoff", [0.0, 0.5, 8])
def test_a_cutoff_out_of_range_is_refused(cutoff: float) -> None:
    with pytest.raises(BadInput, match="cut-off"):
        band_change(wave(4), wave(4), cutoff=cutoff)


# ------------------------------------------------------------------------------------ attribute read-out
def test_renderings_are_read_as_their_captions_say() -> None:
    scenes = sample_scenes(6, 6)
    scores = attribute_scores(
        [render(s) for s in scenes], [s.caption for s in scenes], reader=NearestRendering()
    )
    assert list(scores) == [*ATTRIBUTES, "semantics"]
    assert all((values == 1).all() for values in scores.values())


def test_semantics_and_detail_are_apart() -> None:
    scene = sample_scenes(1, 7)[0].with_(detail="plain", colour="red")
    images = [render(scene.with_(detail="dotted")), render(scene.with_(colour="blue"))]
    scores = attribute_scores(images, [scene.caption] * 2, reader=NearestRendering())
    np.testing.assert_allclose(scores["semantics"], [1.0, 0.8])
    np.testing.assert_array_equal(scores["detail"], [0.0, 1.0])


def test_only_what_was_asked_counts() -> None:
    scene = sample_scenes(1, 8)[0].with_(colour="red", detail="dotted")
    asked = ["a red shape", "a dotted shape", {"colour": "blue", "detail": "dotted"}]
    scores = attribute_scores([render(scene)] * 3, asked, reader=NearestRendering())
    np.testing.assert_array_equal(scores["colour"], [1, np.nan, 0])
    np.testing.assert_array_equal(scores["detail"], [np.nan, 1, 1])
    np.testing.assert_array_equal(scores["semantics"], [1, np.nan, 0])
    assert set(SEMANTIC) == set(ATTRIBUTES) - {"detail"}


def test_every_caption_names_its_attributes() -> None:
    for scene in sample_scenes(50, 9):
        assert asked_attributes(scene.caption) == scene.attributes


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("a photo of a cat", "names no attribute"), ("a red and blue star", "more than one colour: red, blue")],
)
def test_prompts_outside_the_world_are_refused(prompt: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        attribute_scores([noise(48, 48, 3)], [prompt], reader=NearestRendering())


def test_one_prompt_per_picture() -> None:
    with pytest.raises(BadInput, match="1 images and 2 prompts"):
        attribute_scores([noise(48, 48, 3)], ["a red star"] * 2, reader=NearestRendering())
    with pytest.raises(BadInput, match="one prompt"):
        attribute_scores([noise(48, 48, 3)], "a red star", reader=NearestRendering())
    with pytest.raises(BadInput, match="no colour 'gold'"):
        attribute_scores([noise(48, 48, 3)], [{"colour": "gold"}], reader=NearestRendering())
