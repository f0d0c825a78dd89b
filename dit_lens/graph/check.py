"""A graph held against a model: every name resolved, every fault found, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput, Place, did_you_mean, dotted
from dit_lens.graph.borrowing import RULE, borrowed_by, path_of, require_one_kind
from dit_lens.graph.checked import CheckedEdit, CheckedGraph, CheckedRead, CheckedTrajectory
from dit_lens.graph.conflicts import refuse_ambiguous_patches, refuse_cycles
from dit_lens.graph.interventions import Intervention
from dit_lens.graph.site import Site
from dit_lens.graph.spec import BoxSpec, GraphSpec
from dit_lens.model.hook_points import HookPoint, select_steps

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling


def check(spec: GraphSpec, lens: DiTLens) -> CheckedGraph:
    """Hold a graph against a model; the text encoders run once, the transformer not at all.

    Raises:
        BadInput: with the path of the fault in the graph, what the model has, and what to write instead.
    """
    if not spec.trajectories:
        raise BadInput.at(
            ("trajectories",),
            "the graph has none, so nothing would run. Add one: g.trajectory(prompt=…, seed=0).",
        )
    with _naming(("sampling",)):
        sampling = lens.sampling(**spec.sampling)
        first = spec.trajectories[0]
        # One row's start shows whether model, scheduler and size go together, and holds the noise levels.
        start = lens.prepare_rows([first.prompt], [first.seed], sampling)
        grid = lens.token_grid(sampling.height, sampling.width)
    lens.adapter.ready()
    facts = _Facts(spec, lens, sampling, tuple(float(s) for s in start.sigmas), grid)
    declared = [facts.edit(i) for i in range(len(spec.edits))]
    reads = tuple(facts.read(i) for i in range(len(spec.reads)))
    refuse_cycles(spec, declared)
    # An edit of no token edits nothing: without it, its trajectory is the unedited one bit for bit.
    edits = tuple(edit for edit in declared if edit.sites)
    refuse_ambiguous_patches(spec, edits)
    only_reads = bool(reads) and not declared
    trajectories = tuple(facts.trajectory(i, only_reads) for i in range(len(spec.trajectories)))
    used = {read.of for read in reads} | {edit.source for edit in declared}
    followed = {facts.positions[each.follows] for each in spec.trajectories if each.follows is not None}
    for i, each in enumerate(trajectories):
        declared_one = spec.trajectories[i]
        borrowed = borrowed_by(declared_one)
        if borrowed and i not in (used if each.path is None else used | followed):
            field = next(name for name in ("follows", "path", "steps") if getattr(declared_one, name))
            raise BadInput.at(
                ("trajectories", i, field),
                f"{each.id!r} takes the latents of {borrowed!r}, and nothing draws "
                "on it or reads it: it would do nothing. Patch from it, read it, or leave it out.",
            )
        if i not in used and spec.trajectories[i].until == "last_read":
            raise BadInput.at(
                ("trajectories", i, "until"),
                f"{each.id!r} stops after its last read, and nothing reads it. "
                "Add a read, or use until: end.",
            )
    return CheckedGraph(
        hash=spec.hash,
        sampling=sampling,
        sigmas=facts.sigmas,
        branches=sampling.branches,
        num_blocks=lens.num_blocks,
        trajectories=trajectories,
        edits=edits,
        reads=reads,
        shapes=facts.shapes,
        element_size=lens.dtype.itemsize,
        default_rows=lens.default_batch_size(sampling),
    )


class _Facts:
    """The model's side of the check, and the graph's names."""

    def __init__(
        self,
        spec: GraphSpec,
        lens: DiTLens,
        sampling: Sampling,
        sigmas: tuple[float, ...],
        grid: tuple[int, int],
    ) -> None:
        self.spec, self.lens, self.sampling, self.sigmas, self.grid = spec, lens, sampling, sigmas, grid
        geometry = lens.geometry(sampling, 1)
        self.shapes = {point: lens.adapter.shape(point, geometry)[1:] for point in lens.hook_points}
        self.positions = {each.id: i for i, each in enumerate(spec.trajectories)}
        # Graphs of maps name the same few patterns thousands of times.
        self._points: dict[tuple[str, ...], tuple[HookPoint, ...]] = {}
        self._steps: dict[str, tuple[int, ...]] = {}

    def trajectory(self, index: int, only_reads: bool) -> CheckedTrajectory:
        """A trajectory, and whose latents it takes in the end."""
        each, place = self.spec.trajectories[index], ("trajectories", index)
        require_one_kind(each, place)
        root = self._followed(index)
        # Who follows given latents takes them itself.
        path = path_of(each if root is None else self.spec.trajectories[root])
        own = borrowed_by(each) is None
        finishes = own and (each.until == "end" or (each.until == "auto" and not only_reads))
        follows = None if path is not None else root
        rule = each.match or RULE
        return CheckedTrajectory(each.id, each.prompt, each.seed, finishes, follows, path, each.steps, rule)

    def _followed(self, index: int) -> int | None:
        """The trajectory at the end of the chain of `follows`, if there is one."""
        chain, each = [index], self.spec.trajectories[index]
        place = ("trajectories", index)
        while each.follows is not None:
            chain.append(self._trajectory(each.follows, (*place, "follows")))
            each = self.spec.trajectories[chain[-1]]
            if chain[-1] in chain[:-1]:
                names = " → ".join(self.spec.trajectories[i].id for i in chain)
                raise BadInput.at(
                    (*place, "follows"),
                    f"{names} lead round in a circle, and none of them has latents of its "
                    "own. One must follow no other.",
                )
        return chain[-1] if len(chain) > 1 else None

    def edit(self, index: int) -> CheckedEdit:
        each, place = self.spec.edits[index], ("edits", index)
        into = self._trajectory(each.into, (*place, "into"))
        source = None if each.source is None else self._trajectory(each.source, (*place, "source"))
        if source == into:
            raise BadInput.at(
                (*place, "source"),
                f"trajectory {each.into!r} is patched into itself, which changes nothing. "
                "Name another trajectory as its source.",
            )
        if (path := path_of(self.spec.trajectories[into])) is not None:
            raise BadInput.at(
                (*place, "into"),
                f"{each.into!r} goes along the latents {path!r} and is only drawn on "
                "and read. To edit what the model makes of them, add a trajectory that follows it.",
            )
        op: Intervention = each.op
        takes_source = "source" in op.needs
        if source is not None and not takes_source:
            raise BadInput.at(
                (*place, "source"),
                f"{op.op} draws on no other trajectory. Use op: patch, patch_matched or "
                "resample, or leave out source.",
            )
        if source is None and takes_source and getattr(op, "of", None) != "dataset":
            raise BadInput(
                f"{dotted(place)}.source is missing: {op.op} needs the trajectory that it draws on. There "
                f"are: {', '.join(self.positions)}.",
                path=(*place, "source"),
            )
        sites: dict[HookPoint, tuple[Site, Intervention]] = {}
        for point, site in self._sites(each, place).items():
            with _naming(place):
                here = op.at_block(point.block)
                here.require(self._edited_shape(point), site)
            if each.tokens == ():
                raise BadInput.at(
                    (*place, "tokens"),
                    "no token is addressed. Name at least one, or write all; a mask, with a "
                    "truth value for every token, may hold none, and the edit then changes nothing.",
                )
            if op.ln_preserving and point.component not in ("resid_pre", "resid_post"):
                raise BadInput.at(
                    (*place, "op"),
                    f"ln_preserving keeps the statistics of a residual stream, and {point} is "
                    "none. Edit resid_pre or resid_post, or leave out ln_preserving.",
                )
            if site.tokens != ():
                sites[point] = (site, here)
        return CheckedEdit(
            index=index,
            into=into,
            source=source,
            steps=self._chosen_steps(each.steps, place),
            branches=self._branches(each.branch, place),
            sites=sites,
            order=each.order,
        )

    def read(self, index: int) -> CheckedRead:
        each, place = self.spec.reads[index], ("reads", index)
        sites = self._sites(each, place)
        for point, site in sites.items():
            if site.tokens == ():
                raise BadInput.at((*place, "tokens"), "no token is read. Name at least one, or write all.")
            with _naming(place):
                site.require(self._edited_shape(point))
        return CheckedRead(
            index=index,
            name=each.name,
            of=self._trajectory(each.of, (*place, "of")),
            steps=self._chosen_steps(each.steps, place),
            branches=self._branches(each.branch, place),
            sites=sites,
            reduce=each.reduce,
        )

    def _edited_shape(self, point: HookPoint) -> tuple[int, ...]:
        shape = self.shapes[point]
        if point.component == "velocity":
            channels, height, width = shape
            return (1, height * width, channels)
        return (1, *shape)

    def _trajectory(self, name: str, place: Place) -> int:
        if name not in self.positions:
            raise BadInput.at(
                place,
                f"there is no trajectory {name!r}; there are: {', '.join(self.positions)}."
                f"{did_you_mean(name, self.positions)}",
            )
        return self.positions[name]

    def _sites(self, each: Any, place: Place) -> dict[HookPoint, Site]:
        if each.at not in self._points:
            with _naming((*place, "at")):
                self._points[each.at] = self.lens.hook_points.select(each.at)
        points = self._points[each.at]
        found = {}
        for point in points:
            channels = self._channels(each.channels, point, (*place, "channels"))
            tokens = self._tokens(each.tokens, point, (*place, "tokens"))
            # A channel set may be empty in some blocks; there, nothing is addressed.
            if channels != ():
                with _naming(place):
                    found[point] = Site(channels, tokens)
        if not found:
            raise BadInput.at(
                (*place, "channels"),
                f"no channel is addressed anywhere in {', '.join(each.at)}. Choose "
                "channels, or a rule that finds some.",
            )
        return found

    def _channels(self, chosen: Any, point: HookPoint, place: Place) -> tuple[int, ...] | None:
        if chosen == "all":
            return None
        if not isinstance(chosen, str):
            return tuple(chosen)
        sets = self.spec.channel_sets
        if chosen not in sets:
            raise BadInput.at(
                place,
                f"there is no channel set {chosen!r}; there are: {', '.join(sets) or 'none'}."
                f"{did_you_mean(chosen, sets)}",
            )
        held = sets[chosen]
        if held.model is not None and held.model != self.lens.name:
            raise BadInput.at(
                place,
                f"the channel set {chosen!r} was made for {held.model!r}, this model is "
                f"{self.lens.name!r}. Channel numbers mean nothing in another model: discover them here.",
            )
        if held.stream is not None and point.stream is not None and held.stream != point.stream:
            raise BadInput.at(
                place,
                f"the channel set {chosen!r} was made for the {held.stream} stream, and {point} "
                f"lies in the {point.stream} stream. Edit {held.stream}, or discover channels there.",
            )
        if point.block is None:
            raise BadInput.at(place, f"a channel set holds channels per block, and {point} lies in none.")
        if point.block not in held.blocks:
            there = sorted(held.blocks)
            raise BadInput.at(
                place,
                f"the channel set {chosen!r} has nothing for block {point.block}; it has blocks "
                f"{', '.join(map(str, there))}. Name those: at "
                f"blocks.{','.join(map(str, there))}.{point.component}.{point.stream}, or in an arm "
                f"blocks={there}.",
            )
        return held.blocks[point.block]

    def _tokens(self, chosen: Any, point: HookPoint, place: Place) -> tuple[int, ...] | None:
        if chosen == "all":
            return None
        rows, columns = self.grid
        if isinstance(chosen, BoxSpec):
            top, left, bottom, right = chosen.box
            self._need_image(point, place, "a box")
            if not (top < bottom <= rows and left < right <= columns):
                raise BadInput.at(
                    place,
                    f"box {list(chosen.box)} is no part of {rows} × {columns} tokens. Write [top, "
                    f"left, bottom, right] with 0 ≤ top < bottom ≤ {rows} and 0 ≤ left < right ≤ {columns}.",
                )
            return tuple(r * columns + c for r in range(top, bottom) for c in range(left, right))
        if not isinstance(chosen, str):
            return tuple(chosen)
        masks = self.spec.masks
        if chosen not in masks:
            raise BadInput.at(
                place,
                f"there is no mask {chosen!r}; there are: {', '.join(masks) or 'none'}."
                f"{did_you_mean(chosen, masks)}",
            )
        mask = masks[chosen]
        if mask.grid is not None or mask.image_size is not None:
            self._need_image(point, place, f"the mask {chosen!r}")
        if mask.grid is not None and mask.grid != self.grid:
            raise BadInput.at(
                place,
                f"the mask {chosen!r} was made for {mask.grid[0]} × {mask.grid[1]} tokens, this "
                f"image has {rows} × {columns}. Make it for this image size.",
            )
        made, size = mask.image_size, (self.sampling.height, self.sampling.width)
        if made is not None and made != size:
            raise BadInput.at(
                place,
                f"the mask {chosen!r} was made for images of {made[0]} × {made[1]} pixels, and this "
                f"graph's are {size[0]} × {size[1]}. Make it for this image size; nothing is resized.",
            )
        return mask.tokens

    def _need_image(self, point: HookPoint, place: Place, what: str) -> None:
        if point.stream != "image":
            raise BadInput.at(place, f"{what} addresses image tokens, and {point} has none.")

    def _chosen_steps(self, steps: Any, place: Place) -> tuple[int, ...]:
        key = repr(steps)
        if key not in self._steps:
            with _naming((*place, "steps")):
                self._steps[key] = select_steps(steps, self.sampling.steps, self.sigmas)
        return self._steps[key]

    def _branches(self, branch: str, place: Place) -> tuple[str, ...]:
        there = self.sampling.branches
        if branch == "both":
            return there
        if branch not in there:
            raise BadInput.at(
                (*place, "branch"),
                f"at guidance {self.sampling.guidance_scale:g} there is no branch "
                f"{branch!r}; there is {', '.join(there)}. Raise "
                "sampling.guidance_scale above 1, or use branch: cond.",
            )
        return (branch,)


@contextmanager
def _naming(place: Place) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput.at(place, f"{error}") from None
