"""What a spec says of the spatial question; the docstrings are the JSON Schema's descriptions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from dit_lens.analysis.control_names import Draws, DrawsFit, SpatialControl
from dit_lens.errors import BadInput
from dit_lens.methods.controls import default_draws

Count = Annotated[StrictInt, Field(ge=1)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Where = StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[StrictInt | StrictFloat]]


class SpatialSpec(BaseModel):
    """Where massive channels point: image tokens clustered by them, compared with the subject's true mask."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prompts: Count = 48
    """Judge on the first so many held-out prompts."""
    calibration: Count = 12
    """Choose block and step on the first so many of the prompts that chose the channels."""
    seeds: Annotated[tuple[Annotated[StrictInt, Field(ge=0, lt=2**63)], ...], Field(min_length=1)] | None = (
        None
    )
    """Seeds of these runs; absent, those that judge effects. Seeds of a prompt are averaged."""
    blocks: Where = "*"
    """Blocks to look after: `*`, numbers, a range such as `4-11`, or fractions of depth."""
    steps: Where | None = None
    """Denoising steps to look at, written as in `channels.steps`; absent, five spread over the run. The last
    step, the paper's, always belongs to them."""
    branch: Literal["cond", "uncond"] = "cond"
    """Branch of classifier-free guidance whose tokens are clustered."""
    normalise: Literal["minmax", "zscore", "none"] = "minmax"
    """What is done to every channel, over the tokens, before clustering."""
    method: Literal["kmeans", "gmm", "spectral"] = "kmeans"
    """How tokens are clustered."""
    clusters: Annotated[StrictInt, Field(ge=2)] = 2
    """How many clusters; one of them is the subject."""
    rule: Literal["border", "brighter", "smaller"] = "border"
    """Which cluster is the subject, without looking at the truth: the one with the smallest share of its
    tokens at the picture's border, the one with the larger channels (arXiv 2605.13974), or the smallest."""
    truth: Annotated[StrictStr, Field(min_length=1)] = "picture"
    """Where the subject truly is: `picture` or `caption` (the embedded world's exact masks), a folder with
    masks.yaml, or `transformers:MODEL#LABEL` (a segmentation model)."""
    controls: Annotated[dict[SpatialControl, Draws], Field(min_length=1), DrawsFit] = Field(
        default_factory=lambda: default_draws("spatial")
    )
    """Which other channels are compared with, and how many draws of each."""
    draw_seed: Seed = 0
    """Seed of the controls' draws and of the clusters' starting points."""
    doses: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 4, 8, 16)
    """Numbers of channels to cluster by at the chosen places; they are doubled on, up to all channels."""
    dose_draws: Count = 2
    """At most so many draws of each control there."""
    overlays: Annotated[StrictInt, Field(ge=0, le=32)] = 4
    """The report shows the masks of the first so many held-out prompts."""

    @model_validator(mode="after")
    def _no_repetition(self) -> SpatialSpec:
        for field in ("seeds", "doses"):
            values = getattr(self, field) or ()
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise BadInput(
                    f"spatial.{field} holds {twice!r} more than once; it would count double",
                    path=("spatial", field),
                )
        return self
