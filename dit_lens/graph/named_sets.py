"""Channels and tokens of edits as a graph holds them: plain numbers, or the name of a set held once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit_lens.errors import BadInput
from dit_lens.graph.spec import ChannelSetSpec, MaskSpec, plain_numbers, validated


class NamedSets:
    """A graph's channel sets and masks by name. The same set, given many times, is held once."""

    def __init__(
        self,
        channel_sets: Mapping[str, ChannelSetSpec] | None = None,
        masks: Mapping[str, MaskSpec] | None = None,
    ) -> None:
        self.channel_sets, self.masks = dict(channel_sets or {}), dict(masks or {})
        # Inverse of the two above.
        self._names: dict[str, str] = {}
        for prefix, table in (("channels", self.channel_sets), ("mask", self.masks)):
            self._names |= {prefix + value.model_dump_json(): name for name, value in table.items()}

    def channels(self, channels: Any) -> Any:
        """Numbers, a name, a ChannelSet or {block: numbers}, as an edit's `channels`."""
        blocks = getattr(channels, "blocks", channels if isinstance(channels, Mapping) else None)
        if not isinstance(blocks, Mapping):
            return "all" if channels is None else _no_mask(plain_numbers(channels))
        made = validated(
            ChannelSetSpec,
            ("channels",),
            blocks={block: _no_mask(plain_numbers(list(chosen))) for block, chosen in blocks.items()},
            model=getattr(channels, "model", None),
            stream=getattr(channels, "stream", None),
        )
        return self._named(self.channel_sets, "channels", made)

    def tokens(self, tokens: Any) -> Any:
        """Numbers, a name, a box or a boolean mask, as an edit's `tokens`."""
        if tokens is None:
            return "all"
        value = plain_numbers(tokens)
        rows = value if isinstance(value, list) else []
        if rows and all(isinstance(row, list) for row in rows):
            flat = [cell for row in rows for cell in row]
            grid: tuple[int, int] | None = (len(rows), len(rows[0]))
        else:
            flat, grid = rows, None
        if not flat or not all(isinstance(cell, bool) for cell in flat):
            return value
        mask = validated(
            MaskSpec,
            ("tokens",),
            tokens=tuple(i for i, cell in enumerate(flat) if cell),
            grid=grid,
            image_size=getattr(tokens, "image_size", None),
        )
        return self._named(self.masks, "mask", mask)

    def _named(self, table: dict[str, Any], prefix: str, value: Any) -> str:
        key = prefix + value.model_dump_json()
        if key not in self._names:
            self._names[key] = f"{prefix}-{len(table) + 1}"
            table[self._names[key]] = value
        return self._names[key]


def _no_mask(channels: Any) -> Any:
    """Channels as they are given; `BadInput` for a boolean mask, in one line rather than one per channel."""
    if isinstance(channels, list) and channels and all(isinstance(each, bool) for each in channels):
        raise BadInput(
            f"channels is a mask of {len(channels)} times True or False; give the channels' numbers: "
            "np.flatnonzero(mask)."
        )
    return channels
