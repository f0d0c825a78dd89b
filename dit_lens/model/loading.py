"""`load`: a lens from an embedded model's name, a folder, a hub id or a pipeline object.

Every way this can fail ends in a message that says what was asked, what is there, and what to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lens import zoo
from dit_lens.errors import BadInput, RunFailure, did_you_mean
from dit_lens.model.adapters import known_transformers
from dit_lens.model.hub import hub_explained, hub_file
from dit_lens.paths import named_path
from dit_lens.words import known_words

if TYPE_CHECKING:
    import torch

    from dit_lens.model.lens import DiTLens

PIPELINE_CLASS = "StableDiffusion3Pipeline"
DEFAULTS_FILE = "dit_lens.json"
_OFFLOADS = ("model", "sequential")
_T5_PARTS = ("text_encoder_3", "tokenizer_3")


@known_words
def load(
    source: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    drop_t5: bool | None = None,
    offload: str | None = None,
    device_map: str | None = None,
    local_files_only: bool = False,
    check_weights: bool = True,
) -> DiTLens:
    """Open a model.

    Args:
        source: name of an embedded model (`dit_lens.zoo.names()`), folder of a diffusers SD3 pipeline, hub
            id such as `stabilityai/stable-diffusion-3.5-medium`, or a `StableDiffusion3Pipeline` object,
            which is wrapped and not copied: `device`, `dtype`, `drop_t5` and `offload` change it for all who
            hold it, and sampling defaults that a folder brings are not looked for.
        device: where to compute; the CPU unless given. A pipeline object stays where it is unless given.
        dtype: such as `"bfloat16"`; float32 on the CPU and bfloat16 elsewhere unless given. A pipeline
            object keeps its own.
        revision: branch, tag or commit of a hub id.
        drop_t5: leave the T5 encoder out (its tokens become zeros), which saves most of the memory. By
            default T5 is left out where the pipeline was saved without it.
        offload: `"model"` or `"sequential"`: keep weights on the CPU and move them to `device` while they
            compute.
        device_map: passed to diffusers, such as `"balanced"` over several GPUs; excludes `device` and
            `offload`.
        local_files_only: do not ask the hub; take what was downloaded before.
        check_weights: refuse a checkpoint with NaN or infinite weights; one pass over them.

    Raises:
        BadInput: unknown name, a folder that is no SD3 pipeline, missing files, a gated repository.
        RunFailure: the hub could not be reached, or not enough memory.

    >>> import dit_lens as dl
    >>> lens = dl.load("shapes-sd3")
    >>> lens.num_blocks, lens.num_channels, lens.dtype
    (8, 128, torch.float32)
    """
    if offload is not None and offload not in _OFFLOADS:
        raise BadInput(f"offload={offload!r} is unknown. Use {' or '.join(map(repr, _OFFLOADS))}.")
    if device_map is not None and (device is not None or offload is not None):
        raise BadInput("device_map places the parts itself; leave out device and offload.")
    target = _device(device)
    if offload is not None and (target is None or target.type == "cpu"):
        raise BadInput(f"offload={offload!r} needs an accelerator to offload from: add device='cuda'.")
    wanted_dtype = _dtype(dtype)
    if isinstance(source, str | os.PathLike):
        name, where = _locate(os.fspath(source))
        if device_map is None and target is None:
            target = _device("cpu")
        if wanted_dtype is None:
            wanted_dtype = _dtype("float32" if target is not None and target.type == "cpu" else "bfloat16")
        options = {
            "dtype": wanted_dtype,
            "revision": revision,
            "local_files_only": local_files_only,
            "device_map": device_map,
        }
        pipeline = _read(name, where, drop_t5, options)
        for part in (pipeline.transformer, pipeline.vae):
            # Without accelerate, diffusers reads its own models in float32 whatever dtype it was asked for.
            if part.dtype != wanted_dtype:
                part.to(dtype=wanted_dtype)
        defaults = _defaults(where)
    else:
        name, pipeline, defaults = _object_name(source), source, {}
        if revision is not None or device_map is not None:
            raise BadInput("revision and device_map apply to a folder or hub id, not to a pipeline object.")
        if drop_t5:
            pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
        if wanted_dtype is not None:
            pipeline.to(dtype=wanted_dtype)
    return _open(name, pipeline, defaults, target, offload, check_weights)


def _open(
    name: str,
    pipeline: Any,
    defaults: Mapping[str, Any],
    device: torch.device | None,
    offload: str | None,
    check_weights: bool,
) -> DiTLens:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.memory import memory_explained
    from dit_lens.model.state import weigh_parts
    from dit_lens.model.structure import require_supported
    from dit_lens.model.weights import modules_of

    parts = modules_of(pipeline)
    require_supported(parts)
    # Before offloading, which can leave weights on the meta device.
    try:
        weights = weigh_parts(parts, finite=check_weights)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        module = getattr(pipeline, part, None)
        if module is not None:
            module.eval()
    with memory_explained(f"moving {name} to {device}"):
        _place(pipeline, device, offload)
    return DiTLens(pipeline, name=name, defaults=defaults, weights=weights)


def _place(pipeline: Any, device: torch.device | None, offload: str | None) -> None:
    # Offloading comes before nnsight's wrapper: hooks added after it would fire twice.
    if offload is not None:
        enable = {"model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}[offload]
        try:
            getattr(pipeline, enable)(device=device)
        except ImportError as error:
            raise BadInput(
                f"offload={offload!r} needs a package: {error}. pip install 'dit-lens[offload]'"
            ) from None
    elif device is not None and pipeline.device != device:
        pipeline.to(device)


def _device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    import torch

    try:
        asked = torch.device(device)
    except (RuntimeError, TypeError):
        raise BadInput(f"{device!r} is no device. Use 'cpu', 'cuda', 'cuda:1' or 'mps'.") from None
    if asked.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(
            f"device={str(device)!r} was asked for, but torch sees no CUDA device. Use device='cpu'."
        )
    if asked.type == "cuda" and asked.index is not None and asked.index >= torch.cuda.device_count():
        raise BadInput(f"There is no {asked}: torch sees {torch.cuda.device_count()} CUDA devices.")
    if asked.type == "mps" and not torch.backends.mps.is_available():
        raise BadInput("device='mps' was asked for, but torch sees no Apple GPU. Use device='cpu'.")
    return asked


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None:
        return None
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    aliases = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    if isinstance(dtype, str):
        name = dtype.removeprefix("torch.")
        dtype = known.get(aliases.get(name, name), dtype)
    if dtype not in known.values():
        raise BadInput(f"dtype={dtype!r} is none of {', '.join(known)}.{did_you_mean(str(dtype), known)}")
    return dtype  # type: ignore[return-value]


def _locate(source: str) -> tuple[str, Path | str]:
    """(name, folder or hub id) of a source given as text."""
    embedded = zoo.names()
    if source in embedded:
        return source, zoo.path(source)
    path = named_path(source, asked_by="model")
    if path.is_dir():
        return path.resolve().name, path
    if path.is_file():
        raise BadInput(
            f"{source} is a file. A model is a folder with model_index.json; for a single-file checkpoint "
            f"use diffusers.{PIPELINE_CLASS}.from_single_file(...) and pass the pipeline object to load."
        )
    have = f"Embedded models: {', '.join(embedded) or 'none (train one: python -m dit_lens.zoo.train)'}."
    if re.fullmatch(r"[\w\-][\w.\-]*/[\w\-][\w.\-]*", source) and not source.startswith("."):
        return source, source
    if "/" in source or "\\" in source or source.startswith((".", "~")):
        parent = path.parent
        near = [str(parent / each.name) for each in parent.iterdir()] if parent.is_dir() else []
        raise BadInput(f"There is no folder {source}.{did_you_mean(str(path), near)} {have}")
    raise BadInput(
        f"No model is named {source!r}.{did_you_mean(source, embedded)} {have} Else give the folder of a "
        "diffusers SD3 pipeline, or a hub id such as stabilityai/stable-diffusion-3.5-medium."
    )


def _object_name(source: Any) -> str:
    transformer = getattr(source, "transformer", None)
    known = known_transformers()
    kind = type(transformer).__name__
    if type(source).__name__ == PIPELINE_CLASS and kind not in known:
        compiled = " from torch.compile" if hasattr(transformer, "_orig_mod") else ""
        fix = " Set pipeline.transformer = pipeline.transformer._orig_mod." if compiled else ""
        raise BadInput(
            f"The pipeline's transformer is {kind}{compiled}; a lens needs {', '.join(known)} itself.{fix}"
        )
    if kind not in known or not hasattr(source, "encode_prompt"):
        hint = (
            f"Its transformer is a {kind}, which no adapter knows: no conversion makes it one that a lens "
            "opens."
            if transformer is not None
            else "Pass the whole pipeline, not one of its parts."
        )
        raise BadInput(
            f"load takes a name, a folder, a hub id or a {PIPELINE_CLASS} (transformer: {', '.join(known)}), "
            f"not {type(source).__name__}. {hint}"
        )
    if type(source).__name__ != PIPELINE_CLASS:
        raise BadInput(
            f"The pipeline is a {type(source).__name__}, whose sampling differs from {PIPELINE_CLASS}. "
            f"Convert it: {PIPELINE_CLASS}.from_pipe(pipeline)."
        )
    return str(source.config.get("_name_or_path") or PIPELINE_CLASS)


def _read(name: str, where: Path | str, drop_t5: bool | None, options: dict[str, Any]) -> Any:
    """The pipeline in a folder or on the hub."""
    revision, local = options["revision"], options["local_files_only"]
    if isinstance(where, str):
        with hub_explained(name, revision):
            downloaded = hub_file(where, "model_index.json", revision, local)
        if downloaded is None:
            raise BadInput(
                f"{name} on the hub has no model_index.json: it is no diffusers pipeline. For SD3 use a "
                "repository in diffusers format, such as stabilityai/stable-diffusion-3-medium-diffusers."
            )
        index = _index(name, None, Path(downloaded))
    else:
        if revision is not None:
            raise BadInput(f"revision={revision!r} applies to a hub id; {name} is a folder.")
        index = _index(name, where, where / "model_index.json")
    without_t5 = all(index.get(part, [None])[0] is None for part in _T5_PARTS)
    if drop_t5 is False and without_t5:
        raise BadInput(
            f"{name} was saved without T5 (text_encoder_3 is null); load it without drop_t5=False."
        )
    skip_t5 = without_t5 if drop_t5 is None else drop_t5
    if isinstance(where, Path):
        _require_parts(name, where, index, skip_t5)
    return _from_pretrained(name, where, skip_t5, options)


def _index(name: str, folder: Path | None, index_file: Path) -> dict[str, Any]:
    """model_index.json, if it describes an SD3 pipeline."""
    if folder is not None and not index_file.is_file():
        raise BadInput(f"{folder} is no {PIPELINE_CLASS}: it has no model_index.json. {_what_it_is(folder)}")
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{index_file} is no JSON: {error}.") from None
    found = index.get("_class_name") if isinstance(index, dict) else None
    if found != PIPELINE_CLASS:
        raise BadInput(
            f"{name} is a {found}, not a {PIPELINE_CLASS}; only SD3 and SD3.5 pipelines have an adapter."
        )
    transformer = (index.get("transformer") or [None, None])[1]
    if transformer not in known_transformers():
        raise BadInput(
            f"{name} has a transformer {transformer}; adapters exist for {', '.join(known_transformers())}."
        )
    return index


def _what_it_is(folder: Path) -> str:
    config = folder / "config.json"
    if config.is_file():
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
            found = json.loads(config.read_text(encoding="utf-8"))
            kind = found.get("_class_name") or ", ".join(found.get("architectures") or [])
            return f"Its config.json says {kind or 'nothing known'}: one part; give the whole pipeline."
    inside = sorted(each.name for each in folder.iterdir())
    for each in inside:
        if (folder / each / "model_index.json").is_file():
            return f"Did you mean {folder / each}?"
    return f"It holds {', '.join(inside[:8]) or 'nothing'}{' …' if len(inside) > 8 else ''}."


def _require_parts(name: str, folder: Path, index: Mapping[str, Any], skip_t5: bool) -> None:
    """Raise BadInput if a part listed in model_index.json is not there with its weights."""
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        if part in _T5_PARTS and skip_t5:
            continue
        place = folder / part
        if not place.is_dir():
            hint = (
                " Load with drop_t5=True to run without T5 (its tokens become zeros), or add the folder."
                if part in _T5_PARTS
                else " Download or save the pipeline again."
            )
            raise BadInput(
                f"{name}: model_index.json lists {part} ({entry[1]}), but {place} does not exist.{hint}"
            )
        if part.startswith("tokenizer") or part in ("scheduler", "feature_extractor"):
            continue
        if not (place / "config.json").is_file():
            raise BadInput(f"{name}: {place} has no config.json. Download or save the pipeline again.")
        if not any(place.glob("*.safetensors")):
            others = sorted(each.name for each in place.iterdir() if each.suffix in (".bin", ".pt", ".ckpt"))
            pickled = (
                f" {', '.join(others)} is a pickle, which can run code and is not read." if others else ""
            )
            raise BadInput(
                f"{name}: {place} has no *.safetensors weights.{pickled} "
                "Save the pipeline with save_pretrained(..., safe_serialization=True)."
            )


def _from_pretrained(name: str, where: Path | str, skip_t5: bool, options: dict[str, Any]) -> Any:
    import diffusers
    from safetensors import SafetensorError

    from dit_lens.model.memory import memory_explained

    arguments = {k: v for k, v in options.items() if v is not None}
    # diffusers 0.42 renamed the argument.
    if tuple(int(n) for n in diffusers.__version__.split(".")[:2]) < (0, 42):
        arguments["torch_dtype"] = arguments.pop("dtype")
    if skip_t5:
        # diffusers saves an absent encoder as [null, null] and wants to be told again that it is absent.
        arguments |= {"text_encoder_3": None, "tokenizer_3": None}
    try:
        with (
            _quiet(bars=isinstance(where, str)),
            hub_explained(name, options["revision"]),
            memory_explained(f"loading {name}"),
        ):
            from diffusers import StableDiffusion3Pipeline

            return StableDiffusion3Pipeline.from_pretrained(where, use_safetensors=True, **arguments)
    except SafetensorError as error:
        raise BadInput(f"{name}: a weights file is damaged ({error}). Download or save it again.") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        if isinstance(error, BadInput | RunFailure):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"{name} cannot be read as a {PIPELINE_CLASS}: {first}") from error


@contextlib.contextmanager
def _quiet(*, bars: bool) -> Iterator[None]:
    """Keep diffusers and transformers from reporting what is normal here; restore what was set."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    settings = [
        (log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (of_diffusers, of_transformers)
    ]
    try:
        for log, _, _ in settings:
            log.set_verbosity_error()
            if not bars:
                log.disable_progress_bar()
        yield
    finally:
        for log, verbosity, drew_bars in settings:
            log.set_verbosity(verbosity)
            if drew_bars:
                log.enable_progress_bar()


def _defaults(where: Path | str) -> Mapping[str, Any]:
    """Sampling defaults from `dit_lens.json` beside model_index.json, if a folder has it."""
    if isinstance(where, str):
        return {}
    file = where / DEFAULTS_FILE
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is no JSON: {error}.") from None
    defaults = content.get("sampling", {}) if isinstance(content, dict) else None
    if not isinstance(defaults, dict):
        raise BadInput(f"{file} must hold an object such as {{'sampling': {{'steps': 20}}}}.")
    return defaults
