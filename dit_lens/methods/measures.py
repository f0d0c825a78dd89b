"""What a study measures of its arms: names, definitions, and the batched reading of latents and pictures.

At the end of a run (readout "final"), an arm's latents and picture are compared with those of the unedited
run of the same prompt and seed, or rated by themselves. At one step (readout "step"), its guided velocity is
compared with the unedited one from the same latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dit_lens.errors import BadInput, did_you_mean
from dit_lens.methods.along_steps import Paths
from dit_lens.methods.arms import Arm
from dit_lens.methods.attribute_scores import Reader, asked_attributes, attribute_scores
from dit_lens.methods.carried import margins, moves
from dit_lens.methods.frequency import CUTOFF
from dit_lens.methods.lpips import CACHED, Lpips, require_size
from dit_lens.methods.metrics import (
    IMAGE_METRICS,
    METRICS,
    compare_images,
    require_ssim_window,
    share_of_the_way,
    step_distance,
)
from dit_lens.methods.regions import region_change
from dit_lens.methods.scorers import Scorer, score_images
from dit_lens.words import known_words
from dit_lens.zoo.scenes import ATTRIBUTES, SEMANTIC

if TYPE_CHECKING:
    import os

    from PIL.Image import Image
    from torch import Tensor

    from dit_lens.model.lens import DiTLens

Array = npt.NDArray[np.float64]

READ_OFF = ("semantics", "detail", *(f"attribute.{name}" for name in SEMANTIC))
"""Metrics that need a reader of attributes."""

ABSOLUTE = ("alignment", *READ_OFF)
"""Metrics of a picture by itself: those that the unedited run has, too."""

RATED = ("alignment", "margin")
"""Metrics that need a CLIP."""

AT_A_STEP = ("velocity", "toward")
"""Metrics of the readout "step"."""

MOVES = ("moved", "kept", *(f"moved.{name}" for name in ATTRIBUTES))
"""Metrics that need a reader, and a donor to compare with."""

WITH_A_DONOR = ("toward", "toward_latent", "margin", *MOVES)
"""Metrics of arms that draw on a donor."""

AT_THE_END = ("latent", *IMAGE_METRICS, "lpips", *ABSOLUTE, "toward_latent", "margin", *MOVES)
"""Metrics of the readout "final"."""

ALONG_THE_WAY = ("predicted_x0",)
"""Metrics of the readout "final" that need the latents of every step; measured where they are named."""

WITH_A_MASK = ("change_inside", "change_outside")
"""Metrics of a finished image that need a mask, too; studies of carrying know one."""

_MEASURABLE = tuple(
    name for name in METRICS if name in (*AT_THE_END, *ALONG_THE_WAY, *AT_A_STEP, *WITH_A_MASK)
)

_DEFINITIONS = {
    name: f"{name}/1" + (f" cutoff={CUTOFF}" if name in ("change_low", "change_high", "detail_ratio") else "")
    for name in _MEASURABLE
}
"""Which numbers are the same quantity: stored with each, and counted up when a definition changes."""

_PIXELS = 2**22
"""Pixels that are measured at a time; their spectra take 40 bytes each."""


@dataclass(frozen=True, eq=False)
class Measures:
    """The metrics of a study, and what reads them.

    Args:
        names: of `dit_lens.methods.metrics.METRICS`; their order is that of the effects table.
        reader: reads attributes off pictures, for `semantics`, `detail`, `attribute.…`, `moved…` and `kept`.
        alignment: rates pictures against prompts, for `alignment` and `margin`.
        lpips: measures `lpips`.

    Raises:
        BadInput: an unknown metric, one that stands twice, or one whose reader is missing.

    >>> from dit_lens.methods.arms import CLEAN, ablation_arm
    >>> measures = Measures(["psnr", "latent", "velocity"])
    >>> measures.of(ablation_arm("massive", "massive", [3], "zero")), measures.of(CLEAN)
    (('psnr', 'latent'), ())
    """

    names: tuple[str, ...]
    reader: Reader | None = None
    alignment: Scorer | None = None
    lpips: Lpips | None = None

    def __post_init__(self) -> None:
        given: Any = self.names
        names = (given,) if isinstance(given, str) else tuple(given)
        object.__setattr__(self, "names", names)
        if not names:
            raise BadInput(f"No metrics were given; there are: {', '.join(_MEASURABLE)}.")
        for name in names:
            if name not in _MEASURABLE:
                raise BadInput(
                    f"A study measures no {name!r}; there are: {', '.join(_MEASURABLE)}."
                    f"{did_you_mean(str(name), _MEASURABLE)}"
                )
        if len(set(names)) < len(names):
            raise BadInput(f"metrics: {', '.join(names)} names one twice; give each once.")
        read_off = [name for name in names if name in (*READ_OFF, *MOVES)]
        if read_off and self.reader is None:
            raise BadInput(
                f"{', '.join(read_off)}: these attributes can be read off pictures of the embedded model "
                "only. Leave them out, or give a reader."
            )
        rated = next((name for name in names if name in RATED), None)
        if rated is not None and self.alignment is None:
            raise BadInput(
                f"{rated} needs a CLIP that knows the model's pictures, for example "
                f"openai/clip-vit-large-patch14. Name one, or leave out {rated}."
            )
        if "lpips" in names and self.lpips is None:
            raise BadInput(
                "lpips needs AlexNet's weights: give lpips=Lpips(), which takes those in torch's cache, or "
                "lpips=Lpips(FILE). Or leave it out."
            )

    def of(self, arm: Arm) -> tuple[str, ...]:
        """The metrics that an arm has: by its readout, and by whether it is edited and has a donor."""
        fitting = AT_A_STEP if arm.readout == "step" else (*AT_THE_END, *ALONG_THE_WAY)
        return tuple(
            name
            for name in self.names
            if name in fitting
            and (arm.edits or name in ABSOLUTE)
            and (arm.draws_on_donor or name not in WITH_A_DONOR)
        )

    @property
    def keep(self) -> str:
        """Which latents a run has to keep for these metrics, as `run` calls them: "all" or "final"."""
        return "all" if set(ALONG_THE_WAY) & set(self.names) else "final"

    def definitions(self, names: Iterable[str]) -> dict[str, str]:
        """Name → definition: by which rule, and with which weights, each is measured."""
        return {name: _DEFINITIONS[name] + self._by_whom(name) for name in names}

    def _by_whom(self, name: str) -> str:
        who: Any = None
        if name in (*READ_OFF, *MOVES):
            who = self.reader
        elif name in RATED:
            who = self.alignment
        elif name == "lpips":
            who = self.lpips
        return "" if who is None else f" {_identity(who)}"

    def require_prompts(self, prompts: Sequence[str]) -> None:
        """Raise `BadInput` unless every metric makes sense for these prompts; reads no picture."""
        if any(name in (*READ_OFF, *MOVES) for name in self.names):
            for prompt in prompts:
                try:
                    asked_attributes(prompt)
                except BadInput as error:
                    raise BadInput(
                        f"{error} Judge such prompts by metrics that read no attributes, in an analysis by "
                        "--set 'effects.metrics=[ssim, alignment]' (likewise guidance.metrics)."
                    ) from None

    def require_size(self, height: int, width: int) -> None:
        """Raise `BadInput` unless every metric can look at pictures of this size; reads none."""
        if "ssim" in self.names:
            require_ssim_window(height, width)
        if "lpips" in self.names:
            require_size(height, width)

    def final(
        self,
        names: Iterable[str],
        prompts: Sequence[str],
        *,
        latents: Tensor,
        clean: Tensor,
        donor: Tensor | None,
        images: Sequence[Image] | None,
        clean_images: Sequence[Image] | None,
        donor_prompts: Sequence[str] | None = None,
        inside: npt.NDArray[np.bool_] | None = None,
        paths: Paths | None = None,
    ) -> dict[str, Array]:
        """Metrics of runs that have ended, float64 [rows] each.

        Args:
            latents, clean: final latents [rows, C, h, w], edited and unedited; `donor` likewise, for
                `toward_latent`. images, clean_images: one per row, for metrics of pictures.
            donor_prompts: what each row's donor shows, for `margin`, `moved` and `kept`; without it these
                are NaN.
            inside: the mask of pixels [H, W] for `change_inside` and `change_outside`; without it these are
                NaN.
            paths: latents of every step, for `predicted_x0`.
        """
        wanted = [name for name in self.names if name in set(names)]
        found: dict[str, Array] = {}
        if "latent" in wanted:
            found["latent"] = step_distance(latents[:, None], clean[:, None])[:, 0]
        if "toward_latent" in wanted:
            found["toward_latent"] = share_of_the_way(latents, clean, donor)
        if "predicted_x0" in wanted:
            assert paths is not None
            found["predicted_x0"] = paths.drift()
        seen = [name for name in wanted if needs_image(name)]
        if seen:
            assert images is not None and clean_images is not None
            alone = [name for name in seen if name not in (*WITH_A_DONOR, *WITH_A_MASK)]
            found |= self._pictures(alone, prompts, images, clean_images)
            found |= self._carried(
                [name for name in seen if name in WITH_A_DONOR], prompts, donor_prompts, images, clean_images
            )
            masked = [name for name in seen if name in WITH_A_MASK]
            changes = region_change(images, clean_images, inside) if masked and inside is not None else {}
            found |= {name: changes.get(name, np.full(len(images), np.nan)) for name in masked}
        return found

    def _carried(
        self,
        names: Sequence[str],
        prompts: Sequence[str],
        donors: Sequence[str] | None,
        images: Sequence[Image],
        clean: Sequence[Image],
    ) -> dict[str, Array]:
        """What came over from the donor: `margin`, and attributes that moved and that stayed."""
        if donors is None or not names:
            return {name: np.full(len(images), np.nan) for name in names}
        found: dict[str, Array] = {}
        if "margin" in names:
            assert self.alignment is not None
            found["margin"] = margins(self.alignment, images, clean, prompts, donors)
        if set(names) & set(MOVES):
            assert self.reader is not None
            found |= moves(images, clean, prompts, donors, reader=self.reader)
        return {name: found[name] for name in names}

    def _pictures(
        self,
        names: Sequence[str],
        prompts: Sequence[str],
        images: Sequence[Image],
        clean: Sequence[Image],
    ) -> dict[str, Array]:
        compared = [name for name in names if name in IMAGE_METRICS]
        found = compare_images(images, clean, compared) if compared else {}
        if "lpips" in names:
            assert self.lpips is not None
            found["lpips"] = self.lpips(images, clean)
        if "alignment" in names:
            assert self.alignment is not None
            found["alignment"] = score_images(self.alignment, images, list(prompts))
        read_off = [name for name in names if name in READ_OFF]
        if read_off:
            scores = attribute_scores(images, list(prompts), reader=self.reader)
            found |= {name: scores[name.removeprefix("attribute.")] for name in read_off}
        return found

    def step(
        self, names: Iterable[str], *, velocity: Tensor, clean: Tensor, donor: Tensor | None
    ) -> dict[str, Array]:
        """Metrics at one step, float64 [rows] each; arguments are guided velocities [rows, C, h, w]."""
        wanted = set(names)
        found: dict[str, Array] = {}
        if "velocity" in wanted:
            found["velocity"] = step_distance(velocity[:, None], clean[:, None])[:, 0]
        if "toward" in wanted:
            found["toward"] = share_of_the_way(velocity, clean, donor)
        return found


def needs_image(name: str) -> bool:
    """Whether a metric looks at pictures."""
    return name in (*IMAGE_METRICS, "lpips", *ABSOLUTE, *MOVES, *WITH_A_MASK, "margin")


def rows_at_a_time(height: int, width: int) -> int:
    """How many pictures of that many pixels are decoded and measured together.

    >>> rows_at_a_time(1024, 1024)
    4
    """
    return max(1, _PIXELS // (height * width))


@known_words
def default_measures(
    lens: DiTLens,
    names: Sequence[str] | None = None,
    *,
    clip: Scorer | str | None = None,
    lpips: Lpips | str | os.PathLike[str] | None = None,
) -> Measures:
    """The metrics that can be measured on a `lens`: on an embedded model all that need no mask.

    On other models attributes cannot be read, and prompt alignment needs a CLIP: `clip` is a scorer, or the
    hub id or folder of a CLIP. LPIPS is measured where it is asked for, by name or by its weights, and not
    where they merely lie in the cache: the same request gives the same metrics on every machine. Nor is
    `predicted_x0` measured unasked: it keeps the latents of every step.

    Args:
        names: those to measure; None for all others that can be. Units and directions:
            `dit_lens.methods.metrics`.
        lpips: weights for `lpips`, as in `dit_lens.methods.lpips.Lpips`, or one that is loaded.

    Raises:
        BadInput: a metric that is unknown or cannot be measured on this model.

    >>> default_measures(lens, ["ssim", "alignment"]).names
    ('ssim', 'alignment')
    """
    from dit_lens import zoo

    reader: Any = None
    alignment: Any = clip
    wanted = None if names is None else set(names)
    of_pictures = wanted is None or bool(wanted & {*ABSOLUTE, *RATED, *MOVES})
    if isinstance(clip, str):
        from dit_lens.methods.scorers import ClipAlignment

        alignment = ClipAlignment(clip) if wanted is None or wanted & set(RATED) else None
    if of_pictures and lens.name in zoo.names() and (zoo.scorer_path() / "config.json").exists():
        from dit_lens.methods.scorers import EmbeddedAlignment
        from dit_lens.zoo.readout import load_reader

        reader = load_reader()
        alignment = alignment or EmbeddedAlignment(reader)
    if (lpips is not None and wanted is None) or (wanted is not None and "lpips" in wanted):
        lpips = lpips if isinstance(lpips, Lpips) else Lpips(CACHED if lpips is None else lpips)
    elif lpips is not None:
        raise BadInput("Weights for lpips are given, and the metrics do not name it: add lpips to them.")
    if names is None:
        left_out = {
            *WITH_A_MASK,
            *ALONG_THE_WAY,
            *((*READ_OFF, *MOVES) if reader is None else ()),
            *(RATED if alignment is None else ()),
            *(("lpips",) if lpips is None else ()),
        }
        names = [name for name in _MEASURABLE if name not in left_out]
    return Measures(tuple(names), reader=reader, alignment=alignment, lpips=lpips)


def _identity(scorer: Any) -> str:
    """Which scorer this is, as it is now: its class and code, its settings, and what its models hold."""
    from dit_lens.model.state import scorer_digest

    return f"{type(scorer).__module__}.{type(scorer).__qualname__} {scorer_digest(scorer)[:16]}"
