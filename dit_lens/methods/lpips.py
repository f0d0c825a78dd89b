"""LPIPS: how far apart two pictures are in the features of a network that learned to see.

Zhang et al. 2018, arXiv 1801.03924, version 0.1 on AlexNet, its usual form as a metric. The linear heads ship
with torchmetrics. AlexNet's weights do not, and nothing is downloaded unasked: they are read from torch's
cache or from a file. They are read as data alone; torchmetrics' own function would unpickle them in full, and
would download them where they are missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput, RunFailure
from dit_lens.methods.pixels import pixel_pairs
from dit_lens.paths import named_path

if TYPE_CHECKING:
    import os

    from torch import Tensor, nn

    from dit_lens.methods.pixels import Images

Array = npt.NDArray[np.float64]

CACHED = "cached"
"""In place of a file: torch's cache, where `torch.hub` and torchvision put what they download."""

WEIGHTS = "alexnet-owt-7be5be79.pth"
"""torchvision's AlexNet (IMAGENET1K_V1); the digits are those with which its sha256 begins."""

URL = f"https://download.pytorch.org/models/{WEIGHTS}"

SMALLEST = 31
"""Pixels of a side below which AlexNet's second pooling has nothing left to pool."""

_DIGEST = WEIGHTS.removesuffix(".pth").rpartition("-")[2]

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's colours, for pixels from −1 to 1, as rounded by the authors of LPIPS."""

_EPSILON = 1e-8


def cached_weights() -> Path:
    """Where torch's cache keeps AlexNet's weights, whether they are there or not."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


class Lpips:
    """Learned perceptual distance of picture pairs: 0 for equal ones, larger for less alike.

    Pictures are taken at their own size: 31 pixels a side at least. LPIPS was fitted to human judgements of
    64 × 64 patches of photographs; on much smaller or synthetic pictures its scale is not calibrated.

    Args:
        weights: `cached`, or a file of torchvision's AlexNet (.pth or .safetensors). A file may hold any
            weights of that shape; which ones is part of every stored number's definition.

    Raises:
        BadInput: no such file, one that is cut off or holds something else.

    >>> Lpips()(edited.images, clean.images)                             # doctest: +SKIP
    array([0.31, 0.02])
    """

    name = "lpips"

    def __init__(self, weights: str | os.PathLike[str] = CACHED) -> None:
        path = _named(weights)
        self.model: Any = _network(_read(path), path)

    def __call__(self, edited: Images, reference: Images) -> Array:
        """Distances, float64 [n], pictures paired one to one; see `as_pixels` for what pictures may be.

        Raises:
            BadInput: pictures that do not pair, or that are too small.
        """
        import torch

        a, b = pixel_pairs(edited, reference)
        require_size(*a.shape[1:3])
        # Pair by pair: a distance must not depend on the pictures beside it.
        with torch.no_grad():
            return np.array([self._distance(*pair) for pair in zip(a, b, strict=True)], dtype=np.float64)

    def _distance(self, *pair: Array) -> float:
        import torch
        from einops import rearrange

        x = rearrange(torch.from_numpy(np.stack(pair)).float(), "n h w c -> n c h w")
        shift, scale = (torch.tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
        x = (2 * x - 1 - shift) / scale
        distance = torch.zeros(())
        for layers, head in zip(self.model["features"], self.model["heads"], strict=True):
            x = layers(x)
            unit = x / torch.sqrt(_EPSILON + (x**2).sum(dim=1, keepdim=True))
            distance = distance + head((unit[:1] - unit[1:]) ** 2).mean()
        return float(distance)


def require_size(height: int, width: int) -> None:
    """Raise BadInput for pictures that are too small for AlexNet."""
    if min(height, width) < SMALLEST:
        raise BadInput(
            f"lpips: pictures of {height} × {width} pixels are too small for AlexNet, which needs "
            f"{SMALLEST} × {SMALLEST}. Sample larger ones, or leave lpips out of the metrics."
        )


def _named(weights: str | os.PathLike[str]) -> Path:
    """The file to read; raises BadInput where there is none, or where the cache's is not what it says."""
    if weights != CACHED:
        path = named_path(weights, asked_by="lpips")
        if not path.is_file():
            raise BadInput(
                f"lpips: there is no file {path}. Name torchvision's {WEIGHTS} ({URL}), or write {CACHED!r} "
                "for the one in torch's cache."
            )
        return path
    path = cached_weights()
    if not path.is_file():
        raise BadInput(
            f"lpips needs AlexNet's weights, and torch's cache has none ({path}). Fetch them once with "
            f"python -c \"import torch; torch.hub.load_state_dict_from_url('{URL}', check_hash=True)\", name "
            "a file that holds them, or leave lpips out of the metrics."
        )
    digest = _sha256(path)
    if not digest.startswith(_DIGEST):
        raise BadInput(
            f"lpips: {path} is cut off or was changed: its sha256 begins with {digest[:8]}, not {_DIGEST}. "
            "Delete it and fetch it again; weights of your own are named by their file."
        )
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name; nothing in the file is executed."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A file of a user's can be wrong in any way, and its readers raise what they like.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"lpips: {path} cannot be read as weights: {reason}") from None
    if not isinstance(found, Mapping):
        raise BadInput(f"lpips: {path} holds a {type(found).__name__}, and no weights by name.")
    return found


def _network(weights: Mapping[str, Tensor], path: Path) -> nn.ModuleDict:
    """AlexNet's convolutions, cut where LPIPS looks, and the heads."""
    from torch import nn

    convolutions = {
        0: nn.Conv2d(3, 64, 11, stride=4, padding=2),
        3: nn.Conv2d(64, 192, 5, padding=2),
        6: nn.Conv2d(192, 384, 3, padding=1),
        8: nn.Conv2d(384, 256, 3, padding=1),
        10: nn.Conv2d(256, 256, 3, padding=1),
    }
    # Numbers are torchvision's places in `features`; the second and third stages begin with a pooling.
    for place, convolution in convolutions.items():
        for name, parameter in convolution.named_parameters():
            given: Any = weights.get(f"features.{place}.{name}")
            if getattr(given, "shape", None) != parameter.shape or not given.is_floating_point():
                there = "nothing" if given is None else f"{list(getattr(given, 'shape', []))}"
                raise BadInput(
                    f"lpips: {path} holds no AlexNet: features.{place}.{name} must be "
                    f"{list(parameter.shape)}, and is {there}. Name torchvision's {WEIGHTS} ({URL})."
                )
        convolution.load_state_dict(
            {name: weights[f"features.{place}.{name}"] for name in ("weight", "bias")}
        )
    features = nn.ModuleList(
        nn.Sequential(*([nn.MaxPool2d(3, stride=2)] if place in (3, 6) else []), convolution, nn.ReLU())
        for place, convolution in convolutions.items()
    )
    heads = nn.ModuleList(_head(weight) for weight in _head_weights())
    return nn.ModuleDict({"features": features, "heads": heads}).eval().requires_grad_(False)


def _head(weight: Tensor) -> nn.Conv2d:
    from torch import nn

    head = nn.Conv2d(weight.shape[1], 1, 1, bias=False)
    head.load_state_dict({"weight": weight})
    return head


def _head_weights() -> list[Tensor]:
    """The five heads for AlexNet, [1, channels, 1, 1] each, from torchmetrics."""
    import torch

    place = resources.files("torchmetrics.functional.image") / "lpips_models" / "alex.pth"
    try:
        with resources.as_file(place) as path:
            found = torch.load(path, map_location="cpu", weights_only=True)
        return [found[f"lin{layer}.model.1.weight"] for layer in range(5)]
    except (OSError, KeyError) as error:
        raise RunFailure(
            f"lpips: this torchmetrics does not bring the heads of LPIPS ({error}). Install torchmetrics 1.9."
        ) from None
