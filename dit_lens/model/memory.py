"""Out of memory, said so that the reader knows what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dit_lens.errors import RunFailure


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def memory_explained(work: str) -> Iterator[None]:
    """Turn an out-of-memory error into a RunFailure that says what to change."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RunFailure(
            f"Out of memory while {work}. Use a smaller batch_size, height and width, dtype='bfloat16', or "
            "open the model with drop_t5=True or offload='model'. "
            f"torch said: {str(error).splitlines()[0]}"
        ) from None
