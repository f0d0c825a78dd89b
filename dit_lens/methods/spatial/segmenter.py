"""Truth from a segmentation model of the transformers library, for pictures without exact masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.methods.spatial.masks import Mask
from dit_lens.methods.spatial.subject import Subject


@dataclass(frozen=True)
class SegmenterTruth:
    """The subject as an image-segmentation pipeline sees it in the finished picture.

    The subject is what the model gives one of the labels in `subject`; with none named, everything but the
    labels in `background`. A picture in which it finds no subject, or nothing else, has no truth. The model
    loads when it is first needed. It is a judge with errors of its own: report which one it was.

    Args:
        model: a hub id or a local folder.
        subject, background: labels, as the model's config spells them.
        revision, device: as transformers takes them.

    Raises (on first use):
        BadInput: no such model or label, or a model or a library that cannot segment.

    >>> SegmenterTruth("nvidia/segformer-b0-finetuned-ade-512-512", subject=("animal",)).needs_picture
    True
    """

    model: str
    subject: Sequence[str] = ()
    background: Sequence[str] = ("background",)
    revision: str | None = None
    device: str = "cpu"
    needs_picture: bool = True

    @property
    def name(self) -> str:
        what = ", ".join(self.subject) or f"all but {', '.join(self.background)}"
        return f"{self.model} ({what})"

    def require(self, samples: Sequence[Subject]) -> None:
        """Loads the model, so that a missing one is known before anything runs."""
        labels = _labels(_pipeline(self.model, self.revision, self.device))
        for asked in self.subject or self.background:
            if asked not in labels:
                raise BadInput(
                    f"{self.model} has no label {asked!r}.{did_you_mean(asked, labels)} It has "
                    f"{', '.join(labels[:12])}{', …' if len(labels) > 12 else ''}. Name the subject's after "
                    f"#, as in transformers:{self.model}#{labels[0]}."
                )

    def find(self, sample: Subject) -> Mask | None:
        assert sample.picture is not None
        pipeline = _pipeline(self.model, self.revision, self.device)
        width, height = sample.picture.size
        inside = np.zeros((height, width), dtype=bool)
        for part in pipeline(sample.picture):
            wanted = part["label"] in self.subject if self.subject else part["label"] not in self.background
            if wanted:
                inside |= np.asarray(part["mask"]) > 0
        mask = Mask.from_pixels(inside, sample.grid, about=self.name)
        return None if mask.is_empty or mask.is_full else mask


def _labels(pipeline: Any) -> list[str]:
    return [str(label) for label in pipeline.model.config.id2label.values()]


@cache
def _pipeline(model: str, revision: str | None, device: str) -> Any:
    from dit_lens.model.hub import hub_explained

    try:
        from transformers import pipeline
    except ImportError as error:
        raise BadInput(f"A segmentation model needs the transformers library ({error}).") from error
    with hub_explained(model, revision):
        try:
            return pipeline("image-segmentation", model=model, revision=revision, device=device)
        except ImportError as error:
            # Many models need timm or torchvision, and say so themselves.
            reason = " ".join(str(error).split())[:200]
            raise BadInput(f"{model} needs a library that is not installed: {reason}") from error
        except (OSError, ValueError, KeyError) as error:
            if error.__cause__ is not None and "huggingface_hub" in type(error.__cause__).__module__:
                raise error.__cause__ from None
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise BadInput(f"{model} does not open as an image-segmentation model: {reason}") from None
