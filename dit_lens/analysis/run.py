"""A declared analysis from end to end: spec → run folder → report.

Each stage leaves its result on disk before the next begins, so that a run that was cut off continues there.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dit_lens.analysis.effects import EffectStudies, Outcome
from dit_lens.analysis.fairness import useful
from dit_lens.analysis.plan import Plan, make_plan
from dit_lens.analysis.prompts import as_received
from dit_lens.analysis.reading import read_spec
from dit_lens.analysis.spec import JUDGED_SECTIONS, USERS, AnalysisSpec, hash_of, judged_seeds, split
from dit_lens.analysis.stage_context import Asked, Found
from dit_lens.analysis.stages import stages
from dit_lens.analysis.transport_spec import TEXT_ALONE
from dit_lens.errors import BadInput
from dit_lens.model.identity import RunIdentity
from dit_lens.model.quantities import readable_time
from dit_lens.plain_yaml import load_yaml
from dit_lens.run.provenance import COMPUTING, package_versions
from dit_lens.run.records import RECORD, SPEC, RunFolder
from dit_lens.run.run_record import INTERRUPTED, RunRecord
from dit_lens.words import known_words

if TYPE_CHECKING:
    from dit_lens.methods.answers import Answer
    from dit_lens.methods.channels import ChannelSet, ChannelStatistics
    from dit_lens.model.lens import DiTLens

REPORTS = Path("reports")
"""Where runs go unless told otherwise: `reports/<name of the analysis>`."""

STATISTICS = "statistics"
"""The run folder's place for what discovery measured."""

_ALSO_RECORDED = ("name", "title", "question", "prompts", "seeds", "sampling")
"""What a record repeats of the spec, so that a spec that was edited can be told what was changed in it."""

Source = str | Path | Mapping[str, Any] | AnalysisSpec
Say = Callable[[str], None]


@known_words
def run_analysis(
    source: Source,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    resume: bool = True,
    lens: DiTLens | None = None,
    progress: bool = True,
    timing: bool = False,
    say: Say | None = None,
) -> Path:
    """Carry out a declared analysis and return its run folder, which holds `report.html`.

    Args:
        source: a YAML file, the name of a packaged analysis, plain data, or an `AnalysisSpec`.
        out: the run's folder; `reports/<name>` unless given.
        overrides: `key.path=value` each, applied to the spec.
        resume: keep what an earlier run of the same spec finished in that folder; without, it is removed.
        lens: the model, where it is open already; else the spec's is loaded.
        progress: draw progress bars on stderr.
        timing: have `say` told how long all of it will take, from a few denoising steps; only where runs are
            edited or followed, and not where an earlier run goes on.
        say: called with each line for the user: the plan first, then what is done.

    Raises:
        BadInput: the spec is wrong, does not fit the model, or the folder holds something else. Nothing was
            computed or written then.
        RunFailure: the run failed; its folder keeps the finished stages, and `run.json` says why it ended.

    >>> spec = {"model": "shapes-sd3", "prompts": ["a red circle on white"], "seeds": [0],
    ...         "sampling": {"steps": 2}, "sections": ["spectrum"]}
    >>> folder = run_analysis(spec, "quick", lens=lens)
    >>> (folder / "report.html").is_file()
    True
    """
    say = say or _silent
    spec = read_spec(source, overrides)
    lens = lens or open_model(spec)
    spec = as_received(spec, lens)
    plan = make_plan(spec, lens)
    folder = RunFolder.create(out or REPORTS / spec.name, spec_text(spec), resume=resume)
    with folder.held():
        say(str(plan))
        begins = not (folder.path / RECORD).exists()
        if timing and begins and (plan.effects or plan.stages):
            say(plan.time_line(plan.minutes(lens), lens))
        _Run(plan, lens, folder, progress, say, resume).all_stages()
    return folder.path


@known_words
def plan_analysis(source: Source, *, overrides: Sequence[str] = (), lens: DiTLens | None = None) -> Plan:
    """Check a spec against its model and say what it would cost; no forward pass, nothing written.

    Raises:
        BadInput: the spec is wrong or does not fit the model.
    """
    spec = read_spec(source, overrides)
    lens = lens or open_model(spec)
    return make_plan(as_received(spec, lens), lens)


def write_report(run_dir: str | Path, *, say: Say | None = None, warn: Say | None = None) -> Path:
    """Write a run folder's `report.html` from its records, with the sections that its spec asked for.

    Needs neither the model nor torch. `say` is called with each table that is lost or cannot be read, `warn`
    where the folder's spec was edited after the run; without them, both are Python warnings. Raises
    `BadInput` for what is no run folder.
    """
    from dit_lens.report.page import SECTIONS, build_report

    folder = RunFolder.read(run_dir)
    if _edited(folder):
        (warn or partial(warnings.warn, stacklevel=2))(
            f"{folder.path / SPEC} was edited after the run: the results are those of the spec before "
            f"({folder.record.spec_hash}), and the report asks what the edited one asks."
        )
    asked = _sections_of(folder) | {"channel_set"}
    kinds = {entry.kind for entry in folder.images()}
    asked |= {"images"} if "sample" in kinds else set()
    asked |= {"gallery"} if "arm" in kinds else set()
    asked |= {"verdict_rule"} if folder.results_path.exists() else set()
    chosen = [build for build in SECTIONS if build.__name__ in asked]
    return build_report(folder.path, chosen, spec_of=lambda question: _spec_of_one(folder, question), say=say)


def _edited(folder: RunFolder) -> bool:
    """Whether the folder's spec is another than the run began under, as far as its record says."""
    began = folder.record.spec_hash
    if not began:
        return False
    try:
        data = load_yaml(folder.spec_text, SPEC)
        # As it is written, too: another version's spec may gain keys when it is read here.
        return began not in (hash_of(data), AnalysisSpec.model_validate(data).hash)
    except (TypeError, ValueError):
        return True


def _spec_of_one(folder: RunFolder, question: str) -> str:
    """The spec of a folder's run, reduced to one of its questions; empty where another version wrote it."""
    try:
        spec = AnalysisSpec.model_validate(load_yaml(folder.spec_text, SPEC))
        unused = {key for key, users in USERS.items() if question not in users}
        kept = {key: value for key, value in spec.as_data().items() if key not in unused}
        if question not in JUDGED_SECTIONS:
            # Without a question that judges, all prompts would choose the channels.
            kept["prompts"] = split(spec)[0]
        elif "effects" in kept:
            controls = useful(kept["effects"].pop("controls"), [question])
            kept["effects"] |= {"controls": controls} if controls else {}
        if question == "transport_image":
            kept["transport"] = {k: v for k, v in kept["transport"].items() if k not in TEXT_ALONE}
        return spec_text(AnalysisSpec.model_validate({**kept, "sections": [question]}))
    except ValueError:
        return ""


def spec_text(spec: AnalysisSpec) -> str:
    """The spec as YAML that repeats the run: prompts spelled out, nothing relative to where it was."""
    return yaml.safe_dump(spec.as_data(), sort_keys=False, allow_unicode=True, width=110)


def open_model(spec: AnalysisSpec) -> DiTLens:
    """The model that a spec names."""
    from dit_lens.model.loading import load

    return load(spec.model.name, **spec.model.options())


def _sections_of(folder: RunFolder) -> set[str]:
    try:
        data = load_yaml(folder.spec_text, SPEC)
        return set(AnalysisSpec.model_validate(data).sections)
    except ValueError:
        # A folder from another version still has its tables: show what there is.
        return set(folder.table_names)


def _silent(_: str) -> None:
    return None


class _Run:
    """One run in its folder: stages in order, each skipped when its result is there already."""

    def __init__(
        self, plan: Plan, lens: DiTLens, folder: RunFolder, progress: bool, say: Say, resume: bool
    ) -> None:
        self.plan, self.spec, self.lens = plan, plan.spec, lens
        self.folder, self.progress, self.say = folder, progress, say
        self.timings: dict[str, float] = {}
        self.identity = lens.identity(plan.sampling).told("what a run folder keeps")
        if resume:
            self._take_over()
        else:
            shutil.rmtree(folder.path / STATISTICS, ignore_errors=True)

    def all_stages(self) -> None:
        record = self._new_record()
        self.folder.write_record(record)
        try:
            stats = self._statistics()
            massive = self._massive(stats)
            self.folder.write_channels(massive)
            self._tables(stats, massive)
            self._token_maps(massive)
            self._images()
            self._judged(stats, massive)
        except BaseException as error:
            why = INTERRUPTED if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            self.folder.write_record(record.fail(why, self.timings))
            raise
        self.folder.write_record(record.finish(self.timings))
        self.say("Writing the report …")
        write_report(self.folder.path, say=self.say)

    # -- record
    def _new_record(self) -> RunRecord:
        lens, spec = self.lens, self.spec
        return RunRecord.start(
            name=spec.name,
            title=spec.title,
            question=spec.question,
            spec_hash=spec.hash,
            model=lens.name,
            fingerprint=lens.fingerprint,
            identity=self.identity,
            device=str(lens.device),
            dtype=str(lens.dtype).removeprefix("torch."),
            prompts=self.plan.prompts,
            seeds=spec.seeds,
            sampling=asdict(self.plan.sampling),
        )

    def _take_over(self) -> None:
        """Check that the earlier run measured this very model under this very spec, and keep its timings."""
        if not (self.folder.path / RECORD).exists():
            return  # there was no earlier run, or it ended before it had a record
        try:
            earlier = self.folder.record
        except BadInput as error:
            self._take_over_without_record()
            self.say(f"Warning: {error} This run writes it anew, and keeps what the earlier one finished.")
            return
        if earlier.identity is None:
            self._begin_anew()
            return
        self._require_this_identity(earlier.model, earlier.identity)
        self._require_this_spec(earlier)
        self._say_versions(earlier)
        state = {"finished": "a finished run", "failed": "an unfinished run"}.get(
            earlier.status, "a run that was cut off"
        )
        self.say(
            f"{self.folder.path} holds {state} of this spec, begun {earlier.started:%Y-%m-%d %H:%M} UTC. "
            "It goes on from there; --fresh begins anew."
        )
        self.timings.update(earlier.timings)

    def _take_over_without_record(self) -> None:
        from dit_lens.methods.channels import ChannelStatistics

        place = self.folder.path / STATISTICS
        if not place.is_dir():
            self._forget()
        else:
            measured = ChannelStatistics.load(place).provenance
            if "identity" not in measured:
                self._forget()
                return
            self._require_this_identity(measured["model"], RunIdentity.model_validate(measured["identity"]))

    def _require_this_identity(self, model: str, earlier: RunIdentity) -> None:
        found = earlier.differences(self.identity)
        if found:
            what = "; ".join(f"{key} was {was}, is {now}" for key, (was, now) in found.items())
            weights = ", with other weights" if any(key.endswith(" weights") for key in found) else ""
            raise BadInput(
                f"{self.folder.path} holds results of {model} in another state{weights}: {what}. Mixing them "
                "would be wrong. --fresh (resume=False in Python) replaces them; --out chooses another "
                "folder."
            )

    def _begin_anew(self) -> None:
        """Leave out what a version of before identities measured: it may be that of another schedule or
        adapter.
        """
        self.say(
            f"{self.folder.path} holds a run of an earlier version of dit_lens, whose record does not say on "
            "which schedule, adapters and precision its numbers depend. Nothing of it is used: all is "
            "measured anew, in its place."
        )
        self._forget()

    def _forget(self) -> None:
        shutil.rmtree(self.folder.path / STATISTICS, ignore_errors=True)
        self.folder.forget()

    def _say_versions(self, earlier: RunRecord) -> None:
        now = package_versions(COMPUTING)
        changed = {name: (earlier.packages.get(name, "absent"), version) for name, version in now.items()}
        moved = [f"{name} {was} → {is_}" for name, (was, is_) in changed.items() if was != is_]
        if moved:
            self.say(
                f"Warning: {', '.join(moved)} since this run began. What is kept was computed by the earlier "
                "version; --fresh computes all of it again."
            )

    def _require_this_spec(self, earlier: RunRecord) -> None:
        """The folder's own spec may have been edited since the run: what it holds is of the spec before."""
        if earlier.spec_hash in ("", self.spec.hash):
            return  # "": begun before records held the hash
        now = self._new_record()
        changed = [key for key in _ALSO_RECORDED if getattr(earlier, key) != getattr(now, key)]
        raise BadInput(
            f"{self.folder.path / SPEC} was edited after the run began: it began under the spec "
            f"{earlier.spec_hash}, and this is {self.spec.hash} (what differs: "
            f"{', '.join(changed) or 'neither ' + ', '.join(_ALSO_RECORDED) + ', but another key'}). Results "
            "of both in one folder would be wrong. --fresh (resume=False in Python) replaces them; --out "
            "chooses another folder."
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.timings[stage] = round(time.monotonic() - started, 3)

    def _took(self, stage: str) -> str:
        return readable_time(self.timings[stage])

    # -- stages
    def _statistics(self) -> ChannelStatistics:
        from dit_lens.methods.channels import ChannelStatistics, discover

        place = self.folder.path / STATISTICS
        if place.is_dir():
            self.say("Discovery: kept from the earlier run.")
            return ChannelStatistics.load(place)
        with self._timed("discovery"):
            stats = discover(
                self.lens,
                self.plan.prompts,
                self.spec.seeds,
                sampling=self.plan.sampling,
                batch_size=self.plan.batch_size,
                top_k=self.spec.channels.most,
                progress=self.progress,
            )
            stats.save(place)
        self.say(f"Discovery: {self.plan.samples} samples in {self._took('discovery')}.")
        return stats

    def _massive(self, stats: ChannelStatistics) -> ChannelSet:
        channels = self.spec.channels
        where: dict[str, Any] = {
            "stream": channels.stream,
            "branch": channels.branch,
            "steps": channels.steps,
        }
        if channels.rule is None:
            where["statistic"] = channels.statistic  # the rule brings its own
        return stats.select(**channels.selection, **where)

    def _tables(self, stats: ChannelStatistics, massive: ChannelSet) -> None:
        from dit_lens.methods.channel_tables import tables

        with self._timed("tables"):
            for name, frame in tables(stats, massive).items():
                if name in self.spec.sections:
                    self.folder.write_table(name, frame)

    def _token_maps(self, massive: ChannelSet) -> None:
        from dit_lens.methods.token_maps import token_maps

        shown = {block: massive.blocks.get(block, ()) for block in self.plan.sample_blocks}
        if not any(shown.values()):
            return
        if "token_maps" in self.folder.table_names:
            self.say("Token maps: kept from the earlier run.")
            return
        with self._timed("token maps"):
            frame = token_maps(
                self.lens,
                shown,
                self.plan.shown_prompts,
                self.spec.seeds[:1],
                sampling=self.plan.sampling,
                steps=self.plan.sample_steps,
                branch=self.spec.channels.branch,
                batch_size=self.plan.batch_size,
            )
            self.folder.write_table("token_maps", frame)

    def _images(self) -> None:
        prompts, seed = self.plan.shown_prompts, self.spec.seeds[0]
        there = {(entry.prompt, entry.seed) for entry in self.folder.images()}
        if all((prompt, seed) in there for prompt in prompts):
            return
        sampling = asdict(self.plan.sampling)
        with self._timed("images"):
            trajectory = self.lens.generate(
                prompts,
                seeds=[seed],
                batch_size=self.plan.batch_size,
                progress=self.progress,
                **sampling,
            )
            for index, (prompt, image) in enumerate(zip(prompts, trajectory.images, strict=True)):
                self.folder.write_image(f"sample-{index:02d}-seed-{seed}", image, prompt=prompt, seed=seed)
        self.say(f"Images: {len(prompts)}, in {self._took('images')}.")

    def _judged(self, stats: ChannelStatistics, massive: ChannelSet) -> None:
        """Answer what held-out prompts judge, and write the verdicts."""
        if not self.spec.judged_sections:
            return
        if massive.is_empty:
            nearest = f" {massive.nearest}" if massive.nearest else ""
            self.say(f"No channel passes the rule, so there is nothing to edit or to follow.{nearest}")
            return
        from dit_lens.methods.answers import Results

        outcome = self._effects(stats, massive)
        answers = (*outcome.answers, *self._stages(stats, massive))
        Results(
            model=self.lens.name,
            fingerprint=self.lens.fingerprint,
            dtype=str(self.lens.dtype).removeprefix("torch."),
            prompts=len(split(self.spec)[1][: self.spec.effects.limit]),
            seeds=judged_seeds(self.spec),
            sham_difference=outcome.sham_difference,
            answers=answers,
        ).save(self.folder.results_path)

    def _effects(self, stats: ChannelStatistics, massive: ChannelSet) -> Outcome:
        if not self.spec.effect_sections:
            return Outcome((), None)
        with self._timed("effects"):
            studies = EffectStudies.of(self.spec, self.lens, self.plan.sampling, massive, stats)
            outcome = studies.run(self.folder, progress=self.progress, say=self.say)
        self.say(f"Effects: done in {self._took('effects')}.")
        return outcome

    def _stages(self, stats: ChannelStatistics, massive: ChannelSet) -> Iterator[Answer]:
        asked = Asked(self.spec, self.lens, self.plan.sampling)
        found = Found(stats, massive, self.folder, self.progress, self.say)
        for stage in stages(self.spec):
            with self._timed(stage.name):
                yield from stage.run(asked, found)
            self.say(f"{stage.name}: done in {self._took(stage.name)}.")
