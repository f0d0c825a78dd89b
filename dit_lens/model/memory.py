"""Out of memory, said so that the reader knows what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dit_lens.errors import RunFailure


@contextmanager
def memory_explained(work: str) -> Iterator[None]:
    """Turn an out-of-memory error into a RunFailure that says what to change."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in text:
            raise
        raise RunFailure(
            f"Out of memory while {work}. Use a smaller batch_size, height and width, dtype='bfloat16', or "
            f"load(..., offload='model', drop_t5=True). torch said: {text.splitlines()[0]}"
        ) from None
