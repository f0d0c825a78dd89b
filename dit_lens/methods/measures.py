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
from dit_lens.methods.attribute_scores import Reader, asked_attributes
from dit_lens.methods.evidence import Evidence
from dit_lens.methods.lpips import CACHED, Lpips
from dit_lens.methods.metric import Metric, Need
from dit_lens.methods.metrics import METRICS
from dit_lens.methods.scorers import Scorer
from dit_lens.words import known_words

if TYPE_CHECKING:
    import os

    from PIL.Image import Image
    from torch import Tensor

    from dit_lens.model.lens import DiTLens

Array = npt.NDArray[np.float64]

_PIXELS = 2**22
"""Pixels that are measured at a time; their spectra take 40 bytes each."""


@dataclass(frozen=True, eq=False)
class Measures:
    """The metrics of a study, and what reads them.

    Args:
        names: of `dit_lens.methods.metrics.METRICS`; their order is that of the effects table.
        reader: reads attributes off pictures, for metrics that need a reader.
        alignment: rates pictures against prompts, for those that need a CLIP.
        lpips: measures LPIPS.

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
            raise BadInput(f"No metrics were given; there are: {', '.join(METRICS)}.")
        for name in names:
            if name not in METRICS:
                raise BadInput(
                    f"A study measures no {name!r}; there are: {', '.join(METRICS)}."
                    f"{did_you_mean(str(name), METRICS)}"
                )
        if len(set(names)) < len(names):
            raise BadInput(f"metrics: {', '.join(names)} names one twice; give each once.")
        if (read_off := self.needing("reader")) and self.reader is None:
            raise BadInput(
                f"{', '.join(read_off)}: these attributes can be read off pictures of the embedded model "
                "only. Leave them out, or give a reader."
            )
        if (rated := self.needing("clip")) and self.alignment is None:
            raise BadInput(
                f"{rated[0]} needs a CLIP that knows the model's pictures, for example "
                f"openai/clip-vit-large-patch14. Name one, or leave out {rated[0]}."
            )
        if self.needing("lpips") and self.lpips is None:
            raise BadInput(
                "lpips needs AlexNet's weights: give lpips=Lpips(), which takes those in torch's cache, or "
                "lpips=Lpips(FILE). Or leave it out."
            )

    def needing(self, need: Need) -> tuple[str, ...]:
        """Those of these metrics that need something."""
        return tuple(name for name in self.names if need in METRICS[name].needs)

    def of(self, arm: Arm) -> tuple[str, ...]:
        """The metrics that an arm has: by its readout, and by whether it is edited and has a donor."""
        return tuple(
            name
            for name in self.names
            if (metric := METRICS[name]).readout == arm.readout
            and "mask" not in metric.needs
            and (arm.edits or metric.absolute)
            and (arm.draws_on_donor or "source" not in metric.needs)
        )

    @property
    def keep(self) -> str:
        """Which latents a run has to keep for these metrics, as `run` calls them: "all" or "final"."""
        return "all" if self.needing("path") else "final"

    def definitions(self, names: Iterable[str]) -> dict[str, str]:
        """Name → definition: by which rule, and with which weights, each is measured."""
        return {name: METRICS[name].definition + self._by_whom(METRICS[name]) for name in names}

    def _by_whom(self, metric: Metric) -> str:
        readers: dict[Need, Any] = {"reader": self.reader, "clip": self.alignment, "lpips": self.lpips}
        who = [reader for need, reader in readers.items() if need in metric.needs and reader is not None]
        return "".join(f" {_identity(each)}" for each in who)

    def require_prompts(self, prompts: Sequence[str]) -> None:
        """Raise `BadInput` unless every metric makes sense for these prompts; reads no picture."""
        for prompt in prompts if self.needing("reader") else ():
            try:
                asked_attributes(prompt)
            except BadInput as error:
                raise BadInput(
                    f"{error} Judge such prompts by metrics that read no attributes, in an analysis by "
                    "--set 'effects.metrics=[ssim, alignment]' (likewise guidance.metrics)."
                ) from None

    def require_size(self, height: int, width: int) -> None:
        """Raise `BadInput` unless every metric can look at pictures of this size; reads none."""
        for name in self.names:
            require = METRICS[name].require_size
            if require is not None:
                require(height, width)

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
            latents, clean: final latents [rows, C, h, w], edited and unedited; `donor` likewise, for metrics
                that need a source. images, clean_images: one per row, for metrics of pictures.
            donor_prompts: what each row's donor shows; without it, metrics that need it are NaN.
            inside: the mask of pixels [H, W]; without it, metrics that need one are NaN.
            paths: latents of every step, for metrics that need them.
        """
        return self._measured(
            names,
            Evidence(
                prompts=prompts,
                edited=latents,
                clean=clean,
                source=donor,
                images=images,
                clean_images=clean_images,
                source_prompts=donor_prompts,
                inside=inside,
                paths=paths,
                reader=self.reader,
                scorer=self.alignment,
                lpips=self.lpips,
            ),
            "final",
        )

    def step(
        self, names: Iterable[str], *, velocity: Tensor, clean: Tensor, donor: Tensor | None
    ) -> dict[str, Array]:
        """Metrics at one step, float64 [rows] each; arguments are guided velocities [rows, C, h, w]."""
        evidence = Evidence(prompts=[""] * len(velocity), edited=velocity, clean=clean, source=donor)
        return self._measured(names, evidence, "step")

    def _measured(self, names: Iterable[str], evidence: Evidence, readout: str) -> dict[str, Array]:
        wanted = set(names)
        return {
            name: METRICS[name].measure(evidence)
            for name in self.names
            if name in wanted and METRICS[name].readout == readout
        }


def needs_image(name: str) -> bool:
    """Whether a metric looks at pictures."""
    return "image" in METRICS[name].needs


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
    needed = {need for name in METRICS if wanted is None or name in wanted for need in METRICS[name].needs}
    if isinstance(clip, str):
        from dit_lens.methods.scorers import ClipAlignment

        alignment = ClipAlignment(clip) if "clip" in needed else None
    if (
        needed & {"reader", "clip"}
        and lens.name in zoo.names()
        and (zoo.scorer_path() / "config.json").exists()
    ):
        from dit_lens.methods.scorers import EmbeddedAlignment
        from dit_lens.zoo.readout import load_reader

        reader = load_reader()
        alignment = alignment or EmbeddedAlignment(reader)
    if "lpips" in needed and (lpips is not None or wanted is not None):
        lpips = lpips if isinstance(lpips, Lpips) else Lpips(CACHED if lpips is None else lpips)
    elif lpips is not None:
        raise BadInput("Weights for lpips are given, and the metrics do not name it: add lpips to them.")
    if names is None:
        there = {"reader": reader, "clip": alignment, "lpips": lpips}
        absent = {"mask", *(need for need, value in there.items() if value is None)}
        names = [name for name, metric in METRICS.items() if metric.unasked and not metric.needs & absent]
    return Measures(tuple(names), reader=reader, alignment=alignment, lpips=lpips)


def _identity(scorer: Any) -> str:
    """Which scorer this is, as it is now: its class and code, its settings, and what its models hold."""
    from dit_lens.model.state import scorer_digest

    return f"{type(scorer).__module__}.{type(scorer).__qualname__} {scorer_digest(scorer)[:16]}"
