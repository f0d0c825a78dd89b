"""Arms that carry activations over from a donor: which channels, how strongly, where and when.

| family             | what is carried                                                        |
|--------------------|------------------------------------------------------------------------|
| massive            | the massive channels of every block                                    |
| a control          | other channels: any kind of `dit_lens.controls` that serves transport  |
| all                | every channel: the most that the image stream can carry                |
| all_but_massive    | every channel but the massive ones                                     |

To carry is to patch: the hard swap of arXiv 2605.13974 at strength 1, an interpolation below it, and of a
channel's token mean or spatial residual alone where `part` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.interventions import Patch
from dit_lens.methods.arms import Arm, BlockChannels, ablation_arm
from dit_lens.methods.controls import CONTROLS, controls, serving
from dit_lens.methods.questions.arm_sets import edited_blocks, strongest_like
from dit_lens.methods.transport.blends import Blend

if TYPE_CHECKING:
    from dit_lens.methods.channels import ChannelSet
    from dit_lens.methods.questions.question import Setting

MASSIVE = "massive"

BOUNDS = ("all", "all_but_massive")
"""The most that could be carried, and what is left without the massive channels."""

AXES = ("blocks", "steps", "k", "part")


def carried_families() -> tuple[str, ...]:
    """All families, in the order of tables: massive channels, their controls, and the bounds."""
    return (MASSIVE, *serving("transport"), *BOUNDS)


@dataclass(frozen=True)
class Carry:
    """One thing that is done to a target, and its place in the tables.

    `does` is an arm that draws on the donor, or a blend. `axis` and `at` place an arm on a curve ("k", "8");
    arms of the comparison of families have neither.
    """

    does: Arm | Blend
    family: str
    strength: float
    draw: int = 0
    axis: str = ""
    at: str = ""

    @property
    def name(self) -> str:
        """Unique in a study; also a file's name."""
        if isinstance(self.does, Arm):
            return self.does.name
        return f"{self.does.kind}.s-{self.strength:g}"

    @property
    def caption(self) -> str:
        """As a report calls its picture: "massive 0.5"."""
        return f"{self.family} {self.strength:g}"


def family_carries(
    setting: Setting,
    families: Sequence[str],
    *,
    strengths: Sequence[float] = (1.0,),
    tokens: Any = "all",
) -> tuple[Carry, ...]:
    """Every family at every strength, each draw of a control by itself, in all blocks of the set.

    Args:
        setting: of it the channels, controls, steps and branch; its `op` is not used.
        strengths: of every block's patch. Below 1 they compound: n blocks cover 1 − (1 − strength)ⁿ of a
            difference that stays the same. Those of blends do not.
        tokens: as in `ArmEdit`; a `Mask` or a grid of truth values too. With none, nothing is carried: the
            arms do not edit.

    Raises:
        BadInput: an unknown family, a strength outside [0, 1], or what `dit_lens.controls` refuses.

    >>> setting = dl.Setting(massive, stats, num_blocks=8, num_steps=4)
    >>> [carry.name for carry in family_carries(setting, ["massive"], strengths=[0.5, 1])]
    ['massive.s-0.5', 'massive.s-1']
    """
    found: list[Carry] = []
    for family in families:
        for strength in strengths:
            _require_strength(strength)
            for name, draw, channels, op in _drawn(setting, family, setting.massive, strength):
                arm = _arm(setting, f"{name}.s-{strength:g}", family, channels, op, draw=draw, tokens=tokens)
                found.append(Carry(arm, family, float(strength), draw))
    return tuple(found)


def curve_carries(
    setting: Setting,
    axes: Mapping[str, Sequence[Any]],
    *,
    families: Sequence[str] = (MASSIVE,),
    k_families: Sequence[str] | None = None,
    tokens: Any = "all",
) -> tuple[Carry, ...]:
    """Strength 1, varied along one axis at a time; the first draw of each control.

    Args:
        axes: of `AXES`. blocks: number of ranges that depth is cut into, each a value "0–2", at most one for
            each block that holds massive channels; steps: pairs (from, to) as fractions of the run; k:
            numbers of channels per block; part: of "mean", "residual". The whole ("all") belongs to every
            axis but k and is read off the comparison of families.
        k_families: families of the axis k; by default `families`.
        tokens: as in `family_carries`.

    Raises:
        BadInput: an unknown axis or family, or a value that the model has no room for.
    """
    found: list[Carry] = []
    for axis, values in axes.items():
        if axis not in AXES:
            raise BadInput(
                f"There is no axis {axis!r}; there are: {', '.join(AXES)}.{did_you_mean(axis, AXES)}"
            )
        for family in (k_families or families) if axis == "k" else families:
            for at, label, massive, options, part in _points(setting, axis, values):
                name, draw, channels, op = _drawn(setting, family, massive, 1.0)[0]
                if part != "all":
                    op = replace(op, part=part)
                options |= {"draw": draw, "tokens": tokens}
                arm = _arm(setting, f"{name}.{label}", family, channels, op, **options)
                found.append(Carry(arm, family, 1.0, draw, axis, at))
    return tuple(found)


def _points(setting: Setting, axis: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """(value, its name in an arm's name, massive channels, options of the arm, part) of one axis."""
    massive = setting.massive
    if axis == "part":
        return [(part, f"part-{part}", massive, {}, part) for part in values]
    if axis == "k":
        return [
            (str(k), f"k-{k}", strongest_like(setting, int(k)), {"k": int(k)}, "all") for k in sorted(values)
        ]
    if axis == "steps":
        points = []
        for start, end in values:
            first, last = round(start * setting.num_steps), round(end * setting.num_steps) - 1
            if not 0 <= first <= last < setting.num_steps:
                raise BadInput(
                    f"steps from {start:g} to {end:g} of the run hold none of its {setting.num_steps}; give "
                    "fractions between 0 and 1 that are further apart."
                )
            chosen = list(range(first, last + 1))
            points.append((f"{first}–{last}", f"steps-{first}-{last}", massive, {"steps": chosen}, "all"))
        return points
    blocks = edited_blocks(massive)
    parts = min(int(values[0]), len(blocks))
    cuts = [round(i * len(blocks) / parts) for i in range(parts + 1)]
    ranges = [blocks[a:b] for a, b in pairwise(cuts)]
    return [
        (f"{each[0]}–{each[-1]}", f"blocks-{each[0]}-{each[-1]}", massive, {"blocks": list(each)}, "all")
        for each in ranges
    ]


def _drawn(
    setting: Setting, family: str, massive: ChannelSet, strength: float
) -> list[tuple[str, int, Any, Any]]:
    """(name, draw, channels, edit) of every draw of a family."""
    patch = Patch(strength)
    if family == MASSIVE:
        return [(family, 0, massive, patch)]
    if family == "all":
        return [(family, 0, "all", patch)]
    if family == "all_but_massive":
        everything = range(setting.stats.num_channels)
        others = {b: tuple(c for c in everything if c not in held) for b, held in massive.blocks.items()}
        pairs = tuple(sorted(others.items()))
        return [(family, 0, BlockChannels(pairs, massive.model, massive.stream), patch)]
    known = carried_families()
    if family not in known:
        raise BadInput(
            f"There is no family {family!r} to carry; there are: {', '.join(known)}."
            f"{did_you_mean(family, known)}"
        )
    kind = CONTROLS[family]
    draws = setting.controls.get(family, 1) if kind.drawn else 1
    made = controls(
        massive, setting.stats, kind.drawn_like or family, draws=draws, seed=setting.seed, op=patch
    )
    op = kind.patch(massive, strength) if kind.patch is not None else patch
    return [
        (f"{family}-{control.draw}" if kind.drawn else family, control.draw, control.channels, op)
        for control in made
    ]


def _arm(
    setting: Setting,
    name: str,
    family: str,
    channels: Any,
    op: Any,
    *,
    tokens: Any = "all",
    blocks: Sequence[int] | None = None,
    steps: Any = None,
    **coordinates: Any,
) -> Arm:
    addressed = token_numbers(tokens)
    if addressed == ():
        # The graph refuses an edit of no token; what carries nothing edits nothing.
        return Arm(name, family, (), **coordinates)
    massive = edited_blocks(setting.massive)
    if blocks is None and massive != tuple(range(setting.num_blocks)):
        blocks = list(massive)
    return ablation_arm(
        name,
        family,
        channels,
        op,
        at=f"blocks.*.resid_post.{setting.stream}",
        blocks=blocks,
        steps=setting.steps if steps is None else steps,
        branch=setting.branch,
        tokens=addressed,
        donor=True,
        **coordinates,
    )


def token_numbers(tokens: Any) -> Any:
    """Tokens as `ArmEdit` takes them: a mask becomes its token numbers.

    >>> token_numbers([[True, False], [False, True]])
    (0, 3)
    """
    if tokens is None or isinstance(tokens, str | Mapping):
        return "all" if tokens is None else tokens
    numbers = getattr(tokens, "tokens", None)
    if numbers is not None:
        return tuple(numbers)
    rows = tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
    flat = [cell for row in rows for cell in row] if rows and isinstance(rows[0], list) else rows
    if flat and all(isinstance(cell, bool) for cell in flat):
        return tuple(i for i, cell in enumerate(flat) if cell)
    return tuple(flat)


def _require_strength(strength: Any) -> None:
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if not number or not 0 <= strength <= 1:
        raise BadInput(
            f"strength is {strength!r}; it lies between 0 (the target) and 1 (the source's channels)."
        )
