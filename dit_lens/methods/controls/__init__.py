"""Controls matched to a set of massive channels: what else an effect could have come from.

A control takes the treatment's place at the same hook points, steps and branches. Either other channels get
the treatment's edit, or the treatment's channels get another one. Each module of this package is one kind of
control and says all there is to know of it; `CONTROLS` finds them, and those of other packages (entry points
of the group `dit_lens.controls`), by name.

Zeroing channels near zero hardly perturbs, whatever they do: `low` and `random` alone (the controls of arXiv
2605.13974) let any large channels look important. Hence the rank window, whose channels are large too, and
the energy match, whose change is as large.

**How channels are drawn.** Massive channels are mostly the same in many blocks, so a control that took others
in every block would reach far more channels of the stream. Each distinct channel of the treatment is
therefore replaced by one other channel, the same in all blocks where it occurs, and none of them massive in
any block. Where the model has too few channels for that, channels are drawn for each block alone, from those
not massive there; `selection["persistent"]` of the control's channels says which.
"""

from dit_lens.methods.controls._draws import (
    all_others,
    draw_channels,
    draw_others,
    profile_of,
    require_room,
    single_pool,
)
from dit_lens.methods.controls._kinds import (
    CONTROLS,
    channels_alone,
    control_kinds,
    default_draws,
    fairest_first,
    is_drawn,
    serving,
)
from dit_lens.methods.controls._matched import MOST_DRAWS, Control, controls
from dit_lens.methods.controls._parts import Blocks, Choice, ControlKind, Place, Request

__all__ = [
    "CONTROLS",
    "MOST_DRAWS",
    "Blocks",
    "Choice",
    "Control",
    "ControlKind",
    "Place",
    "Request",
    "all_others",
    "channels_alone",
    "control_kinds",
    "controls",
    "default_draws",
    "draw_channels",
    "draw_others",
    "fairest_first",
    "is_drawn",
    "profile_of",
    "require_room",
    "serving",
    "single_pool",
]
