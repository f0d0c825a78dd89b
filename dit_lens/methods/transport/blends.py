"""What a user would do instead of carrying activations: mix latents, pixels, or prompt embeddings.

None of them is an edit of an activation. Strength 0 is the target and 1 the source, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

KINDS = ("latent_blend", "pixel_blend", "prompt_blend")


@dataclass(frozen=True)
class Blend:
    """A mixture of target and source; `as_data` is what identifies its result, as an arm's.

    - `latent_blend`: of the final latents, decoded.
    - `pixel_blend`: of the two pictures.
    - `prompt_blend`: of the prompts' embeddings; the picture is sampled from the mixture.

    Raises:
        BadInput: another kind, or a strength outside [0, 1].
    """

    kind: str
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(
                f"There is no blend {self.kind!r}; there are: {', '.join(KINDS)}."
                f"{did_you_mean(self.kind, KINDS)}"
            )
        if isinstance(self.strength, bool) or not 0 <= self.strength <= 1:
            raise BadInput(f"{self.kind}: strength is {self.strength!r}; it lies between 0 and 1.")

    def as_data(self) -> dict[str, Any]:
        return {"blend": self.kind, "strength": float(self.strength)}


def blend(target: Tensor, source: Tensor, strength: float) -> Tensor:
    """(1 − strength) · target + strength · source; the ends bit for bit."""
    if strength == 0:
        return target
    if strength == 1:
        return source
    return (1 - strength) * target + strength * source


def pixel_blend(target: Image, source: Image, strength: float) -> Image:
    """The mixture of two pictures of one size, 8 bits."""
    import numpy as np
    from PIL import Image as images

    first, second = (np.asarray(each.convert("RGB"), dtype=np.float64) for each in (target, source))
    if first.shape != second.shape:
        raise BadInput(f"Pictures of {target.size} and {source.size} pixels cannot be blended.")
    mixed = (1 - strength) * first + strength * second
    return images.fromarray(np.rint(mixed).astype(np.uint8))


def prompt_blends(lens: DiTLens, ends: Sequence[tuple[str, str, int, float]], sampling: Sampling) -> Tensor:
    """Final latents [rows, C, h, w], on the CPU, of runs under mixed prompt embeddings.

    Args:
        ends: a row each: target prompt, source prompt, seed, strength. Tokens are mixed place by place, and
            the pooled embedding alike.

    All rows share one batch. Raises `RunFailure` for latents that are not finite.

    >>> prompt_blends(lens, [("a red star", "a blue star", 0, 0.5)], lens.sampling(steps=4)).shape
    torch.Size([1, 8, 24, 24])
    """
    import torch

    from dit_lens.errors import RunFailure
    from dit_lens.model.sampling import denoise

    seeds = [seed for _, _, seed, _ in ends]
    batch = lens.prepare_rows([target for target, *_ in ends], seeds, sampling)
    other = lens.prepare_rows([source for _, source, *_ in ends], seeds, sampling)
    strengths = [strength for *_, strength in ends]

    def mixed(mine: Tensor, theirs: Tensor) -> Tensor:
        rows = zip(mine, theirs, strengths, strict=True)
        return torch.stack([blend(a, b, strength) for a, b, strength in rows])

    batch = replace(
        batch,
        prompt_embeds=mixed(batch.prompt_embeds, other.prompt_embeds),
        pooled_embeds=mixed(batch.pooled_embeds, other.pooled_embeds),
    )
    with lens.lock, torch.no_grad():
        end = denoise(batch, lambda step, inputs: lens.traced.forward(inputs))
        lens.pipeline.maybe_free_model_hooks()
    assert end is not None
    if not bool(torch.isfinite(end).all()):
        raise RunFailure(f"Mixed prompt embeddings gave latents that are not finite ({lens.dtype}).")
    return end.cpu()
