"""LPIPS on AlexNets with random weights: its definition, torchmetrics' own, and what is refused beforehand.

The published weights cannot be shipped, so no published number is checked here; the heads are torchmetrics'.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import correlate

from dit_lens.analysis.reading import read_spec
from dit_lens.errors import BadInput
from dit_lens.methods import lpips as module
from dit_lens.methods.lpips import CACHED, SMALLEST, WEIGHTS, Lpips, cached_weights
from dit_lens.methods.measures import Measures, default_measures, needs_image

pytestmark = pytest.mark.pure

SHAPES = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
STRIDES, PADDINGS = {0: 4}, {0: 2, 3: 2, 6: 1, 8: 1, 10: 1}


def random_alexnet() -> dict[str, torch.Tensor]:
    """Weights of torchvision's names and shapes; the classifier's are left out, as nothing needs them."""
    dice = torch.Generator().manual_seed(0)
    found = {}
    for place, shape in SHAPES.items():
        scale = float(np.prod(shape[1:])) ** -0.5
        found[f"features.{place}.weight"] = torch.randn(shape, generator=dice) * scale * 2**0.5
        found[f"features.{place}.bias"] = torch.randn(shape[:1], generator=dice) * 0.1
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(random_alexnet(), path)
    return path


@pytest.fixture(scope="module")
def measured(weights: Path) -> Lpips:
    return Lpips(weights)


def pictures(n: int, height: int = 35, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(n, height, width, 3))


# -------------------------------------------------------------------------------------------- the numbers
def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """A convolution layer by scipy: x [channels, H, W]."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    rows = [correlate(x, kernel, mode="valid")[0, ::stride, ::stride] for kernel in weight]
    return np.stack(rows) + bias[:, None, None]


def pooled(x: np.ndarray) -> np.ndarray:
    """The largest of 3 × 3 pixels at every second place."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return windows.max(axis=(3, 4))[:, ::2, ::2]


def by_its_formula(a: np.ndarray, b: np.ndarray, alexnet: dict[str, np.ndarray], heads: list[np.ndarray]):
    """Equation 1 of arXiv 1801.03924, in float64 and without torch."""
    total = 0.0
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    pair = [np.moveaxis((2 * x - 1 - shift) / scale, -1, 0) for x in (a, b)]
    for place, head in zip(SHAPES, heads, strict=True):
        if place in (3, 6):
            pair = [pooled(x) for x in pair]
        kernel, bias = alexnet[f"features.{place}.weight"], alexnet[f"features.{place}.bias"]
        pair = [
            np.maximum(convolved(x, kernel, bias, STRIDES.get(place, 1), PADDINGS[place]), 0) for x in pair
        ]
        first, second = (x / np.sqrt((x**2).sum(axis=0) + 1e-8) for x in pair)
        total += (head[:, None, None] * (first - second) ** 2).sum(axis=0).mean()
    return total


def test_it_is_the_papers_formula(measured: Lpips) -> None:
    import torchmetrics.functional.image as home

    given = torch.load(Path(home.__file__).parent / "lpips_models" / "alex.pth", "cpu", weights_only=True)
    heads = [given[f"lin{layer}.model.1.weight"].numpy()[0, :, 0, 0] for layer in range(5)]
    alexnet = {name: tensor.double().numpy() for name, tensor in random_alexnet().items()}
    a, b = pictures(1)[0], pictures(1, seed=1)[0]
    expected = by_its_formula(a, b, alexnet, heads)
    assert expected > 0.01
    assert measured([a], [b])[0] == pytest.approx(expected, rel=1e-5)


def test_it_is_what_torchmetrics_computes(measured: Lpips) -> None:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(
            reason=f"torchvision does not import beside this torch ({error}); torchmetrics' LPIPS needs it"
        )
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    theirs = _NoTrainLpips(net="alex", pnet_rand=True)
    given = random_alexnet()
    slices = {name.split(".", 1)[1]: name for name, _ in theirs.net.named_parameters()}
    theirs.net.load_state_dict({slices[name.removeprefix("features.")]: t for name, t in given.items()})
    a, b = pictures(3, 48, 48), pictures(3, 48, 48, seed=1)
    tensors = [torch.from_numpy(np.moveaxis(x, -1, 1).copy()).float() for x in (a, b)]
    with torch.no_grad():
        expected = theirs(*tensors, normalize=True).flatten()
    np.testing.assert_allclose(measured(a, b), expected.numpy(), rtol=1e-5)


def test_equal_pictures_are_at_no_distance_and_it_is_the_same_both_ways(measured: Lpips) -> None:
    a, b = pictures(2), pictures(2, seed=1)
    assert measured(a, a).tolist() == [0.0, 0.0]
    np.testing.assert_allclose(measured(a, b), measured(b, a), rtol=1e-6)


def test_a_distance_does_not_depend_on_the_pictures_beside_it(measured: Lpips) -> None:
    a, b = pictures(3), pictures(3, seed=1)
    assert measured(a, b)[1] == measured(a[1:2], b[1:2])[0]


# ------------------------------------------------------------------------------------------------- sizes
def test_the_smallest_picture_is_measured_and_the_next_smaller_is_refused(measured: Lpips) -> None:
    least = pictures(1, SMALLEST, SMALLEST)
    assert np.isfinite(measured(least, 1 - least)).all()
    less = pictures(1, SMALLEST - 1, 64)
    with pytest.raises(BadInput, match="30 × 64 pixels are too small for AlexNet, which needs 31 × 31"):
        measured(less, less)


def test_sizes_are_refused_before_anything_is_drawn(measured: Lpips) -> None:
    with pytest.raises(BadInput, match="16 × 16 pixels are too small for AlexNet"):
        Measures(("lpips",), lpips=measured).require_size(16, 16)
    with pytest.raises(BadInput, match="window of 11 pixels; the images are 8 × 64"):
        Measures(("ssim",)).require_size(8, 64)
    Measures(("lpips", "ssim"), lpips=measured).require_size(31, 31)
    Measures(("psnr",)).require_size(1, 1)


# ------------------------------------------------------------------------------------------- the weights
@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = cached_weights()
    assert path == tmp_path / "torch" / "hub" / "checkpoints" / WEIGHTS
    path.parent.mkdir(parents=True)
    return path


def test_weights_that_are_not_cached_are_not_fetched(empty_cache: Path) -> None:
    with pytest.raises(BadInput) as caught:
        Lpips()
    message = str(caught.value)
    assert str(empty_cache) in message and module.URL in message and "leave lpips out" in message
    assert not list(empty_cache.parent.iterdir())


def test_a_cached_file_that_is_not_the_published_one_is_refused(empty_cache: Path, weights: Path) -> None:
    empty_cache.write_bytes(weights.read_bytes())
    with pytest.raises(BadInput, match=r"is cut off or was changed: its sha256 begins with [0-9a-f]{8}, not"):
        Lpips(CACHED)


def test_cached_weights_are_taken_where_their_digest_is_right(
    empty_cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_cache.write_bytes(weights.read_bytes())
    monkeypatch.setattr(module, "_DIGEST", hashlib.sha256(weights.read_bytes()).hexdigest()[:8])
    a, b = pictures(1), pictures(1, seed=1)
    assert Lpips()(a, b).tolist() == Lpips(weights)(a, b).tolist()


def test_safetensors_are_the_same_weights(tmp_path: Path, weights: Path) -> None:
    from safetensors.torch import save_file

    save_file(random_alexnet(), tmp_path / "alexnet.safetensors")
    a, b = pictures(1), pictures(1, seed=1)
    assert Lpips(tmp_path / "alexnet.safetensors")(a, b).tolist() == Lpips(weights)(a, b).tolist()


class Trap:
    """Unpickling it would make a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_a_file_of_weights_executes_nothing(tmp_path: Path) -> None:
    torch.save({"features.0.weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    with pytest.raises(BadInput, match="cannot be read as weights"):
        Lpips(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "given.pth")
    return folder / "given.pth"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.pth", "there is no file"),
        (lambda folder: saved(folder, [torch.zeros(1)]), "holds a list, and no weights by name"),
        (
            lambda folder: saved(folder, {"weight": torch.zeros(2)}),
            r"features.0.weight must be .* is nothing",
        ),
        (
            lambda folder: saved(folder, {**random_alexnet(), "features.8.bias": torch.zeros(255)}),
            r"features.8.bias must be \[256\], and is \[255\]",
        ),
    ],
)
def test_files_that_hold_no_alexnet_are_refused(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Lpips(make(tmp_path))


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, weights: Path) -> None:
    cut = tmp_path / "cut.pth"
    cut.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(BadInput, match="cannot be read as weights"):
        Lpips(cut)


# ------------------------------------------------------------------------------------------- as a metric
def test_measured_by_name_and_defined_by_its_weights(tmp_path: Path, measured: Lpips) -> None:
    a, b = (Image.fromarray((x * 255).astype(np.uint8)) for x in pictures(2, 48, 48))
    measures = Measures(("lpips", "psnr"), lpips=measured)
    nothing = torch.zeros(1, 1, 2, 2)
    about = {"latents": nothing, "clean": nothing, "donor": None}
    found = measures.final(measures.names, ["a"], **about, images=[a], clean_images=[b])
    assert found["lpips"][0] == measured([a], [b])[0] > 0
    assert needs_image("lpips")
    other = {name: tensor + 1 for name, tensor in random_alexnet().items()}
    definitions = [
        Measures(("lpips",), lpips=each).definitions(["lpips"])["lpips"]
        for each in (measured, Lpips(saved(tmp_path, other)), Lpips(saved(tmp_path, random_alexnet())))
    ]
    assert definitions[0] == definitions[2] != definitions[1]
    assert definitions[0].startswith("lpips/1 dit_lens.methods.lpips.Lpips ")
    with pytest.raises(BadInput, match="lpips needs AlexNet's weights"):
        Measures(("lpips",))


@pytest.mark.tiny
def test_it_is_measured_where_it_was_asked_for(tiny_sd3_lens, weights: Path, empty_cache: Path) -> None:
    assert "lpips" not in default_measures(tiny_sd3_lens).names
    named = default_measures(tiny_sd3_lens, ["ssim", "lpips"], lpips=str(weights))
    assert named.names == ("ssim", "lpips")
    assert "lpips" in default_measures(tiny_sd3_lens, lpips=weights).names
    with pytest.raises(BadInput, match="torch's cache has none"):
        default_measures(tiny_sd3_lens, ["lpips"])
    with pytest.raises(BadInput, match="the metrics do not name it: add lpips"):
        default_measures(tiny_sd3_lens, ["ssim"], lpips=weights)


def test_a_specs_weights_lie_beside_it(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "alexnet.pth").write_bytes(weights.read_bytes())
    (tmp_path / "spec.yaml").write_text(
        "model: shapes-sd3\nprompts: [a star, a circle]\nseeds: [0]\nsections: [disruption]\n"
        "effects: {metrics: [lpips], lpips: alexnet.pth}\n"
    )
    assert read_spec(tmp_path / "spec.yaml").effects.lpips == str((tmp_path / "alexnet.pth").resolve())
    assert read_spec(tmp_path / "spec.yaml", ["effects.lpips=cached"]).effects.lpips == CACHED
    here = read_spec(tmp_path / "spec.yaml", ["effects.lpips=other.pth"]).effects.lpips
    assert here == str(Path("other.pth").absolute())
