"""Change inside and outside of a mask, where activations of some tokens alone are carried."""

from __future__ import annotations

import numpy as np
import pytest

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.methods.measures import Measures
from dit_lens.methods.placeholder_statistics import placeholder_statistics
from dit_lens.methods.questions import Setting
from dit_lens.methods.spatial import Mask
from dit_lens.methods.transport import Blend, Carry, CarryStudy, Case, Donor, family_carries
from dit_lens.zoo.nearest import scene_of
from dit_lens.zoo.scenes import subject_mask

pytestmark = pytest.mark.tiny

WITH_A_MASK = ("change_inside", "change_outside")

BLEND = Carry(Blend("pixel_blend", 0.5), "pixel_blend", 0.5)


def study(lens, mask, *, carries=(BLEND,), names=WITH_A_MASK, prompts=("a", "b"), **sampling):
    case = Case(
        prompts[0], 0, Donor.of_prompt(prompts[1]), tuple(carries), "pair-000", "all", "forward", mask
    )
    return CarryStudy(lens, ((case,),), lens.sampling(**sampling), Measures(names))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        # Two by two tokens would divide the picture evenly, and mean other pixels than were meant.
        (Mask(np.eye(2, dtype=bool)), "pair-000: the mask has 2 × 2 tokens, .* 16 × 16 pixels has 4 × 4"),
        (Mask(np.ones((3, 5), dtype=bool)), "3 × 5 tokens"),
        (Mask(np.eye(4, dtype=bool), (32, 32)), "for pictures of 32 × 32 pixels, and the run's are 16 × 16"),
        ("subject", "the subject can be told in pictures of 48 × 48 .* and the run's are 16 × 16"),
    ],
)
def test_a_mask_of_other_pictures_is_refused_before_anything_runs(tiny_sd3_lens, mask, message) -> None:
    with pytest.raises(BadInput, match=message):
        study(tiny_sd3_lens, mask, max_sequence_length=0)
    # Where nothing is measured by it, it is not looked at.
    study(tiny_sd3_lens, mask, names=("latent",), max_sequence_length=0)


@pytest.mark.parametrize(("full", "without"), [(True, "change_outside"), (False, "change_inside")])
def test_a_mask_with_one_side_alone_measures_that_side(tiny_sd3_lens, full, without) -> None:
    mask = Mask(np.full(tiny_sd3_lens.token_grid(), full))
    found = study(tiny_sd3_lens, mask, steps=2, max_sequence_length=0).run(progress=False).effects
    values = found.set_index("metric")["value"]
    assert np.isnan(values[without])
    assert values.drop(without).item() > 0


@pytest.mark.embedded
def test_what_is_carried_at_the_subjects_tokens_changes_the_picture_there(embedded_lens) -> None:
    """On two pairs that share nothing, for massive channels and for all of them.

    No more is claimed: attention spreads what was carried, so the outside changes too.
    """
    lens, how = embedded_lens, {"steps": 4}
    sampling = lens.sampling(**how)
    stats = dl.discover(lens, ["a large red plain star on the left on a white background"], seeds=[0],
                        sampling={"steps": 2}, progress=False)  # fmt: skip
    setting = Setting(
        massive=stats.select(top_k=4),
        stats=placeholder_statistics(lens, sampling, np.linspace(1, 0, 5)),
        num_blocks=lens.num_blocks,
        num_steps=4,
        controls={},
    )
    pairs = [
        ("a large red plain star on the left on a white background",
         "a small blue dotted circle on the right on a black background"),
        ("a large green dotted diamond in the centre on a black background",
         "a small pink plain triangle on the left on a white background"),
    ]  # fmt: skip
    sources = lens.generate([source for source, _ in pairs], seeds=[0], progress=False, **how).images
    for (source, target), picture in zip(pairs, sources, strict=True):
        mask = Mask.from_pixels(subject_mask(scene_of(picture)), lens.token_grid())
        assert not mask.is_empty and not mask.is_full
        carries = family_carries(setting, ["massive", "all"], tokens=mask)
        found = study(lens, mask, carries=carries, prompts=(target, source), **how).run(progress=False)
        values = found.effects.pivot_table(index="family", columns="metric", values="value")
        assert (values["change_inside"] > values["change_outside"]).all()
        assert (values["change_outside"] > 0).all()
