"""Does the picture show what the prompt says: the embedded CLIP, any CLIP by name, other scorers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput, RunFailure
from dit_lens.methods.pixels import as_pixels

if TYPE_CHECKING:
    from torch import Tensor

    from dit_lens.methods.pixels import Images
    from dit_lens.zoo.readout import AttributeReader

Array = npt.NDArray[np.float64]


@runtime_checkable
class Scorer(Protocol):
    """Anything that rates pictures against their prompts; a larger score is a better picture.

    `name` becomes the metric's name in tables. `score` takes n images and n prompts and returns n finite
    numbers. Scorers that cannot run in this process (ImageReward, HPS, VQAScore) come in through
    `dit_lens.methods.outside_scores`.
    """

    name: str

    def score(self, images: Images, prompts: Sequence[str]) -> Any: ...


def score_images(scorer: Scorer, images: Images, prompts: Sequence[str]) -> Array:
    """Scores of images by one scorer, float64 [n]; checked, so that no outside scorer can shift a row.

    Raises:
        BadInput: numbers of images and prompts that differ, or no scorer.
        RunFailure: the scorer gave another number of scores, or one that is not finite.
    """
    if not isinstance(scorer, Scorer):
        raise BadInput(f"{scorer!r} is no scorer: it needs a name and score(images, prompts).")
    require_pairs(images, prompts)
    scores = np.asarray(scorer.score(images, prompts), dtype=np.float64)
    if scores.shape != (len(prompts),):
        raise RunFailure(
            f"Scorer {scorer.name!r} gave scores of shape {list(scores.shape)} for {len(prompts)} images."
        )
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise RunFailure(f"Scorer {scorer.name!r} gave {scores[bad]} for image {bad} ({prompts[bad]!r}).")
    return scores


def require_pairs(images: Images, prompts: Sequence[str]) -> None:
    """Raise BadInput unless there is one prompt per image, and at least one."""
    if isinstance(prompts, str) or len(images) != len(prompts) or not len(prompts):
        count = 1 if isinstance(prompts, str) else len(prompts)
        raise BadInput(f"{len(images)} images and {count} prompts: give a list with one prompt per image.")


class EmbeddedAlignment:
    """Cosine of picture and prompt by the CLIP that ships with the package; for the shapes world only.

    Source: CLIPScore without its factor, arXiv 2104.08718.
    """

    name = "alignment"

    def __init__(self, reader: AttributeReader | None = None) -> None:
        """Raises BadInput where the embedded CLIP is not there."""
        if reader is None:
            from dit_lens.zoo.readout import load_reader

            reader = load_reader()
        self.reader = reader

    def score(self, images: Images, prompts: Sequence[str]) -> Array:
        """Cosines in [−1, 1], float64 [n]."""
        return np.asarray(self.reader.alignment(list(as_pixels(images)), prompts), dtype=np.float64)


class ClipAlignment:
    """Cosine of picture and prompt by any CLIP of the hub or of a local folder.

    Prompts are cut at the model's own length (77 tokens). Scores of different CLIPs are not comparable.
    Source: CLIPScore without its factor, arXiv 2104.08718.

    Raises:
        BadInput: no such model, no access to it, or one that is not a CLIP.
        RunFailure: the hub cannot be reached.

    >>> from dit_lens.zoo import scorer_path                            # or "openai/clip-vit-large-patch14"
    >>> scorer = ClipAlignment(scorer_path())
    >>> scorer.score(trajectory.images, trajectory.prompts).shape
    (2,)
    """

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        device: str = "cpu",
        batch_size: int = 32,
        name: str = "alignment",
    ) -> None:
        from transformers import AutoConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        if batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; it must be at least 1.")
        config = _explained(AutoConfig, source, revision)
        if config.model_type != "clip":
            raise BadInput(
                f"{source} is a {config.model_type!r} model; alignment needs a CLIP, for example "
                "openai/clip-vit-large-patch14. Rate with other models outside and import the scores as CSV."
            )
        self.name = name
        self.device, self.batch_size = device, batch_size
        self.model = _explained(CLIPModel, source, revision).eval().to(device)
        self.tokenizer = _explained(CLIPTokenizer, source, revision)
        self.processor = _explained(CLIPImageProcessorPil, source, revision)

    def score(self, images: Images, prompts: Sequence[str]) -> Array:
        """Cosines in [−1, 1], float64 [n]."""
        import torch

        require_pairs(images, prompts)
        pixels = (as_pixels(images) * 255).round().astype(np.uint8)
        scores: list[float] = []
        with torch.no_grad():
            for start in range(0, len(prompts), self.batch_size):
                part = slice(start, start + self.batch_size)
                cosine = (self._see(pixels[part]) * self._read(prompts[part])).sum(dim=-1)
                scores += cosine.double().cpu().tolist()
        return np.array(scores, dtype=np.float64)

    def _see(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        from torch.nn.functional import normalize

        values = self.processor(images=list(pixels), return_tensors="pt").pixel_values.to(self.device)
        pooled = self.model.vision_model(pixel_values=values).pooler_output
        return normalize(self.model.visual_projection(pooled), dim=-1)

    def _read(self, prompts: Sequence[str]) -> Tensor:
        from torch.nn.functional import normalize

        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self.device)
        pooled = self.model.text_model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).pooler_output
        return normalize(self.model.text_projection(pooled), dim=-1)


def _explained(kind: Any, source: str, revision: str | None) -> Any:
    """`from_pretrained` with errors that say what to do."""
    from dit_lens.model.hub import hub_explained

    with hub_explained(source, revision):
        try:
            return kind.from_pretrained(source, revision=revision)
        except (OSError, ValueError) as error:
            # transformers wraps what the hub's client raised.
            if error.__cause__ is not None and "huggingface_hub" in type(error.__cause__).__module__:
                raise error.__cause__ from None
            reason = str(error).strip().splitlines()[0]
            raise BadInput(f"{source} does not open as a CLIP ({kind.__name__}): {reason}") from None
