"""What a spec says of carrying and of guidance; the docstrings are the JSON Schema's descriptions."""

from __future__ import annotations

from collections.abc import Sequence
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

from dit_lens.analysis.control_names import Draws, DrawsFit, TransportControl
from dit_lens.methods.controls import default_draws

Count = Annotated[StrictInt, Field(ge=1)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Text = Annotated[StrictStr, Field(min_length=1)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
Share = Annotated[StrictInt | StrictFloat, Field(ge=0, le=1, allow_inf_nan=False)]
Between = Annotated[StrictInt | StrictFloat, Field(gt=0, lt=1, allow_inf_nan=False)]
Weight = Annotated[StrictInt | StrictFloat, Field(gt=0, allow_inf_nan=False)]
Pairs = Annotated[tuple[tuple[Text, Text], ...], Field(min_length=1)]
Where = StrictStr | StrictInt | list[StrictInt] | dict[StrictStr, list[StrictInt | StrictFloat]]

TEXT_ALONE = (
    "pairs", "far_pairs", "prompt_strengths", "curve_pairs", "block_ranges", "step_ranges", "ks", "parts",
    "tokens",
)  # fmt: skip
"""Keys of `transport` that `transport_image` does not read."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _no_repetition(self) -> _Spec:
        for field in type(self).model_fields:
            values = getattr(self, field)
            if isinstance(values, tuple):
                twice = next((value for value in values if values.count(value) > 1), None)
                if twice is not None:
                    raise ValueError(f"{field} holds {twice!r} more than once; it would count double")
        return self


class TransportSpec(_Spec):
    """Can it be carried? Which pairs, which channels beside the massive ones, and along which curves.

    Every pair is run in both directions with massive channels, every control, all channels, all but the
    massive ones, and the blends; the curves and the strengths between 0 and 1 on a few pairs. Pictures are
    carried along no curve, and have no pairs: keys about these are refused where there are no prompts.
    """

    pairs: Pairs | None = None
    """Pairs [source, target] of prompts: a list, or a text file with one `source -> target` per line. On the
    embedded models they are grouped by the attribute in which their captions differ."""
    far_pairs: Pairs | None = None
    """Further pairs, for instance such as differ in every attribute; written alike."""
    steps: Count | None = None
    """Denoising steps of these runs; absent, those of the analysis. There are many: fewer steps save time."""
    seeds: Seeds | None = None
    """Seeds of these runs; absent, those that judge effects. Seeds of a pair or picture are averaged."""
    controls: Annotated[dict[TransportControl, Draws], Field(min_length=1), DrawsFit] = Field(
        default_factory=lambda: default_draws("transport", most=1)
    )
    """Which other channels are compared with, and how many draws of each."""
    draw_seed: Annotated[StrictInt, Field(ge=0, lt=2**31)] = 0
    """Seed of the controls' draws."""
    tokens: Literal["all", "source", "target", "union"] = "all"
    """Image tokens that are carried between prompts: all, or those of the subject in the unedited run of the
    source, of the target, or of either (`union`), as massive channels cluster them after the last block at
    the last step. Pictures have `source.mask`."""
    branch: Literal["both", "cond", "uncond"] = "both"
    """Branch of classifier-free guidance in which channels are carried."""
    alignment: Text | None = None
    """A CLIP (hub id or folder) that rates pictures against both prompts; the embedded models bring their
    own."""
    lpips: Text | None = None
    """AlexNet's weights for LPIPS (arXiv 1801.03924): a file, or `cached` for torch's cache; absent, LPIPS is
    not measured."""
    strengths: tuple[Between, ...] = (0.25, 0.5, 0.75)
    """Strengths between the target and the hard swap, for massive channels and for blends."""
    strength_pairs: Annotated[StrictInt, Field(ge=0)] = 6
    """The first so many pairs that differ most, and of pictures, are run at these strengths with massive
    channels."""
    prompt_strengths: tuple[Between, ...] = (0.5,)
    """Strengths at which prompts are mixed for every pair; each costs an image."""
    curve_pairs: Annotated[StrictInt, Field(ge=0)] = 3
    """The first so many pairs that differ most are run along the curves."""
    block_ranges: Count = 3
    """Ranges that depth is cut into; each is carried alone."""
    step_ranges: tuple[tuple[Share, Share], ...] = ((0, 0.5), (0.5, 1))
    """Ranges [from, to] of the run, in shares of its steps; in each alone is carried."""
    ks: tuple[Count, ...] = (1, 2, 4, 8, 16)
    """Numbers of channels per block."""
    parts: tuple[Literal["mean", "residual"], ...] = ("mean", "residual")
    """Parts of a channel that are carried alone: its token mean, or its spatial residual."""
    gallery: Annotated[StrictInt, Field(ge=0, le=16)] = 3
    """The report shows the pictures of the first so many pairs that differ most, and of as many pictures."""

    @property
    def implied(self) -> set[str]:
        """Keys at their defaults that specs of earlier versions did not have: those runs go on."""
        usual = type(self).model_fields
        return {key for key in ("tokens", "branch") if getattr(self, key) == usual[key].default}


class SourceSpec(_Spec):
    """Where pictures to carry from come from: files of the user's, or scenes that are rendered.

    A picture is brought to every step's noise level by mixing it with fixed noise (`noised`), and by undoing
    the sampler from it (`inverted`); its activations are harvested along either path.
    """

    image: Text | None = None
    """A picture's file (PNG, JPEG, …) of the run's size; absent, rendered scenes of the embedded world."""
    shows: Text | None = None
    """What the picture shows, in words: what alignment is rated against. Scenes bring their caption."""
    prompt: StrictStr | None = None
    """The prompt under which it is harvested; absent, the empty one."""
    background: Text | None = None
    """Colour behind a picture with transparency, such as `white` or `#88aacc`; absent, such are refused."""
    resize: Literal["exact", "crop"] | None = None
    """`exact` stretches a picture to the run's size, `crop` cuts the middle to its proportions first; absent,
    another size is refused."""
    mask: Text = "segment"
    """Which tokens are carried: `segment` (the subject, as the picture's own massive channels point it out),
    `whole`, or a mask's file (black-and-white PNG or JSON)."""
    mask_block: Where = "1.0"
    """Block whose channels are segmented: a number, or a fraction of depth."""
    targets: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """Prompts into whose runs it is carried: a list, or a text file. A file picture is carried into each, the
    i-th scene into the i-th. Absent, captions of the embedded world: for scenes such as differ from theirs in
    every attribute, for a file picture the same ones."""
    scenes: Annotated[StrictInt, Field(ge=1, le=256)] = 8
    """How many scenes are rendered, where no image is given."""
    scene_seed: Seed = 5
    """Of the scenes that are drawn, with the jitter that their captions do not say; none was trained on."""
    origins: Annotated[tuple[Literal["noised", "inverted"], ...], Field(min_length=1)] = (
        "noised",
        "inverted",
    )
    """How it is brought to the noise levels."""

    @model_validator(mode="after")
    def _shows_an_image(self) -> SourceSpec:
        if self.image is None and self.shows is not None:
            raise ValueError("shows describes image, and image is not given; scenes bring their captions")
        for key in ("background", "resize"):
            if self.image is None and getattr(self, key) is not None:
                raise ValueError(
                    f"{key} is given, and there is no image; scenes are rendered at the run's size. Give "
                    f"image, or remove {key} (--set source.{key}=null)"
                )
        if self.mask != "segment" and self.mask_block != type(self).model_fields["mask_block"].default:
            raise ValueError(
                "mask_block is given, and nothing is segmented: it is read where mask is segment. Remove one "
                "of them (--set source.mask_block=null)"
            )
        return self


def require_carried_along(transport: TransportSpec, sections: Sequence[str]) -> None:
    """Raise ValueError for a key that only carrying from prompts reads, where none is carried from."""
    if "transport_text" in sections:
        return
    usual = TransportSpec()
    for key in TEXT_ALONE:
        if getattr(transport, key) != getattr(usual, key):
            raise ValueError(
                f"transport.{key} is given, and no section reads it: transport_text does, transport_image "
                f"does not. Add transport_text to sections, or remove {key} (--set transport.{key}=null)"
            )


class GuidanceSpec(_Spec):
    """Detail Guidance: led away from what the model predicts with massive channels disrupted (2510.11538)."""

    prompts: Count = 8
    """Judge on the first so many held-out prompts."""
    steps: Count | None = None
    """Denoising steps of these runs; absent, those of the analysis."""
    seeds: Seeds | None = None
    """Seeds of these runs; absent, those that judge effects."""
    weights: Annotated[tuple[Weight, ...], Field(min_length=1)] = (0.25, 0.5, 1.0)
    """Weights w of v + w (v − v_disrupted); 0, the unedited run, is always there."""
    blocks: Where = "0.5"
    """Blocks in which channels are disrupted: numbers, a range, or a fraction of depth. The paper disrupts
    one."""
    cfg: Annotated[tuple[bool, ...], Field(min_length=1)] = (True, False)
    """With classifier-free guidance, without it, or both; with it only where the sampling has it."""
    draw_seed: Annotated[StrictInt, Field(ge=0, lt=2**31)] = 0
    """Seed of the control's draw: as many channels of the next ranks."""
    metrics: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """Metrics by name; absent, detail, detail_ratio, semantics, alignment, change_high and ssim, as far as
    they can be measured on the model."""
    alignment: Text | None = None
    """A CLIP (hub id or folder) that rates prompt alignment; the embedded models bring their own."""
    lpips: Text | None = None
    """AlexNet's weights for LPIPS (arXiv 1801.03924): a file, or `cached` for torch's cache; absent, LPIPS is
    measured only where `metrics` names it, with the cached weights."""
    gallery: Annotated[StrictInt, Field(ge=0, le=16)] = 3
    """The report shows the pictures of the first so many prompts."""
