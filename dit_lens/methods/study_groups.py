"""What a study runs at a time: the arms of one prompt and seed, as rows of one graph.

The unedited run of a prompt and seed serves all its arms, whatever their readout, so all of them are one
graph. Two prompts that are each other's donor are one group: the unedited run of each is the donor of the
other's arms, and is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dit_lens.graph.graph import InterventionGraph
from dit_lens.methods.along_steps import Paths
from dit_lens.methods.arms import Arm
from dit_lens.methods.measures import Measures, needs_image, rows_at_a_time

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.result import Result, TrajectoryResult


@dataclass(frozen=True)
class Member:
    """Arms of one prompt and seed that are to be run; `donor` is the prompt that some of them draw on."""

    prompt: str
    seed: int
    donor: str | None
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Group:
    """What runs as one graph: one member, or two that are each other's donors."""

    members: tuple[Member, ...]

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a check and a plan depend on: which arms, and whose unedited run is whose donor.

        Prompts and seeds change embeddings and noise, which neither looks at.
        """
        return tuple(
            (tuple(arm.name for arm in member.arms), self._donor_place(member)) for member in self.members
        )

    def donor_id(self, member: Member) -> str | None:
        """Name of the trajectory that a member's arms draw on."""
        place = self._donor_place(member)
        return None if place is None else f"donor-{-place - 1}" if place < 0 else f"clean-{place}"

    def _donor_place(self, member: Member) -> int | None:
        if member.donor is None:
            return None
        prompts = [each.prompt for each in self.members]
        return prompts.index(member.donor) if member.donor in prompts else -self.members.index(member) - 1

    def arm_at(self, trajectory: str) -> Arm:
        """The arm whose trajectory has this id in the group's graph."""
        arms = {arm_id(i, arm): arm for i, member in enumerate(self.members) for arm in member.arms}
        return arms[trajectory]


def arm_id(member: int, arm: Arm) -> str:
    """What the trajectory of a group's member under an arm is called in the group's graph."""
    return f"{member}.{arm.name}"


def grouped(members: Sequence[Member]) -> tuple[Group, ...]:
    """Members in groups, in the order of their first ones; those without arms are left out."""
    waiting = {(each.prompt, each.seed): each for each in members if each.arms}
    groups = []
    while waiting:
        first = waiting.pop(next(iter(waiting)))
        other = waiting.get((first.donor or "", first.seed))
        if other is not None and other.donor == first.prompt:
            del waiting[other.prompt, other.seed]
            groups.append(Group((first, other)))
        else:
            groups.append(Group((first,)))
    return tuple(groups)


def graph_of(group: Group, sampling: Sampling, measures: Measures) -> InterventionGraph:
    """A group as a graph: `clean-<i>` and, if it is no member, `donor-<i>`; arms as `<i>.<name>`.

    Raises:
        BadInput: an edit that the graph does not take.
    """
    graph = InterventionGraph(sampling=asdict(sampling))
    ends: dict[str, bool] = {}
    steps: dict[str, set[int]] = {}
    unedited: dict[str, tuple[str, int]] = {}
    clean_ids = {f"clean-{i}" for i in range(len(group.members))}
    for i, member in enumerate(group.members):
        clean, donor = f"clean-{i}", group.donor_id(member)
        unedited[clean] = (member.prompt, member.seed)
        if donor is not None and member.donor is not None:
            unedited.setdefault(donor, (member.donor, member.seed))
        for arm in member.arms:
            names = measures.of(arm)
            watched = [clean, *([donor] if donor and {"toward", "toward_latent"} & set(names) else [])]
            for each in watched:
                if arm.readout == "final":
                    ends[each] = True
                elif names and arm.step is not None:
                    steps.setdefault(each, set()).add(arm.step)
    for name, (prompt, seed) in unedited.items():
        # An arm without edits at a step asks for nothing; the unedited run then has to end somewhere.
        until = "last_read" if not ends.get(name) and (name in steps or name not in clean_ids) else "end"
        graph.trajectory(prompt=prompt, seed=seed, id=name, until=until)
        if name in steps:
            graph.read(name, at="velocity", steps=sorted(steps[name]), name=f"velocity of {name}")
    for i, member in enumerate(group.members):
        for arm in member.arms:
            if arm.edits:
                _add(graph, arm_id(i, arm), arm, member, group.donor_id(member))
    return graph


def add_edits(graph: InterventionGraph, name: str, arm: Arm, donor: str | None) -> None:
    """Declare an arm's edits of a trajectory; `donor` names the one that donor edits draw on."""
    for edit in arm.edits:
        graph.edit(
            name,
            at=list(edit.at),
            op=edit.op,
            channels=edit.channels,
            tokens=edit.tokens,
            steps=edit.steps,
            branch=edit.branch,
            order=edit.order,
            source=donor if edit.donor else None,
        )


def _add(graph: InterventionGraph, name: str, arm: Arm, member: Member, donor: str | None) -> None:
    at_a_step = arm.readout == "step"
    graph.trajectory(
        prompt=member.prompt, seed=member.seed, id=name, until="last_read" if at_a_step else "end"
    )
    add_edits(graph, name, arm, donor)
    if at_a_step:
        graph.read(name, at="velocity", steps=[arm.step], name=f"velocity of {name}")


@dataclass(frozen=True)
class Outcome:
    """What became of one arm of a member: its metrics, and its picture if one was made."""

    member: Member
    arm: Arm
    values: dict[str, float]
    image: Image | None


def outcomes(
    lens: DiTLens,
    group: Group,
    result: Result,
    measures: Measures,
    *,
    pictured: Mapping[tuple[str, int], set[str]],
) -> Iterator[Outcome]:
    """Measure a group that has run, arm by arm: those read at a step, then those read at the end.

    `pictured` names the arms whose picture is wanted, by prompt and seed; others are decoded only if a metric
    looks at them, and their pictures are not kept.
    """
    for i, member in enumerate(group.members):
        clean = result[f"clean-{i}"]
        donor = None if (name := group.donor_id(member)) is None else result[name]
        yield from _at_steps(member, i, clean, donor, result, measures)
        wanted = pictured.get((member.prompt, member.seed), set())
        yield from _at_the_end(lens, member, i, clean, donor, result, measures, wanted)


def _at_steps(
    member: Member,
    i: int,
    clean: TrajectoryResult,
    donor: TrajectoryResult | None,
    result: Result,
    measures: Measures,
) -> Iterator[Outcome]:
    scale = result.sampling.guidance_scale
    for arm in member.arms:
        if arm.readout != "step":
            continue
        names, values = measures.of(arm), {}
        if names and arm.step is not None:
            values = measures.step(
                names,
                velocity=guided_velocity(result[arm_id(i, arm)], arm.step, scale),
                clean=guided_velocity(clean, arm.step, scale),
                donor=guided_velocity(donor, arm.step, scale) if donor and "toward" in names else None,
            )
        yield Outcome(member, arm, {name: float(values[name][0]) for name in names}, None)


def _at_the_end(
    lens: DiTLens,
    member: Member,
    i: int,
    clean: TrajectoryResult,
    donor: TrajectoryResult | None,
    result: Result,
    measures: Measures,
    pictured: set[str],
) -> Iterator[Outcome]:
    import torch

    arms = [arm for arm in member.arms if arm.readout == "final"]
    if not arms:
        return
    sampling = result.sampling
    end = clean.latents[-1:]
    looked_at = {arm.name for arm in arms if any(map(needs_image, measures.of(arm)))}
    clean_image = lens.decode(end)[0] if looked_at | pictured else None
    size = rows_at_a_time(sampling.height, sampling.width)
    # Arms that are decoded and those that are not are measured apart: a picture for a reader must not
    # change which rows are measured together.
    for part in ([a for a in arms if a.name in looked_at], [a for a in arms if a.name not in looked_at]):
        for start in range(0, len(part), size):
            here = part[start : start + size]
            names = set().union(*(measures.of(arm) for arm in here))
            runs = [result[arm_id(i, arm)] if arm.edits else clean for arm in here]
            latents = [run.latents[-1:] for run in runs]
            decoded = [
                k
                for k, arm in enumerate(here)
                if arm.edits and (arm.name in looked_at or arm.name in pictured)
            ]
            images: list[Any] = [None if arm.edits else clean_image for arm in here]
            if decoded:
                # One by one: a picture must not depend on those beside it.
                made = lens.decode(torch.cat([latents[k] for k in decoded]), at_a_time=1)
                for k, image in zip(decoded, made, strict=True):
                    images[k] = image
            values = measures.final(
                names,
                [member.prompt] * len(here),
                latents=torch.cat(latents),
                clean=end.expand(len(here), *end.shape[1:]),
                donor=donor.latents[-1:] if donor and "toward_latent" in names else None,
                images=images if here[0].name in looked_at else None,
                clean_images=None if clean_image is None else [clean_image] * len(here),
                donor_prompts=None if member.donor is None else [member.donor] * len(here),
                paths=Paths(tuple(run.latents for run in runs), clean.latents, result.sigmas)
                if names & set(measures.needing("path"))
                else None,
            )
            for k, (arm, image) in enumerate(zip(here, images, strict=True)):
                own = {name: float(values[name][k]) for name in measures.of(arm)}
                yield Outcome(member, arm, own, image if arm.name in pictured else None)


def guided_velocity(trajectory: TrajectoryResult, step: int, guidance_scale: float) -> Tensor:
    """The velocity that a step followed, uncond + scale · (cond − uncond), float32 [1, C, h, w].

    Where guidance does not run, the conditional one alone.
    """
    read = {each.branch: each.value for each in trajectory.reads if each.step == step}
    if "uncond" not in read:
        return read["cond"][None]
    return (read["uncond"] + guidance_scale * (read["cond"] - read["uncond"]))[None]
