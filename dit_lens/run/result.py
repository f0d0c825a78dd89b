"""What a run of an intervention graph gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dit_lens.display import Summarised
from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.trajectory_ref import id_here
from dit_lens.model.hook_points import HookPoint
from dit_lens.model.sampling import Sampling, sampling_words
from dit_lens.summary import Facts, Images, Part, Summary, Table

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class ReadValue:
    """One value that a read kept, float32 on the CPU.

    Unreduced: [tokens, channels] in a stream, [channels] of AdaLN signals and `temb`, [C, h, w] of `velocity`
    (with tokens or channels addressed, [latent positions, C]). Reduced over tokens: [channels]; `norm`: [].
    """

    name: str
    trajectory: str
    step: int
    sigma: float
    branch: str
    point: HookPoint
    value: Tensor


@dataclass(frozen=True)
class TrajectoryResult(Summarised):
    """One trajectory of a run: the latents before the first step and after each one, and its image.

    `latents` is [steps done + 1, C, h, w] on the CPU, or [1, C, h, w], the last ones alone, where only those
    were kept; `sigmas` of the whole schedule, float32 [steps + 1]. `start` is the first step at which it was
    edited; before it, and where it is None, it is the unedited trajectory of its prompt and seed. `image` is
    None where it was not asked for, or not finished. A shadow that follows another trajectory, or given
    latents, has those latents and no image; its `start` is the first step at which it ran.
    """

    id: str
    prompt: str
    seed: int
    start: int | None
    latents: Tensor
    sigmas: np.ndarray
    finished: bool
    image: Image | None
    reads: tuple[ReadValue, ...]

    def summary(self) -> Summary:
        """The image, and when it was edited."""
        about = {
            "prompt": self.prompt,
            "seed": self.seed,
            "edited": "never" if self.start is None else f"from step {self.start}",
            "latents": list(self.latents.shape),
            "reads": len(self.reads) or "",
        }
        shown = [] if self.image is None else [(self.id, self.image)]
        return Summary(f"Trajectory {self.id}", (Facts(about), Images(shown)))

    def __repr__(self) -> str:
        edited = "unedited" if self.start is None else f"edited from step {self.start}"
        return (
            f"TrajectoryResult({self.id!r}: {self.prompt!r}, seed {self.seed}, {edited}, "
            f"latents {tuple(self.latents.shape)}, {len(self.reads)} reads)"
        )


@dataclass(frozen=True)
class Proof:
    """What was done: counts of what was planned and happened exactly once, at its step, at its place.

    `sham_difference` is, per (prompt, seed), the largest absolute difference between the latents of the sham
    and those of the unedited trajectory, over all steps: what batching changes by itself. Empty without
    shams; zero where nothing edited is bit for bit the plain pipeline.
    """

    edits: int
    reads: int
    forwards: int
    block_passes: int
    arms_per_forward: int
    halvings: int
    seconds: float
    sham_difference: Mapping[tuple[str, int], float]

    @property
    def exact(self) -> bool:
        """Whether every sham equals the unedited trajectory bit for bit."""
        return not any(self.sham_difference.values())


@dataclass(frozen=True)
class Result(Summarised):
    """All trajectories of a graph by id, the unedited ones by (prompt, seed), and proof of what was done.

    `sigmas` is float32 [steps + 1], ending in 0. `paths` holds the digests of given latents by their names in
    the graph, whose hash knows the names alone. Indexed by an id, or by a handle that the graph gave; `mark`
    tells its handles from those of other graphs.
    """

    graph: str
    model: str
    sampling: Sampling
    sigmas: np.ndarray
    trajectories: Mapping[str, TrajectoryResult]
    baselines: Mapping[tuple[str, int], TrajectoryResult]
    shams: Mapping[tuple[str, int], TrajectoryResult]
    proof: Proof
    paths: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default="", repr=False, compare=False)

    def __getitem__(self, trajectory: object) -> TrajectoryResult:
        name = id_here(trajectory, self.mark, place="", owner="the one that was run")
        if name not in self.trajectories:
            raise BadInput(
                f"There is no trajectory {name!r}; there are: {', '.join(self.trajectories)}."
                f"{did_you_mean(name, self.trajectories)}"
            )
        return self.trajectories[name]

    @property
    def reads(self) -> tuple[ReadValue, ...]:
        """Every value that was read, by trajectory, then step, then forward order."""
        return tuple(value for each in self.trajectories.values() for value in each.reads)

    @property
    def labelled_images(self) -> list[tuple[str, Image]]:
        """Every finished image: the unedited one of each prompt and seed, then those edited from it.

        Labels name the trajectory, and prompt and seed where there are several. For `dl.plots.images`.
        """
        several = len(self.baselines) > 1
        found = []
        for (prompt, seed), clean in self.baselines.items():
            arms = [e for e in self.trajectories.values() if (e.prompt, e.seed) == (prompt, seed)]
            alone = next((e.id for e in arms if e.start is None), None)
            named = [(f"{alone} (unedited)" if alone else "unedited", clean)]
            named += [(each.id, each) for each in arms if each.start is not None]
            where = f" · {prompt} · seed {seed}" if several else ""
            found += [(label + where, each.image) for label, each in named if each.image is not None]
        return found

    def read(self, name: str) -> tuple[ReadValue, ...]:
        """The values of one read."""
        found = tuple(value for value in self.reads if value.name == name)
        if not found:
            names = sorted({value.name for value in self.reads})
            raise BadInput(
                f"There is no read {name!r}; there are: {', '.join(names) or 'none'}."
                f"{did_you_mean(name, names)}"
            )
        return found

    def summary(self) -> Summary:
        """The unedited images beside the edited ones, what was read, and proof of what was done."""
        proof = self.proof
        worst = max(proof.sham_difference.values(), default=None)
        sham = (
            ""
            if worst is None
            else "bit for bit the unedited run"
            if worst == 0
            else f"latents move by {worst:.2g}"
        )
        about = {
            "model": self.model,
            "sampling": sampling_words(self.sampling),
            "done": f"{proof.edits:,} edits and {proof.reads:,} reads in {proof.forwards:,} forwards, "
            f"{proof.block_passes:,} block passes, {proof.seconds:.1f} s",
            "nothing edited": sham,
        }
        parts: list[Part] = [Facts(about), Images(self.labelled_images)]
        if self.reads:
            rows = []
            for name, trajectory in dict.fromkeys((value.name, value.trajectory) for value in self.reads):
                own = [each for each in self.read(name) if each.trajectory == trajectory]
                points = list(dict.fromkeys(str(each.point) for each in own))
                where = points[0] if len(points) == 1 else f"{points[0]} … {points[-1]} ({len(points)})"
                rows.append((name, trajectory, where, len(own), list(own[0].value.shape)))
            parts.append(Table(("read", "trajectory", "at", "values", "shape of one"), rows))
        return Summary(f"Result of graph {self.graph}", tuple(parts))

    def __repr__(self) -> str:
        return (
            f"Result({self.graph} on {self.model}: {len(self.trajectories)} trajectories, {self.proof.edits} "
            f"edits, {self.proof.reads} reads, {self.proof.forwards} forwards, {self.proof.seconds:.1f} s)"
        )
