"""Weights as people store them: each way opens and passes its check, or is refused by name in one line.

torchao, quanto, GGUF and bitsandbytes are no part of the development environment: their import writes to
stderr in every process. `make quantised` brings them for this module.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import dit_lens as dl
from dit_lens.errors import BadInput
from dit_lens.model.weights import content, sample_of
from dit_lens.zoo.random_pipelines import random_pipeline
from tests.oracles import pipeline_call

pytestmark = pytest.mark.tiny

PROMPT, SAMPLING = "a large red star", {"steps": 3, "guidance_scale": 4.5, "max_sequence_length": 0}


def swapped(module, fits, made):
    """Exchange the linear layers of a module that fit."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear) and fits(child):
            setattr(module, name, made(child).eval())
        else:
            swapped(child, fits, made)


def fp8(pipeline):
    pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


def torchao(pipeline):
    quantization = pytest.importorskip("torchao.quantization", reason="make quantised brings torchao")
    quantization.quantize_(pipeline.transformer, quantization.Int8WeightOnlyConfig())


def quanto_int8(pipeline):
    quanto = pytest.importorskip("optimum.quanto", reason="make quantised brings quanto")
    quanto.quantize(pipeline.transformer, weights=quanto.qint8)
    quanto.freeze(pipeline.transformer)


def quanto_fp8(pipeline):
    quanto = pytest.importorskip("optimum.quanto", reason="make quantised brings quanto")
    quanto.quantize(pipeline.transformer, weights=quanto.qfloat8)
    quanto.freeze(pipeline.transformer)


def gguf(pipeline):
    package = pytest.importorskip("gguf", reason="make quantised brings gguf")
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    kind = package.GGMLQuantizationType.Q8_0

    def made(old):
        new = GGUFLinear(old.in_features, old.out_features, old.bias is not None, compute_dtype=torch.float32)
        stored = package.quantize(old.weight.detach().numpy(), kind)
        new.weight, new.bias = GGUFParameter(torch.from_numpy(stored.copy()), quant_type=kind), old.bias
        return new.requires_grad_(False)

    swapped(pipeline.transformer, lambda old: old.in_features % 32 == 0, made)


def bitsandbytes(kind):
    def change(pipeline):
        package = pytest.importorskip("bitsandbytes", reason="make quantised brings bitsandbytes")

        def made(old):
            size = (old.in_features, old.out_features, old.bias is not None)
            new = (
                package.nn.Linear8bitLt(*size, has_fp16_weights=False)
                if kind == 8
                else package.nn.Linear4bit(*size, compute_dtype=torch.float32)
            )
            new.load_state_dict(old.state_dict())
            return new.to("cpu")

        swapped(pipeline.transformer, lambda old: old.in_features % 64 == 0, made)

    return change


WAYS = {
    "fp8 by layerwise casting": fp8,
    "torchao int8": torchao,
    "quanto int8": quanto_int8,
    "quanto fp8": quanto_fp8,
    "GGUF Q8_0": gguf,
    "bitsandbytes int8": bitsandbytes(8),
    "bitsandbytes 4-bit": bitsandbytes(4),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_opens_equals_its_pipeline_and_passes_its_check(way) -> None:
    pipeline = random_pipeline("sd3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        WAYS[way](pipeline)
        expected = pipeline_call(pipeline, [PROMPT], [0], steps=3, guidance=4.5)
        lens = dl.load(pipeline)
        identity = lens.identity()
        made = lens.generate(PROMPT, 0, **SAMPLING, progress=False).latents[:, -1]
        assert torch.equal(made, expected)
        assert lens.check().ok, str(lens.check())
        # Neither a run nor a check is taken for a change; other weights are.
        assert lens.identity() == identity and not identity.untold
        assert dl.load(random_pipeline("sd3")).fingerprint != lens.fingerprint
        other = random_pipeline("sd3", seed=1)
        WAYS[way](other)
        assert dl.load(other).identity().digest != identity.digest


def test_dynamic_quantisation_is_refused_since_rows_would_depend_on_their_company() -> None:
    pipeline = random_pipeline("sd3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.transformer = torch.ao.quantization.quantize_dynamic(pipeline.transformer, {nn.Linear})
        alone = pipeline_call(pipeline, [PROMPT], [0], steps=3, guidance=4.5)
        together = pipeline_call(pipeline, [PROMPT, "blue"], [0, 1], steps=3, guidance=4.5)
        assert (alone - together[:1]).abs().max() > 0.01, "else there would be no reason to refuse"
        with pytest.raises(BadInput, match=r"quantised dynamically.*Int8WeightOnlyConfig") as refused:
            dl.load(pipeline)
    assert len(str(refused.value).splitlines()) == 1


def test_the_check_finds_rows_that_depend_on_their_company() -> None:
    lens = dl.load(random_pipeline("sd3"))

    def mixing(module, inputs, output):
        return output / output.abs().max()

    mixing.lens_identity = "by the largest of all rows"
    lens.pipeline.transformer.proj_out.register_forward_hook(mixing)
    lens = dl.load(lens.pipeline)
    failed = {entry.name: entry.detail for entry in lens.check().checks if not entry.ok}
    assert list(failed) == ["a row does not depend on the rows beside it"]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2]
)
def test_the_content_of_a_weight_is_every_value_in_every_dtype(dtype) -> None:
    values = torch.randn(700, 513).to(dtype)
    first = content(values)
    assert content(values.clone()) == first
    for place in ((0, 0), (699, 512), (350, 17), (123, 456)):
        changed = values.clone().view(torch.uint8)
        changed.view(700, -1)[place[0], place[1] * values.element_size()] ^= 1
        assert content(changed.view(dtype).view(700, 513)) != first
    assert content(values[torch.randperm(700)]) != first, "rows that changed places"
    assert content(values.view(513, 700)) != first
    assert len(sample_of("weight", values)) > 64 * 8


def test_weights_that_are_not_finite_are_refused_by_name_in_any_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn):
        values = torch.zeros(4, 300).to(dtype)
        values.view(torch.uint8)[-1, -1] = 0x7F
        if dtype.itemsize > 1:
            values[-1, -1] = float("inf")
        with pytest.raises(BadInput, match=r"weight its\.name holds 1 NaN or infinite"):
            content(values, name="its.name", finite=True)
