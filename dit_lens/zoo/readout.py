"""Reading attributes and prompt alignment off pictures with the embedded CLIP.

Zero-shot, as CLIP is used elsewhere: the picture is compared with one prompt per value ("a red shape", "a
green shape", …) and the nearest wins. It works on any picture of the shapes world, generated or rendered, and
needs no knowledge of how the picture was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dit_lens import zoo
from dit_lens.errors import BadInput
from dit_lens.zoo.clip import attribute_prompts, encode_image, encode_text, tokenise
from dit_lens.zoo.scenes import ATTRIBUTES

if TYPE_CHECKING:
    from PIL import Image


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers from drawing a progress bar for what takes no time; restore what was set."""
    from transformers.utils import logging

    drew = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drew:
            logging.enable_progress_bar()


class AttributeReader:
    """The scorer: pictures → attribute values, picture × prompt → alignment.

    >>> from dit_lens.zoo.readout import load_reader
    >>> from dit_lens.zoo.scenes import Scene, render
    >>> scene = Scene("star", "red", "large", "on the left", "white", "striped")
    >>> load_reader().read([render(scene)])[0]["colour"]
    'red'
    """

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        if not (folder / "config.json").exists():
            raise BadInput(
                f"No scorer in {folder}: expected a CLIP folder as `python -m dit_lens.zoo.train` writes it."
            )
        with _without_bars():
            self.model = CLIPModel.from_pretrained(folder).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)
        self._prompts = {name: self.embed_text(texts) for name, texts in attribute_prompts()}

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors, float32 [n, 64]."""
        return encode_text(self.model, tokenise(self.tokenizer, list(texts)))

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image | np.ndarray]) -> torch.Tensor:
        """Unit vectors, float32 [n, 64]. Arrays are float [H, W, 3] in [0, 1]."""
        arrays = [
            np.asarray(i)
            if not isinstance(i, np.ndarray)
            else (np.clip(i, 0, 1) * 255).round().astype(np.uint8)
            for i in images
        ]
        pixels = self.processor(images=arrays, return_tensors="pt").pixel_values
        return torch.cat([encode_image(self.model, chunk) for chunk in pixels.split(256)])

    def read(self, images: Sequence[Image.Image | np.ndarray]) -> list[dict[str, str]]:
        """The nearest value of every attribute, one dict per picture."""
        if not images:
            return []
        vectors = self.embed_images(images)
        picks = {name: (vectors @ prompts.T).argmax(1).tolist() for name, prompts in self._prompts.items()}
        return [{name: ATTRIBUTES[name][picks[name][i]] for name in ATTRIBUTES} for i in range(len(images))]

    def alignment(self, images: Sequence[Image.Image | np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """Cosine of each picture with its own prompt, float [n] (CLIPScore, unscaled; 2104.08718)."""
        if len(images) != len(prompts):
            raise BadInput(
                f"{len(images)} pictures and {len(prompts)} prompts: alignment pairs them one to one."
            )
        return (self.embed_images(images) * self.embed_text(prompts)).sum(-1).numpy()


@lru_cache(maxsize=1)
def load_reader() -> AttributeReader:
    """The reader that ships with the package (loaded once per process)."""
    return AttributeReader(zoo.scorer_path())
