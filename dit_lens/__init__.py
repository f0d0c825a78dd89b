"""dit_lens finds massive channels in diffusion transformers and tests what they do.

    import dit_lens as dl

    lens = dl.load("shapes-sd3")                   # or a hub id, a local folder, a diffusers pipeline
    stats = dl.discover(lens, ["a large red plain star in the centre on a white background"], seeds=[0])
    massive = stats.select(top_k=4)

Importing the package is cheap: torch, diffusers and nnsight load when a name below is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput, DitLensError, RunFailure

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dit_lens.analysis.run import run_analysis
    from dit_lens.graph.graph import InterventionGraph
    from dit_lens.graph.interventions import (
        Add,
        Clamp,
        EnergyMatched,
        Identity,
        Mean,
        Noise,
        Patch,
        PatchMatched,
        Resample,
        Scale,
        TokenShuffle,
        Zero,
    )
    from dit_lens.methods.along_steps import compare_trajectories
    from dit_lens.methods.arms import CLEAN, Arm, ablation_arm, control_arm
    from dit_lens.methods.channels import ChannelSet, ChannelStatistics, discover
    from dit_lens.methods.controls import controls
    from dit_lens.methods.effect_tables import compare
    from dit_lens.methods.image_metrics import compare_images
    from dit_lens.methods.map_cells import EffectMap
    from dit_lens.methods.measures import default_measures
    from dit_lens.methods.outside_scores import export_pairs, import_scores
    from dit_lens.methods.patching import effect_map
    from dit_lens.methods.questions import QUESTIONS
    from dit_lens.methods.questions.question import Setting
    from dit_lens.methods.spatial import Mask, segment_prompt
    from dit_lens.methods.study import run_study
    from dit_lens.methods.token_maps import token_maps
    from dit_lens.methods.verdicts import judge
    from dit_lens.model.hook_points import HookPoint
    from dit_lens.model.inversion import encode, inverted_path, noised_path
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.loading import load
    from dit_lens.model.matching import matched_path
    from dit_lens.model.pictures import read_picture
    from dit_lens.model.sampling import Sampling, Trajectory
    from dit_lens.report import plots
    from dit_lens.run.runner import run

# Public names and the module each lives in, in the order in which a user meets them.
_HOMES = {
    "load": "dit_lens.model.loading",
    "DiTLens": "dit_lens.model.lens",
    "Sampling": "dit_lens.model.sampling",
    "Trajectory": "dit_lens.model.sampling",
    "HookPoint": "dit_lens.model.hook_points",
    "discover": "dit_lens.methods.channels",
    "ChannelStatistics": "dit_lens.methods.channels",
    "ChannelSet": "dit_lens.methods.channels",
    "token_maps": "dit_lens.methods.token_maps",
    "controls": "dit_lens.methods.controls",
    "InterventionGraph": "dit_lens.graph.graph",
    "run": "dit_lens.run.runner",
    "Identity": "dit_lens.graph.interventions",
    "Zero": "dit_lens.graph.interventions",
    "Mean": "dit_lens.graph.interventions",
    "Scale": "dit_lens.graph.interventions",
    "Clamp": "dit_lens.graph.interventions",
    "Add": "dit_lens.graph.interventions",
    "Noise": "dit_lens.graph.interventions",
    "Resample": "dit_lens.graph.interventions",
    "TokenShuffle": "dit_lens.graph.interventions",
    "Patch": "dit_lens.graph.interventions",
    "EnergyMatched": "dit_lens.graph.interventions",
    "PatchMatched": "dit_lens.graph.interventions",
    "effect_map": "dit_lens.methods.patching",
    "EffectMap": "dit_lens.methods.map_cells",
    "Arm": "dit_lens.methods.arms",
    "CLEAN": "dit_lens.methods.arms",
    "ablation_arm": "dit_lens.methods.arms",
    "control_arm": "dit_lens.methods.arms",
    "default_measures": "dit_lens.methods.measures",
    "compare_images": "dit_lens.methods.image_metrics",
    "compare_trajectories": "dit_lens.methods.along_steps",
    "export_pairs": "dit_lens.methods.outside_scores",
    "import_scores": "dit_lens.methods.outside_scores",
    "run_study": "dit_lens.methods.study",
    "compare": "dit_lens.methods.effect_tables",
    "judge": "dit_lens.methods.verdicts",
    "QUESTIONS": "dit_lens.methods.questions",
    "Setting": "dit_lens.methods.questions.question",
    "segment_prompt": "dit_lens.methods.spatial",
    "Mask": "dit_lens.methods.spatial",
    "read_picture": "dit_lens.model.pictures",
    "encode": "dit_lens.model.inversion",
    "noised_path": "dit_lens.model.inversion",
    "inverted_path": "dit_lens.model.inversion",
    "matched_path": "dit_lens.model.matching",
    "run_analysis": "dit_lens.analysis.run",
    "plots": "dit_lens.report.plots",
}

# Names that stand for the module itself, not for something in it.
_MODULES = ("plots",)

__all__ = [
    "load",
    "DiTLens",
    "Sampling",
    "Trajectory",
    "HookPoint",
    "discover",
    "ChannelStatistics",
    "ChannelSet",
    "token_maps",
    "controls",
    "InterventionGraph",
    "run",
    "Identity",
    "Zero",
    "Mean",
    "Scale",
    "Clamp",
    "Add",
    "Noise",
    "Resample",
    "TokenShuffle",
    "Patch",
    "EnergyMatched",
    "PatchMatched",
    "effect_map",
    "EffectMap",
    "Arm",
    "CLEAN",
    "ablation_arm",
    "control_arm",
    "default_measures",
    "compare_images",
    "compare_trajectories",
    "export_pairs",
    "import_scores",
    "run_study",
    "compare",
    "judge",
    "QUESTIONS",
    "Setting",
    "segment_prompt",
    "Mask",
    "read_picture",
    "encode",
    "noised_path",
    "inverted_path",
    "matched_path",
    "run_analysis",
    "plots",
    "DitLensError",
    "BadInput",
    "RunFailure",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dit_lens' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    value = home if name in _MODULES else getattr(home, name)
    # `run` is a room as well as a function. The room answers calls like the function and keeps the name, for
    # whoever imports or patches `dit_lens.run.…`.
    return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
