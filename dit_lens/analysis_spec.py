"""What a declared analysis says: which model, prompts, seeds, sampling, channels, and which questions.

The values here are frozen and hold no behaviour beyond their own consistency; reading them from files is
`analysis_files`, carrying them out is `analysis`. Their docstrings are the JSON Schema's descriptions.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, model_validator

Statistic = Literal["abs_mean", "mean_abs", "max_abs", "p999"]
Stream = Literal["image", "context"]
Branch = Literal["cond", "uncond"]
Section = Literal[
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
SECTIONS: tuple[Section, ...] = Section.__args__  # type: ignore[attr-defined]
"""Every question an analysis can ask so far; each is one table of the run and one section of its report."""

SELECTIONS = ("top_k", "ratio", "rule")
"""Ways to tell massive channels from the others; an analysis uses one."""

Count = Annotated[StrictInt, Field(ge=1)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Number = StrictInt | StrictFloat
Text = Annotated[StrictStr, Field(min_length=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelSpec(_Spec):
    """Which model is opened, and how."""

    name: Text
    """An embedded model (`dit-lens list models`), a folder of a diffusers pipeline, or a hub id."""
    device: Text = "cpu"
    """Where it runs: `cpu`, `cuda`, `cuda:1`, …"""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Its weights' type; absent, the one the model's folder has on CPU in float32."""
    revision: Text | None = None
    """Branch, tag or commit of a hub id."""


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
    """How massive channels are told from the others. At most one of `top_k`, `ratio` and `rule`."""

    top_k: Count | None = None
    """The k largest channels of every block."""
    ratio: Annotated[Number, Field(gt=0, allow_inf_nan=False)] | None = None
    """Channels at least this many times the block's median channel."""
    rule: Literal["2402.17762"] | None = None
    """The definition of arXiv 2402.17762: above 100, and 1,000 times the median."""
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
            raise ValueError(f"give one of top_k, ratio and rule, not {' and '.join(given)}")
        return self

    @property
    def selection(self) -> dict[str, Any]:
        """The one selection as a keyword argument; four channels where the spec names none."""
        for name in SELECTIONS:
            if (value := getattr(self, name)) is not None:
                return {name: value}
        return {"top_k": 4}


class SamplesSpec(_Spec):
    """Which images the report shows, with the massive channels' token maps beside them."""

    count: Annotated[StrictInt, Field(ge=0, le=64)] = 6
    """The first prompts, with the first seed."""
    blocks: StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]] = "0.5"
    """Blocks whose token maps are shown: numbers, a range such as `4-6`, or a fraction of depth."""
    steps: StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[Number]] = -1
    """Denoising steps of the token maps, written as in `channels.steps`."""


class AnalysisSpec(_Spec):
    """A declared analysis: everything needed to repeat it."""

    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the run's folder; absent, the file's name."""
    title: Text
    """The report's heading; absent, made from the name."""
    question: StrictStr = ""
    """What the analysis asks, in a sentence or two; printed at the head of the report."""
    model: ModelSpec
    """The model: its name, or a mapping with `name`, `device`, `dtype`, `revision`."""
    prompts: Annotated[tuple[Text, ...], Field(min_length=1)]
    """The prompts themselves, or a text file of them, one per line, relative to this file."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Seeds of the starting noise; every prompt is sampled once with each."""
    sampling: SamplingSpec = SamplingSpec()
    channels: ChannelsSpec = ChannelsSpec()
    sections: Annotated[tuple[Section, ...], Field(min_length=1)] = SECTIONS
    """The questions to answer; each is a table of the run and a section of its report."""
    samples: SamplesSpec = SamplesSpec()
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

    @property
    def hash(self) -> str:
        """The analysis' identity: sha256 over its canonical JSON, the first 16 hex digits."""
        text = json.dumps(self.as_data(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_data(self) -> dict[str, Any]:
        """Plain data, without what is absent; the same analysis gives the same data."""
        return self.model_dump(mode="json", exclude_none=True)


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
    for field in ("model", "prompts"):
        full = {key: value for key, value in properties[field].items() if key not in ("description", "title")}
        properties[field] = {
            "description": properties[field]["description"],
            "anyOf": [{"type": "string", "minLength": 1}, full],
        }
    return schema
