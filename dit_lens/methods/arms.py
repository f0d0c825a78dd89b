"""Arms: named sets of edits that are applied alike to any prompt and seed. Loads without torch.

An arm says what is done; a study says to which prompts and seeds, and what is measured. What identifies a
result is `as_data()`: two arms that do the same share their results, whatever they are called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.energy import MatchedControl
from dit_lens.graph.interventions import Intervention, as_edit
from dit_lens.graph.site import indices
from dit_lens.words import known_words

if TYPE_CHECKING:
    import pandas as pd

    from dit_lens.methods.controls import Control

PROTOCOLS = ("all_blocks", "single_block", "single_cell")
READOUTS = ("final", "step")

RESIDUAL = "blocks.*.resid_post.image"
"""Where channel sets are found, and so where they are edited unless said otherwise."""

COLUMNS = ("arm", "family", "draw", "protocol", "block", "step", "k", "readout", "edits")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class BlockChannels:
    """Channels per block, as pairs (block, channels); `model` and `stream` are checked where given."""

    pairs: tuple[tuple[int, tuple[int, ...]], ...]
    model: str | None = None
    stream: str | None = None

    @property
    def blocks(self) -> dict[int, tuple[int, ...]]:
        """Block → channels, in the order in which they were chosen."""
        return dict(self.pairs)


@dataclass(frozen=True)
class ArmEdit:
    """One edit of an arm; fields mean what they mean in `InterventionGraph.edit`.

    Args:
        at: hook points, one pattern or several.
        op: an edit, its name, or its plain data.
        channels: "all", channel numbers, {block: numbers} or a ChannelSet.
        tokens: "all", token numbers or `{"box": [top, left, bottom, right]}`.
        steps: "all", a number, a list, a slice "2:8", {"fraction": …} or {"sigma": …}.
        donor: the op draws on the unedited trajectory of the prompt's donor, same seed.

    Raises:
        BadInput: a value of the wrong kind, or an op that needs a trajectory to draw on without `donor`.

    >>> ArmEdit("blocks.2.resid_post.image", "zero", channels=[3, 1]).channels
    (3, 1)
    """

    at: tuple[str, ...]
    op: Intervention
    channels: Any = "all"
    tokens: Any = "all"
    steps: Any = "all"
    branch: str = "both"
    order: int = 0
    donor: bool = False

    def __post_init__(self) -> None:
        given: Any = self.at
        at = (given,) if isinstance(given, str) else tuple(given)
        op = as_edit(self.op)
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "op", op)
        object.__setattr__(self, "channels", _channels(self.channels))
        object.__setattr__(self, "tokens", _listed(self.tokens))
        object.__setattr__(self, "steps", _listed(self.steps))
        if not at or not all(isinstance(each, str) and each for each in at):
            raise BadInput(f"at is {given!r}; give one hook point pattern or several, such as {RESIDUAL!r}.")
        measured = getattr(op, "of", None) == "dataset"
        takes_donor = "source" in op.needs and not measured
        if takes_donor != self.donor:
            raise BadInput(
                f"{op.op} draws on another trajectory: set donor=True, and give the study donors."
                if takes_donor
                else f"{op.op} draws on no other trajectory; use patch or resample, or leave out donor."
            )

    def __hash__(self) -> int:
        return hash(json.dumps(self.as_data(), sort_keys=True))

    def as_data(self) -> dict[str, Any]:
        """What the edit does, as plain JSON data."""
        channels: Any = self.channels
        if isinstance(channels, BlockChannels):
            channels = {str(block): list(chosen) for block, chosen in channels.pairs}
        return {
            "at": list(self.at),
            "op": self.op.to_data(),
            "channels": _jsonable(channels),
            "tokens": _jsonable(self.tokens),
            "steps": _jsonable(self.steps),
            "branch": self.branch,
            "order": self.order,
            "donor": self.donor,
        }


@dataclass(frozen=True)
class Arm:
    """A named set of edits, what it stands for in a comparison, and how its effect is read.

    Args:
        name: unique in a study; letters, digits, `.`, `_`, `-`: "random-3", "massive.block-2".
        family: "massive", or the kind of control: what is compared with what.
        edits: what is done to the trajectory; none for the unedited one, `CLEAN`.
        draw: which draw of the family, for families that involve chance.
        protocol: "all_blocks", "single_block" or "single_cell" (one block at one step).
        block, step, k: coordinates of this arm, where it has them; `k` counts channels per block.
        readout: "final", the image at the end; or "step", the velocity at `step` in one forward pass from
            the unedited latents. In the latter, edits act at `step` alone ("all" steps means that step).

    Raises:
        BadInput: a name that is no file name, an unknown protocol or readout, a step readout without a step
        or with an edit at other steps.

    >>> halving = ArmEdit("blocks.4.resid_post.image", {"op": "scale", "factor": 0.5}, [60])
    >>> Arm("halved", "massive", (halving,)).family
    'massive'
    """

    name: str
    family: str
    edits: tuple[ArmEdit, ...]
    draw: int = 0
    protocol: str = "all_blocks"
    block: int | None = None
    step: int | None = None
    k: int | None = None
    readout: str = "final"

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(self.edits))
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise BadInput(
                f"An arm is called {self.name!r}; names are letters, digits, '.', '_' and '-', and begin "
                "with a letter or digit."
            )
        for what, value, known in (
            ("protocol", self.protocol, PROTOCOLS),
            ("readout", self.readout, READOUTS),
        ):
            if value not in known:
                raise BadInput(
                    f"arm {self.name!r}: {what} is {value!r}; there are: {', '.join(known)}."
                    f"{did_you_mean(str(value), known)}"
                )
        if self.readout == "step":
            object.__setattr__(self, "edits", tuple(self._at_its_step(edit) for edit in self.edits))

    def _at_its_step(self, edit: ArmEdit) -> ArmEdit:
        if isinstance(self.step, bool) or not isinstance(self.step, int) or self.step < 0:
            raise BadInput(f"arm {self.name!r}: readout 'step' needs a step, and step is {self.step!r}.")
        if edit.steps not in ("all", self.step, (self.step,)):
            raise BadInput(
                f"arm {self.name!r} reads the velocity at step {self.step} from unedited latents, and edits "
                f"steps {edit.steps!r}. Edit that step alone, or use readout 'final'."
            )
        return replace(edit, steps=(self.step,))

    @property
    def draws_on_donor(self) -> bool:
        """Whether any edit needs the trajectory of a donor prompt."""
        return any(edit.donor for edit in self.edits)

    def as_data(self) -> dict[str, Any]:
        """What determines the result: the edits and the readout; not the name, nor what it stands for.

        >>> CLEAN.as_data()
        {'edits': [], 'readout': 'final'}
        """
        data: dict[str, Any] = {"edits": [edit.as_data() for edit in self.edits], "readout": self.readout}
        return {**data, "step": self.step} if self.readout == "step" else data


CLEAN = Arm("clean", "clean", ())
"""The unedited trajectory as an arm: what its own image scores."""

UNGUIDED = "unguided"
"""Arm and family of the run without Detail Guidance."""


@known_words
def ablation_arm(
    name: str,
    family: str,
    channels: Any,
    op: Any,
    *,
    at: str | Sequence[str] = RESIDUAL,
    blocks: Sequence[int] | None = None,
    steps: Any = "all",
    branch: str = "both",
    tokens: Any = "all",
    donor: bool = False,
    **coordinates: Any,
) -> Arm:
    """An arm with one edit of a channel set, at all blocks or at some of them.

    Args:
        name, family: of the `Arm`.
        channels: as in `ArmEdit`; None means all.
        op: the edit, its name or its plain data.
        at: hook points; `blocks.*` in them stands for `blocks`, where those are given.
        blocks: the blocks to edit; None for all that `at` names. A set of some blocks alone needs them named,
            `blocks=list(channels.blocks)`: an arm knows no model.
        steps, branch, tokens, donor: of the `ArmEdit`.
        coordinates: further fields of `Arm`: draw, protocol, block, step, k, readout.

    What lies outside `blocks` is left out of the arm, so that arms which do the same are the same.

    Raises:
        BadInput: as `Arm` and `ArmEdit`, or no channels for one of the blocks.

    >>> from dit_lens.graph.interventions import Zero
    >>> arm = ablation_arm("massive.block-2", "massive", {1: [5], 2: [7]}, Zero(), blocks=[2],
    ...                    protocol="single_block", block=2)
    >>> arm.edits[0].at, arm.edits[0].channels.blocks
    (('blocks.2.resid_post.image',), {2: (7,)})
    """
    places = (at,) if isinstance(at, str) else tuple(at)
    chosen = _channels(channels)
    edit = as_edit(op)
    if blocks is not None:
        numbers = indices("blocks", blocks)
        places = tuple(
            dict.fromkeys(
                place.replace("blocks.*.", f"blocks.{number}.") for place in places for number in numbers
            )
        )
        chosen, edit = _restricted(name, chosen, numbers), _restricted_op(edit, numbers)
    made = ArmEdit(places, edit, chosen, tokens, steps, branch, donor=donor)
    return Arm(name, family, (made,), **coordinates)


@known_words
def control_arm(control: Control, *, name: str | None = None, **options: Any) -> Arm:
    """A matched `control` as an arm; `options` are those of `ablation_arm`, `name` that of the control.

    Raises `BadInput` as `ablation_arm`.

    >>> [control_arm(c).name for c in dl.controls(massive, stats, "random", draws=2)]
    ['random-0', 'random-1']
    """
    return ablation_arm(
        name or control.name,
        options.pop("family", control.kind),
        control.channels,
        control.op,
        **{"draw": control.draw, **options},
    )


def arms_table(arms: Iterable[Arm]) -> pd.DataFrame:
    """One row per arm, columns `COLUMNS`; block, step and k are nullable, edits is JSON text."""
    import pandas as pd

    rows = [
        (
            *(getattr(arm, name) for name in ("name", *COLUMNS[1:-1])),
            json.dumps(arm.as_data()["edits"], sort_keys=True),
        )
        for arm in arms
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = {"draw": "int64", "block": "Int64", "step": "Int64", "k": "Int64"}
    texts = {name: "object" for name in COLUMNS if name not in kinds}
    return table.astype({**kinds, **texts})


def require_distinct(arms: Sequence[Arm]) -> None:
    """Raise `BadInput` unless there are arms and every name stands once."""
    if not arms:
        raise BadInput("No arms were given; a study needs at least one, for example CLEAN.")
    seen: set[str] = set()
    for arm in arms:
        if arm.name in seen:
            raise BadInput(f"Two arms are called {arm.name!r}; names must differ.")
        seen.add(arm.name)


def _channels(given: Any) -> Any:
    if given is None or (isinstance(given, str) and given == "all"):
        return "all"
    if isinstance(given, BlockChannels):
        return given
    blocks = getattr(given, "blocks", given if isinstance(given, Mapping) else None)
    if blocks is None:
        return indices("channels", given)
    pairs = sorted((int(block), indices(f"channels of block {block}", c)) for block, c in blocks.items())
    return BlockChannels(tuple(pairs), getattr(given, "model", None), getattr(given, "stream", None))


def _restricted(name: str, channels: Any, blocks: Sequence[int]) -> Any:
    if not isinstance(channels, BlockChannels):
        return channels
    there = channels.blocks
    for block in blocks:
        if block not in there:
            raise BadInput(
                f"arm {name!r}: block {block} is to be edited, and there are channels for blocks "
                f"{', '.join(map(str, there)) or 'none'} only."
            )
    return replace(channels, pairs=tuple((block, there[block]) for block in sorted(blocks)))


def _restricted_op(op: Intervention, blocks: Sequence[int]) -> Intervention:
    if isinstance(op, MatchedControl) and op.blocks is not None:
        kept = {block: channels for block, channels in op.blocks.items() if block in blocks}
        return replace(op, treatment_channels=kept) if kept else op
    return op


class _SizedRows(tuple[Any, ...]):
    """Rows of a mask that is tied to one image size, which the graph checks; otherwise the rows alone."""

    image_size: tuple[int, int]

    def __new__(cls, rows: Iterable[Any], image_size: tuple[int, int]) -> _SizedRows:
        made = super().__new__(cls, rows)
        made.image_size = image_size
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.image_size


def _listed(value: Any) -> Any:
    """Sequences and arrays as tuples of numbers, mappings with lists; anything else as it is."""
    if isinstance(value, str | Mapping):
        return value
    if getattr(value, "image_size", None) is not None:
        return value if isinstance(value, _SizedRows) else _SizedRows(value.tolist(), value.image_size)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, range | list | tuple | set | frozenset):
        return tuple(sorted(value)) if isinstance(value, set | frozenset) else tuple(value)
    return value


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(each) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) else value
