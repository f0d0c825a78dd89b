"""What is measured of which arm, by which definition; and that the numbers are those of the metrics."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.graph.interventions import Patch, Zero
from dit_lens.methods.arms import CLEAN, Arm, ablation_arm
from dit_lens.methods.carried import differences, margins
from dit_lens.methods.distances import psnr, share_of_the_way, ssim
from dit_lens.methods.measures import Measures, default_measures, needs_image, rows_at_a_time
from dit_lens.methods.metric import Metric, Need
from dit_lens.methods.metrics import METRICS, quantity
from dit_lens.zoo.nearest import NearestRendering
from dit_lens.zoo.scenes import SEMANTIC, Scene, render

pytestmark = pytest.mark.pure


class Constant:
    """A scorer that rates each picture by its mean, and remembers how it was asked."""

    name = "alignment"

    def __init__(self) -> None:
        self.asked = []

    def score(self, images, prompts):
        self.asked.append((len(images), tuple(prompts)))
        return [np.asarray(image).mean() / 255 for image in images]


def having(fits):
    return tuple(name for name, metric in METRICS.items() if fits(metric))


AT_A_STEP = having(lambda metric: metric.readout == "step")
# Without `lpips`, whose weights are not shipped and which has tests of its own, and without what needs a mask
# or the latents of every step: none of these is measured unasked.
MEASURED = having(lambda metric: metric.readout == "final" and not metric.needs & {"lpips", "mask", "path"})
WITH_A_DONOR = having(lambda metric: "source" in metric.needs)
ABSOLUTE = having(lambda metric: metric.absolute)
READ_OFF = having(lambda metric: metric.absolute and "reader" in metric.needs)


def everything():
    return Measures((*MEASURED, *AT_A_STEP), reader=NearestRendering(), alignment=Constant())


ZERO = ablation_arm("zero", "massive", [1], Zero())
PATCH = ablation_arm("patch", "massive", [1], Patch(), donor=True)
STEP = ablation_arm("step", "massive", [1], Zero(), step=1, readout="step")
PATCH_STEP = ablation_arm("patch-step", "massive", [1], Patch(), donor=True, step=1, readout="step")


def test_every_metric_describes_itself_under_its_own_name() -> None:
    assert {f"attribute.{name}" for name in SEMANTIC} <= set(METRICS)
    assert ("alignment", "semantics", "detail", *(f"attribute.{name}" for name in SEMANTIC)) == ABSOLUTE
    assert AT_A_STEP == ("velocity", "toward")
    for name, metric in METRICS.items():
        assert metric.name == name and metric.title and metric.disrupted in ("greater", "less")
        assert metric.needs <= set(get_args(Need)) and metric.definition.startswith(f"{name}/1")


def test_a_metric_that_is_added_is_measured_described_and_put_in_order(monkeypatch) -> None:
    monkeypatch.setattr(METRICS, "_added", {})
    mine = Metric(
        "red", "redness", "share", "less",
        measure=lambda rows: np.array([np.asarray(image)[..., 0].mean() / 255 for image in rows.images]),
        needs=frozenset({"image"}), group="read-outs",
    )  # fmt: skip
    METRICS.add("red", mine)
    with pytest.raises(BadInput, match="a metric called 'red' already"):
        METRICS.add("red", mine)
    measures = Measures(["red", "latent"])
    assert measures.of(CLEAN) == ("red",) and measures.definitions(["red"]) == {"red": "red/1"}
    assert quantity("red").axis == "redness (share)"
    with pytest.raises(BadInput, match=r"measures no 'redd'.*Did you mean 'red'"):
        Measures(["redd"])


def test_an_arm_has_the_metrics_of_its_readout_its_donor_and_its_edits() -> None:
    measures = everything()
    assert set(measures.of(ZERO)) == set(MEASURED) - set(WITH_A_DONOR)
    assert set(measures.of(PATCH)) == set(MEASURED)
    assert measures.of(STEP) == ("velocity",)
    assert measures.of(PATCH_STEP) == ("velocity", "toward")
    assert set(measures.of(CLEAN)) == set(ABSOLUTE)
    assert measures.of(Arm("clean-at-a-step", "clean", (), step=1, readout="step")) == ()


def test_drift_along_the_way_is_of_edited_arms_that_are_read_at_the_end() -> None:
    measures = Measures(["latent", "predicted_x0", "velocity"])
    assert measures.of(ZERO) == ("latent", "predicted_x0")
    assert measures.of(STEP) == ("velocity",) and measures.of(CLEAN) == ()
    assert (measures.keep, Measures(["latent"]).keep) == ("all", "final")


def test_metrics_keep_the_order_in_which_they_were_named() -> None:
    measures = Measures(["psnr", "latent", "ssim"])
    assert measures.of(ZERO) == ("psnr", "latent", "ssim")


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Measures([]), "No metrics"),
        (lambda: Measures(["pnsr"]), r"no 'pnsr'.*Did you mean 'psnr'"),
        (lambda: Measures(["predicted_x1"]), r"no 'predicted_x1'.*Did you mean 'predicted_x0'"),
        (lambda: Measures(["psnr", "psnr"]), "names one twice"),
        (lambda: Measures(["psnr", "detail"]), "detail: these attributes"),
        (lambda: Measures(["alignment"]), "alignment needs a CLIP"),
        (lambda: Measures(["margin"]), "margin needs a CLIP"),
        (lambda: Measures(["moved"]), "moved: these attributes"),
    ],
)
def test_metrics_that_cannot_be_measured_are_refused(make_it, message) -> None:
    with pytest.raises(BadInput, match=message):
        make_it()


def test_prompts_outside_the_world_are_refused_where_attributes_are_read_and_nowhere_else() -> None:
    Measures(["psnr"]).require_prompts(["a cat"])
    with pytest.raises(BadInput, match=r"'a cat' names no attribute.*'effects.metrics=\[ssim, alignment\]'"):
        everything().require_prompts(["a red star", "a cat"])


def test_definitions_name_the_rule_and_who_measured_it() -> None:
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    scorers = [Constant() for _ in range(3)]
    for scorer, model in zip(scorers, (one, other, one), strict=True):
        scorer.model = model
    ids = [
        Measures(["alignment"], alignment=scorer).definitions(["alignment"])["alignment"]
        for scorer in scorers
    ]
    assert ids[0] == ids[2] != ids[1]
    found = everything().definitions(("change_low", "semantics", "latent"))
    assert found["change_low"] == "change_low/1 cutoff=0.125"
    assert found["latent"] == "latent/1"
    assert "NearestRendering" in found["semantics"]


def test_numbers_are_those_of_the_metrics_row_by_row() -> None:
    star = Scene("star", "red", "large", "on the left", "white", "plain")
    pictures = [
        Image.fromarray((render(scene) * 255).round().astype(np.uint8))
        for scene in (star, Scene("star", "blue", "large", "on the left", "white", "striped"))
    ]
    prompts = [star.caption] * 2
    dice = torch.Generator().manual_seed(0)
    latents, clean = torch.randn(2, 3, 4, 4, generator=dice), torch.randn(1, 3, 4, 4, generator=dice)
    measures = everything()
    found = measures.final(
        MEASURED,
        prompts,
        latents=latents,
        clean=clean.expand(2, 3, 4, 4),
        donor=latents[1:],
        images=pictures,
        clean_images=[pictures[0]] * 2,
        donor_prompts=[star.with_(colour="blue", detail="striped").caption, star.with_(size="small").caption],
    )
    assert set(found) == set(MEASURED)
    assert found["moved"].tolist() == [0.0, 0.0] and found["moved.colour"][0] == 0.0
    assert np.isnan(found["moved.colour"][1]) and np.isnan(found["moved.shape"]).all()
    # The second picture is blue and striped, which both of its prompts say it is not.
    assert found["kept"].tolist() == [1.0, 0.6]
    away = (latents - clean).double().flatten(1).norm(dim=1) / clean.double().norm()
    np.testing.assert_allclose(found["latent"], away.numpy())
    np.testing.assert_allclose(found["psnr"], psnr(pictures, [pictures[0]] * 2))
    np.testing.assert_allclose(found["ssim"], ssim(pictures, [pictures[0]] * 2))
    assert found["semantics"].tolist() == [1.0, 0.8]
    assert found["attribute.colour"].tolist() == [1.0, 0.0]
    assert found["detail"].tolist() == [1.0, 0.0]
    assert found["toward_latent"][1] == pytest.approx(1.0)
    assert found["alignment"].tolist() == [np.asarray(p).mean() / 255 for p in pictures]
    assert measures.alignment.asked[0] == (2, tuple(prompts))


def test_what_came_over_is_told_from_what_was_there() -> None:
    class ByRedness:
        """Likes red pictures for prompts that say red, and dislikes them for others."""

        name = "alignment"

        def score(self, images, prompts):
            red = [float(np.asarray(image)[..., 0].mean() > 128) for image in images]
            return [r if "red" in p else -r for r, p in zip(red, prompts, strict=True)]

    black, red = (Image.new("RGB", (48, 48), colour) for colour in ("black", "red"))
    found = margins(ByRedness(), [red, black], [black] * 2, ["a blue star"] * 2, ["a red star"] * 2)
    assert found.tolist() == [2.0, 0.0]
    assert margins(ByRedness(), [black], [red], ["a blue star"], ["a red star"]).tolist() == [-2.0]
    assert differences("a large red star", "a small red shape") == ({"size": "small"}, ("colour",))


def test_without_a_donors_prompt_nothing_is_said_about_what_came_over() -> None:
    latents = torch.zeros(1, 1, 2, 2)
    seen = [Image.new("RGB", (48, 48))]
    names = ["margin", "moved"]
    measures = Measures(names, reader=NearestRendering(), alignment=Constant())
    found = measures.final(
        names,
        ["a red star"],
        latents=latents,
        clean=latents,
        donor=None,
        images=seen,
        clean_images=seen,
    )
    assert all(np.isnan(found[name]).all() for name in names)


def test_a_step_compares_velocities_and_pictures_are_not_asked_for() -> None:
    clean = torch.ones(1, 2, 3, 3)
    found = everything().step(["velocity", "toward"], velocity=clean * 1.5, clean=clean, donor=clean * 3)
    assert found["velocity"].tolist() == [0.5]
    assert found["toward"].tolist() == [0.25]
    assert set(everything().step(["velocity"], velocity=clean, clean=clean, donor=None)) == {"velocity"}
    blind = Measures(["latent"]).final(
        ["latent"], ["a"], latents=clean, clean=clean, donor=None, images=None, clean_images=None
    )
    assert blind["latent"].tolist() == [0.0]
    assert not any(map(needs_image, ("latent", "velocity", "toward", "toward_latent")))


def test_the_share_of_the_way_is_a_projection() -> None:
    start, end = np.zeros((1, 2)), np.array([[2.0, 0.0]])
    edited = np.array([[2.0, 0.0], [0.0, 7.0], [1.0, -3.0], [-2.0, 0.0]])
    assert share_of_the_way(edited, start, end).tolist() == [1.0, 0.0, 0.5, -1.0]
    assert np.isnan(share_of_the_way(edited, start, start)).all()
    with pytest.raises(BadInput, match="donor"):
        share_of_the_way(edited, start, end[:, :1])


def test_large_pictures_are_measured_a_few_at_a_time() -> None:
    assert rows_at_a_time(48, 48) > 1000
    assert rows_at_a_time(1024, 1024) == 4
    assert rows_at_a_time(10**5, 10**5) == 1


@pytest.mark.tiny
def test_on_a_model_outside_the_world_attributes_and_alignment_are_left_out(tiny_sd3_lens) -> None:
    names = default_measures(tiny_sd3_lens).names
    assert not set(names) & {*READ_OFF, "alignment"}
    assert {"latent", "velocity", "ssim", "toward"} <= set(names)
    assert "alignment" in default_measures(tiny_sd3_lens, clip=Constant()).names
    with pytest.raises(BadInput, match="embedded model only"):
        default_measures(tiny_sd3_lens, ["semantics"])
    with pytest.raises(BadInput, match="needs a CLIP"):
        default_measures(tiny_sd3_lens, ["alignment"])


@pytest.mark.embedded
def test_on_the_embedded_model_everything_is_measured(embedded_lens) -> None:
    measures = default_measures(embedded_lens)
    assert set(measures.names) == set(MEASURED) | set(AT_A_STEP)
    definitions = measures.definitions(measures.names)
    assert definitions == default_measures(embedded_lens).definitions(measures.names)
    assert definitions["alignment"] != definitions["semantics"]
    assert default_measures(embedded_lens, ["ssim", "latent"]).reader is None
