"""The self-check passes on sound models and fails on wrappers that lie."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import dit_lens
from dit_lens.errors import RunFailure
from dit_lens.model.hook_points import HookPoint

pytestmark = pytest.mark.tiny


def failures(report):
    return {entry.name: entry.detail for entry in report.checks if not entry.ok}


def test_a_sound_model_passes_every_check_exactly(tiny_lens):
    report = tiny_lens.check()
    assert failures(report) == {}
    assert report.ok
    exact = [entry for entry in report.checks if "guidance" in entry.name]
    assert len(exact) == 12
    assert all(entry.detail.startswith("equal bit for bit") for entry in exact)
    for guidance in ("1.0", "4.5"):
        for name in (
            "plain pipeline = our loop",
            "our loop = traced loop",
            "traced loop = read at every hook point",
        ):
            assert any(e.name == f"{name}, guidance {guidance}" for e in report.checks)


def test_the_report_is_plain_json_with_one_entry_per_check(tiny_sd3_lens):
    report = tiny_sd3_lens.check()
    content = json.loads(json.dumps(report.to_json()))
    assert content["ok"] is True
    assert content["model"] == tiny_sd3_lens.name
    assert len(content["checks"]) == len(report.checks)
    assert set(content["checks"][0]) == {"name", "ok", "detail", "seconds"}
    assert len({entry["name"] for entry in content["checks"]}) == len(content["checks"])
    assert "all checks passed" in str(report)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.model = "other"


def test_swapped_streams_are_found(make_pipeline):
    lens = dit_lens.load(make_pipeline("sd3"))
    accesses = dict(lens.adapter._accesses)
    image, context = (HookPoint("resid_pre", 2, s) for s in ("image", "context"))
    accesses[image], accesses[context] = accesses[context], accesses[image]
    lens.adapter._accesses = accesses
    found = failures(lens.check())
    assert "hook point shapes are as declared" in found
    assert "blocks.2.resid_pre.image has shape" in found["hook point shapes are as declared"]


def test_a_stream_that_is_not_what_it_is_called_is_found_where_shapes_agree(make_pipeline):
    lens = dit_lens.load(make_pipeline("sd3"))
    accesses = dict(lens.adapter._accesses)
    accesses[HookPoint("resid_post", 1, "image")] = accesses[HookPoint("mlp_out", 1, "image")]
    lens.adapter._accesses = accesses
    assert (
        failures(lens.check())["image stream is named right"]
        == "what enters block 2 is not what left block 1"
    )


def test_a_loop_that_differs_from_the_pipeline_is_found(make_pipeline, monkeypatch):
    lens = dit_lens.load(make_pipeline("sd3"))
    original = type(lens.traced).forward
    monkeypatch.setattr(type(lens.traced), "forward", lambda self, inputs: original(self, inputs) * 1.0001)
    found = failures(lens.check())
    assert {"plain pipeline = our loop, guidance 1.0", "plain pipeline = our loop, guidance 4.5"} <= set(
        found
    )
    assert "largest difference" in found["plain pipeline = our loop, guidance 1.0"]


def test_a_block_without_effect_is_found(make_pipeline):
    pipeline = make_pipeline("sd3")
    with torch.no_grad():
        pipeline.transformer.proj_out.weight.zero_()
    found = failures(dit_lens.load(pipeline).check())
    assert found["an edit at each block changes the output"].endswith("changes nothing")


def test_a_crash_becomes_an_entry(make_pipeline):
    lens = dit_lens.load(make_pipeline("sd3"))

    def broken(*args):
        raise ZeroDivisionError("broken kernel")

    lens.pipeline.transformer.norm_out.register_forward_hook(broken)
    report = lens.check()
    assert not report.ok
    assert "ZeroDivisionError: broken kernel" in str(report)
    assert lens.traced.idle


def test_nan_from_the_model_fails_the_check(make_pipeline):
    lens = dit_lens.load(make_pipeline("sd3"))
    with torch.no_grad():
        lens.pipeline.transformer.proj_out.bias[0] = float("nan")
    assert any("NaN or infinite" in detail for detail in failures(lens.check()).values())


def test_half_precision_reports_differences_instead_of_failing(make_pipeline):
    report = dit_lens.load(make_pipeline("sd3"), dtype="bfloat16").check()
    assert report.ok, str(report)


def test_the_pipelines_progress_bar_setting_is_restored(tiny_sd3_lens):
    before = dict(tiny_sd3_lens.pipeline._progress_bar_config)
    tiny_sd3_lens.check()
    assert tiny_sd3_lens.pipeline._progress_bar_config == before


@pytest.mark.embedded
def test_the_embedded_model_passes(embedded_lens):
    report = embedded_lens.check()
    assert report.ok, str(report)


@pytest.mark.parametrize("kind", ["sd3", "sd3.5"])
def test_the_check_says_where_a_value_that_is_not_finite_begins(make_pipeline, kind) -> None:
    pipeline = make_pipeline(kind)
    pipeline.transformer.transformer_blocks[2].ff.net[2].bias.data[5] = float("inf")
    lens = dit_lens.load(pipeline, check_weights=False)
    with pytest.raises(RunFailure, match=r"`lens.check\(\)` says where it begins"):
        lens.generate("blue", 0, steps=2, max_sequence_length=0, progress=False)
    (found,) = [entry for entry in lens.check().checks if entry.name == "every activation is finite"]
    assert not found.ok
    assert "from blocks.2.mlp_out.image on, at step 0, branch uncond" in found.detail
