"""Studies: arms on prompts and seeds, each measured against the unedited run with the same noise.

Results that a store holds already are not computed again. What is missing of a prompt and seed runs as one
graph, so that its unedited run is computed once, and is stored as soon as that graph is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dit_lens.display import Summarised
from dit_lens.errors import BadInput
from dit_lens.methods.arms import Arm
from dit_lens.methods.measures import Measures
from dit_lens.methods.paired_effects import counted
from dit_lens.methods.study_groups import Group, graph_of, outcomes
from dit_lens.methods.study_request import Request, Scan
from dit_lens.methods.study_tables import OWN, study_table
from dit_lens.run.cells import Cell, CellKey, CellStore, Measured, require_unchanged, tell_older
from dit_lens.summary import Facts, Summary, Table, number
from dit_lens.words import known_words

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from dit_lens.graph.plan import Plan
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.material import MaterialSource

OnImage = Callable[[Arm, str, int, "Image"], None]
WantsImage = Callable[[Arm, str, int], bool]

EFFECT_COLUMNS = ("arm", "prompt", "seed", "metric", "value")
SHAM_COLUMNS = ("prompt", "seed", "max_abs_difference")

_MOST_METRICS = 8
"""Metrics in the summary of a study."""


@dataclass(frozen=True)
class StudyPlan(Summarised):
    """What a study will do and cost; `str()` of it is for a reader.

    `cells` counts results (one per different arm, prompt and seed), `known` those that the store holds,
    `groups` the graphs that will run. A block pass is one block for one row; `passes_without_reuse` is what
    the same graphs would take if every arm ran from its first step and first block. `held_bytes` is the most
    that is held for reuse at any time. Decoding and measuring pictures come on top.
    """

    cells: int
    known: int
    groups: int
    forwards: int
    block_passes: int
    passes_without_reuse: int
    held_bytes: int
    arms_per_forward: int
    plans: tuple[tuple[Plan, int], ...] = field(default=(), repr=False, compare=False)
    """One plan for each kind of group, and how many groups are of that kind."""

    def as_data(self) -> dict[str, Any]:
        """The cost as plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "plans"}

    def minutes(self, lens: DiTLens) -> float:
        """Minutes that the forwards will take on this machine, measured on one step of each kind of group."""
        from dit_lens.run.estimate import seconds

        return sum(count * seconds(lens, plan) for plan, count in self.plans) / 60

    def with_more(self, plan: Plan, count: int) -> StudyPlan:
        """The same, and `count` runs of a plan beside the graphs."""
        return replace(
            self,
            forwards=self.forwards + plan.forwards * count,
            block_passes=self.block_passes + plan.block_passes * count,
            passes_without_reuse=self.passes_without_reuse + plan.passes_without_reuse * count,
            plans=(*self.plans, (plan, count)),
        )

    def summary(self) -> Summary:
        """What the study will do and cost."""
        share = self.block_passes / self.passes_without_reuse if self.passes_without_reuse else 1.0
        about = {
            "results": f"{self.cells:,}, {self.known:,} of them known",
            "to run": f"{self.groups:,} graphs, {self.forwards:,} forwards of at most "
            f"{self.arms_per_forward} arms",
            "block passes": f"{self.block_passes:,}, {share:.2f} of those without reuse",
            "memory": f"{self.held_bytes / 1e6:.3g} MB held for reuse",
        }
        return Summary("StudyPlan", (Facts(about),))

    def __str__(self) -> str:
        share = self.block_passes / self.passes_without_reuse if self.passes_without_reuse else 1.0
        lines = [f"{counted(self.cells, 'result')}, {self.known} of them known"]
        if self.groups:
            lines += [
                f"  to run        {counted(self.groups, 'graph')}, {self.forwards} forwards of at most "
                f"{self.arms_per_forward} arms",
                f"  block passes  {self.block_passes}, {share:.2f} of those without reuse",
                f"  memory        {self.held_bytes / 1e6:.3g} MB held for reuse",
            ]
        return "\n".join(lines)


@dataclass(frozen=True)
class StudyResult(Summarised):
    """What a study measured.

    Attributes:
        effects: columns arm, prompt, seed, metric, value; rows by arm, prompt and seed as they were given,
            then by metric as `Measures` names them. NaN where a metric has no value.
        arms: as they were given.
        sham: columns prompt, seed, max_abs_difference: how far latents move if nothing is edited, by
            batching alone; the largest of the batches that the results come from.
        computed, known: different results that were computed, and that the store held.
        dropped: damaged results in the store, which were computed again.
    """

    effects: pd.DataFrame
    arms: tuple[Arm, ...]
    sham: pd.DataFrame
    computed: int
    known: int
    dropped: int

    @property
    def table_names(self) -> tuple[str, ...]:
        """Tables that every study has; `table` also makes those of questions that its arms answer."""
        return OWN

    def table(self, name: str) -> pd.DataFrame:
        """One tidy table by `name`, for `dl.plots`: see `study_table`."""
        return study_table(self, name)

    def summary(self) -> Summary:
        """Means over prompts and seeds, one row per arm; every other number is in `effects`."""
        effects = self.effects
        # Single attributes are many, and their mean is a metric of its own.
        metrics = [name for name in dict.fromkeys(effects["metric"]) if not name.startswith("attribute.")]
        means = effects.pivot_table(index="arm", columns="metric", values="value", aggfunc="mean", sort=False)
        rows: list[tuple[Any, ...]] = []
        for arm in self.arms:
            cells = [
                means.at[arm.name, metric]
                if arm.name in means.index and metric in means.columns
                else float("nan")
                for metric in metrics[:_MOST_METRICS]
            ]
            rows.append((arm.name, *map(number, cells)))
        worst = self.sham["max_abs_difference"].max() if len(self.sham) else 0.0
        more = f", the first {_MOST_METRICS} of them here" if len(metrics) > _MOST_METRICS else ""
        about = {
            "prompts × seeds": f"{effects['prompt'].nunique()} × {effects['seed'].nunique()}",
            "values": f"{len(effects):,} of {effects['metric'].nunique()} metrics{more}",
            "results": f"{self.computed} computed, {self.known} known, {self.dropped} damaged",
            "nothing edited": f"latents move by at most {worst:.2g}",
        }
        shown = Table(("arm", *metrics[:_MOST_METRICS]), rows)
        note = (
            "Means over prompts and seeds. dl.plots.levels draws them with intervals; effects holds every "
            "value."
        )
        return Summary(f"StudyResult: {len(self.arms)} arms", (Facts(about), shown), note)

    def __repr__(self) -> str:
        worst = self.sham["max_abs_difference"].max() if len(self.sham) else 0.0
        return (
            f"StudyResult({len(self.arms)} arms, {len(self.effects)} values; {self.computed} results "
            f"computed, {self.known} known, {self.dropped} dropped; sham differs by {worst:.2g})"
        )


@known_words
def plan_study(
    lens: DiTLens,
    arms: Sequence[Arm],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    measures: Measures,
    sampling: Sampling | Mapping[str, Any] | None = None,
    store: CellStore | None = None,
    donors: Mapping[str, str] | None = None,
    material: MaterialSource | None = None,
    arms_per_forward: int | None = None,
    images: WantsImage | None = None,
) -> StudyPlan:
    """Check a study against the model and say what it would cost; no forward pass of the transformer.

    Arguments and errors as in `run_study`.
    """
    request = Request.of(lens, arms, prompts, seeds, measures, sampling, donors, material)
    scan = request.scan(store, images)
    return _planned(request, scan, arms_per_forward)


@known_words
def run_study(
    lens: DiTLens,
    arms: Sequence[Arm],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    measures: Measures,
    sampling: Sampling | Mapping[str, Any] | None = None,
    store: CellStore | None = None,
    donors: Mapping[str, str] | None = None,
    material: MaterialSource | None = None,
    arms_per_forward: int | None = None,
    on_image: OnImage | None = None,
    images: WantsImage | None = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> StudyResult:
    """Run arms on prompts × seeds and measure each against the unedited run.

    A killed study continues from its store, and then gives the same numbers, bit for bit, as one that was
    not killed: results of one graph are stored together or not at all.

    Args:
        lens: the model.
        arms: of different names; those that do the same share their results.
        prompts, seeds: each once.
        measures: what to measure, see `default_measures`.
        sampling: or some of its fields; the model's own by default.
        store: where results are found and kept; None keeps them in memory.
        donors: prompt → prompt whose unedited run, same seed, `donor=True` edits draw on.
        material: gives what `Mean("dataset")` and `Clamp` need; see `MaterialRequest`.
        arms_per_forward: most rows of one forward pass; None chooses.
        on_image: gets (arm, prompt, seed, image) of arms that are read at the end, before the result is
            stored.
        images: says which pictures `on_image` is to get; all that are made by default. A known result whose
            picture it asks for is run again for the picture.
        progress: whether a bar is drawn.
        say: gets a line about results that were known or damaged.

    Raises:
        BadInput: an arm, prompt, seed, donor or metric that does not fit the model; before any forward pass.
        RunFailure: an activation is NaN or infinite, memory does not suffice, the disk is full.

    >>> arms = [dl.CLEAN, dl.ablation_arm("massive", "massive", massive, dl.Zero())]
    >>> found = run_study(lens, arms, held_out, [0], measures=dl.default_measures(lens, ["ssim"]),
    ...                   sampling={"steps": 4})
    >>> found.effects[["arm", "metric"]].values.tolist()
    [['massive', 'ssim']]
    """
    from dit_lens.model.progress import ProgressBar
    from dit_lens.run.runner import run

    say = say or _silent
    request = Request.of(lens, arms, prompts, seeds, measures, sampling, donors, material)
    wants = _wanted_images(on_image, images)
    scan = request.scan(store, images if on_image is not None else None)
    plan = _planned(request, scan, arms_per_forward)
    _tell(scan, plan, store, say)
    cells = dict(scan.cells)
    # In block passes: forwards differ in length, and one graph may run for minutes.
    with ProgressBar(plan.block_passes, "running arms, in block passes", enabled=progress) as bar:
        for group in scan.groups:
            group_plan = graph_of(group, request.sampling, measures).plan(
                lens, arms_per_forward=arms_per_forward
            )
            result = run(
                lens,
                group_plan,
                images=False,
                keep=measures.keep,
                material=request.material,
                on_forward=bar.advance,
                progress=False,
            )
            pictured = {
                (m.prompt, m.seed): {
                    arm.name
                    for arm in m.arms
                    if any(wants(each, m.prompt, m.seed) for each in request.alike(arm))
                }
                for m in group.members
            }
            fresh: list[Cell] = []
            for outcome in outcomes(lens, group, result, measures, pictured=pictured):
                member, arm = outcome.member, outcome.arm
                for each in request.alike(arm):
                    if (
                        on_image is not None
                        and outcome.image is not None
                        and wants(each, member.prompt, member.seed)
                    ):
                        on_image(each, member.prompt, member.seed, outcome.image)
                key = request.key(arm, member.prompt, member.seed)
                if key.address in cells:
                    # Run for its picture alone: its numbers stay as they were told before.
                    continue
                sham = result.proof.sham_difference.get((member.prompt, member.seed)) if arm.edits else None
                fresh.append(_cell(key, outcome.values, request, arm, sham, scan.outdated.get(key.address)))
            require_unchanged(request.identity, lens.identity(request.sampling))
            if store is not None:
                store.put(fresh, request.identity)
            cells |= {cell.key.address: cell for cell in fresh}
    return StudyResult(
        effects=_effects(request, cells),
        arms=request.arms,
        sham=_sham(request, cells),
        computed=plan.cells - plan.known,
        known=plan.known,
        dropped=len(scan.damaged),
    )


def _planned(request: Request, scan: Scan, arms_per_forward: int | None) -> StudyPlan:
    """The plan of every kind of group: checked, and its material asked for, before anything runs."""
    from dit_lens.run.material import Materials

    kinds: dict[Any, list[Any]] = {}
    for group in scan.groups:
        # Groups of one structure differ in prompts and seeds only, which neither check nor plan looks at.
        if group.structure not in kinds:
            kinds[group.structure] = [_plan_of(request, group, arms_per_forward), 0]
        kinds[group.structure][1] += 1
    plans = tuple((plan, count) for plan, count in kinds.values())
    for plan, _ in plans:
        Materials(plan, request.material)
    return StudyPlan(
        cells=len(request.addresses),
        known=len(request.addresses) - sum(len(m.arms) for group in scan.groups for m in group.members),
        groups=len(scan.groups),
        forwards=sum(plan.forwards * count for plan, count in plans),
        block_passes=sum(plan.block_passes * count for plan, count in plans),
        passes_without_reuse=sum(plan.passes_without_reuse * count for plan, count in plans),
        held_bytes=max((plan.held_bytes for plan, _ in plans), default=0),
        arms_per_forward=max((plan.arms_per_forward for plan, _ in plans), default=0),
        plans=plans,
    )


def _plan_of(request: Request, group: Group, arms_per_forward: int | None) -> Plan:
    graph = graph_of(group, request.sampling, request.measures)
    try:
        return graph.plan(request.lens, arms_per_forward=arms_per_forward)
    except BadInput as error:
        if error.path[:1] != ("edits",):
            raise
        # The graph is ours; what the user knows is the arm.
        arm = group.arm_at(graph.spec.edits[int(error.path[1])].into)
        raise BadInput(f"arm {arm.name!r}: {error}", path=error.path) from None


def _cell(
    key: CellKey,
    values: Mapping[str, float],
    request: Request,
    arm: Arm,
    sham: float | None,
    outdated: Cell | None,
) -> Cell:
    """A result as it is stored; metrics of an older cell that nobody asked for now stay with it."""
    definitions = request.definitions(arm)
    metrics = {name: Measured.of(definitions[name], value) for name, value in values.items()}
    older = {} if outdated is None else dict(outdated.metrics)
    return Cell(key=key, metrics={**older, **metrics}, sham_difference=sham)


def _effects(request: Request, cells: Mapping[str, Cell]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for arm in request.arms:
        names = request.measures.of(arm)
        for prompt in request.prompts:
            for seed in request.seeds:
                cell = cells[request.key(arm, prompt, seed).address]
                rows += [(arm.name, prompt, seed, name, cell.metrics[name].number) for name in names]
    table = pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))
    return table.astype({"seed": "int64", "value": "float64"})


def _sham(request: Request, cells: Mapping[str, Cell]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for prompt in request.prompts:
        for seed in request.seeds:
            found = (cells[request.key(arm, prompt, seed).address].sham_difference for arm in request.arms)
            measured = [value for value in found if value is not None]
            if measured:
                rows.append((prompt, seed, max(measured)))
    table = pd.DataFrame(rows, columns=list(SHAM_COLUMNS))
    return table.astype({"seed": "int64", "max_abs_difference": "float64"})


def _wanted_images(on_image: OnImage | None, images: WantsImage | None) -> WantsImage:
    def nothing(arm: Arm, prompt: str, seed: int) -> bool:
        return False

    def everything(arm: Arm, prompt: str, seed: int) -> bool:
        return arm.readout == "final"

    if on_image is None:
        return nothing
    return everything if images is None else images


def _tell(scan: Scan, plan: StudyPlan, store: CellStore | None, say: Callable[[str], None]) -> None:
    if store is not None and plan.groups:
        tell_older(store, say)
    if scan.damaged:
        say(
            f"{len(scan.damaged)} stored results are damaged and are computed again, with those of the same "
            f"prompt and seed; first {scan.damaged[0]}."
        )
    if plan.known:
        say(f"{plan.known} of {plan.cells} results are known and are not computed again.")


def _silent(line: str) -> None:
    """Nobody listens."""
