"""What a study asks for: every result by its key, held against the model and against what is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.graph.planner import make_plan
from dit_lens.methods.arms import Arm, ArmEdit, require_distinct
from dit_lens.methods.measures import Measures
from dit_lens.methods.study_groups import Group, Member, graph_of, grouped
from dit_lens.methods.units import require_two, units
from dit_lens.run.cells import Cell, CellKey, CellStore, Damaged

if TYPE_CHECKING:
    from torch import Tensor

    from dit_lens.model.identity import RunIdentity
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling
    from dit_lens.run.material import MaterialRequest, MaterialSource


@dataclass(frozen=True)
class Scan:
    """What is known of a request, and what has to run.

    `cells` are the known results by address, `outdated` intact ones that lack a metric. `groups` hold what
    has to run, `damaged` the files that the store holds in place of results.
    """

    cells: Mapping[str, Cell]
    outdated: Mapping[str, Cell]
    groups: tuple[Group, ...]
    damaged: tuple[Damaged, ...]


@dataclass(frozen=True, eq=False)
class Request:
    """Arms × prompts × seeds on a model, with all that determines their results."""

    lens: DiTLens
    arms: tuple[Arm, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    measures: Measures
    sampling: Sampling
    donors: Mapping[str, str]
    material: MaterialSource | None

    @classmethod
    def of(
        cls,
        lens: DiTLens,
        arms: Sequence[Arm],
        prompts: Sequence[str],
        seeds: Sequence[int],
        measures: Measures,
        sampling: Sampling | Mapping[str, Any] | None,
        donors: Mapping[str, str] | None,
        material: MaterialSource | None,
    ) -> Request:
        """A request that makes sense in itself.

        Raises:
            BadInput: prompts, seeds or names that stand twice, a donor that is missing or the prompt itself,
            an arm of which nothing would be measured.
        """
        from dit_lens.model.sampling import Sampling, rows_of

        arms = tuple(arms)
        require_distinct(arms)
        if not isinstance(measures, Measures):
            raise BadInput(f"measures is {measures!r:.60}; make them: dl.default_measures(lens, ['ssim']).")
        rows_of(prompts, seeds)
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        seeds = tuple(int(seed) for seed in (seeds if isinstance(seeds, Iterable) else [seeds]))
        for what, given in (("Prompt", prompts), ("Seed", seeds)):
            twice = next((each for i, each in enumerate(given) if each in given[:i]), None)
            if twice is not None:
                raise BadInput(
                    f"{what} {twice!r} stands twice; its results would count double. Give it once."
                )
        measures.require_prompts(prompts)
        if masked := measures.needing("mask"):
            raise BadInput(
                f"{masked[0]} needs a mask, and a study of effects knows none; it is measured where "
                "activations "
                "are carried. Leave it out, or measure ssim, which sees the whole picture."
            )
        for arm in arms:
            if arm.edits and not measures.of(arm):
                raise BadInput(
                    f"arm {arm.name!r}: none of the metrics ({', '.join(measures.names)}) is measured at its "
                    f"readout, {arm.readout!r}. Add "
                    f"{'velocity' if arm.readout == 'step' else 'latent or ssim'} to the metrics."
                )
        if not isinstance(sampling, Sampling):
            sampling = lens.sampling(**(sampling or {}))
        measures.require_size(sampling.height, sampling.width)
        prompts = units(lens, prompts, sampling)
        found = dict(donors or {})
        if any(arm.draws_on_donor for arm in arms):
            _require_donors(found, prompts)
            for prompt in prompts:
                require_two(lens, found[prompt], prompt, sampling, what="donors")
        return cls(
            lens=lens,
            arms=arms,
            prompts=prompts,
            seeds=seeds,
            measures=measures,
            sampling=sampling,
            donors=found,
            material=None if material is None else _remembered(material),
        )

    # ----------------------------------------------------------------------------------------- keys
    @cached_property
    def identity(self) -> RunIdentity:
        """What all results depend on besides arm, prompt and seed, as it was when they were asked for."""
        return self.lens.identity(self.sampling)

    @cached_property
    def _data(self) -> dict[str, str]:
        """Arm name → canonical text of what it does."""
        return {arm.name: json.dumps(arm.as_data(), sort_keys=True) for arm in self.arms}

    @cached_property
    def _alike(self) -> dict[str, tuple[Arm, ...]]:
        found: dict[str, tuple[Arm, ...]] = {}
        for arm in self.arms:
            data = self._data[arm.name]
            found[data] = (*found.get(data, ()), arm)
        return found

    def alike(self, arm: Arm) -> tuple[Arm, ...]:
        """The arms that do the same as an arm, itself included; they share their results."""
        return self._alike[self._data[arm.name]]

    @cached_property
    def different(self) -> tuple[Arm, ...]:
        """One arm of each that do the same, in the order given."""
        return tuple(arms[0] for arms in self._alike.values())

    @cached_property
    def _keys(self) -> dict[tuple[str, str, int], CellKey]:
        keys = {}
        for arm in self.different:
            data, measured = arm.as_data(), self._material_of(arm)
            for prompt in self.prompts:
                for seed in self.seeds:
                    keys[self._data[arm.name], prompt, seed] = CellKey(
                        identity=self.identity.digest,
                        sampling=self.sampling.canonical,
                        arm=data,
                        prompt=prompt,
                        seed=seed,
                        donor=self.donors[prompt] if arm.draws_on_donor else None,
                        material=measured,
                    )
        return keys

    def key(self, arm: Arm, prompt: str, seed: int) -> CellKey:
        """What determines the result of an arm on a prompt and seed."""
        return self._keys[self._data[arm.name], prompt, seed]

    @cached_property
    def addresses(self) -> frozenset[str]:
        """Addresses of all results."""
        return frozenset(key.address for key in self._keys.values())

    def definitions(self, arm: Arm) -> dict[str, str]:
        """The metrics of an arm with their definitions."""
        return self.measures.definitions(self.measures.of(arm))

    def _material_of(self, arm: Arm) -> str | None:
        """A hash of all that is measured for an arm's edits; None if they need nothing measured."""
        if not any(map(_needs_material, arm.edits)):
            return None
        from dit_lens.run.material import Materials

        digest = hashlib.sha256()

        def noted(request: MaterialRequest) -> Tensor:
            assert self.material is not None
            value = self.material(request)
            where = f"{request.kind} {request.op} {request.step} {request.branch} {request.point}"
            digest.update(f"{where} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().double().numpy().astype("<f8").tobytes())
            return value

        donor = self.donors[self.prompts[0]] if arm.draws_on_donor else None
        alone = Group((Member(self.prompts[0], self.seeds[0], donor, (arm,)),))
        checked = graph_of(alone, self.sampling, self.measures).check(self.lens)
        Materials(make_plan(checked, sham=False), None if self.material is None else noted)
        return digest.hexdigest()

    # ---------------------------------------------------------------------------------------- known
    def scan(self, store: CellStore | None, images: Callable[[Arm, str, int], bool] | None) -> Scan:
        """Look up every result; `images` says whose picture is wanted and not there.

        Raises:
            BadInput: there is a store, and it cannot be told what the results depend on.
        """
        if store is not None:
            self.identity.told("results in a store")
        cells: dict[str, Cell] = {}
        outdated: dict[str, Cell] = {}
        members: list[Member] = []
        damaged: list[Damaged] = []
        definitions = {arm.name: self.definitions(arm) for arm in self.different}

        def pictured(arm: Arm, prompt: str, seed: int) -> bool:
            return images is not None and any(
                each.readout == "final" and images(each, prompt, seed) for each in self.alike(arm)
            )

        for prompt, seed in product(self.prompts, self.seeds):
            found = {
                arm.name: None if store is None else store.get(self.key(arm, prompt, seed))
                for arm in self.different
            }
            broken = [each for each in found.values() if isinstance(each, Damaged)]
            damaged += broken
            missing = []
            for arm in self.different:
                cell, address = found[arm.name], self.key(arm, prompt, seed).address
                # Numbers of a batch depend, in their last bits, on what is batched together: where one is
                # lost, those that were computed beside it are computed with it again.
                if isinstance(cell, Cell) and not broken:
                    (outdated if cell.lacks(definitions[arm.name]) else cells)[address] = cell
                if address not in cells or pictured(arm, prompt, seed):
                    missing.append(arm)
            donor = self.donors.get(prompt) if any(arm.draws_on_donor for arm in missing) else None
            members.append(Member(prompt, seed, donor, tuple(missing)))
        return Scan(cells, outdated, grouped(members), tuple(damaged))


def _needs_material(edit: ArmEdit) -> bool:
    return "quantiles" in edit.op.needs or ("source" in edit.op.needs and not edit.donor)


def _remembered(source: MaterialSource) -> MaterialSource:
    """A source that is asked for each thing once, however many groups need it."""
    known: dict[MaterialRequest, Tensor] = {}

    def material(request: MaterialRequest) -> Tensor:
        if request not in known:
            known[request] = source(request)
        return known[request]

    return material


def _require_donors(donors: Mapping[str, str], prompts: Sequence[str]) -> None:
    for prompt in prompts:
        donor = donors.get(prompt)
        if donor is None:
            raise BadInput(
                f"Some arms draw on a donor, and the prompt {prompt!r} has none. Give donors={{prompt: other "
                f"prompt}} for every prompt.{did_you_mean(prompt, donors)}"
            )
        if not isinstance(donor, str):
            raise BadInput(f"The donor of {prompt!r} is {donor!r}; a donor is another prompt.")
        if donor == prompt:
            raise BadInput(
                f"The donor of {prompt!r} is the prompt itself, which changes nothing. Name another prompt."
            )
