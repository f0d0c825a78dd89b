"""What the result of a graph shows in a notebook's cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.inline_html import card, facts, table, thumbnails
from dit_lens.model.notebook import sampling_words

if TYPE_CHECKING:
    from dit_lens.run.result import Result, TrajectoryResult


def result_html(result: Result) -> str:
    """The unedited images beside the edited ones, what was read, and proof of what was done."""
    proof = result.proof
    worst = max(proof.sham_difference.values(), default=None)
    sham = (
        ""
        if worst is None
        else "bit for bit the unedited run"
        if worst == 0
        else f"latents move by {worst:.2g}"
    )
    about = {
        "model": result.model,
        "sampling": sampling_words(result.sampling),
        "done": f"{proof.edits:,} edits and {proof.reads:,} reads in {proof.forwards:,} forwards, "
        f"{proof.block_passes:,} block passes, {proof.seconds:.1f} s",
        "nothing edited": sham,
    }
    parts = [facts(about), thumbnails(result.labelled_images)]
    if result.reads:
        names = dict.fromkeys((value.name, value.trajectory) for value in result.reads)
        rows = []
        for name, trajectory in names:
            own = [each for each in result.read(name) if each.trajectory == trajectory]
            points = list(dict.fromkeys(str(each.point) for each in own))
            where = points[0] if len(points) == 1 else f"{points[0]} … {points[-1]} ({len(points)})"
            rows.append((name, trajectory, where, len(own), list(own[0].value.shape)))
        parts.append(table(("read", "trajectory", "at", "values", "shape of one"), rows))
    return card(f"Result of graph {result.graph}", *parts)


def trajectory_html(trajectory: TrajectoryResult) -> str:
    """One trajectory's image, and when it was edited."""
    edited = "never" if trajectory.start is None else f"from step {trajectory.start}"
    about = {
        "prompt": trajectory.prompt,
        "seed": trajectory.seed,
        "edited": edited,
        "latents": list(trajectory.latents.shape),
        "reads": len(trajectory.reads) or "",
    }
    shown = [] if trajectory.image is None else [(trajectory.id, trajectory.image)]
    return card(f"Trajectory {trajectory.id}", facts(about), thumbnails(shown))
