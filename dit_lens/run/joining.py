"""Rows that come into a forward pass behind the blocks that they share with the unedited run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from dit_lens.graph.plan import Forward
from dit_lens.model.adapters import Adapter
from dit_lens.model.traced import Place

Streams = Mapping[str, Tensor]
"""Stream → what lies behind a block, of some rows in every guidance branch: [branches × rows, tokens, C]."""

Behind = Callable[[Sequence[int], int], Streams]
"""(places among the forward's rows, block) → their streams behind that block."""


class Joining:
    """The places of a forward pass at which blocks are left out and rows come in.

    The pass begins with all rows, for their latents and conditioning cost next to nothing. Blocks before the
    first entry are skipped. From there on the streams hold the rows that are present, the first of the
    forward, and grow when others join; the conditioning vector is cut to the same rows.
    """

    def __init__(
        self, forward: Forward, until: int, branches: int, adapter: Adapter, *, held: Behind, edited: Behind
    ) -> None:
        """The pass runs `until` a block, exclusive.

        `held` gives what the unedited run had behind a block, `edited` the same with the rows' edits.
        """
        self.forward, self.until, self.branches, self.adapter = forward, until, branches, adapter
        self.held, self.edited = held, edited

    def places(self) -> list[Place]:
        """In forward order."""
        first, rows = self.forward.entry, len(self.forward.rows)
        skipped = [self._skip(block, first) for block in range(first)]
        blocks = range(first, self.until + 1)
        if self.forward.entries[-1] == first:
            return skipped
        return skipped + [self._entrance(b) for b in blocks if self.forward.present(b - 1) < rows]

    def _skip(self, block: int, first: int) -> Place:
        # Only what lies behind the last block that is left out is read by anyone.
        behind = self.edited if block == first - 1 else self.held
        members = range(self.forward.present(first))

        def output(_: Any) -> Any:
            return self.adapter.bypass(behind(members, first - 1))

        return Place((block, -1, 0), self.adapter.entrance(block), "skip", output, f"block {block}")

    def _entrance(self, block: int) -> Place:
        forward = self.forward
        before, here = forward.present(block - 1), forward.present(block)
        joining = range(before, here) if block > forward.entry else range(0)

        def serve(inputs: Any) -> Any:
            new = self.edited(joining, block - 1) if joining else {}

            def change(name: str, value: Tensor) -> Tensor:
                old = self._by_branch(value)[:, :here]
                parts = [old, self._by_branch(new[name])] if name in new else [old]
                return rearrange(torch.cat(parts, dim=1), "branch row ... -> (branch row) ...")

            return self.adapter.entering(block, inputs, change)

        key = (block, -0.5, 0) if block < self.adapter.num_blocks else BEHIND_BLOCKS
        return Place(key, self.adapter.entrance(block), "input", serve, f"the entrance of block {block}")

    def _by_branch(self, value: Tensor) -> Tensor:
        return rearrange(value, "(branch row) ... -> branch row ...", branch=self.branches)


BEHIND_BLOCKS = (2.0**31, -0.75, 0.0)
"""Sorts before the norm behind the last block, see `Adapter.norms`."""
