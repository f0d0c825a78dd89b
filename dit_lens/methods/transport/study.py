"""Running what is carried, and measuring it: bundles of cases as one graph each, results kept on disk.

All results of a bundle are stored together or not at all; a killed study continues with the next bundle, and
then gives the same numbers as one that was not killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph
from dit_lens.methods.arms import Arm
from dit_lens.methods.measures import Measures
from dit_lens.methods.metrics import METRICS, in_transport
from dit_lens.methods.study_groups import add_edits
from dit_lens.methods.transport.arms import Carry
from dit_lens.methods.transport.cases import SUBJECT, Bundle, Case, runs_of
from dit_lens.methods.transport.made import Made, runs_mixed
from dit_lens.model.prompts import alike_in_words
from dit_lens.run.cells import Cell, CellKey, CellStore, Damaged, Measured, require_unchanged, tell_older
from dit_lens.zoo.scenes import IMAGE_SIZE

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from dit_lens.graph.plan import Plan
    from dit_lens.methods.study import StudyPlan
    from dit_lens.model.given import GivenPath
    from dit_lens.model.identity import RunIdentity
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling


COLUMNS = (
    "arm", "family", "strength", "draw", "axis", "at", "unit", "group", "side", "prompt", "donor", "seed",
    "metric", "value",
)  # fmt: skip

OnImage = Callable[[Case, str, "Image"], None]
WantsImage = Callable[[Case, str], bool]
"""(case, name of a `Carry` or of one of `ENDS`)."""


@dataclass(frozen=True)
class CarryResult:
    """What a transport study measured.

    `effects` has the columns `COLUMNS`, rows in the order of cases, carries and metrics; NaN where a metric
    has no value. `sham_difference` is how far latents move by batching alone, in the bundle in which that was
    tried; None where everything was known.
    """

    effects: pd.DataFrame
    computed: int
    known: int
    dropped: int
    sham_difference: float | None


@dataclass(frozen=True, eq=False)
class CarryStudy:
    """Bundles of cases on a model: to be planned, or to be run.

    Args:
        sampling: of the targets, and of donors that are prompts.
        measures: their names must be of the readout "final".
    """

    lens: DiTLens
    bundles: tuple[Bundle, ...]
    sampling: Sampling
    measures: Measures
    arms_per_forward: int | None = None
    _definitions: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def cases(self) -> list[Case]:
        """All cases, in the order of the bundles."""
        return [case for bundle in self.bundles for case in bundle]

    def __post_init__(self) -> None:
        wrong = next(
            (n for n in self.measures.names if METRICS[n].readout != "final" or "path" in METRICS[n].needs),
            None,
        )
        if wrong is not None:
            raise BadInput(
                f"{wrong!r} is no metric of a finished image; measure {', '.join(in_transport())}."
            )
        self.measures.require_size(self.sampling.height, self.sampling.width)
        for bundle in self.bundles:
            for case in bundle:
                shown = () if case.donor.shows is None else (case.donor.shows,)
                self.measures.require_prompts([case.target, *shown])
                self._require_mask(case)
        self._require_different()
        self._definitions.update(self.measures.definitions(self.measures.names))

    def _require_different(self) -> None:
        """Raise BadInput where source and target reach the model as one, or two pairs do."""
        cases = self.cases
        texts = tuple(dict.fromkeys(text for case in cases for text in (case.target, case.donor.prompt)))
        read = {each.prompt: each for each in self.lens.read_prompts(texts, self.sampling)}
        seen: dict[Any, Case] = {}
        for case in cases:
            target, source = read[case.target], read[case.donor.prompt]
            if case.donor.path is not None:
                continue
            if target.tokens == source.tokens and case.target != case.donor.prompt:
                raise BadInput(
                    f"{case.unit}: {alike_in_words([target, source])} Nothing could be carried over."
                )
            first = seen.setdefault((target.tokens, source.tokens, case.seed, case.side), case)
            texts_differ = (first.target, first.donor.prompt) != (case.target, case.donor.prompt)
            if texts_differ and first.unit != case.unit:
                raise BadInput(
                    f"{case.unit}: to the model it is the same pair as {first.unit}, and would count double. "
                    f"{alike_in_words([read[first.target], target])} Give it once."
                )

    def _require_mask(self, case: Case) -> None:
        """Raise BadInput for a mask by which this study's pictures cannot be told inside from outside."""
        if case.mask is None or not self.measures.needing("mask"):
            return
        height, width = self.sampling.height, self.sampling.width
        if case.mask == SUBJECT:
            if (height, width) != (IMAGE_SIZE, IMAGE_SIZE):
                raise BadInput(
                    f"{case.unit}: the subject can be told in pictures of {IMAGE_SIZE} × {IMAGE_SIZE} pixels "
                    f"of the embedded world, and the run's are {height} × {width}. Give a Mask, or None."
                )
            return
        assert not isinstance(case.mask, str)
        (rows, columns), grid = case.mask.grid, self.lens.token_grid(height, width)
        if (rows, columns) != grid:
            raise BadInput(
                f"{case.unit}: the mask has {rows} × {columns} tokens, and a picture of {height} × {width} "
                f"pixels has {grid[0]} × {grid[1]}. Make the mask for this size."
            )
        made = case.mask.image_size
        if made is not None and made != (height, width):
            raise BadInput(
                f"{case.unit}: the mask was made for pictures of {made[0]} × {made[1]} pixels, and the run's "
                f"are {height} × {width}. Make the mask for this size; nothing is resized."
            )

    # ----------------------------------------------------------------------------------------- known
    @cached_property
    def identity(self) -> RunIdentity:
        """What all results depend on besides case and arm; asked for anew by each `run`."""
        return self.lens.identity(self.sampling)

    def key(self, case: Case, carry: Carry) -> CellKey:
        """What determines a result."""
        return CellKey(
            identity=self.identity.digest,
            sampling=self.sampling.canonical,
            arm=carry.does.as_data(),
            prompt=case.target,
            seed=case.seed,
            donor=case.donor.identity,
        )

    def definitions(self, case: Case) -> dict[str, str]:
        """Metric → definition; those that need a mask name the case's."""
        return {
            name: f"{rule} mask {case.mask_identity}" if "mask" in METRICS[name].needs else rule
            for name, rule in self._definitions.items()
        }

    def missing(self, bundle: Bundle, cells: Mapping[str, Cell]) -> Bundle:
        """A bundle with what is not known of it, once each; a case of which all is known stays."""
        left = []
        for case in bundle:
            fresh = {self.key(case, c).address: c for c in reversed(case.carries)}
            carries = tuple(c for c in case.carries if fresh.pop(self.key(case, c).address, None) is c)
            known = (self.key(case, c).address in cells for c in carries)
            left.append(replace(case, carries=tuple(c for c, k in zip(carries, known, strict=True) if not k)))
        return tuple(left)

    def _scan(self, store: CellStore | None) -> tuple[dict[str, Cell], int]:
        """Results that the store holds, by address, and how many files were damaged."""
        known: dict[str, Cell] = {}
        damaged = 0
        for bundle in self.bundles if store is not None else ():
            found = {}
            broken = 0
            for case in bundle:
                definitions = self.definitions(case)
                for carry in case.carries:
                    assert store is not None
                    key = self.key(case, carry)
                    cell = store.get(key)
                    if isinstance(cell, Damaged):
                        broken += 1
                    elif cell is not None and not cell.lacks(definitions):
                        found[key.address] = cell
            # What was computed beside a lost result is computed with it again: batching moves last bits.
            known |= {} if broken else found
            damaged += broken
        return known, damaged

    # ------------------------------------------------------------------------------------------ plan
    def plan(self) -> StudyPlan:
        """Check every bundle against the model and price it; the transformer does not run.

        Runs from mixed prompts are priced as unedited runs; pictures that are encoded and decoded are not.

        Raises:
            BadInput: an arm that does not fit the model.
        """
        from dit_lens.methods.study import StudyPlan

        kinds: dict[Any, list[Any]] = {}
        mixed = 0
        whole = [self.missing(bundle, {}) for bundle in self.bundles]
        for number, bundle in enumerate(whole):
            mixed += sum(runs_mixed(carry) for case in bundle for carry in case.carries)
            shape = (number == 0, *((len(c.carries), c.carries, c.donor.path is None) for c in bundle))
            if shape not in kinds:
                kinds[shape] = [self._plan(bundle, sham=number == 0), 0]
            kinds[shape][1] += 1
        plans: list[tuple[Plan, int]] = [(plan, count) for plan, count in kinds.values()]
        if mixed:
            graph = InterventionGraph(sampling=asdict(self.sampling))
            graph.trajectory(prompt=self.bundles[0][0].target, seed=0, until="end")
            plans.append((graph.plan(self.lens, sham=False), mixed))
        return StudyPlan(
            cells=sum(len(case.carries) for bundle in whole for case in bundle),
            known=0,
            groups=len(self.bundles),
            forwards=sum(plan.forwards * count for plan, count in plans),
            block_passes=sum(plan.block_passes * count for plan, count in plans),
            passes_without_reuse=sum(plan.passes_without_reuse * count for plan, count in plans),
            held_bytes=max((plan.held_bytes for plan, _ in plans), default=0),
            arms_per_forward=max((plan.arms_per_forward for plan, _ in plans), default=0),
            plans=tuple(plans),
        )

    def _plan(self, bundle: Bundle, *, sham: bool) -> Plan:
        graph, _ = self.graph(bundle)
        return graph.plan(self.lens, arms_per_forward=self.arms_per_forward, sham=sham)

    def graph(self, bundle: Bundle) -> tuple[InterventionGraph, dict[str, GivenPath]]:
        """A bundle as a graph, and the paths that it names.

        Unedited runs are called `run-<i>`, pictures `path-<i>` by their case, arms `<i>.<name>`.
        """
        graph = InterventionGraph(sampling=asdict(self.sampling))
        paths: dict[str, GivenPath] = {}
        runs = runs_of(bundle)
        for (prompt, seed), name in runs.items():
            graph.trajectory(prompt=prompt, seed=seed, id=name, until="end")
        for i, case in enumerate(bundle):
            donor = case.donor
            if donor.path is None:
                source = runs[donor.prompt, case.seed]
            else:
                source = f"path-{i}"
                paths[source] = donor.path
                graph.trajectory(prompt=donor.prompt, seed=case.seed, id=source, path=source)
            for carry in case.carries:
                if isinstance(carry.does, Arm) and carry.does.edits:
                    _add(graph, f"{i}.{carry.name}", carry.does, case, source)
        return graph, paths

    # ------------------------------------------------------------------------------------------- run
    def run(
        self,
        store: CellStore | None = None,
        *,
        on_image: OnImage | None = None,
        images: WantsImage | None = None,
        progress: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> CarryResult:
        """Run what the store does not hold, bundle by bundle, and measure it.

        Args:
            store: where results are found and kept; None keeps them in memory.
            on_image: gets (case, name, picture) of those that `images` asks for. A known result whose picture
                is asked for is run again for the picture; its numbers stay.

        Raises:
            RunFailure: as `dit_lens.run`; what was finished is kept.
        """
        from dit_lens.model.progress import ProgressBar

        # As the model is now, whatever it was when the study was planned.
        self.__dict__.pop("identity", None)
        if store is not None:
            self.identity.told("results in a store")
        cells, damaged = self._scan(store)
        known = len(cells)
        if store is not None and say is not None:
            tell_older(store, say)
        if damaged and say is not None:
            say(f"{damaged} stored results are damaged and are computed again, with those beside them.")
        wants = images if on_image is not None and images is not None else (lambda case, name: False)
        sham: float | None = None
        with ProgressBar(len(self.bundles), "carrying, in bundles", enabled=progress) as bar:
            for number, bundle in enumerate(self.bundles):
                left = self._left(bundle, cells, wants)
                if left is not None:
                    difference = self._run_bundle(left, cells, store, on_image, wants, sham=number == 0)
                    sham = difference if sham is None else sham
                bar.advance()
        return CarryResult(
            effects=self._effects(cells),
            computed=len(cells) - known,
            known=known,
            dropped=damaged,
            sham_difference=sham,
        )

    def _left(self, bundle: Bundle, cells: Mapping[str, Cell], wants: WantsImage) -> Bundle | None:
        """What has to run of a bundle: what is not known, or all if a picture is wanted; None if nothing."""
        left = self.missing(bundle, cells)
        if any(wants(case, name) for case in bundle for name in _names(case)):
            return self.missing(bundle, {})
        return left if any(case.carries for case in left) else None

    def _run_bundle(
        self,
        bundle: Bundle,
        cells: dict[str, Cell],
        store: CellStore | None,
        on_image: OnImage | None,
        wants: WantsImage,
        *,
        sham: bool,
    ) -> float | None:
        from dit_lens.run.runner import run

        graph, paths = self.graph(bundle)
        more: dict[str, Any] = {"paths": paths} if paths else {}
        result = run(
            self.lens,
            graph,
            arms_per_forward=self.arms_per_forward,
            sham=sham,
            images=False,
            keep="final",
            progress=False,
            **more,
        )
        ends = {name: result[name].latents[-1:] for name in runs_of(bundle).values()}
        made = Made(self.lens, self.sampling, self.measures, self.arms_per_forward, bundle, result, ends)
        fresh: dict[str, Cell] = {}
        for i, case in enumerate(bundle):
            definitions = self.definitions(case)
            for name, image, values in made.of(i):
                if on_image is not None and image is not None and wants(case, name):
                    on_image(case, name, image)
                carry = next((each for each in case.carries if each.name == name), None)
                if carry is None:
                    continue
                key = self.key(case, carry)
                if key.address not in cells:
                    metrics = {n: Measured.of(definitions[n], values[n]) for n in self.measures.names}
                    fresh[key.address] = Cell(key=key, metrics=metrics)
        require_unchanged(self.identity, self.lens.identity(self.sampling))
        if store is not None:
            store.put(list(fresh.values()), self.identity)
        cells |= fresh
        return max(result.proof.sham_difference.values(), default=0.0) if sham else None

    def _effects(self, cells: Mapping[str, Cell]) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for bundle in self.bundles:
            for case in bundle:
                for carry in case.carries:
                    cell = cells[self.key(case, carry).address]
                    at = (
                        carry.name, carry.family, carry.strength, carry.draw, carry.axis, carry.at,
                        case.unit, case.group, case.side, case.target, case.donor.prompt, case.seed,
                    )  # fmt: skip
                    rows += [(*at, name, cell.metrics[name].number) for name in self.measures.names]
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        return table.astype({"seed": "int64", "value": "float64", "strength": "float64"})


def _names(case: Case) -> Iterable[str]:
    return ("target", "source", *(carry.name for carry in case.carries))


def _add(graph: InterventionGraph, name: str, arm: Arm, case: Case, source: str) -> None:
    graph.trajectory(prompt=case.target, seed=case.seed, id=name, until="end")
    add_edits(graph, name, arm, source)
