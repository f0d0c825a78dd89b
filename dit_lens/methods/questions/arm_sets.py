"""The arms that questions share, and how to find them again. Equal arms get equal names everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput
from dit_lens.methods.arms import Arm, ablation_arm, control_arm
from dit_lens.methods.controls import CONTROLS, Control, controls, serving

if TYPE_CHECKING:
    from dit_lens.methods.channels import ChannelSet
    from dit_lens.methods.questions.question import Setting

MASSIVE = "massive"

FAIREST_DRAWS = 3
"""Most draws of the first control in single blocks and doses, where arms are many; of others one."""


def other_channels() -> tuple[str, ...]:
    """Controls of effects that edit other channels in the treatment's place, in the order of reports."""
    return tuple(kind for kind in serving("effects") if CONTROLS[kind].other_channels)


def massive_arm(setting: Setting) -> Arm:
    """The treatment: the setting's edit of the massive channels in all blocks at once."""
    _require_channels(setting)
    return ablation_arm(MASSIVE, MASSIVE, setting.massive, setting.op, **where(setting, setting.massive))


def control_arms(setting: Setting, kinds: Sequence[str]) -> tuple[Arm, ...]:
    """The setting's controls of these kinds in all blocks at once, every draw an arm ("random-3")."""
    return tuple(
        control_arm(control, **where(setting, setting.massive))
        for kind in kinds
        for control in controls(
            setting.massive,
            setting.stats,
            kind,
            draws=setting.controls.get(kind, 1),
            seed=setting.seed,
            op=setting.op,
        )
    )


def block_arms(setting: Setting, kinds: Sequence[str]) -> tuple[Arm, ...]:
    """One arm per block of the set for the treatment ("massive.block-2") and for draws of each control
    ("energy_matched-0.block-2"); see `FAIREST_DRAWS`."""
    _require_channels(setting)
    massive = setting.massive
    shared = {key: value for key, value in where(setting, massive).items() if key != "blocks"}
    drawn = _few_draws(setting, massive, kinds)
    arms = []
    for block in edited_blocks(massive):
        here: dict[str, Any] = {**shared, "blocks": [block], "block": block, "protocol": "single_block"}
        arms.append(ablation_arm(f"{MASSIVE}.block-{block}", MASSIVE, massive, setting.op, **here))
        arms += [control_arm(control, name=f"{control.name}.block-{block}", **here) for control in drawn]
    return tuple(arms)


def dose_arms(setting: Setting, kinds: Sequence[str]) -> tuple[Arm, ...]:
    """One arm per dose for the k strongest channels of every block ("massive.k-8"), chosen like the
    setting's massive channels, and for draws of each control matched to them ("random-0.k-8"); see
    `FAIREST_DRAWS`.

    Raises:
        BadInput: fewer than two different doses, or one for which the model has too few channels.
    """
    _require_channels(setting)
    doses = sorted(set(setting.doses))
    if len(doses) < 2:
        raise BadInput(f"doses is {list(setting.doses)}; a dose–response needs at least two, such as 1, 4.")
    room = setting.stats.num_channels // 2
    if doses[-1] > room:
        raise BadInput(
            f"A dose of {doses[-1]} channels per block was asked for, and its controls need as many others: "
            f"of {setting.stats.num_channels} channels, at most {room} can be a dose. Leave it out of doses."
        )
    arms = []
    for k in doses:
        chosen = strongest_like(setting, k)
        here = {**where(setting, chosen), "k": k}
        arms.append(ablation_arm(f"{MASSIVE}.k-{k}", MASSIVE, chosen, setting.op, **here))
        for control in _few_draws(setting, chosen, kinds):
            arms.append(control_arm(control, name=f"{control.name}.k-{k}", **here))
    return tuple(arms)


def _few_draws(setting: Setting, channels: ChannelSet, kinds: Sequence[str]) -> tuple[Control, ...]:
    """Draws of each control matched to `channels`; `kinds` have the fairest first."""
    fairest = min(setting.controls.get(kinds[0], 1), FAIREST_DRAWS)
    return tuple(
        control
        for kind in kinds
        for control in _up_to(fairest if kind == kinds[0] else 1, setting, channels, kind)
    )


def _up_to(most: int, setting: Setting, channels: ChannelSet, kind: str) -> tuple[Control, ...]:
    for draws in range(most, 1, -1):
        try:
            return controls(channels, setting.stats, kind, draws=draws, seed=setting.seed, op=setting.op)
        except BadInput:
            continue  # of as many channels as half of all there is one other set
    return controls(channels, setting.stats, kind, seed=setting.seed, op=setting.op)


def strongest_like(setting: Setting, k: int) -> ChannelSet:
    """The k strongest channels by the statistic, stream, branch, steps and blocks of the massive ones."""
    massive = setting.massive
    return setting.stats.select(
        top_k=k,
        statistic=massive.statistic,
        stream=massive.stream,
        branch=str(massive.selection.get("branch", "cond")),
        steps=massive.selection.get("steps", "all"),
        blocks=list(edited_blocks(massive)),
    )


def where(setting: Setting, channels: ChannelSet) -> dict[str, Any]:
    """Where and when the edit of a channel set acts, as options of `ablation_arm`."""
    blocks = edited_blocks(channels)
    return {
        "at": f"blocks.*.resid_post.{setting.stream}",
        "blocks": None if blocks == tuple(range(setting.num_blocks)) else list(blocks),
        "steps": setting.steps,
        "branch": setting.branch,
    }


def edited_blocks(channels: ChannelSet) -> tuple[int, ...]:
    """Blocks in which the set holds a channel."""
    return tuple(block for block, chosen in channels.blocks.items() if chosen)


def declared(setting: Setting, kinds: Sequence[str]) -> tuple[str, ...]:
    """Those of `kinds` that the setting asks for, in the order of `kinds`.

    Raises:
        BadInput: none of them.
    """
    found = tuple(kind for kind in kinds if setting.controls.get(kind))
    if not found:
        raise BadInput(
            f"The controls are {', '.join(setting.controls) or 'none'}; this question compares massive "
            f"channels with others and needs at least one of {', '.join(kinds)}."
        )
    return found


def find(
    arms: Iterable[Arm],
    family: str,
    *,
    protocol: str = "all_blocks",
    block: int | None = None,
    k: int | None = None,
) -> tuple[Arm, ...]:
    """Arms of one family at these coordinates that are judged by their image, in the order of draws."""
    asked = (family, protocol, block, None, k, "final")
    found = [a for a in arms if (a.family, a.protocol, a.block, a.step, a.k, a.readout) == asked]
    return tuple(sorted(found, key=lambda arm: arm.draw))


def some(arms: Iterable[Arm], family: str, **coordinates: Any) -> tuple[Arm, ...]:
    """As `find`; raises `BadInput` where there is none."""
    found = find(arms, family, **coordinates)
    if not found:
        raise BadInput(_lacking(family, coordinates, "an arm", 0))
    return found


def blocks_of(arms: Iterable[Arm], family: str) -> tuple[int, ...]:
    """The blocks in which a family was edited alone, in order.

    Raises:
        BadInput: none.
    """
    asked = (family, "single_block", "final")
    found = {a.block for a in arms if (a.family, a.protocol, a.readout) == asked and a.block is not None}
    if not found:
        raise BadInput(
            f"This question needs arms of family {family!r} in single blocks, and was given none. Give it "
            "the arms that its arms() declares."
        )
    return tuple(sorted(found))


def doses_of(arms: Iterable[Arm], family: str) -> dict[int, tuple[Arm, ...]]:
    """Number of channels → draws, for the family's arms of the dose–response, few channels first."""
    found: dict[int, list[Arm]] = {}
    for arm in arms:
        if arm.family == family and arm.k is not None and arm.readout == "final":
            found.setdefault(arm.k, []).append(arm)
    return {k: tuple(sorted(found[k], key=lambda arm: arm.draw)) for k in sorted(found)}


def families(arms: Iterable[Arm], kinds: Sequence[str], **coordinates: Any) -> tuple[str, ...]:
    """Those of `kinds` that have an arm at these coordinates, in the order of `kinds`."""
    arms = tuple(arms)
    return tuple(kind for kind in kinds if find(arms, kind, **coordinates))


def one(arms: Iterable[Arm], family: str, **coordinates: Any) -> Arm:
    """The arm of a family at these coordinates.

    Raises:
        BadInput: none, or several.
    """
    found = find(arms, family, **coordinates)
    if len(found) != 1:
        raise BadInput(_lacking(family, coordinates, "one arm", len(found)))
    return found[0]


def _lacking(family: str, coordinates: dict[str, Any], needed: str, given: int) -> str:
    at = ", ".join(f"{name} {value}" for name, value in coordinates.items())
    return (
        f"This question needs {needed} of family {family!r}{' at ' + at if at else ''}, and was given "
        f"{given}. Give it the arms that its arms() declares."
    )


def _require_channels(setting: Setting) -> None:
    if setting.massive.is_empty:
        raise BadInput(
            "The rule finds no massive channel in any block, so there is nothing to edit. Choose channels by "
            "top_k, or by a lower ratio."
        )
