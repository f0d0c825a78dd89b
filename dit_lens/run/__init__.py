"""What executes: the traced denoising loop, streaming reducers, and the records a run leaves behind.

`dit_lens.run` is also the public function: calling the package runs an intervention graph. Importing any
module of this room makes Python bind the room itself to that name, so the room has to answer a call.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableRoom(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run an intervention graph; see `dit_lens.run.runner.run`."""
        from dit_lens.run.runner import run

        return run(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableRoom
