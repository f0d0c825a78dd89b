"""What came of a bundle that has run: final latents, pictures and metrics, case by case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_lens.methods.arms import Arm
from dit_lens.methods.measures import Measures, needs_image, rows_at_a_time
from dit_lens.methods.transport.arms import Carry
from dit_lens.methods.transport.blends import Blend, blend, pixel_blend, prompt_blends
from dit_lens.methods.transport.cases import SUBJECT, Bundle, Case, runs_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling


class Made:
    """Final latents and pictures of a bundle that has run, measured case by case."""

    def __init__(
        self,
        lens: DiTLens,
        sampling: Sampling,
        measures: Measures,
        rows: int | None,
        bundle: Bundle,
        result: Any,
        ends: Mapping[str, Tensor],
    ) -> None:
        """`rows`: most rows of one forward pass; None chooses. `ends`: final latents of the unedited runs."""
        self.lens, self.sampling, self.measures = lens, sampling, measures
        self.rows = rows or lens.default_batch_size(sampling)
        self.bundle, self.result, self.ends = bundle, result, ends
        self.runs = runs_of(bundle)
        self.pictures: dict[Any, Image] = {}
        self.mixed = self._mixed()

    def _mixed(self) -> dict[tuple[int, str], Tensor]:
        """Latents of the runs from mixed prompts: (case, name) → [1, C, h, w]."""
        asked = [
            (i, carry)
            for i, case in enumerate(self.bundle)
            for carry in case.carries
            if isinstance(carry.does, Blend) and runs_mixed(carry)
        ]
        found: dict[tuple[int, str], Tensor] = {}
        for start in range(0, len(asked), self.rows):
            part = asked[start : start + self.rows]
            rows = [
                (self.bundle[i].target, self.bundle[i].donor.prompt, self.bundle[i].seed, carry.strength)
                for i, carry in part
            ]
            ends = prompt_blends(self.lens, rows, self.sampling)
            found |= {(i, carry.name): end[None] for (i, carry), end in zip(part, ends, strict=True)}
        return found

    def of(self, i: int) -> Iterator[tuple[str, Image | None, dict[str, float]]]:
        """(name, picture, metrics) of both ends of a case, which have no metrics, and of all it carries."""
        case = self.bundle[i]
        target = self.ends[self.runs[case.target, case.seed]].cpu()
        source = self._source(case).cpu()
        pictured = any(map(needs_image, self.measures.names))
        before = self._end(case, target, source=False)
        after = self._end(case, source, source=True)
        yield "target", before, {}
        yield "source", after, {}
        inside = self._inside(case, after)
        size = rows_at_a_time(self.sampling.height, self.sampling.width)
        for start in range(0, len(case.carries), size):
            part = case.carries[start : start + size]
            latents = [self._latents(i, carry, target, source) for carry in part]
            images = []
            for carry, latent in zip(part, latents, strict=True):
                if latent is None:
                    images.append(pixel_blend(before, after, carry.strength))
                elif latent is target or latent is source:
                    images.append(before if latent is target else after)
                else:
                    # One by one: a picture must not depend on those beside it.
                    images.append(self.lens.decode(latent)[0])
            shown = images if pictured else None
            values = self._measured(case, latents, target, source, shown, before, inside)
            for k, carry in enumerate(part):
                yield carry.name, images[k], {name: float(of_all[k]) for name, of_all in values.items()}

    def _source(self, case: Case) -> Tensor:
        path = case.donor.path
        return self.ends[self.runs[case.donor.prompt, case.seed]] if path is None else path.latents[-1:]

    def _latents(self, i: int, carry: Carry, target: Tensor, source: Tensor) -> Tensor | None:
        """Final latents [1, C, h, w]; None for what is mixed as a picture."""
        does = carry.does
        if isinstance(does, Arm):
            return self.result[f"{i}.{carry.name}"].latents[-1:].cpu() if does.edits else target
        if does.kind == "pixel_blend":
            return None
        if (i, carry.name) in self.mixed:
            return self.mixed[i, carry.name]
        return blend(target, source, does.strength)

    def _end(self, case: Case, latents: Tensor, *, source: bool) -> Image:
        """The picture of a case's unedited target or source; cases of a bundle may share it."""
        path = case.donor.path if source else None
        prompt = case.donor.prompt if source else case.target
        key = (prompt, case.seed) if path is None else path.digest
        if key not in self.pictures:
            self.pictures[key] = self.lens.decode(latents)[0]
        return self.pictures[key]

    def _inside(self, case: Case, source: Image) -> np.ndarray | None:
        """The case's mask as pixels [H, W]; None where it has none, or nothing is measured by it."""
        if case.mask is None or not self.measures.needing("mask"):
            return None
        if case.mask == SUBJECT:
            from dit_lens.zoo.nearest import scene_of
            from dit_lens.zoo.scenes import subject_mask

            return subject_mask(scene_of(source))
        from dit_lens.methods.spatial import Mask

        assert isinstance(case.mask, Mask)
        # What is carried are tokens, so of the mask only they count, whatever picture it was made for.
        return Mask(case.mask.values).to_pixels(source.height, source.width)

    def _measured(
        self,
        case: Case,
        latents: Sequence[Tensor | None],
        target: Tensor,
        source: Tensor,
        images: Sequence[Image] | None,
        before: Image,
        inside: np.ndarray | None,
    ) -> dict[str, np.ndarray]:
        import torch

        measures, rows = self.measures, len(latents)
        names = list(measures.names)
        known = torch.cat([target if each is None else each for each in latents]).float()
        found = measures.final(
            names,
            [case.target] * rows,
            latents=known,
            clean=target.float().expand(rows, *target.shape[1:]),
            donor=source.float(),
            images=images,
            clean_images=None if images is None else [before] * rows,
            donor_prompts=None if case.donor.shows is None else [case.donor.shows] * rows,
            inside=inside,
        )
        # A mixture of pixels has no latents of its own.
        without = np.array([each is None for each in latents])
        for name in ("latent", "toward_latent"):
            if name in found:
                found[name] = np.where(without, np.nan, found[name])
        return found


def runs_mixed(carry: Carry) -> bool:
    """Whether a carry is a run from mixed prompts; at its ends it is the target's or the source's run."""
    does = carry.does
    return isinstance(does, Blend) and does.kind == "prompt_blend" and 0 < does.strength < 1
