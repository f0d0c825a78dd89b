"""InterventionGraph: what to read, edit and carry between trajectories, declared before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dit_lens.display import Summarised
from dit_lens.errors import BadInput
from dit_lens.graph.draft import Draft
from dit_lens.graph.drawing import draw, outline
from dit_lens.graph.interventions import Intervention, Patch
from dit_lens.graph.spec import GraphSpec, spec_from_data, spec_from_yaml
from dit_lens.graph.trajectory_ref import TrajectoryRef
from dit_lens.summary import Facts, Summary
from dit_lens.words import methods_know_words

if TYPE_CHECKING:
    from dit_lens.graph.checked import CheckedGraph
    from dit_lens.graph.plan import Plan
    from dit_lens.model.given import GivenPath
    from dit_lens.model.lens import DiTLens


@methods_know_words
class InterventionGraph(Summarised):
    """A declared experiment: trajectories, edits of them, patches between them, reads.

    The methods below add to the graph; `spec` is the frozen value they have built so far, and equals the one
    that the graph's YAML gives. Nothing runs before `dit_lens.run(lens, graph)`. `sampling` overrides fields
    of the model's default `Sampling` for all trajectories.

    >>> from dit_lens.graph.interventions import Zero
    >>> g = InterventionGraph(sampling={"steps": 4})
    >>> source = g.trajectory(prompt="a red circle", seed=0)
    >>> target = g.trajectory(prompt="a blue square", seed=0, id="target")
    >>> g.edit(target, at="blocks.2.resid_post.image", channels=[3], op=Zero(), steps="2:")
    >>> g.patch(source, into=target, at="blocks.4-7.resid_post.image", strength=0.5)
    >>> g.read(target, at="velocity", reduce="norm")
    'read-1'
    >>> InterventionGraph.from_yaml(g.to_yaml()) == g
    True
    """

    def __init__(self, *, sampling: Mapping[str, Any] | None = None) -> None:
        self._draft = Draft({k: v for k, v in (sampling or {}).items() if v is not None})

    # ------------------------------------------------------------------------------------ building
    def trajectory(
        self,
        *,
        prompt: str,
        seed: int,
        id: str | None = None,
        until: str = "auto",
        follows: TrajectoryRef | str | None = None,
        path: str | None = None,
        steps: int | None = None,
        match: str | None = None,
    ) -> TrajectoryRef:
        """Add a denoising run from a prompt and a seed; trajectories that share both share their noise.

        With `follows`, a shadow of another trajectory: before every step it takes that one's latents, so
        that its activations and velocity, under its own prompt and edits, are those at the other's latents.
        Its seed only feeds edits that draw numbers. See `guide`.

        With `path`, a donor along given latents: before every step it takes those of the `GivenPath` that
        `run(…, paths={path: …})` is handed under that name, such as a picture at every noise level, and is
        conditioned on `prompt` (not the given path's own). It can be patched from, read and followed, not
        edited, and has no image. The graph's hash knows the name alone: a name with a part of the path's
        digest in it keeps results of different pictures apart.

        With `steps`, a donor of another number of steps than the graph's: it is denoised first, and at each
        of the graph's steps has its latents of about the same noise: those of the "nearest" noise level, or
        with `match="linear"` the point between the two around it. It too is only drawn on, read and followed.

        `id` names it in results; one is made up unless given. `until` says how far it runs: "end",
        "last_read", or "auto", which stops a trajectory after its last read if that is all that anything
        needs of it.

        Raises:
            BadInput: the id is taken, or a value is of the wrong kind.

        >>> g = InterventionGraph()
        >>> g.trajectory(prompt="a red circle", seed=0, id="circle")
        TrajectoryRef(id='circle')
        """
        return self._draft.add_trajectory(
            id, prompt=prompt, seed=seed, until=until, follows=follows, path=path, steps=steps, match=match
        )

    def edit(
        self,
        into: TrajectoryRef | str,
        *,
        at: Any,
        op: Intervention | str | Mapping[str, Any],
        channels: Any = "all",
        tokens: Any = "all",
        steps: Any = "all",
        branch: str = "both",
        source: TrajectoryRef | str | None = None,
        order: int = 0,
    ) -> None:
        """Edit a trajectory at hook points, steps and branches.

        Args:
            into: the trajectory.
            at: a hook point, a pattern such as `blocks.4-7.resid_post.image`, or several.
            op: the edit, or its name or data in a spec.
            channels: numbers, a `ChannelSet`, {block: numbers} or a set's name.
            tokens: numbers, a boolean mask (one value per token, or [rows, columns] of the token grid),
                `{"box": [top, left, bottom, right]}` or a mask's name; with no token, nothing is edited.
            steps: "all", a number, a slice such as "2:", several, a fraction or a range of sigma.
            branch: "cond", "uncond" or "both".
            source: the trajectory that `Resample`, `Patch` and `PatchMatched` draw on.
            order: where several edits meet at one address, lower ones act first; else as declared.

        Raises:
            BadInput: no such trajectory, or a value of the wrong kind.

        >>> g = InterventionGraph()
        >>> arm = g.trajectory(prompt="a red circle", seed=0)
        >>> g.edit(arm, at="blocks.*.resid_post.image", op="zero", channels=massive, steps="2:")
        >>> g.spec.edits[0].op
        Zero(part='all', ln_preserving=False)
        """
        self._draft.add_edit(
            into,
            source=source,
            at=at,
            op=op,
            channels=channels,
            tokens=tokens,
            steps=steps,
            branch=branch,
            order=order,
        )

    def patch(
        self,
        source: TrajectoryRef | str,
        *,
        into: TrajectoryRef | str,
        at: Any,
        channels: Any = "all",
        tokens: Any = "all",
        strength: float = 1.0,
        part: str = "all",
        steps: Any = "all",
        branch: str = "both",
        order: int = 0,
    ) -> None:
        """Carry activations from one trajectory into another, at the same place, step and branch.

        From `source` into `into`, drawn toward the source by `strength`: 0 leaves them, 1 replaces them. In
        a residual stream it compounds over the blocks of `at`, since each draws what the last one left: n
        blocks at strength s cover 1 − (1 − s)ⁿ of a difference that stays the same (0.9 for 8 blocks at
        0.25). `part` is "all", or the "mean" or "residual" over tokens. `at`, `channels`, `tokens`, `steps`,
        `branch` and `order` as in `edit`, whose op is `Patch`.

        Raises:
            BadInput: as `edit`.

        >>> g = InterventionGraph()
        >>> red, blue = (g.trajectory(prompt=f"a {colour} circle", seed=0) for colour in ("red", "blue"))
        >>> g.patch(red, into=blue, at="blocks.*.resid_post.image", channels=massive)
        """
        self.edit(
            into,
            at=at,
            op=Patch(strength, part=part),
            channels=channels,
            tokens=tokens,
            steps=steps,
            branch=branch,
            source=source,
            order=order,
        )

    def guide(
        self,
        target: TrajectoryRef | str,
        *,
        at: Any,
        weight: float,
        op: Intervention | str | Mapping[str, Any] = "zero",
        channels: Any = "all",
        tokens: Any = "all",
        steps: Any = "all",
        branch: str = "both",
        id: str | None = None,
        order: int = 0,
    ) -> TrajectoryRef:
        """Lead a trajectory away from what an edit makes of it: v + weight · (v − v_edited) at every step.

        v is the velocity of `target` and v_edited the one that the edited model predicts at the same
        latents: Detail Guidance (arXiv 2510.11538) where the edit zeroes massive channels. Adds a shadow,
        named `id`, that `follows` the target, the edit of it, and a patch of its velocity with strength
        −`weight`; returns the shadow. Weight 0 changes nothing, bit for bit.

        Guidance comes on top, u + g · (c − u) of both branches: with `branch="both"` the guided velocity is
        led away from the guided edited one by `weight`; with `branch="cond"` it moves by
        g · weight · (c − c_edited). The edit is `op` at `at`, with `channels`, `tokens`, `steps`, `branch`
        and `order` as in `edit`.

        Raises:
            BadInput: no such trajectory, or a value of the wrong kind.

        >>> g = InterventionGraph()
        >>> image = g.trajectory(prompt="a red circle", seed=0, id="image")
        >>> g.guide(image, at="blocks.3.resid_post.image", channels=[3, 7], weight=0.5, id="without 3 and 7")
        TrajectoryRef(id='without 3 and 7')
        """
        draft = self._draft
        name = draft.known(target, ("edits", len(draft.edits), "into"))
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise BadInput(f"guide: weight is {weight!r}; give a number, such as 0.5.")
        followed = next(each for each in draft.trajectories if each.id == name)
        with draft.all_or_nothing():  # half a guidance would be another experiment
            shadow = self.trajectory(prompt=followed.prompt, seed=followed.seed, id=id, follows=name)
            self.edit(shadow, at=at, op=op, channels=channels, tokens=tokens, steps=steps, branch=branch)
            strength = 0.0 - weight
            self.patch(
                shadow, into=name, at="velocity", strength=strength, steps=steps, branch=branch, order=order
            )
        return shadow

    def read(
        self,
        of: TrajectoryRef | str,
        *,
        at: Any,
        reduce: str = "none",
        channels: Any = "all",
        tokens: Any = "all",
        steps: Any = "all",
        branch: str = "both",
        name: str | None = None,
    ) -> str:
        """Keep activations of a trajectory, whole or reduced; returns the read's name.

        Args:
            of: the trajectory.
            reduce: "none" keeps [tokens, channels]; over tokens, one number per channel: "mean", "abs_mean"
                (size of the mean), "mean_abs" (mean of the sizes), "max_abs"; "norm", one number, the
                Frobenius norm.
            at, channels, tokens, steps, branch: as in `edit`.
            name: in the result; one is made up unless given.

        Raises:
            BadInput: no such trajectory, or a value of the wrong kind.

        >>> g = InterventionGraph()
        >>> arm = g.trajectory(prompt="a red circle", seed=0)
        >>> g.read(arm, at="blocks.7.resid_post.image", reduce="abs_mean", name="spectrum")
        'spectrum'
        """
        return self._draft.add_read(
            of, name, at=at, reduce=reduce, channels=channels, tokens=tokens, steps=steps, branch=branch
        )

    # ------------------------------------------------------------------------------------ the value
    @property
    def spec(self) -> GraphSpec:
        """The frozen value."""
        return self._draft.spec

    @property
    def hash(self) -> str:
        """16 hex digits that identify the graph, whatever the order of keys in its file."""
        return self.spec.hash

    @classmethod
    def from_spec(cls, spec: GraphSpec) -> InterventionGraph:
        """A graph with the value of `spec`, to run or to build on.

        >>> g = InterventionGraph(sampling={"steps": 4})
        >>> InterventionGraph.from_spec(g.spec) == g
        True
        """
        graph = cls()
        graph._draft = Draft.of(spec)
        return graph

    @classmethod
    def from_yaml(cls, source: str | Path) -> InterventionGraph:
        """Read a graph from YAML or JSON: `source` is a text, or the path of a file.

        Raises:
            BadInput: no YAML, or no graph; with the path of the fault.

        >>> g = InterventionGraph.from_yaml("trajectories: [{id: a, prompt: a red circle, seed: 0}]")
        >>> g.spec.trajectories[0].prompt
        'a red circle'
        """
        return cls.from_spec(spec_from_yaml(source))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> InterventionGraph:
        """A graph from plain `data`, as `to_data` gives it.

        Raises:
            BadInput: no graph; with the path of the fault.

        >>> InterventionGraph.from_data({"sampling": {"steps": 4}}).spec.sampling
        {'steps': 4}
        """
        return cls.from_spec(spec_from_data(data))

    def to_data(self) -> dict[str, Any]:
        """The graph as plain data.

        >>> InterventionGraph(sampling={"steps": 4}).to_data()["sampling"]
        {'steps': 4}
        """
        return self.spec.as_data()

    def to_yaml(self) -> str:
        """The graph as YAML."""
        return yaml.safe_dump(self.to_data(), sort_keys=False, allow_unicode=True, width=110)

    def to_json(self) -> str:
        """The graph as JSON.

        >>> g = InterventionGraph(sampling={"steps": 4})
        >>> InterventionGraph.from_yaml(g.to_json()) == g
        True
        """
        return json.dumps(self.to_data(), indent=2, ensure_ascii=False) + "\n"

    def check(self, lens: DiTLens, *, paths: Mapping[str, GivenPath] | None = None) -> CheckedGraph:
        """Hold the graph against a `lens`, and given latents against both; nothing of the transformer runs.

        `paths` are the given latents by the names that trajectories call them; without, they are not looked
        at.

        Raises:
            BadInput: with the path of the fault in the graph, what exists, and what to write instead.

        >>> g = InterventionGraph()
        >>> arm = g.trajectory(prompt="a red circle", seed=0)
        >>> g.edit(arm, at="blocks.12.resid_post.image", op="zero")
        >>> g.check(lens)
        Traceback (most recent call last):
        dit_lens.errors.BadInput: ...
        """
        from dit_lens.graph.check import check

        checked = replace(check(self.spec, lens), mark=self._draft.mark)
        if paths is not None:
            from dit_lens.graph.given_paths import fitting_paths

            fitting_paths(checked, paths)
        return checked

    def plan(
        self,
        lens: DiTLens,
        *,
        arms_per_forward: int | None = None,
        sham: bool = True,
        paths: Mapping[str, GivenPath] | None = None,
    ) -> Plan:
        """What a run will do and cost; checks the graph first. `str()` of it is for a reader.

        `lens`, `arms_per_forward`, `sham` and `paths` are those of `dit_lens.run`.

        Raises:
            BadInput: as `check`.

        >>> g = InterventionGraph(sampling={"steps": 4})
        >>> arm = g.trajectory(prompt="a red circle", seed=0)
        >>> g.edit(arm, at="blocks.4.resid_post.image", channels=[60], op="zero", steps=[2])
        >>> print(g.plan(lens))
        graph ...: 1 trajectory of 1 prompt × seed, 4 steps
          forwards      6, of at most 16 arms
          block passes  54 (32 clean, 11 arm, 11 sham), 0.56 of those without reuse
          memory        168 kB held for reuse, 0 B read
        """
        from dit_lens.graph.planner import make_plan

        return make_plan(self.check(lens, paths=paths), arms_per_forward=arms_per_forward, sham=sham)

    def show(self, lens: DiTLens | None = None) -> str:
        """The graph as a text drawing; with a `lens`, followed by what a run will do and cost on that model.

        Raises:
            BadInput: as `check`, where there is a lens.

        >>> g = InterventionGraph(sampling={"steps": 4})
        >>> circle = g.trajectory(prompt="a red circle", seed=0, id="circle")
        >>> g.edit(circle, at="blocks.4.resid_post.image", channels=[60], op="zero", steps=[2])
        >>> print(g.show())
        graph ...   sampling: steps 4
        ● circle   'a red circle', seed 0
        └─ zero   blocks.4.resid_post.image; channels 60; steps [2]
        >>> print(g.show(lens))
        graph ...   sampling: steps 4
        ● circle   'a red circle', seed 0
        └─ zero   blocks.4.resid_post.image; channels 60; steps [2]
        <BLANKLINE>
        graph ...: 1 trajectory of 1 prompt × seed, 4 steps
          forwards      6, of at most 16 arms
          block passes  54 (32 clean, 11 arm, 11 sham), 0.56 of those without reuse
          memory        168 kB held for reuse, 0 B read
        """
        drawing = draw(self.spec)
        return drawing if lens is None else f"{drawing}\n\n{self.plan(lens)}"

    def summary(self) -> Summary:
        """Its drawing: trajectories, what is done to them, and what is carried from one into another."""
        spec = self.spec
        counts = (
            f"{len(spec.trajectories)} trajectories, {len(spec.edits)} edits and patches, "
            f"{len(spec.reads)} reads"
        )
        sampling = ", ".join(f"{key} {value}" for key, value in spec.sampling.items()) or "the model's own"
        about = Facts({"holds": counts, "sampling": sampling})
        return Summary(f"InterventionGraph {spec.hash}", (about, outline(spec)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InterventionGraph) and self.to_data() == other.to_data()

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return (
            f"InterventionGraph({self.hash}: {len(self.spec.trajectories)} trajectories, "
            f"{len(self.spec.edits)} edits, {len(self.spec.reads)} reads)"
        )
