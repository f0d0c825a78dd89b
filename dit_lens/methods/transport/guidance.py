"""Detail Guidance, measured: v + w (v − v_disrupted), with and without classifier-free guidance.

Source: arXiv 2510.11538, which disrupts the massive channels of one block. The control disrupts as many
channels of the next ranks there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput
from dit_lens.graph.graph import InterventionGraph
from dit_lens.methods.arms import UNGUIDED
from dit_lens.methods.measures import Measures
from dit_lens.methods.metrics import METRICS, in_guidance
from dit_lens.methods.units import units
from dit_lens.run.cells import Cell, CellKey, CellStore, Damaged, Measured, require_unchanged

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from dit_lens.graph.plan import Plan
    from dit_lens.methods.study import StudyPlan
    from dit_lens.model.identity import RunIdentity
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

COLUMNS = ("arm", "family", "weight", "cfg", "prompt", "seed", "metric", "value")


@dataclass(frozen=True)
class Guided:
    """One guidance: away from zeroed `channels` (block → numbers) by `weight`; 0 is the unedited run."""

    family: str
    weight: float
    channels: Mapping[int, tuple[int, ...]]
    stream: str = "image"

    def __post_init__(self) -> None:
        if not any(self.channels.values()):
            raise BadInput(f"Guidance of {self.family!r} has no channel to disrupt in the blocks asked for.")

    @property
    def name(self) -> str:
        return f"{self.family}.w-{self.weight:g}" if self.weight else UNGUIDED

    @property
    def at(self) -> list[str]:
        """Hook points of the disruption."""
        return [f"blocks.{b}.resid_post.{self.stream}" for b, chosen in self.channels.items() if chosen]

    def as_data(self) -> dict[str, Any]:
        """What identifies the result."""
        if not self.weight:
            return {"guide": None}
        return {
            "guide": {
                "op": "zero",
                "at": list(self.at),
                "channels": {str(b): list(c) for b, c in self.channels.items() if c},
                "weight": float(self.weight),
            }
        }


Wants = Callable[[str, str, int, bool], bool]
"""(name, prompt, seed, with classifier-free guidance)."""


@dataclass(frozen=True, eq=False)
class GuidanceStudy:
    """Guidances of prompts × seeds × with and without classifier-free guidance, planned or run.

    Args:
        guided: of different names; the unedited run is always measured beside them.
        cfg: True asks for the sampling's own guidance scale, False for none.
    """

    lens: DiTLens
    guided: tuple[Guided, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    cfg: tuple[bool, ...]
    sampling: Sampling
    measures: Measures
    arms_per_forward: int | None = None

    def __post_init__(self) -> None:
        out_of_place = {"mask", "path", "source"}
        wrong = [
            n for n in self.measures.names if METRICS[n].readout != "final" or METRICS[n].needs & out_of_place
        ]
        if wrong:
            raise BadInput(f"{wrong[0]!r} is no metric of guidance; measure {', '.join(in_guidance())}.")
        if True in self.cfg and not self.sampling.guided:
            raise BadInput(
                f"Guidance with classifier-free guidance was asked for, at guidance scale "
                f"{self.sampling.guidance_scale:g}, which has none. Raise it above 1, or use cfg: [false]."
            )
        object.__setattr__(self, "prompts", units(self.lens, self.prompts, self.sampling))
        self.measures.require_prompts(self.prompts)
        self.measures.require_size(self.sampling.height, self.sampling.width)

    def samplings(self) -> dict[bool, Sampling]:
        """With and without classifier-free guidance, as far as they are asked for."""
        return {on: self.sampling if on else replace(self.sampling, guidance_scale=1.0) for on in self.cfg}

    def all(self) -> tuple[Guided, ...]:
        """The unedited run, then what was asked for."""
        return (replace(self.guided[0], weight=0.0), *self.guided)

    @cached_property
    def identities(self) -> dict[bool, RunIdentity]:
        """What results depend on with and without classifier-free guidance; asked for anew by each `run`."""
        return {cfg: self.lens.identity(sampling) for cfg, sampling in self.samplings().items()}

    def key(self, guided: Guided, prompt: str, seed: int, cfg: bool) -> CellKey:
        """What determines a result."""
        return CellKey(
            identity=self.identities[cfg].digest,
            sampling=self.samplings()[cfg].canonical,
            arm=guided.as_data(),
            prompt=prompt,
            seed=seed,
        )

    def graph(self, guided: Sequence[Guided], prompt: str, seed: int, cfg: bool) -> InterventionGraph:
        """All of a prompt and seed as one graph: the unedited run, and two trajectories per guidance."""
        graph = InterventionGraph(sampling=asdict(self.samplings()[cfg]))
        graph.trajectory(prompt=prompt, seed=seed, id=UNGUIDED, until="end")
        for each in guided:
            if each.weight:
                graph.trajectory(prompt=prompt, seed=seed, id=each.name, until="end")
                chosen = {b: list(c) for b, c in each.channels.items() if c}
                graph.guide(
                    each.name,
                    at=each.at,
                    channels=chosen,
                    op="zero",
                    weight=each.weight,
                    id=f"{each.name} disrupted",
                )
        return graph

    def plan(self) -> StudyPlan:
        """Check and price it; the transformer does not run."""
        from dit_lens.methods.study import StudyPlan

        plans: list[tuple[Plan, int]] = [
            (
                self.graph(self.guided, self.prompts[0], self.seeds[0], cfg).plan(
                    self.lens, arms_per_forward=self.arms_per_forward, sham=False
                ),
                len(self.prompts) * len(self.seeds),
            )
            for cfg in self.cfg
        ]
        runs = len(self.prompts) * len(self.seeds) * len(self.cfg)
        return StudyPlan(
            cells=runs * (1 + len(self.guided)),
            known=0,
            groups=runs,
            forwards=sum(plan.forwards * count for plan, count in plans),
            block_passes=sum(plan.block_passes * count for plan, count in plans),
            passes_without_reuse=sum(plan.passes_without_reuse * count for plan, count in plans),
            held_bytes=max(plan.held_bytes for plan, _ in plans),
            arms_per_forward=max(plan.arms_per_forward for plan, _ in plans),
            plans=tuple(plans),
        )

    def run(
        self,
        store: CellStore | None = None,
        *,
        on_image: Callable[[str, str, int, bool, Image], None] | None = None,
        images: Wants | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Effects, columns `COLUMNS`: what the store does not hold runs, one prompt, seed and cfg at a time.

        Raises:
            RunFailure: as `dit_lens.run`; what was finished is kept.
        """
        import pandas as pd

        from dit_lens.model.progress import ProgressBar

        # As the model is now, whatever it was when the study was planned.
        self.__dict__.pop("identities", None)
        if store is not None:
            for identity in self.identities.values():
                identity.told("results in a store")
        wants = images if images is not None and on_image is not None else (lambda *_: False)
        rows: list[tuple[Any, ...]] = []
        asked = [(prompt, seed, cfg) for cfg in self.cfg for prompt in self.prompts for seed in self.seeds]
        with ProgressBar(len(asked), "guiding", enabled=progress) as bar:
            for prompt, seed, cfg in asked:
                cells = self._cells(prompt, seed, cfg, store, on_image, wants)
                for each in self.all():
                    cell = cells[each.name]
                    at = (each.name, each.family if each.weight else UNGUIDED, each.weight, cfg, prompt, seed)
                    rows += [(*at, name, cell.metrics[name].number) for name in self.measures.names]
                bar.advance()
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        return table.astype({"seed": "int64", "value": "float64", "weight": "float64"})

    def _cells(
        self,
        prompt: str,
        seed: int,
        cfg: bool,
        store: CellStore | None,
        on_image: Callable[[str, str, int, bool, Image], None] | None,
        wants: Wants,
    ) -> dict[str, Cell]:
        definitions = self.measures.definitions(self.measures.names)
        known: dict[str, Cell] = {}
        for each in self.all() if store is not None else ():
            assert store is not None
            found = store.get(self.key(each, prompt, seed, cfg))
            if isinstance(found, Damaged):
                # What was computed beside a lost result is computed with it again.
                known.clear()
                break
            if found is not None and not found.lacks(definitions):
                known[each.name] = found
        pictured = any(wants(each.name, prompt, seed, cfg) for each in self.all())
        left = [each for each in self.all() if pictured or each.name not in known]
        if not left:
            return known
        fresh: dict[str, Cell] = {}
        for each, image, values in self._measured(left, prompt, seed, cfg):
            if on_image is not None and wants(each.name, prompt, seed, cfg):
                on_image(each.name, prompt, seed, cfg, image)
            if each.name not in known:
                metrics = {name: Measured.of(definitions[name], values[name]) for name in definitions}
                fresh[each.name] = Cell(key=self.key(each, prompt, seed, cfg), metrics=metrics)
        require_unchanged(self.identities[cfg], self.lens.identity(self.samplings()[cfg]))
        if store is not None:
            store.put(list(fresh.values()), self.identities[cfg])
        return known | fresh

    def _measured(
        self, guided: Sequence[Guided], prompt: str, seed: int, cfg: bool
    ) -> list[tuple[Guided, Image, dict[str, float]]]:
        import torch

        from dit_lens.run.runner import run

        done = run(
            self.lens,
            self.graph(guided, prompt, seed, cfg),
            arms_per_forward=self.arms_per_forward,
            sham=False,
            images=False,
            keep="final",
            progress=False,
        )
        clean = done[UNGUIDED].latents[-1:]
        latents = [done[each.name].latents[-1:] for each in guided]
        # One by one: a picture must not depend on those beside it.
        before = self.lens.decode(clean)[0]
        pairs = zip(guided, latents, strict=True)
        images = [self.lens.decode(end)[0] if each.weight else before for each, end in pairs]
        values = self.measures.final(
            self.measures.names,
            [prompt] * len(guided),
            latents=torch.cat(latents).cpu().float(),
            clean=clean.cpu().float().expand(len(guided), *clean.shape[1:]),
            donor=None,
            images=images,
            clean_images=[before] * len(guided),
        )
        return [
            (each, images[i], {name: float(found[i]) for name, found in values.items()})
            for i, each in enumerate(guided)
        ]
