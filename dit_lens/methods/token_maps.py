"""Where in the image a channel is active: its values over the token grid, for a few samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dit_lens.errors import BadInput
from dit_lens.methods.channel_sets import ChannelSet
from dit_lens.model.hook_points import HookPoint, select_steps
from dit_lens.words import known_words, shown

if TYPE_CHECKING:
    import torch

    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.runner import Visit

COLUMNS = (
    "prompt",
    "prompt_index",
    "seed",
    "stream",
    "branch",
    "block",
    "step",
    "channel",
    "row",
    "col",
    "value",
)


@known_words
def token_maps(
    lens: DiTLens,
    channels: ChannelSet | Mapping[int, Sequence[int]],
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    sampling: Sampling | Mapping[str, Any] | None = None,
    steps: Any = (-1,),
    branch: str = "cond",
    batch_size: int = 8,
) -> pd.DataFrame:
    """Values of the chosen channels at every image token: one row per sample, block, step, channel and token.

    A second, short pass after discovery over `prompts` × `seeds`: only the chosen channels of the chosen
    blocks and steps are kept (4 bytes a value while it runs), and the run ends after the last of them. `row`
    and `col` count image tokens from the top left, `value` is the residual after the block in activation
    units. `branch` is `cond`, `uncond` or `both`; `batch_size` samples go through together; `sampling` is a
    `Sampling` or some of its fields over the model's defaults.

    Raises `BadInput` for a set of the context stream (its tokens have no place in the image), blocks,
    channels, steps or branches that do not exist, and no channel at all.
    Columns: prompt, prompt_index, seed, stream, branch, block, step, channel, row, col, value.

    >>> table = token_maps(lens, massive, ["a red circle on white"], sampling={"steps": 4})
    >>> len(table)                                          # 8 blocks, 4 channels each, 144 tokens
    4608
    """
    from dit_lens.run.runner import observe

    if sampling is None or isinstance(sampling, Mapping):
        sampling = lens.sampling(**(sampling or {}))
    wanted = _wanted(lens, channels)
    chosen_steps = select_steps(list(steps) if isinstance(steps, (tuple, range)) else steps, sampling.steps)
    branches = _branches(branch, sampling.branches)
    if isinstance(prompts, str) or not prompts:
        raise BadInput(f"prompts is {shown(prompts)}; token maps need a list with at least one caption.")
    samples = [(index, prompt, seed) for index, prompt in enumerate(prompts) for seed in seeds]
    grid = lens.token_grid(sampling.height, sampling.width)
    points = [HookPoint("resid_post", block, "image") for block in wanted]
    frames: list[pd.DataFrame] = []
    for start in range(0, len(samples), batch_size):
        rows = samples[start : start + batch_size]
        batch = lens.prepare_rows([prompt for _, prompt, _ in rows], [seed for _, _, seed in rows], sampling)

        def keep(visit: Visit, tensor: torch.Tensor, rows: Sequence[tuple[int, str, int]] = rows) -> None:
            block = visit.point.block
            if visit.branch in branches and block is not None:
                values = tensor[:, :, list(wanted[block])].detach().float().cpu().numpy()
                frames.append(_tidy(values, rows, visit.branch, block, visit.step, wanted[block], grid))

        observe(lens, batch, points, keep, steps=chosen_steps)
    order = ["prompt_index", "seed", "branch", "block", "step"]
    return pd.concat(frames, ignore_index=True).sort_values(order, kind="stable", ignore_index=True)


def _tidy(
    values: np.ndarray,
    samples: Sequence[tuple[int, str, int]],
    branch: str,
    block: int,
    step: int,
    channels: Sequence[int],
    grid: tuple[int, int],
) -> pd.DataFrame:
    """Rows for values [samples, tokens, channels]; tokens run along the rows of the grid."""
    tokens = grid[0] * grid[1]
    each = len(channels) * tokens
    return pd.DataFrame(
        {
            "prompt": np.repeat([prompt for _, prompt, _ in samples], each),
            "prompt_index": np.repeat([index for index, _, _ in samples], each),
            "seed": np.repeat([seed for _, _, seed in samples], each),
            "stream": "image",
            "branch": branch,
            "block": block,
            "step": step,
            "channel": np.tile(np.repeat(list(channels), tokens), len(samples)),
            "row": np.tile(np.arange(tokens) // grid[1], len(samples) * len(channels)),
            "col": np.tile(np.arange(tokens) % grid[1], len(samples) * len(channels)),
            "value": values.transpose(0, 2, 1).ravel(),
        },
        columns=list(COLUMNS),
    )


def _wanted(
    lens: DiTLens, channels: ChannelSet | Mapping[int, Sequence[int]]
) -> Mapping[int, tuple[int, ...]]:
    if isinstance(channels, ChannelSet) and channels.stream != "image":
        raise BadInput(
            f"Token maps show the image stream; this channel set is of the {channels.stream} stream, whose "
            f"tokens are "
            "words. Select with stream='image'."
        )
    blocks = channels.blocks if isinstance(channels, ChannelSet) else channels
    wanted = {int(block): tuple(int(c) for c in chosen) for block, chosen in blocks.items() if len(chosen)}
    if not wanted:
        raise BadInput("The channel set is empty, so there is no token map to show. Select by top_k instead.")
    for block, chosen in wanted.items():
        if not 0 <= block < lens.num_blocks or not all(0 <= c < lens.num_channels for c in chosen):
            raise BadInput(
                f"Token maps of channels {list(chosen)} in block {block} were asked for; {lens.name} has "
                f"blocks "
                f"0–{lens.num_blocks - 1} and channels 0–{lens.num_channels - 1}. Use a set from this model."
            )
    return wanted


def _branches(asked: str, there: Sequence[str]) -> tuple[str, ...]:
    if asked == "both":
        return tuple(there)
    if asked not in there:
        raise BadInput(f"No branch {asked!r} at this guidance; there are: {', '.join(there)}, or 'both'.")
    return (asked,)
