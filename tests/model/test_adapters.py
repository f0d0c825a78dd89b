"""Hook points lie where their names say, on tiny models and on the published configurations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.adapters import Access, Geometry, adapter_for, known_transformers, register
from dit_lens.model.hook_points import HookPoint, in_forward_order
from dit_lens.model.traced import TracedTransformer
from dit_lens.model.weights import parameter_count
from dit_lens.zoo.published_configs import PUBLISHED, meta_transformer

pytestmark = pytest.mark.tiny


def inputs_for(transformer, rows=2, latent=8, tokens=5, device="cpu"):
    config = transformer.config
    generator = None if device == "meta" else torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, device=device)

    return {
        "hidden_states": draw(rows, config.in_channels, latent, latent),
        "timestep": torch.full((rows,), 500.0, device=device),
        "encoder_hidden_states": draw(rows, tokens, config.joint_attention_dim),
        "pooled_projections": draw(rows, config.pooled_projection_dim),
        "joint_attention_kwargs": None,
    }


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_configurations_have_the_shapes_that_the_adapter_declares(name):
    transformer = meta_transformer(name)
    traced = TracedTransformer(transformer)
    seen = {}
    with torch.no_grad():
        traced.traced_forward(
            inputs_for(transformer, latent=128, tokens=333, device="meta"),
            traced.adapter.points,
            lambda point, x: seen.update({point: tuple(x.shape)}),
        )
    geometry = Geometry(rows=2, latent_height=128, latent_width=128, context_tokens=333)
    assert seen == {point: traced.adapter.shape(point, geometry) for point in traced.adapter.points}
    assert seen[HookPoint("resid_post", 0, "image")][1] == 4096


# Parameters as published: 2 B for SD3-medium, 2.5 B and 8 B for the two SD3.5 models.
@pytest.mark.parametrize(
    ("name", "blocks", "channels", "billions"),
    [("sd3-medium", 24, 1536, 2.0), ("sd3.5-medium", 24, 1536, 2.2), ("sd3.5-large", 38, 2432, 8.1)],
)
def test_published_configurations_have_the_published_size(name, blocks, channels, billions):
    transformer = meta_transformer(name)
    adapter = adapter_for(transformer)
    assert (adapter.num_blocks, adapter.num_channels) == (blocks, channels)
    assert parameter_count(transformer) / 1e9 == pytest.approx(billions, abs=0.3)


def test_second_attention_exists_in_the_first_thirteen_blocks_of_sd35_medium():
    adapter = adapter_for(meta_transformer("sd3.5-medium"))
    dual = {point.block for point in adapter.points if point.component == "attn2_out"}
    assert dual == set(range(13))
    with pytest.raises(BadInput, match="second attention"):
        adapter.access(HookPoint("attn2_out", 13, "image"))


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("blocks.3.resid_post.context", "The last block only reads the context"),
        ("blocks.3.attn_out.context", "resid_pre, adaln.shift_attn and adaln.scale_attn"),
        ("blocks.3.adaln.gate_attn.context", "The last block only reads the context"),
        ("blocks.0.attn2_out.image", "no block of this model"),
        ("blocks.9.resid_post.image", "4 blocks, 0 to 3"),
        ("blocks.0.attn2_out.context", "image stream"),
    ],
)
def test_what_a_transformer_lacks_is_refused_by_name(tiny_sd3_lens, address, says):
    with pytest.raises(BadInput, match=says):
        tiny_sd3_lens.adapter.access(HookPoint.parse(address))


def test_points_come_in_the_order_in_which_modules_run(tiny_lens):
    transformer, adapter = tiny_lens.pipeline.transformer, tiny_lens.adapter
    ran, handles = [], []
    for path, module in transformer.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, a, path=path: ran.append((path, "input"))))
        handles.append(module.register_forward_hook(lambda m, a, o, path=path: ran.append((path, "output"))))
    try:
        with torch.no_grad():
            tiny_lens.traced.forward(inputs_for(transformer))
    finally:
        for handle in handles:
            handle.remove()
    places = [(adapter.access(p).module, adapter.access(p).side) for p in in_forward_order(adapter.points)]
    positions = [ran.index(place) for place in places]
    assert positions == sorted(positions)


def test_shift_and_scale_are_those_that_the_norm_applies(tiny_lens):
    transformer = tiny_lens.pipeline.transformer
    kept, normed, handles = {}, {}, []
    for i, block in enumerate(transformer.transformer_blocks):
        for stream, norm in (("image", block.norm1), ("context", block.norm1_context)):
            handles.append(norm.register_forward_hook(lambda m, a, o, k=(i, stream): normed.update({k: o})))
    try:
        with torch.no_grad():
            tiny_lens.traced.traced_forward(
                inputs_for(transformer), tiny_lens.hook_points, lambda p, x: kept.update({str(p): x.clone()})
            )
    finally:
        for handle in handles:
            handle.remove()
    for (i, stream), output in normed.items():
        where = f"blocks.{i}.{{}}.{stream}"
        x = torch.nn.functional.layer_norm(
            kept[where.format("resid_pre")], (tiny_lens.num_channels,), eps=1e-6
        )
        scale, shift = (kept[where.format(f"adaln.{kind}_attn")] for kind in ("scale", "shift"))
        first = output[0] if isinstance(output, tuple) else output
        torch.testing.assert_close(first, x * (1 + scale[:, None]) + shift[:, None])
        if isinstance(output, tuple) and len(output) == 7:
            scale, shift = (kept[where.format(f"adaln.{kind}_attn2")] for kind in ("scale", "shift"))
            torch.testing.assert_close(output[5], x * (1 + scale[:, None]) + shift[:, None])


def test_the_residual_is_what_gates_and_outputs_add_up_to(tiny_lens):
    kept = {}
    with torch.no_grad():
        tiny_lens.traced.traced_forward(
            inputs_for(tiny_lens.pipeline.transformer),
            tiny_lens.hook_points,
            lambda p, x: kept.update({str(p): x.clone()}),
        )
    for i in range(tiny_lens.num_blocks):
        for stream in ("image", "context"):
            where = f"blocks.{i}.{{}}.{stream}"
            if where.format("resid_post") not in kept:
                continue
            total = kept[where.format("resid_pre")]
            for out, gate in (
                ("attn_out", "gate_attn"),
                ("attn2_out", "gate_attn2"),
                ("mlp_out", "gate_mlp"),
            ):
                if where.format(out) in kept:
                    total = total + kept[where.format(f"adaln.{gate}")][:, None] * kept[where.format(out)]
            torch.testing.assert_close(total, kept[where.format("resid_post")])


@settings(max_examples=30)
@given(st.integers(1, 4), st.data())
def test_what_was_put_is_picked_and_the_rest_is_untouched(count, data):
    index = data.draw(st.integers(0, count - 1))
    whole = torch.arange(2.0 * count * 3).reshape(2, count * 3)
    new = torch.full((2, 3), -1.0)
    for access, value in [
        (Access("m", "output", None, (index, count)), whole),
        (Access("m", "output", index), tuple(whole + k for k in range(count))),
        (Access("m", "input", "x"), ((), {"x": whole, "y": 1})),
    ]:
        replacement = new if access.chunk else torch.full_like(whole, -1.0)
        changed = access.put(value, replacement)
        assert torch.equal(access.pick(changed), replacement)
        back = access.put(changed, access.pick(value))
        assert _equal(back, value)


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    return a == b


def test_an_unknown_transformer_is_refused_with_what_is_known():
    with pytest.raises(BadInput, match=r"Linear.*Known: SD3Transformer2DModel"):
        adapter_for(torch.nn.Linear(1, 1))
    assert known_transformers() == ("SD3Transformer2DModel",)


def test_a_family_is_registered_once():
    with pytest.raises(ValueError, match="already has an adapter"):
        register("SD3Transformer2DModel")(lambda transformer: None)


def test_image_sizes_that_do_not_fit_are_refused(tiny_sd3_lens):
    with pytest.raises(BadInput, match="2 × 2 patches"):
        tiny_sd3_lens.adapter.token_grid(7, 8)
    with pytest.raises(BadInput, match="position embedding"):
        tiny_sd3_lens.adapter.token_grid(8, 64)


def test_feed_forward_chunking_is_refused_and_its_shape_would_betray_it(make_pipeline):
    transformer = make_pipeline("sd3").transformer
    traced = TracedTransformer(transformer)
    transformer.enable_forward_chunking(1, dim=1)
    with pytest.raises(BadInput, match="disable_forward_chunking"):
        traced.adapter.ready()
    with pytest.raises(
        RunFailure, match=r"blocks.0.mlp_out.image has shape \(2, 1, 32\), expected \(2, 16, 32\)"
    ):
        traced.traced_forward(
            inputs_for(transformer), [HookPoint("mlp_out", 0, "image")], lambda point, x: None
        )
