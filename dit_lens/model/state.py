"""The state of a loaded pipeline: what it is at the moment of use, and its identity.

Reading every weight and module takes as long as opening the model did, so it is done once. Before each run a
`Watch` says, in about a millisecond, whether anything may have changed; what changed is then read again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dit_lens.model.identity import RunIdentity, digest_of
from dit_lens.model.precision import precision
from dit_lens.model.structure import described, global_hooks, require_supported
from dit_lens.model.told import Teller, is_library, name_of
from dit_lens.model.watch import Watch, moving
from dit_lens.model.weights import Weight, fingerprint, kept_by_library, sample_of, weigh, weights_of

if TYPE_CHECKING:
    from dit_lens.model.sampling import Sampling

Weights = dict[str, tuple[Any, int, Weight]]
"""Name → (the stored value, its version counter, what was read of it)."""


def weigh_parts(
    parts: Mapping[str, nn.Module],
    *,
    finite: bool = False,
    known: Weights | None = None,
    touched: Collection[int] = (),
) -> Weights:
    """Read all weights of some parts, but those that `known` holds and that have not changed since.

    `touched` are the ids of tensors that a watch saw change.

    Raises:
        BadInput: with `finite`, naming a weight that is NaN or infinite.
    """
    found: Weights = {}
    for part, module in parts.items():
        moved = moving({part: module})
        for name, (value, saved) in weights_of(part, module).items():
            before = None if known is None else known.get(name)
            if before is not None and _unchanged(name, before, value, moved, touched):
                weight = before[2]
            else:
                weight = weigh(name, value, saved=saved, finite=finite)
            found[name] = value, _version(value), weight
    return found


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) else 0


def _unchanged(
    name: str, before: tuple[Any, int, Weight], value: Any, moved: bool, touched: Collection[int]
) -> bool:
    """Whether a weight needs no second reading: it was not touched, or a library moved it and its sample
    holds.
    """
    tensor, version, weight = before
    if not isinstance(value, Tensor):
        return False
    if kept_by_library(value):
        return value is tensor
    same = value is tensor and _version(value) == version
    if not moved:
        return same and id(value) not in touched
    return value.is_meta or ((same or value is not tensor) and sample_of(name, value) == weight.sample)


@dataclass(frozen=True)
class _Reading:
    """What was read of all parts, and whether it still holds."""

    modules: tuple[nn.Module, ...]
    weights: Weights
    entries: dict[str, str]
    untold: tuple[str, ...]
    watch: Watch
    fingerprint: str
    device: torch.device
    dtype: torch.dtype


class PipelineState:
    """A pipeline as it is now.

    Args:
        pipeline: with all of its components.
        weights: what has been read of its weights already.

    >>> from dit_lens.zoo.random_pipelines import random_pipeline
    >>> pipeline = random_pipeline("sd3")
    >>> state = PipelineState(pipeline)
    >>> before = state.fingerprint
    >>> _ = pipeline.transformer.proj_out.weight.data.mul_(2)
    >>> state.fingerprint == before
    False
    """

    def __init__(self, pipeline: Any, weights: Weights | None = None) -> None:
        self.pipeline = pipeline
        # Asked for once: diffusers searches for them.
        self._names = tuple(sorted(pipeline.components))
        self._weights = weights
        self._reading: _Reading | None = None
        # From now on, whatever is done to the weights is noticed, also before the first run.
        self._opened = None if weights is None else _watch({}, weights, moving(self._parts()))
        self._tokenizers: dict[str, tuple[Any, str]] = {}

    @property
    def fingerprint(self) -> str:
        """sha256 of the weights' samples, a name for them; see `dit_lens.model.weights.fingerprint`."""
        return self.current().fingerprint

    def current(self) -> _Reading:
        """What was read of the parts, read again where they changed.

        Raises:
            BadInput: a step cache, a skipped layer or a processor with which a lens cannot measure.
        """
        parts = self._parts()
        reading = self._reading
        if (
            reading is None
            or not _identical(reading.modules, tuple(parts.values()))
            or reading.watch.changed()
        ):
            require_supported(parts)
            watch = self._opened if reading is None else reading.watch
            touched = () if watch is None else watch.touched()
            self._opened = None
            self._weights = weigh_parts(parts, known=self._weights, touched=touched)
            self._reading = reading = self._read(parts, self._weights)
        return reading

    def _parts(self) -> dict[str, nn.Module]:
        found = {name: getattr(self.pipeline, name, None) for name in self._names}
        return {name: part for name, part in found.items() if isinstance(part, nn.Module)}

    def _read(self, parts: Mapping[str, nn.Module], weights: Weights) -> _Reading:
        teller = Teller()
        entries: dict[str, str] = {}
        for part, module in parts.items():
            own = {
                name: read.content for name, (_, _, read) in weights.items() if name.startswith(f"{part}.")
            }
            entries[f"{part} weights"] = digest_of(own)[:32]
            entries |= described(part, module, teller).entries(part)
        return _Reading(
            modules=tuple(parts.values()),
            weights=weights,
            entries=entries,
            untold=tuple(teller.untold),
            watch=_watch(parts, weights, moving(parts)),
            fingerprint=fingerprint({name: read for name, (_, _, read) in weights.items()}),
            # diffusers walks through all modules to find them.
            device=torch.device(self.pipeline._execution_device),
            dtype=self.pipeline.transformer.dtype,
        )

    def identity(self, sampling: Sampling) -> RunIdentity:
        """What a run under this sampling depends on, at this moment.

        Raises:
            BadInput: as `current`, or a scheduler that the denoising loop cannot follow.
        """
        from dit_lens.model.sampling import schedule

        reading = self.current()
        teller = Teller(untold=list(reading.untold))
        pipeline, device = self.pipeline, reading.device
        scheduler = schedule(pipeline, sampling, device)
        switches = precision(device.type)
        hooks = global_hooks(teller)
        entries = {
            **reading.entries,
            **{name: self._tokenizer(name, teller) for name in self._names if name.startswith("tokenizer")},
            "pipeline": digest_of(_about_pipeline(pipeline, teller))[:32],
            "scheduler": _class_of(scheduler, pipeline.scheduler, teller),
            "schedule": schedule_text(scheduler),
            "device": device.type,
            "dtype": str(reading.dtype).removeprefix("torch."),
            **({"precision": ", ".join(f"{k} {v}" for k, v in switches.items())} if switches else {}),
            **({"hooks on all modules": str(hooks)} if hooks else {}),
        }
        about = {"scheduler settings": _settings_text(scheduler.config)}
        return RunIdentity(entries=entries, about=about, untold=tuple(dict.fromkeys(teller.untold)))

    def _tokenizer(self, name: str, teller: Teller) -> str:
        tokenizer = getattr(self.pipeline, name, None)
        if tokenizer is None:
            return "none"
        # Its whole vocabulary is read once; what can be set on it is looked at each time.
        stamp = (
            tokenizer,
            len(tokenizer),
            tokenizer.model_max_length,
            tokenizer.padding_side,
            tokenizer.truncation_side,
            tokenizer.pad_token,
        )
        known = self._tokenizers.get(name)
        if known is None or known[0] != stamp:
            known = (
                stamp,
                digest_of([*stamp[1:], _vocabulary(tokenizer), teller.code(type(tokenizer), name)])[:32],
            )
            self._tokenizers[name] = known
        return known[1]


def _watch(parts: Mapping[str, nn.Module], weights: Weights, moved: bool) -> Watch:
    return Watch(parts.values(), [value for value, _, _ in weights.values()], values=not moved)


def _identical(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))


def _vocabulary(tokenizer: Any) -> Any:
    """How a tokenizer cuts text. Truncation and padding are left out: every call sets them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return sorted(tokenizer.get_vocab().items())
    data = json.loads(backend.to_str())
    return {key: value for key, value in data.items() if key not in ("truncation", "padding")}


def _about_pipeline(pipeline: Any, teller: Teller) -> Any:
    """The pipeline's own code and settings, as far as they are used: encoding prompts, decoding images."""
    kept = ("vae_scale_factor", "tokenizer_max_length", "default_sample_size", "patch_size")
    processor = pipeline.image_processor
    _require_own(pipeline, "the pipeline", ("encode_prompt", "prepare_latents"), teller)
    _require_own(processor, "the image processor", ("postprocess",), teller)
    return [
        teller.code(type(pipeline), "the pipeline"),
        {name: getattr(pipeline, name, None) for name in kept},
        teller.code(type(processor), "the image processor"),
        {key: str(value) for key, value in processor.config.items() if not key.startswith("_")},
    ]


def _class_of(scheduler: Any, own: Any, teller: Teller) -> str:
    """The scheduler's class; steps of anybody else's are foreign."""
    _require_own(own, "the scheduler", ("step", "set_timesteps", "scale_noise"), teller)
    return str(teller.code(type(scheduler), "the scheduler")).rpartition(".")[2]


def _require_own(value: Any, what: str, used: tuple[str, ...], teller: Teller) -> None:
    """Note methods that were put in the place of a library object's own: on it, or for those `used` on its
    class.
    """
    for name, there in vars(value).items():
        if (
            callable(there)
            and not isinstance(there, nn.Module)
            and callable(getattr(type(value), name, None))
        ):
            teller.untold.append(f"{what}'s {name} ({name_of(there)})")
    for name in used:
        there = getattr(type(value), name, None)
        if there is not None and is_library(type(value)) and not is_library(there):
            teller.untold.append(f"{what}'s {name} ({name_of(there)})")


def schedule_text(scheduler: Any) -> str:
    """A schedule for a reader, and a digest of every noise level and timestep as they will run.

    >>> schedule_text(lens.prepare("a red circle", sampling=lens.sampling(steps=4)).scheduler)
    '4 steps, sigma 1, 0.8577, …, 0.008929, 0 (...)'
    """
    sigmas, timesteps = (
        np.asarray(each.cpu(), dtype=np.float64) for each in (scheduler.sigmas, scheduler.timesteps)
    )
    levels = [f"{each:.4g}" for each in sigmas]
    if len(levels) > 4:
        levels[2:-2] = ["…"]
    exact = [[float(value).hex() for value in each] for each in (sigmas, timesteps)]
    return f"{len(sigmas) - 1} steps, sigma {', '.join(levels)} ({digest_of(exact)[:12]})"


def _settings_text(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(config.items()) if not key.startswith("_"))


def scorer_digest(scorer: Any) -> str:
    """sha256 of whatever rates images, as it is now: its code and settings, and the models that it holds.

    >>> scorer_digest(torch.nn.Linear(1, 1)) == scorer_digest(torch.nn.Linear(1, 2))
    False
    """
    return digest_of(_scorer(scorer, _SCORER_DEPTH))


def _scorer(value: Any, depth: int) -> Any:
    if isinstance(value, nn.Module):
        return _model_digest(value)
    if hasattr(value, "get_vocab"):
        return _vocabulary(value)
    teller = Teller(own_code=True)
    if (
        depth == 0
        or isinstance(value, Tensor | type)
        or not hasattr(value, "__dict__")
        or hasattr(value, "__qualname__")
    ):
        return teller.tell(value, "the scorer", 1)
    return [
        teller.code(type(value), "the scorer"),
        {k: _scorer(v, depth - 1) for k, v in vars(value).items()},
    ]


def _model_digest(model: nn.Module) -> str:
    """sha256 of a model beside the pipeline: weights, modules, settings; read once, and again when it
    changes.
    """
    known = _MODELS.get(id(model))
    if known is None or known[0] is not model or known[1].changed():
        weights = weigh_parts({"model": model})
        modules = described("model", model, Teller(own_code=True)).digest
        content = digest_of([modules, {name: read.content for name, (_, _, read) in weights.items()}])
        watch = Watch([model], [value for value, _, _ in weights.values()])
        _MODELS[id(model)] = known = model, watch, content
    return known[2]


_SCORER_DEPTH = 3

# Scorers are few and live as long as the process; held beside their digest, an id cannot be used again.
_MODELS: dict[int, tuple[nn.Module, Watch, str]] = {}
