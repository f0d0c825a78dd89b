"""The arms of a block × step map: an edit and its controls in every cell, one block at one denoising step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.interventions import Intervention
from dit_lens.methods.arms import READOUTS, Arm, ablation_arm
from dit_lens.methods.controls import Control
from dit_lens.methods.map_cells import TREATMENT
from dit_lens.model.hook_points import parse_blocks


@dataclass(frozen=True)
class CellEdit:
    """What is done in each cell of a map: `op` on `channels`, and what that is compared as."""

    name: str
    family: str
    channels: Any
    op: Intervention
    draw: int = 0

    @property
    def donor(self) -> bool:
        """Whether the edit draws on the run of a donor prompt."""
        return "source" in self.op.needs and getattr(self.op, "of", None) != "dataset"


def cell_edits(
    channels: Any, op: Intervention, controls: Mapping[str, Any] | Iterable[Control] = ()
) -> tuple[CellEdit, ...]:
    """The treatment (family "massive") and its controls.

    Args:
        channels: a ChannelSet, {block: channels}, channel numbers or "all".
        op: the treatment's edit.
        controls: what `dl.controls` gives, with their own edits; or {name: channels}, which get `op`.

    Raises:
        BadInput: two controls of one name, or one called like the treatment.

    >>> from dit_lens.graph.interventions import Zero
    >>> [edit.name for edit in cell_edits([3], Zero(), {"quiet": [5]})]
    ['massive', 'quiet']
    """
    if isinstance(controls, Mapping):
        others = [CellEdit(str(name), str(name), chosen, op) for name, chosen in controls.items()]
    else:
        others = [CellEdit(c.name, c.kind, c.channels, c.op, c.draw) for c in controls]
    edits = (CellEdit(TREATMENT, TREATMENT, channels, op), *others)
    names = [edit.name for edit in edits]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"Two edits of a map are called {twice!r}; names must differ.")
    return edits


def mapped_blocks(spec: Any, num_blocks: int, edits: Sequence[CellEdit]) -> tuple[int, ...]:
    """Blocks of a map: those of `spec` in which every edit has channels.

    Raises:
        BadInput: blocks that do not exist, blocks named one by one without channels, or none left.

    >>> from dit_lens.graph.interventions import Zero
    >>> mapped_blocks("*", 4, cell_edits({0: [3], 2: [3]}, Zero()))
    (0, 2)
    """
    asked = parse_blocks(spec, num_blocks)
    held = [_blocks_of(edit.channels) for edit in edits]
    found = tuple(b for b in asked if all(blocks is None or b in blocks for blocks in held))
    everything = isinstance(spec, str) and spec in ("*", "all")
    if not found or (len(found) < len(asked) and not everything):
        missing = next(b for b in asked if b not in found)
        there = sorted(set.intersection(*(blocks for blocks in held if blocks is not None)))
        raise BadInput(
            f"A map of block {missing} was asked for, and there are no channels to edit in it; there are "
            f"some in blocks {', '.join(map(str, there)) or 'none'}. Leave block {missing} out."
        )
    return found


def map_arms(
    edits: Sequence[CellEdit],
    *,
    blocks: Sequence[int],
    steps: Sequence[int],
    stream: str = "image",
    branch: str = "both",
    tokens: Any = "all",
    readout: Literal["final", "step"] = "step",
) -> tuple[Arm, ...]:
    """One arm per cell and edit, called "massive.at-4-17" (block 4, step 17).

    With readout "step" the name says so ("massive.step.at-4-17"), and a patch is called one
    ("massive.patch.at-4-17"), so that all maps of a channel set can run in one study. Every arm edits
    `resid_post` of its block at its step alone.

    Raises:
        BadInput: an unknown readout, or a block without channels.

    >>> from dit_lens.graph.interventions import Zero
    >>> arms = map_arms(cell_edits([3], Zero()), blocks=[4], steps=[0, 17])
    >>> [(arm.name, arm.block, arm.step) for arm in arms]
    [('massive.step.at-4-0', 4, 0), ('massive.step.at-4-17', 4, 17)]
    """
    if readout not in READOUTS:
        raise BadInput(
            f"There is no readout {readout!r}; there are: {', '.join(READOUTS)}."
            f"{did_you_mean(str(readout), READOUTS)}"
        )
    arms = []
    for edit in edits:
        what = f"{edit.name}{'.patch' * edit.donor}{'.step' * (readout == 'step')}"
        for block in blocks:
            for step in steps:
                arms.append(
                    ablation_arm(
                        f"{what}.at-{block}-{step}",
                        edit.family,
                        edit.channels,
                        edit.op,
                        at=f"blocks.*.resid_post.{stream}",
                        blocks=[block],
                        steps=[step],
                        branch=branch,
                        tokens=tokens,
                        donor=edit.donor,
                        draw=edit.draw,
                        protocol="single_cell",
                        block=block,
                        step=step,
                        readout=readout,
                    )
                )
    return tuple(arms)


def _blocks_of(channels: Any) -> set[int] | None:
    """Blocks in which channels are named; None for the same channels in every block."""
    blocks = getattr(channels, "blocks", channels if isinstance(channels, Mapping) else None)
    return None if blocks is None else {int(block) for block, chosen in blocks.items() if len(chosen)}
