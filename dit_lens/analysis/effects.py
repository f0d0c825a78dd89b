"""The effect questions of an analysis: their arms, the runs behind them, their tables and verdicts.

Questions that judge on the same prompts share one study, so that an arm which several of them need runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dit_lens.analysis.spec import AnalysisSpec, judged_seeds, split
from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from dit_lens.methods.answers import Answer
    from dit_lens.methods.arms import Arm
    from dit_lens.methods.channels import ChannelSet, ChannelStatistics
    from dit_lens.methods.measures import Measures
    from dit_lens.methods.questions import Question, Setting
    from dit_lens.methods.questions.maps import Maps
    from dit_lens.methods.study import StudyPlan, StudyResult
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.records import RunFolder

MAPS = ("step_map", "final_map", "patch_map")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """Questions that judge on the same prompts; `donors` maps a prompt to the one its edits draw on."""

    name: str
    questions: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    donors: Mapping[str, str] | None = None


def studies(spec: AnalysisSpec) -> tuple[Study, ...]:
    """The studies of a spec, in the order in which they run."""
    effects, asked = spec.effects, spec.effect_sections
    seeds = judged_seeds(spec)
    _, judged = split(spec)
    ablations = tuple(each for each in asked if each not in MAPS)
    found = [Study("ablations", ablations, judged[: effects.limit], seeds)] if ablations else []
    for name, prompts in (("step_map", effects.maps.prompts), ("final_map", effects.maps.final_prompts)):
        if name in asked:
            found.append(Study(name, (name,), judged[:prompts], seeds))
    if "patch_map" in asked:
        donors = _pairs(spec).donors
        found.append(Study("patch_map", ("patch_map",), tuple(donors), seeds, donors))
    return tuple(found)


def _pairs(spec: AnalysisSpec) -> Maps:
    from dit_lens.methods.questions.maps import Maps

    with naming("effects.pairs"):
        return Maps(pairs=(spec.effects.pairs or ())[: spec.effects.maps.pairs])


@dataclass(frozen=True)
class Outcome:
    """What the studies concluded; how far latents move by batching alone, None where nothing was edited."""

    answers: tuple[Answer, ...]
    sham_difference: float | None


@dataclass(frozen=True, eq=False)
class EffectStudies:
    """The studies of a spec on a model, with arms for one channel set: to be planned, or to be run."""

    spec: AnalysisSpec
    lens: DiTLens
    sampling: Sampling
    setting: Setting
    measures: Measures

    @classmethod
    def of(
        cls,
        spec: AnalysisSpec,
        lens: DiTLens,
        sampling: Sampling,
        massive: ChannelSet,
        stats: ChannelStatistics,
    ) -> EffectStudies:
        """Declare everything.

        Raises:
            BadInput: naming the key under `effects` that does not fit.
        """
        from dit_lens.methods.measures import default_measures
        from dit_lens.methods.questions import Setting

        effects = spec.effects
        with naming("effects.metrics"):
            measures = default_measures(lens, effects.metrics, clip=effects.alignment, lpips=effects.lpips)
            measures.require_size(sampling.height, sampling.width)
        setting = Setting(
            massive=massive,
            stats=stats,
            num_blocks=lens.num_blocks,
            num_steps=sampling.steps,
            stream=spec.channels.stream,
            op=effects.op,
            steps=effects.steps,
            branch=effects.branch,
            controls=dict(effects.controls),
            doses=effects.doses,
            seed=effects.draw_seed,
        )
        return cls(spec, lens, sampling, setting, measures)

    def question(self, name: str) -> Question:
        """A question by its name; maps with the cells that the spec names."""
        from dit_lens.methods.questions import QUESTIONS
        from dit_lens.methods.questions.maps import Maps

        if name not in MAPS:
            return QUESTIONS[name]
        maps = self.spec.effects.maps
        return replace(
            _pairs(self.spec) if name == "patch_map" else Maps(),
            blocks=maps.blocks,
            steps=maps.final_steps if name == "final_map" else maps.steps,
            control=maps.control,
            sigmas=tuple(float(sigma) for sigma in self.setting.stats.data["sigma"].values),
        ).question(name)

    def arms(self, study: Study) -> tuple[Arm, ...]:
        """The arms of all questions of a study, each once."""
        from dit_lens.methods.arms import CLEAN

        # Pictures of cells are looked at beside the unedited one, which the gallery has where there is one.
        alone = study.name == "final_map" and set(self.spec.effect_sections) <= set(MAPS)
        found: dict[str, Arm] = {CLEAN.name: CLEAN} if alone else {}
        for name in study.questions:
            with naming("effects.maps" if name in MAPS else "effects"):
                for arm in self.question(name).arms(self.setting):
                    assert found.setdefault(arm.name, arm) == arm, f"two arms are called {arm.name}"
        return tuple(found.values())

    def plans(self) -> tuple[tuple[Study, StudyPlan], ...]:
        """Check every study against the model and price it; the transformer does not run."""
        from dit_lens.methods.study import plan_study

        planned = []
        for study in studies(self.spec):
            with naming("effects"):
                plan = plan_study(self.lens, self.arms(study), study.prompts, study.seeds, **self._how(study))
            planned.append((study, plan))
        return tuple(planned)

    def run(self, folder: RunFolder, *, progress: bool, say: Say) -> Outcome:
        """Run what the folder does not hold yet; write effects, tables and pictures.

        Raises:
            RunFailure: as `run_study`; what was finished is kept.
        """
        import pandas as pd

        from dit_lens.methods.arms import arms_table
        from dit_lens.methods.study import run_study
        from dit_lens.run.cells import CellStore

        store = CellStore(folder.path)
        done: list[tuple[Study, StudyResult]] = []
        answers: list[Answer] = []
        for study in studies(self.spec):
            arms = self.arms(study)
            say(f"Effects, {study.name}: {len(arms)} arms on {len(study.prompts)} prompts.")
            with self._pictures(study, arms, folder) as pictures:
                result = run_study(
                    self.lens,
                    arms,
                    study.prompts,
                    study.seeds,
                    store=store,
                    **pictures,
                    progress=progress,
                    say=say,
                    **self._how(study),
                )
            done.append((study, result))
            answers += self._answered(study, result, folder)
        folder.write_table(
            "effects", pd.concat([result.effects.assign(study=study.name) for study, result in done])
        )
        folder.write_table(
            "arms", pd.concat([arms_table(result.arms).assign(study=study.name) for study, result in done])
        )
        folder.write_table(
            "sham", pd.concat([result.sham.assign(study=study.name) for study, result in done])
        )
        shams = [result.sham["max_abs_difference"].max() for _, result in done if len(result.sham)]
        return Outcome(tuple(answers), float(max(shams)) if shams else None)

    def _answered(self, study: Study, result: StudyResult, folder: RunFolder) -> Iterator[Answer]:
        for name in study.questions:
            answered = self.question(name).answer(result.effects, result.arms, metrics=self.measures.names)
            for table, frame in answered.tables.items():
                folder.write_table(table, frame)
            yield from answered.answers

    @contextmanager
    def _pictures(self, study: Study, arms: tuple[Arm, ...], folder: RunFolder) -> Iterator[dict[str, Any]]:
        """Who is given the pictures of a study: nobody where only latents are looked at anyway."""
        from dit_lens.analysis.pictures import CellPictures, Gallery
        from dit_lens.methods.measures import needs_image

        most = self.spec.effects.gallery
        if study.name not in MAPS:
            with Gallery(folder, study.prompts[:most]) as gallery:
                yield {"on_image": gallery.keep, "images": gallery.wants}
        elif any(needs_image(name) for arm in arms for name in self.measures.of(arm)):
            with CellPictures(folder, study.name, study.prompts, arms, most) as cells:
                yield {"on_image": cells.keep}
        else:
            yield {}

    def _how(self, study: Study) -> dict[str, Any]:
        from dit_lens.methods.dataset_means import dataset_means

        return {
            "measures": self.measures,
            "sampling": self.sampling,
            "donors": study.donors,
            "material": dataset_means(self.setting.stats),
            "arms_per_forward": self.spec.effects.arms_per_forward,
        }


@contextmanager
def naming(key: str, or_else: str = "") -> Iterator[None]:
    """Begin the message of a bad value with its place in the spec; end it with another way out, if any."""
    try:
        yield
    except BadInput as error:
        text, inside = f"{error} {or_else}".rstrip(), tuple(key.split("."))
        if error.path[: len(inside)] == inside:
            raise BadInput(text, path=error.path) from None
        raise BadInput.at(inside, text) from None
