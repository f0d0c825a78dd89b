"""What a declared analysis says: which model, prompts, seeds, sampling, channels, and which questions.

The values here are frozen and hold no behaviour beyond their own consistency; reading them from files is
`reading`, carrying them out is `run`. Their docstrings are the JSON Schema's descriptions.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from dit_lens.analysis.control_names import Draws, DrawsFit, EffectControl, MapControl
from dit_lens.analysis.fairness import require_held_out_pairs, require_useful_controls
from dit_lens.analysis.model_spec import ModelSpec
from dit_lens.analysis.spatial_spec import SpatialSpec
from dit_lens.analysis.transport_spec import (
    GuidanceSpec,
    SourceSpec,
    TransportSpec,
    require_carried_along,
)
from dit_lens.errors import BadInput
from dit_lens.graph.interventions import Zero
from dit_lens.graph.spec import Operation
from dit_lens.methods.controls import default_draws, energy_matched

Statistic = Literal["abs_mean", "mean_abs", "max_abs", "p999"]
Stream = Literal["image", "context"]
Branch = Literal["cond", "uncond"]
ChannelSection = Literal[
    "spectrum",
    "ratio_map",
    "life",
    "agreement",
    "stability",
    "variance",
    "births",
    "adaln",
    "token_maps",
]
EffectSection = Literal[
    "disruption",
    "bias_or_carrier",
    "semantics_or_detail",
    "single_or_all",
    "dose",
    "step_map",
    "final_map",
    "patch_map",
]
StageSection = Literal["spatial", "transport_text", "transport_image", "detail_guidance"]
JudgedSection = Literal[EffectSection, StageSection]
Section = Literal[ChannelSection, JudgedSection]
CHANNEL_SECTIONS: tuple[ChannelSection, ...] = ChannelSection.__args__  # type: ignore[attr-defined]
"""What one pass over the prompts answers; each is a table of the run and a section of its report."""

EFFECT_SECTIONS: tuple[EffectSection, ...] = EffectSection.__args__  # type: ignore[attr-defined]
"""What edited runs of held-out prompts answer; likewise."""

JUDGED_SECTIONS: tuple[JudgedSection, ...] = JudgedSection.__args__  # type: ignore[attr-defined]
"""All questions that held-out prompts judge."""

USERS: dict[str, tuple[str, ...]] = {
    "effects": JUDGED_SECTIONS,
    "spatial": ("spatial",),
    "transport": ("transport_text", "transport_image"),
    "source": ("transport_image",),
    "guidance": ("detail_guidance",),
}
"""Parts of a spec, and the sections that read them."""

SELECTIONS = ("top_k", "ratio", "rule", "chosen", "file")
"""Ways to tell massive channels from the others; an analysis uses one."""

Count = Annotated[StrictInt, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Number = StrictInt | StrictFloat
Text = Annotated[StrictStr, Field(min_length=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SamplingSpec(_Spec):
    """How images are sampled. What is absent is the model's own default."""

    steps: Count | None = None
    """Denoising steps."""
    guidance_scale: Annotated[Number, Field(ge=0, allow_inf_nan=False)] | None = None
    """Classifier-free guidance; 1 and below means the conditional branch alone."""
    height: Count | None = None
    """Pixels."""
    width: Count | None = None
    """Pixels."""
    max_sequence_length: Annotated[StrictInt, Field(ge=0)] | None = None
    """Tokens given to the T5 encoder (or their zero padding, where there is none)."""
    negative_prompt: StrictStr | None = None
    """The unconditional branch's text."""

    def given(self) -> dict[str, Any]:
        """Only what the spec sets, as keyword arguments."""
        return self.model_dump(exclude_none=True)


class ChannelsSpec(_Spec):
    """How massive channels are told from the others. At most one of `top_k`, `ratio`, `rule`, `chosen` and
    `file`."""

    top_k: Count | None = None
    """The k largest channels of every block."""
    ratio: Annotated[Number, Field(gt=0, allow_inf_nan=False)] | None = None
    """Channels at least this many times the block's median channel."""
    rule: Literal["2402.17762"] | None = None
    """The definition of arXiv 2402.17762: above 100, and 1,000 times the median."""
    chosen: dict[Index, tuple[Index, ...]] | None = None
    """Channels of one's own, such as `{4: [0, 34], 5: [0]}`: block → channels. Blocks left out have none."""
    file: Text | None = None
    """A channel set that `dit-lens discover --out` wrote; it brings its channels, stream and model."""
    found_in: tuple[Text, Text] | None = None
    """Name and fingerprint of the model that `chosen` were found in; another is refused."""
    statistic: Statistic = "abs_mean"
    """What is ranked: |mean over tokens|, mean of |x|, largest |x|, or the 99.9th percentile of |x|."""
    stream: Stream = "image"
    """Which tokens are looked at."""
    branch: Branch | Literal["both"] = "cond"
    """Branch of classifier-free guidance."""
    steps: StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]] = "all"
    """Denoising steps that count: `all`, a number, a list, a slice such as `2:8`, or
    `{fraction: [0, 0.5]}`."""

    @model_validator(mode="after")
    def _one_selection(self) -> ChannelsSpec:
        given = [name for name in SELECTIONS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(SELECTIONS)}, not {' and '.join(given)}")
        if self.chosen is not None and not any(self.chosen.values()):
            raise ValueError("chosen holds no channel; write for example {4: [0, 34]}")
        return self

    @property
    def selection(self) -> dict[str, Any]:
        """The one selection as a keyword argument; four channels where the spec names none."""
        for name in SELECTIONS:
            if (value := getattr(self, name)) is not None:
                return {name: value}
        return {"top_k": 4}

    @property
    def most(self) -> int:
        """Channels per block; where a rule will find any number, as many as stand in for them."""
        if self.chosen is not None:
            return max(map(len, self.chosen.values()))
        return self.top_k or 4


class SamplesSpec(_Spec):
    """Which images the report shows, with the massive channels' token maps beside them."""

    count: Annotated[StrictInt, Field(ge=0, le=64)] = 6
    """The first prompts, with the first seed."""
    blocks: StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]] = "0.5"
    """Blocks whose token maps are shown: numbers, a range such as `4-6`, or a fraction of depth."""
    steps: StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]] = -1
    """Denoising steps of the token maps, written as in `channels.steps`."""


class MapsSpec(_Spec):
    """The block × step maps: which cells, on how many prompts, beside which control.

    A cell of the step maps costs one forward, a cell of the final map half an image on average. With fewer
    than six prompts no p-value can reach 0.05.
    """

    blocks: StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]] = "*"
    """Blocks of the maps: `*`, numbers, a range such as `4-11`, or fractions of depth."""
    steps: StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]] = "all"
    """Denoising steps of `step_map` and `patch_map`, written as in `channels.steps`."""
    prompts: Count = 12
    """`step_map` takes the first so many held-out prompts."""
    pairs: Count = 12
    """`patch_map` takes the first so many pairs."""
    final_steps: StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]] = "::4"
    """Denoising steps of `final_map`."""
    final_prompts: Count = 8
    """`final_map` takes the first so many held-out prompts."""
    control: MapControl = energy_matched.CONTROL.name
    """What every cell is compared with: the first draw of this control (`patch_map`, to which energy says
    nothing, takes random_rank_window instead)."""


class EffectsSpec(_Spec):
    """How edits are judged: on which prompts, against which controls, by which metrics."""

    prompts: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """Held-out prompts, or a text file of them; they must not be among `prompts`, which chose the channels.
    Absent, half of `prompts` chooses the channels and the other half judges."""
    limit: Count | None = None
    """Judge edits on the first so many held-out prompts only."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """Seeds of the judged runs; absent, the first of `seeds`. Seeds of a prompt are averaged."""
    op: Operation = Field(default_factory=Zero)
    """The edit of the massive channels: a name, or a mapping such as `{op: scale, factor: 0.5}`."""
    steps: StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]] = "all"
    """Denoising steps that are edited, written as in `channels.steps`."""
    branch: Branch | Literal["both"] = "both"
    """Branch of classifier-free guidance that is edited."""
    controls: Annotated[dict[EffectControl, Draws], DrawsFit] = Field(
        default_factory=lambda: default_draws("effects")
    )
    """What else an effect could come from, and how many draws of each. semantics_or_detail compares with the
    fairest of them, single_or_all and dose with the two fairest; bias_or_carrier with token_shuffle."""
    draw_seed: Seed = 0
    """Seed of the controls' draws."""
    doses: Annotated[tuple[Count, ...], Field(min_length=2)] = (1, 2, 4, 8, 16)
    """Numbers of channels of the dose–response curve."""
    metrics: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """Metrics by name; absent, all that can be measured on the model, but for `predicted_x0`: the mean over
    steps of the drift of the predicted image, which keeps the latents of every step."""
    alignment: Text | None = None
    """A CLIP (hub id or folder) that rates prompt alignment; the embedded models bring their own."""
    lpips: Text | None = None
    """AlexNet's weights for LPIPS (arXiv 1801.03924): a file, or `cached` for torch's cache; absent, LPIPS is
    measured only where `metrics` names it, with the cached weights."""
    maps: MapsSpec = MapsSpec()
    pairs: Annotated[tuple[tuple[Text, Text], ...], Field(min_length=1)] | None = None
    """Counterfactual pairs [source, target] for `patch_map`: a list, or a text file with one
    `source -> target` per line. None of their prompts may be among those that choose the channels."""
    gallery: Annotated[StrictInt, Field(ge=0, le=16)] = 3
    """The report shows every arm's image for the first so many held-out prompts."""
    arms_per_forward: Count | None = None
    """Edited images that go through one forward together; absent, chosen for the model and halved when memory
    runs out."""

    @model_validator(mode="after")
    def _no_repetition(self) -> EffectsSpec:
        for field in ("prompts", "seeds", "doses", "metrics", "pairs"):
            values = getattr(self, field) or ()
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise BadInput(
                    f"effects.{field} holds {twice!r} more than once; it would count double",
                    path=("effects", field),
                )
        return self


class AnalysisSpec(_Spec):
    """A declared analysis: everything needed to repeat it."""

    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the run's folder; absent, the file's name."""
    title: Text
    """The report's heading; absent, made from the name."""
    question: StrictStr = ""
    """What the analysis asks, in a sentence or two; printed at the head of the report."""
    model: ModelSpec
    """The model: its name, or a mapping with `name`, `device`, `dtype`, `revision`, `drop_t5`, `offload`,
    `device_map`."""
    prompts: Annotated[tuple[Text, ...], Field(min_length=1)]
    """The prompts themselves, or a text file of them, one per line, relative to this file."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Seeds of the starting noise; every prompt is sampled once with each."""
    sampling: SamplingSpec = SamplingSpec()
    channels: ChannelsSpec = ChannelsSpec()
    """Which channels are massive: a rule, channels of one's own, or the file of a channel set."""
    sections: Annotated[tuple[Section, ...], Field(min_length=1)] = CHANNEL_SECTIONS
    """The questions to answer; each is a table of the run and a section of its report."""
    samples: SamplesSpec = SamplesSpec()
    effects: EffectsSpec = Field(default_factory=EffectsSpec)
    spatial: SpatialSpec = Field(default_factory=SpatialSpec)
    transport: TransportSpec = Field(default_factory=TransportSpec)
    source: SourceSpec = Field(default_factory=SourceSpec)
    guidance: GuidanceSpec = Field(default_factory=GuidanceSpec)
    batch_size: Count | None = None
    """Images sampled together; absent, chosen for the device. It changes no result but the last bits."""

    @model_validator(mode="after")
    def _no_repetition(self) -> AnalysisSpec:
        for field in ("prompts", "seeds", "sections"):
            values = getattr(self, field)
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"{field} holds {twice!r} more than once; it would count double")
        return self

    @model_validator(mode="after")
    def _effects_fit(self) -> AnalysisSpec:
        effects = self.effects
        for key, users in USERS.items():
            value = getattr(self, key)
            if value != type(value)() and not set(users) & set(self.sections):
                raise ValueError(
                    f"{key} is given, and no section asks for {key}; add one of {', '.join(users)} to "
                    f"sections, or remove {key} (--set {key}=null)"
                )
        require_carried_along(self.transport, self.sections)
        if not self.judged_sections:
            return self
        both = set(self.prompts) & set(effects.prompts or ())
        if both:
            raise ValueError(
                f"effects.prompts holds {sorted(both)[0]!r}, which stands in prompts too: prompts choose the "
                "channels, and what judges them must be held out"
            )
        if effects.prompts is None and len(self.prompts) < 2:
            raise ValueError(
                "effects.prompts is absent, and one prompt cannot be split into one half that chooses "
                "channels and one that judges; give effects.prompts"
            )
        if "patch_map" in self.sections and effects.pairs is None:
            raise ValueError(
                "effects.pairs is missing: patch_map carries activations between the two prompts of a pair; "
                "give [[source, target], …] or a file, or remove patch_map"
            )
        self._require_held_out_pairs()
        require_useful_controls(effects.controls, self.sections, by_default=EffectsSpec().controls)
        return self

    def _require_held_out_pairs(self) -> None:
        carried = self.transport if "transport_text" in self.sections else None
        pairs = {
            "effects.pairs": self.effects.pairs if "patch_map" in self.sections else None,
            "transport.pairs": carried.pairs if carried else None,
            "transport.far_pairs": carried.far_pairs if carried else None,
        }
        if any(pairs.values()):
            require_held_out_pairs(pairs, split(self)[0], halved=self.effects.prompts is None)

    @property
    def channel_sections(self) -> tuple[ChannelSection, ...]:
        """The sections that discovery answers."""
        return tuple(each for each in CHANNEL_SECTIONS if each in self.sections)

    @property
    def effect_sections(self) -> tuple[EffectSection, ...]:
        """The sections that edited runs answer, in the order in which a report asks them."""
        return tuple(each for each in EFFECT_SECTIONS if each in self.sections)

    @property
    def judged_sections(self) -> tuple[JudgedSection, ...]:
        """The sections that need held-out prompts."""
        return tuple(each for each in JUDGED_SECTIONS if each in self.sections)

    @property
    def hash(self) -> str:
        """The analysis' identity: sha256 over its canonical JSON, the first 16 hex digits."""
        return hash_of(self.as_data())

    def as_data(self) -> dict[str, Any]:
        """Plain data, without what is absent or unused; the same analysis gives the same data."""
        without: dict[str, Any] = {
            key: True for key, users in USERS.items() if not set(users) & set(self.sections)
        }
        without["model"] = self.model.implied
        without.setdefault("transport", self.transport.implied)
        return self.model_dump(mode="json", exclude_none=True, exclude=without)


def split(spec: AnalysisSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(prompts that choose the channels, prompts that judge); all choose where nothing is judged."""
    if not spec.judged_sections:
        return spec.prompts, ()
    if spec.effects.prompts is not None:
        return spec.prompts, spec.effects.prompts
    from dit_lens.methods.stats import split_prompts

    halves = split_prompts(spec.prompts)
    return halves.calibration, halves.held_out


def judged_seeds(spec: AnalysisSpec) -> tuple[int, ...]:
    """Seeds of the runs that judge."""
    return spec.effects.seeds or spec.seeds[:1]


def hash_of(data: Any) -> str:
    """The hash of an analysis whose data this is, as `AnalysisSpec.as_data` gives it.

    Raises `TypeError` or `ValueError` for what is no plain data.
    """
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def json_schema() -> dict[str, Any]:
    """JSON Schema of an analysis *file*, with the shorthands that a file may use.

    >>> json_schema()["required"]
    ['model', 'prompts', 'seeds']
    """
    schema = AnalysisSpec.model_json_schema()
    properties = schema["properties"]
    schema["title"] = "dit_lens analysis"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    # A file may leave out its name and title, name a model by a string, and keep its prompts in a text file.
    schema["required"] = ["model", "prompts", "seeds"]
    inner = {name: each["properties"] for name, each in schema["$defs"].items()}
    shorthands = [
        (properties, "model"),
        (properties, "prompts"),
        (properties, "channels"),
        (inner["EffectsSpec"], "prompts"),
        (inner["EffectsSpec"], "pairs"),
        (inner["TransportSpec"], "pairs"),
        (inner["TransportSpec"], "far_pairs"),
        (inner["SourceSpec"], "targets"),
    ]
    for place, field in shorthands:
        full = {key: value for key, value in place[field].items() if key not in ("description", "title")}
        place[field] = {
            "description": place[field]["description"],
            "anyOf": [{"type": "string", "minLength": 1}, full],
        }
    return schema
