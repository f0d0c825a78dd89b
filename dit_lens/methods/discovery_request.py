"""What a discovery is asked for: captions, seeds, sampling and batch size, refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_lens.errors import BadInput
from dit_lens.words import shown

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

_ROWS = 8


def captions_of(prompts: Any) -> tuple[str, ...]:
    """The captions as a tuple. Raises `BadInput` for anything but a list of text."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise BadInput(
            f"prompts is {shown(prompts)}; discovery needs a list of captions, for example "
            f"[{shown(prompts) if isinstance(prompts, str) else repr('a red circle')}]."
        )
    if not prompts:
        raise BadInput("prompts is empty; discovery needs at least one caption.")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise BadInput(
                f"prompts[{i}] is {shown(prompt)}, a {type(prompt).__name__}; every prompt must be text."
            )
    return tuple(prompts)


def distinct_seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds as whole numbers. Raises `BadInput` for none, a negative one, or one that is there twice."""
    if isinstance(seeds, str) or not isinstance(seeds, (Sequence, range, np.ndarray)):
        raise BadInput(f"seeds is {seeds!r}; give a list of whole numbers, for example [0, 1].")
    if len(seeds) == 0:
        raise BadInput("seeds is empty; discovery needs at least one, for example [0].")
    for i, seed in enumerate(seeds):
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise BadInput(f"seeds[{i}] is {seed!r}; seeds are whole numbers from 0 up.")
    if len({int(seed) for seed in seeds}) != len(seeds):
        raise BadInput(
            f"seeds {list(seeds)} repeat; the same noise twice is one sample, not two. Give distinct seeds."
        )
    return tuple(int(seed) for seed in seeds)


def sampling_of(lens: DiTLens, sampling: Sampling | Mapping[str, Any] | None) -> Sampling:
    """The sampling itself, the model's own, or its own with some fields replaced."""
    if sampling is None:
        return lens.sampling()
    if isinstance(sampling, Mapping):
        return lens.sampling(**sampling)
    return sampling


def rows_at_once(lens: DiTLens, sampling: Sampling, batch_size: int | None) -> int:
    """Samples per forward pass: the number given, or one that suits the image size."""
    if batch_size is None:
        from dit_lens.model.sampling import default_batch_size

        rows, columns = lens.token_grid(sampling.height, sampling.width)
        # A fixed ceiling, not the number of samples: memory must not depend on how many there are.
        return default_batch_size(_ROWS, rows * columns)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise BadInput(f"batch_size is {batch_size!r}; it must be a whole number, at least 1.")
    return batch_size
