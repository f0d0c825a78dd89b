"""Labels of channel statistics: what the axes and variables of the dataset are called."""

from __future__ import annotations

RANKED = ("abs_mean", "mean_abs", "max_abs", "p999")
"""Statistics that measure size, so that channels can be ranked by them."""

STATISTICS = (*RANKED, "mean", "variance")

BRANCHES = ("cond", "uncond")
"""Guidance branches, the one that always exists first."""

WRITERS = {"attn_out": "attn", "attn2_out": "attn2", "mlp_out": "mlp"}
"""Component → what writes it into the residual stream."""

EMBED = "embed"
"""The writer before all blocks: what block 0 receives. A channel may be born there."""

SOURCES = ("step", "prompt", "seed", "interaction", "token")
"""Sources of a channel's variance."""
