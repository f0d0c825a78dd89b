"""Which channels tokens are restricted to: the massive ones, their controls, all of them, all but them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput
from dit_lens.methods.channel_sets import ChannelSet
from dit_lens.methods.controls import controls, default_draws, is_drawn, serving

if TYPE_CHECKING:
    from dit_lens.methods.channels import ChannelStatistics


@dataclass(frozen=True)
class ChannelFamily:
    """Named channels of each block, one draw of them where the family involves chance.

    `steps` names the only steps at which its masks are made; None: all that are looked at.

    Raises:
        BadInput: no channel in any block.
    """

    name: str
    blocks: Mapping[int, tuple[int, ...]]
    draw: int = 0
    steps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        held = {int(b): tuple(int(c) for c in channels) for b, channels in self.blocks.items()}
        object.__setattr__(self, "blocks", {b: held[b] for b in sorted(held) if held[b]})
        if not self.blocks:
            raise BadInput(f"The family {self.name!r} has no channel in any block. Select by top_k instead.")

    def k(self, block: int) -> int:
        """How many channels it has in a block."""
        return len(self.blocks.get(block, ()))

    def at(self, block: int, step: int) -> bool:
        """Whether it has a mask after this block at this step."""
        return block in self.blocks and (self.steps is None or step in self.steps)


def channel_families(
    massive: ChannelSet,
    stats: ChannelStatistics,
    *,
    controls_drawn: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[ChannelFamily, ...]:
    """massive, its controls (matched in number block by block), all channels, and all but the massive ones.

    Args:
        massive: of the image stream.
        stats: the statistics it was chosen from.
        controls_drawn: kind → draws; by default `default_draws("spatial")` of `dit_lens.methods.controls`.
        seed: of the draws.

    Raises:
        BadInput: another stream, or a kind that is an edit and no choice of channels; else as
        `dit_lens.controls`.

    >>> [family.name for family in channel_families(massive, stats, controls_drawn={"low": 1, "random": 2})]
    ['massive', 'low', 'random', 'random', 'all', 'all_but_massive']
    """
    _require_image(massive)
    everything = tuple(range(stats.num_channels))
    others = {b: tuple(c for c in everything if c not in held) for b, held in massive.blocks.items()}
    return (
        ChannelFamily("massive", massive.blocks),
        *_controls(massive, stats, controls_drawn, seed),
        ChannelFamily("all", dict.fromkeys(massive.blocks, everything)),
        ChannelFamily("all_but_massive", others),
    )


def families_over_k(
    massive: ChannelSet,
    stats: ChannelStatistics,
    ks: Iterable[int],
    *,
    controls_drawn: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[ChannelFamily, ...]:
    """The k strongest channels for each k, ranked as `massive` was, and controls of the same number.

    A k of half of the channels or more has no control: there are not enough other channels to draw from.

    Raises:
        BadInput: a k that no model of this width has; else as `channel_families`.
    """
    _require_image(massive)
    found: list[ChannelFamily] = []
    for k in sorted({int(k) for k in ks}):
        chosen = stats.select(
            top_k=k,
            statistic=massive.statistic,
            branch=str(massive.selection.get("branch", "cond")),
            steps=massive.selection.get("steps", "all"),
            blocks=list(massive.blocks),
        )
        found.append(ChannelFamily("massive", chosen.blocks))
        if 2 * k < stats.num_channels:
            found += _controls(chosen, stats, controls_drawn, seed)
    return tuple(found)


def as_families(families: Any) -> tuple[ChannelFamily, ...]:
    """Families from what users write: `ChannelFamily` values, or {name: channels or draws of channels}.

    Channels are a `ChannelSet` or {block: channel numbers}.

    Raises:
        BadInput: no family, the same family twice, or a set of the context stream.

    >>> as_families({"mine": {3: (1, 2)}})[0].k(3)
    2
    """
    found: list[ChannelFamily] = []
    if isinstance(families, Mapping):
        for name, given in families.items():
            draws = list(given) if isinstance(given, (list, tuple)) else [given]
            for draw, channels in enumerate(draws):
                if isinstance(channels, ChannelSet):
                    _require_image(channels)
                blocks = channels.blocks if isinstance(channels, (ChannelSet, ChannelFamily)) else channels
                if not isinstance(blocks, Mapping):
                    raise BadInput(
                        f"The family {name!r} is {channels!r:.60}; give a ChannelSet or {{block: channels}}."
                    )
                found.append(ChannelFamily(str(name), blocks, draw))
    else:
        found = list(families)
    if not found:
        raise BadInput("No channel family was given; channel_families(massive, stats) makes the usual ones.")
    seen: set[tuple[Any, ...]] = set()
    for family in found:
        for block in family.blocks:
            key = (family.name, family.draw, block, family.k(block))
            if key in seen:
                raise BadInput(
                    f"The family {family.name!r}, draw {family.draw}, stands twice with {family.k(block)} "
                    f"channels in block {block}; give each draw its own number."
                )
            seen.add(key)
    return tuple(found)


def _controls(
    massive: ChannelSet, stats: ChannelStatistics, drawn: Mapping[str, int] | None, seed: int
) -> list[ChannelFamily]:
    wanted = default_draws("spatial") if drawn is None else drawn
    kinds = serving("spatial")
    found = []
    for kind, draws in wanted.items():
        if kind not in kinds:
            raise BadInput(
                f"The control {kind!r} is no choice of channels to cluster; there are: {', '.join(kinds)}."
            )
        made: Sequence[Any] = controls(massive, stats, kind, draws if is_drawn(kind) else 1, seed)
        found += [ChannelFamily(kind, each.channels.blocks, each.draw) for each in made]
    return found


def _require_image(channels: ChannelSet) -> None:
    if channels.stream != "image":
        raise BadInput(
            f"This channel set is of the {channels.stream} stream, whose tokens are words and have no place "
            "in the image. Select with stream='image'."
        )
