"""What a part of a pipeline is besides its weights: modules and their settings, processors, hooks, adapters.

Weights say nothing of an attention processor that was exchanged, an adapter's scale or a step cache. Here
these become plain data, or a refusal by name where the lens would measure something else than it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules import module as _torch_module

from dit_lens.errors import BadInput
from dit_lens.model.identity import DECLARED, digest_of
from dit_lens.model.told import Teller, is_library, name_of
from dit_lens.model.traced import own_forward

PLACEMENT_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")
"""diffusers' hooks that move weights and compute nothing."""

COMPUTING_HOOKS = ("layerwise_casting", "peft_autocast_disable")
"""diffusers' hooks that change numbers and run every module as it is: a part of the identity."""

_FORWARDS = ("forward", "_old_forward")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")

_NO_MATTER = frozenset(
    {
        *nn.Module().__dict__,
        *_FORWARDS,
        "__nnsight__",
        "_hf_hook",
        "_diffusers_hook",
        # Where a part came from and how libraries saved, loaded, split or trained it.
        "config", "generation_config", "_internal_dict", "name_or_path", "_commit_hash", "warnings_issued",
        "_is_hf_initialized", "gradient_checkpointing", "_gradient_checkpointing_func", "hf_device_map",
        "hf_quantizer", "is_loaded_in_8bit", "is_loaded_in_4bit", "peft_config", "_hf_peft_config_loaded",
        "_tp_plan", "_ep_plan", "_pp_plan", "_fsdp_plan", "_tp_size", "_device_mesh", "all_tied_weights_keys",
        "_keep_in_fp32_modules", "_keep_in_fp32_modules_strict", "_no_split_modules", "loss_type",
        "_skip_keys_device_placement", "_keys_to_ignore_on_load_unexpected",
        "_keys_to_ignore_on_load_missing",
        "_keys_to_ignore_on_save", "_output_capturing_hooks_installed", "_weight_conversions",
    }
) - {"training"}  # fmt: skip
"""Attributes of modules that change no number, and those that are told by other means."""

_OF_BITSANDBYTES = ("in_features", "out_features", "compute_dtype", "quant_storage", "training")

_OF_CONFIGS = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version", "model_type"})
"""Settings of transformers' configurations that change no number; a dtype is told with the weights."""


@dataclass
class Described:
    """One part: a digest of all its modules and settings, and what of it a reader wants to see."""

    digest: str
    processors: Counter[str] = field(default_factory=Counter)
    hooks: Counter[str] = field(default_factory=Counter)
    adapters: dict[str, set[float]] = field(default_factory=dict)

    def entries(self, part: str) -> dict[str, str]:
        """Entries of an identity."""
        found = {f"{part} modules": self.digest[:32]}
        if self.processors:
            found[f"{part} processors"] = _counted(self.processors)
        if self.hooks:
            found[f"{part} hooks"] = _counted(self.hooks)
        if self.adapters:
            scales = {
                name: "/".join(f"{s:g}" for s in sorted(s)) for name, s in sorted(self.adapters.items())
            }
            found[f"{part} adapters"] = ", ".join(f"{name} × {scale}" for name, scale in scales.items())
        return found


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} × {count}" for name, count in sorted(counts.items()))


def described(part: str, module: nn.Module, teller: Teller) -> Described:
    """One part of a pipeline; foreign code is noted in `teller.untold` by the place where it stands."""
    found = Described("")
    lines: list[Any] = []
    configs: dict[int, Any] = {}
    for name, each in module.named_modules():
        where = f"{part}.{name}" if name else part
        settings = {k: v for k, v in vars(each).items() if k not in _NO_MATTER and not _switched_off(k, v)}
        if type(each).__module__.startswith("bitsandbytes."):
            # Besides sizes and dtypes they hold what was prepared for the device, once they have run.
            settings = {k: v for k, v in settings.items() if k in _OF_BITSANDBYTES}
        line = [name, teller.code(type(each), f"module {where}"), teller.tell(settings, f"setting {where}")]
        config = vars(each).get("config", vars(each).get("_internal_dict"))
        if config is not None and id(config) not in configs:
            configs[id(config)] = config
            line.append(teller.tell(_settings(config), f"config {where}"))
        line += [(kind, told) for kind, told in _replaced(each, where, teller) if told != ""]
        processor = vars(each).get("processor", each._modules.get("processor"))
        if processor is not None and hasattr(each, "get_processor"):
            found.processors[type(processor).__name__] += 1
        for hook_name, hook in _diffusers_hooks(each).items():
            if hook_name not in PLACEMENT_HOOKS:
                about = {k: v for k, v in vars(hook).items() if k != "fn_ref"}
                line.append([hook_name, teller.tell(about, f"hook {where}")])
                found.hooks[_named_hook(hook_name, hook)] += 1
        for adapter, scale in _active_adapters(each):
            found.adapters.setdefault(adapter, set()).add(scale)
        lines.append(line)
    found.digest = digest_of(lines)
    return found


def _switched_off(name: str, value: Any) -> bool:
    """Whether a private setting is off: libraries leave it out in one place and set it in another."""
    return name.startswith("_") and (
        value is None or value is False or (isinstance(value, dict | list) and not value)
    )


def _settings(config: Any) -> dict[str, Any]:
    """A configuration as data, without where it came from and by which version it was written."""
    if isinstance(config, Mapping):
        return {k: v for k, v in config.items() if not k.startswith("_")}
    data = config.to_dict() if hasattr(config, "to_dict") else dict(vars(config))
    kept = {k: v for k, v in data.items() if not k.startswith("_") and k not in _OF_CONFIGS}
    return {**kept, "attention": getattr(config, "_attn_implementation", None)}


def _replaced(module: nn.Module, where: str, teller: Teller) -> Iterator[tuple[str, Any]]:
    """What stands in for a module's own forward, or acts before or behind it: its kind, and what is told of
    it.
    """
    forward = own_forward(module)
    if forward is not None and not is_library(getattr(forward, "func", forward)):
        yield "forward", teller.tell(forward, f"the forward of {where}")
    # Of the class: a function that was put there by somebody else.
    elif not is_library(type(module).forward) and is_library(type(module)):
        yield "forward", teller.code(type(module).forward, f"the forward of {type(module).__name__}")
    for kind in _HOOKS:
        for hook in getattr(module, kind).values():
            # transformers puts its own on encoders when they first run; they keep outputs and change none.
            if getattr(hook, "__module__", "") != "transformers.utils.output_capturing":
                yield kind, told_hook(hook, f"the forward hook on {where}", teller)
    offload = vars(module).get("_hf_hook")
    if offload is not None and not is_library(offload):
        yield "hook", teller.tell(offload, f"the accelerate hook on {where}")
    if getattr(module, "_compiled_call_impl", None) is not None:
        yield "compiled", True


def told_hook(hook: Any, where: str, teller: Teller) -> Any:
    """A hook by its declaration, or, if it is a library's, by its name and settings; others are foreign."""
    if is_library(hook):
        return teller.tell(hook, where)
    declared = getattr(hook, DECLARED, None)
    if isinstance(declared, str):
        return declared
    teller.untold.append(f"{where} ({name_of(hook)})")
    return name_of(hook)


def global_hooks(teller: Teller) -> list[Any]:
    """Hooks on every module of the process."""
    found = ((kind, hook) for kind in _GLOBAL_HOOKS for hook in getattr(_torch_module, kind).values())
    told = ((kind, told_hook(hook, "the forward hook on all modules", teller)) for kind, hook in found)
    return [[kind, each] for kind, each in told if each != ""]


def _diffusers_hooks(module: nn.Module) -> Mapping[str, Any]:
    registry = vars(module).get("_diffusers_hook")
    return {} if registry is None else registry.hooks


def _named_hook(name: str, hook: Any) -> str:
    dtypes = [getattr(hook, f"{kind}_dtype", None) for kind in ("storage", "compute")]
    words = " → ".join(str(each).removeprefix("torch.") for each in dtypes if each is not None)
    return f"{name} ({words})" if words else name


def _active_adapters(module: Any) -> Iterator[tuple[str, float]]:
    """(adapter, scale) of a layer that peft adapts; 0 where adapters are switched off."""
    scaling = vars(module).get("scaling")
    if not isinstance(scaling, Mapping) or not hasattr(module, "active_adapters"):
        return
    for name in module.active_adapters:
        if name in scaling:
            yield name, 0.0 if module.disable_adapters else float(scaling[name])


def require_supported(parts: Mapping[str, nn.Module]) -> None:
    """Raise BadInput, naming it, for what makes parts of a pipeline run otherwise than the lens measures."""
    for part, module in parts.items():
        for name, each in module.named_modules():
            where = f"{part}.{name}" if name else part
            if type(each).__module__.startswith("torch.ao.nn.quantized.dynamic"):
                raise BadInput(
                    f"{where} is quantised dynamically ({type(each).__name__}): its activations are rounded "
                    "by their "
                    "extremes over all rows of a forward pass, so that what one edit does would depend on "
                    "the edits "
                    "beside it. Quantise weights alone (torchao's Int8WeightOnlyConfig, quanto, GGUF), or "
                    "load it as "
                    "it is."
                )
            for hook in _diffusers_hooks(each):
                if hook not in (*PLACEMENT_HOOKS, *COMPUTING_HOOKS):
                    raise BadInput(_refused_hook(hook, where, part))
            processor = type(vars(each).get("processor", each._modules.get("processor"))).__name__
            if "IPAdapter" in processor:
                raise BadInput(
                    f"An IP-Adapter is loaded: {where} has the processor {processor}, which attends to an "
                    "image "
                    "that a lens does not pass. Take it off: pipeline.unload_ip_adapter()."
                )
            if processor.startswith("PAG"):
                raise BadInput(
                    f"Perturbed-attention guidance is on: {where} has the processor {processor}, which takes "
                    "the "
                    "rows of a forward pass for three branches. Put back what was there: "
                    f"pipeline.{part}.set_attn_processor(JointAttnProcessor2_0())."
                )


def _refused_hook(hook: str, where: str, part: str) -> str:
    if hook.startswith("cp_") or "tensor_parallel" in hook:
        return f"{where} is split over several processes ({hook}); a lens needs the whole module in one."
    if "skip" in hook or "guidance" in hook:
        return (
            f"A hook leaves out or perturbs a block: {hook} on {where}. A lens would measure that model "
            "under the "
            "name of the whole one. Load the pipeline again without it; to leave a block's work out, edit "
            "it: "
            "Zero() at its attn_out and mlp_out."
        )
    return (
        f"A step cache is on: {hook} on {where}. It reuses outputs of earlier steps in place of running the "
        "module, so "
        f"that hook points would not be reached. Turn it off (pipeline.{part}.disable_cache(), where the "
        "model has it), "
        "or load the pipeline again without it."
    )
