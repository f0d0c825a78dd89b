"""What a kind of control is made of: what it is asked for, what it chooses, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from dit_lens.graph.interventions import Intervention
    from dit_lens.methods.channel_sets import ChannelSet
    from dit_lens.methods.channels import ChannelStatistics

Blocks = dict[int, tuple[int, ...]]
"""Block → channels."""

Place = Literal["effects", "maps", "transport", "spatial"]
"""Where a control may serve; the words are those of a spec."""

LAST = 1000
"""Order and fairness of a kind that does not say: behind all that do."""


@dataclass(frozen=True)
class Request:
    """What a control is matched to, already checked: the treatment, and how often to draw.

    Args:
        massive: the treatment's channels, at least one.
        stats: the statistics they were chosen from.
        op: the treatment's edit.
        draws: how many; 1 for a kind that involves no chance.
        seed: of the draws.
        subspace: whether `dit_lens.controls` was given `subspace=True`.
    """

    massive: ChannelSet
    stats: ChannelStatistics
    op: Intervention
    draws: int = 1
    seed: int = 0
    subspace: bool = False

    @property
    def seeds(self) -> list[int]:
        """A seed for each draw; the first n of more draws are the n seeds."""
        return [
            int(np.random.SeedSequence([self.seed, draw]).generate_state(1)[0]) for draw in range(self.draws)
        ]


@dataclass(frozen=True)
class Choice:
    """One draw of a control: an edit, and the channels it acts on.

    Args:
        op: the edit.
        blocks: other channels for each block of the treatment; None: the treatment's own.
        everywhere: all channels, whatever `blocks` says.
        notes: what the selection of `blocks` records beside the control's name and draw.
    """

    op: Intervention
    blocks: Blocks | None = None
    everywhere: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ControlKind:
    """A kind of control, described by itself. Its name stands nowhere else in the package.

    Args:
        name: as in specs, tables and the names of arms.
        make: one `Choice` for each draw that is asked for. Raises `BadInput` where none can be made.
        title: what the report calls it; by default the name.
        words: what it is called in sentences; by default the name.
        serves: where it may be asked for.
        other_channels: whether it takes other channels than the treatment.
        own_edit: whether it makes another edit than the treatment.
        drawn: whether chance draws it; otherwise there is one.
        default_draws: how many a spec that names no controls asks for; 0: none. Written into results, so
            changing it changes what such specs run.
        fairness: rank among the controls with other channels, fairest lowest.
        order: place in messages and reports, lowest first.
        colour: place in the report's palette, which is its marker's as well; None: what is left.
        instead: where no section compares with it, what to use in its place.
        subspace: whether it can take a random subspace of all other channels.
        drawn_like: the kind whose channels it takes where activations are patched; "": its own.
        patch: (the treatment's channels, strength) → its edit where activations are patched; None: the
            treatment's.

    Raises:
        BadInput: it serves where a control must be what it is not.

    >>> from dit_lens.methods.controls import CONTROLS
    >>> CONTROLS["low"].words, CONTROLS["low"].drawn
    ('the weakest channels', False)
    """

    name: str
    make: Callable[[Request], Sequence[Choice]]
    title: str = ""
    words: str = ""
    serves: tuple[Place, ...] = ()
    other_channels: bool = False
    own_edit: bool = False
    drawn: bool = False
    default_draws: int = 0
    fairness: int = LAST
    order: int = LAST
    colour: int | None = None
    instead: str = ""
    subspace: bool = False
    drawn_like: str = ""
    patch: Callable[[ChannelSet, float], Intervention] | None = None

    def __post_init__(self) -> None:
        spaced = self.name.replace("_", " ")
        object.__setattr__(self, "title", self.title or spaced)
        object.__setattr__(self, "words", self.words or spaced)
        unknown = [place for place in self.serves if place not in get_args(Place)]
        if unknown:
            raise BadInput(
                f"The control {self.name!r} is to serve {unknown[0]!r}; there are: "
                f"{', '.join(get_args(Place))}."
            )
        if "transport" in self.serves and not self.other_channels:
            raise BadInput(
                f"The control {self.name!r} is to serve transport, where controls are other channels. Leave "
                "transport out of serves, or choose other channels."
            )
        if "spatial" in self.serves and not self.channels_alone:
            raise BadInput(
                f"The control {self.name!r} is to serve spatial, where nothing is edited and controls are "
                "choices of channels. Leave spatial out of serves."
            )

    @property
    def channels_alone(self) -> bool:
        """Whether it is a choice of channels and nothing else: other channels under the treatment's edit."""
        return self.other_channels and not self.own_edit
