"""Whatever changes the numbers changes the identity; whatever does not leaves known results known."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.hooks import (
    FirstBlockCacheConfig,
    LayerSkipConfig,
    PyramidAttentionBroadcastConfig,
    apply_first_block_cache,
    apply_layer_skip,
    apply_pyramid_attention_broadcast,
)
from diffusers.models.attention_processor import (
    JointAttnProcessor2_0,
    PAGJointAttnProcessor2_0,
    SD3IPAdapterJointAttnProcessor2_0,
)
from torch import nn

import dit_lens as dl
from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.precision import precision
from dit_lens.run.cells import CELLS, IDENTITIES, CellStore
from dit_lens.zoo.random_pipelines import random_pipeline
from dit_lens.zoo.tokenizer import build_tokenizer

pytestmark = pytest.mark.tiny

PROMPT = "a large red star"
SAMPLING = {"steps": 3, "max_sequence_length": 0}
ARM = dl.ablation_arm("massive", "massive", [0, 1], dl.Zero(), blocks=[1])
NAMES = ("latent", "psnr")


class Score:
    """A user's own scorer: how dark the image is, by a model and a threshold."""

    name = "alignment"

    def __init__(self, threshold=0.5):
        self.threshold = threshold
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.model.weight)

    def score(self, images, prompts):
        return [
            float(self.model.weight.detach()) * float((np.asarray(image) / 255 > self.threshold).mean())
            for image in images
        ]


def measured(pipeline, store=None, *, scorer=None, **sampling):
    """(values, how many were known) of one small study on a pipeline, loaded anew."""
    return studied(dl.load(pipeline), store, scorer=scorer, **sampling)


def studied(lens, store=None, *, scorer=None, arms_per_forward=None, **sampling):
    names = NAMES if scorer is None else (*NAMES, "alignment")
    done = dl.run_study(
        lens, [ARM], [PROMPT], [0], measures=dl.default_measures(lens, names, clip=scorer),
        sampling={**SAMPLING, **sampling}, store=None if store is None else CellStore(store),
        arms_per_forward=arms_per_forward, progress=False,
    )  # fmt: skip
    return done.effects.value.tolist(), done.known


# ------------------------------------------------------------------------------------------------ changes
def scheduler(**settings):
    def change(pipeline):
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
            pipeline.scheduler.config, **settings
        )

    return change


def shifted(pipeline):
    pipeline.scheduler.set_shift(1.0)


def stepped_otherwise(pipeline):
    step = pipeline.scheduler.step

    def half(velocity, *args, **kwargs):
        return step(velocity / 2, *args, **kwargs)

    pipeline.scheduler.step = half


def weights(part, index=0, edit=None):
    """Change one tensor of a part in place."""

    def change(pipeline):
        tensors = [p for p in getattr(pipeline, part).parameters() if p.ndim > 1]
        with torch.no_grad():
            (edit or (lambda p: p.mul_(1.5)))(tensors[index])

    return change


def through_data(part):
    def change(pipeline):
        next(p for p in getattr(pipeline, part).parameters() if p.ndim > 1).data[:, 0] = 0

    return change


def one_value(pipeline):
    block = pipeline.transformer.transformer_blocks[1]
    with torch.no_grad():
        block.ff.net[2].weight[7, 13] += 1


def one_column(pipeline):
    """A zeroed input channel, as someone who prunes a massive one leaves it."""
    with torch.no_grad():
        pipeline.transformer.transformer_blocks[2].attn.to_q.weight[:, 5] = 0


def replaced_parameter(pipeline):
    linear = pipeline.transformer.transformer_blocks[0].attn.to_v
    linear.weight = nn.Parameter(linear.weight.detach() * 2)


def buffer(pipeline):
    pipeline.transformer.pos_embed.pos_embed.mul_(0.5)


def replaced_block(pipeline):
    blocks = pipeline.transformer.transformer_blocks
    blocks[1] = copy.deepcopy(random_pipeline("sd3", seed=3).transformer.transformer_blocks[1])


def other_vae(pipeline):
    pipeline.vae = random_pipeline("sd3", seed=5).vae


def vae_scale(pipeline):
    pipeline.vae.register_to_config(scaling_factor=1.0)


def setting(path, name, value):
    def change(pipeline):
        setattr(pipeline.transformer.get_submodule(path), name, value)

    return change


def adapter(pipeline):
    from peft import LoraConfig

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipeline.transformer.add_adapter(config, adapter_name="a")
    return pipeline


def without_adapters(pipeline):
    pipeline.transformer.disable_adapters()


def adapter_scale(pipeline):
    pipeline.transformer.set_adapters("a", 0.0)


class Louder:
    """A processor of somebody else's."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        image, context = JointAttnProcessor2_0()(attn, hidden_states, *args, **kwargs)
        return 2 * image, context


class Declared(Louder):
    lens_identity = "twice the image's attention"


def processor(of):
    def change(pipeline):
        pipeline.transformer.transformer_blocks[1].attn.set_processor(of())

    return change


def fused(pipeline):
    pipeline.transformer.fuse_qkv_projections()


def hook(pipeline):
    pipeline.transformer.transformer_blocks[1].attn.register_forward_hook(
        lambda m, a, out: (out[0] * 2, out[1])
    )


def encoder_hook(pipeline):
    pipeline.text_encoder.register_forward_pre_hook(lambda m, a: (a[0].flip(1),))


def everywhere(pipeline):
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, a, out: out * 1.01 if isinstance(m, nn.GELU) else None
    )
    return handle.remove


def own_forward(pipeline):
    linear = pipeline.transformer.norm_out.linear
    forward = linear.forward
    linear.forward = lambda x: forward(x) * 2


def class_forward(pipeline):
    from diffusers.models.normalization import AdaLayerNormContinuous

    kept = AdaLayerNormContinuous.forward

    def louder(self, x, emb):
        return kept(self, x, emb) * 2

    AdaLayerNormContinuous.forward = louder

    def back():
        AdaLayerNormContinuous.forward = kept

    return back


def step_cache(pipeline):
    apply_pyramid_attention_broadcast(
        pipeline.transformer,
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(0, 1000),
            current_timestep_callback=lambda: 500,
            spatial_attention_block_identifiers=("transformer_blocks",),
        ),
    )


def first_block_cache(pipeline):
    apply_first_block_cache(pipeline.transformer, FirstBlockCacheConfig(threshold=0.5))


def layer_skip(pipeline):
    apply_layer_skip(pipeline.transformer, LayerSkipConfig(indices=[1], fqn="transformer_blocks"))


def pag(pipeline):
    pipeline.transformer.transformer_blocks[1].attn.set_processor(PAGJointAttnProcessor2_0())


def ip_adapter(pipeline):
    attn = pipeline.transformer.transformer_blocks[1].attn
    attn.set_processor(SD3IPAdapterJointAttnProcessor2_0(32, 16, 8))


def stored_as_fp8(pipeline):
    pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


def in_bfloat16(pipeline):
    pipeline.to(torch.bfloat16)


def decoded_in_bfloat16(pipeline):
    pipeline.vae.to(torch.bfloat16)


def autocast(pipeline):
    context = torch.autocast("cpu", torch.bfloat16)
    context.__enter__()
    return lambda: context.__exit__(None, None, None)


def matmul_precision(pipeline):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    return lambda: torch.set_float32_matmul_precision(before)


def without_mkldnn(pipeline):
    before = torch.backends.mkldnn.enabled
    torch._C._set_mkldnn_enabled(False)
    return lambda: torch._C._set_mkldnn_enabled(before)


def without_flash(pipeline):
    torch.backends.cuda.enable_flash_sdp(False)
    return lambda: torch.backends.cuda.enable_flash_sdp(True)


def tokenizer(pipeline):
    """Two words of the vocabulary change places."""
    backend = pipeline.tokenizer.backend_tokenizer
    data = json.loads(backend.to_str())
    vocabulary = data["model"]["vocab"]
    first, second = (
        next(token for token in vocabulary if token.startswith(word)) for word in ("red", "blue")
    )
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    pipeline.tokenizer = type(pipeline.tokenizer)(
        vocab=vocabulary,
        merges=[tuple(pair) for pair in data["model"]["merges"]],
        model_max_length=pipeline.tokenizer.model_max_length,
    )


def shorter_prompts(pipeline):
    pipeline.tokenizer_max_length = 5


def prompt_encoding(pipeline):
    encode = pipeline.encode_prompt
    pipeline.encode_prompt = lambda *a, **k: tuple(None if x is None else x * 2 for x in encode(*a, **k))


def image_making(pipeline):
    made = pipeline.image_processor.postprocess
    pipeline.image_processor.postprocess = lambda x, output_type: made(-x, output_type=output_type)


def tiled_decoding(pipeline):
    pipeline.vae.enable_tiling()


# All of these change the function from a prompt and a seed to numbers, or what is measured of them.
CHANGES = {
    "schedule: shift": scheduler(shift=1.0),
    "schedule: set_shift": shifted,
    "schedule: dynamic": scheduler(use_dynamic_shifting=True, base_shift=0.1, max_shift=3.0),
    "schedule: sigmas": scheduler(use_karras_sigmas=True),
    "scheduler's step": stepped_otherwise,
    "transformer's weights": weights("transformer"),
    "transformer's last weights": weights("transformer", -1),
    "one value of one weight": one_value,
    "one column of one weight": one_column,
    "text encoder": weights("text_encoder"),
    "second text encoder": weights("text_encoder_2"),
    "autoencoder": weights("vae", -1),
    "weights through .data": through_data("transformer"),
    "a replaced parameter": replaced_parameter,
    "a buffer": buffer,
    "a replaced block": replaced_block,
    "another autoencoder": other_vae,
    "the latents' scale": vae_scale,
    "a norm's eps": setting("norm_out.norm", "eps", 10.0),
    "an attention's scale": setting("transformer_blocks.0.attn", "heads", 2),
    "a foreign processor": processor(Louder),
    "a declared processor": processor(Declared),
    "fused projections": fused,
    "a forward hook": hook,
    "a hook on an encoder": encoder_hook,
    "a hook on every module": everywhere,
    "an own forward": own_forward,
    "a class's forward": class_forward,
    "pyramid attention broadcast": step_cache,
    "first-block cache": first_block_cache,
    "a skipped layer": layer_skip,
    "perturbed-attention guidance": pag,
    "IP-Adapter": ip_adapter,
    "fp8 storage": stored_as_fp8,
    "dtype": in_bfloat16,
    "autoencoder's dtype": decoded_in_bfloat16,
    "autocast": autocast,
    "float32 matmul precision": matmul_precision,
    "kernels of matmuls": without_mkldnn,
    "kernels of attention": without_flash,
    "a tokenizer": tokenizer,
    "the tokenizers' limit": shorter_prompts,
    "prompt encoding": prompt_encoding,
    "the making of images": image_making,
    "tiled decoding": tiled_decoding,
}

REFUSED_AT_ONCE = {
    "pyramid attention broadcast": "pyramid_attention_broadcast",
    "first-block cache": "fbc_",
    "a skipped layer": "layer_skip",
    "perturbed-attention guidance": "PAGJointAttnProcessor2_0",
    "IP-Adapter": "unload_ip_adapter",
}


@contextlib.contextmanager
def made(change, pipeline):
    undo = change(pipeline)
    try:
        yield
    finally:
        if callable(undo):
            undo()


def outcome(work):
    """("values", numbers) or ("refused", message)."""
    try:
        values, _ = work()
    except (BadInput, RunFailure) as error:
        return "refused", str(error)
    return "values", values


def quiet_load(pipeline):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dl.load(pipeline)


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_the_numbers_changes_the_identity_of_a_new_lens(name, tmp_path) -> None:
    before, _ = measured(random_pipeline("sd3"), tmp_path)
    pipeline = random_pipeline("sd3")
    with made(CHANGES[name], pipeline):
        kind, found = outcome(lambda: measured(pipeline, tmp_path))
        if kind == "refused":
            assert len(found.splitlines()) == 1 and "Traceback" not in found
        else:
            assert found == measured(pipeline)[0], "a stored result was taken for another's"
    assert measured(random_pipeline("sd3"), tmp_path) == (before, 1), "and the first one stays known"


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_after_loading_is_noticed_before_the_next_run(name, tmp_path) -> None:
    lens = quiet_load(random_pipeline("sd3"))
    studied(lens, tmp_path)
    with made(CHANGES[name], lens.pipeline):
        kind, found = outcome(lambda: studied(lens, tmp_path))
        if kind == "refused":
            assert len(found.splitlines()) == 1
            return
        # The same change on a pipeline of its own, by a lens that holds no state of before.
        assert found == studied(lens)[0]
        fresh = random_pipeline("sd3")
        with made(CHANGES[name], fresh):
            assert found == pytest.approx(measured(fresh)[0], rel=1e-5)


def test_a_write_through_data_before_the_first_run_is_noticed(tmp_path) -> None:
    before, _ = measured(random_pipeline("sd3"), tmp_path)
    lens = quiet_load(random_pipeline("sd3"))
    lens.pipeline.transformer.transformer_blocks[1].attn.to_k.weight.data[3] = 0
    after, known = studied(lens, tmp_path)
    assert known == 0 and after != before


@pytest.mark.parametrize("name", REFUSED_AT_ONCE)
def test_what_makes_modules_run_otherwise_is_refused_by_name_before_anything_runs(name, tmp_path) -> None:
    pipeline = random_pipeline("sd3")
    CHANGES[name](pipeline)
    with pytest.raises(BadInput, match=REFUSED_AT_ONCE[name]):
        dl.load(pipeline)
    lens = quiet_load(random_pipeline("sd3"))
    CHANGES[name](lens.pipeline)
    with pytest.raises(BadInput, match=REFUSED_AT_ONCE[name]):
        lens.generate(PROMPT, **SAMPLING, progress=False)


@pytest.mark.parametrize("change", [adapter_scale, without_adapters], ids=["scale", "switched off"])
def test_an_adapter_s_scale_is_part_of_the_identity_and_recorded(change, tmp_path) -> None:
    before, _ = measured(adapter(random_pipeline("sd3")), tmp_path)
    pipeline = adapter(random_pipeline("sd3"))
    lens = dl.load(pipeline)
    assert lens.identity().entries["transformer adapters"] == "a × 8"
    change(pipeline)
    assert lens.identity().entries["transformer adapters"] == "a × 0"
    after, known = studied(lens, tmp_path)
    assert (known, after) == (0, measured(random_pipeline("sd3"))[0])
    assert measured(adapter(random_pipeline("sd3")), tmp_path) == (before, 1)


@pytest.mark.parametrize("change", ["threshold", "weights", "code"])
def test_a_scorer_is_part_of_what_is_measured_by_it(change, tmp_path, monkeypatch) -> None:
    lens = quiet_load(random_pipeline("sd3"))
    scorer = Score()
    before, _ = studied(lens, tmp_path, scorer=scorer)
    assert studied(lens, tmp_path, scorer=Score()) == (before, 1)
    if change == "threshold":
        scorer.threshold = 0.4
    elif change == "weights":
        scorer.model.weight.data.mul_(2)
    else:
        monkeypatch.setattr(Score, "score", lambda self, images, prompts: [0.25 for _ in images])
    after, known = studied(lens, tmp_path, scorer=scorer)
    assert known == 0 and after != before
    assert after == studied(lens, scorer=scorer)[0]


def test_hooks_that_declare_what_they_do_are_told_apart_and_watchers_change_nothing(tmp_path) -> None:
    lens = quiet_load(random_pipeline("sd3"))
    before, _ = studied(lens, tmp_path)
    seen = []

    def watch(module, inputs, output):
        seen.append(1)

    attn = lens.pipeline.transformer.transformer_blocks[1].attn
    handle = attn.register_forward_hook(watch)
    with pytest.raises(BadInput, match=r"watch.*lens_identity"):
        studied(lens, tmp_path)
    assert studied(lens)[0] == before, "without a store it runs"
    watch.lens_identity = ""
    lens = quiet_load(lens.pipeline)
    assert studied(lens, tmp_path) == (before, 1)
    handle.remove()

    def louder(module, inputs, output):
        return output[0] * louder.by, output[1]

    attn.register_forward_hook(louder)
    found = []
    for louder.by in (2, 3):
        louder.lens_identity = f"attention times {louder.by}"
        found.append(studied(quiet_load(lens.pipeline), tmp_path))
    assert [known for _, known in found] == [0, 0] and found[0][0] != found[1][0]


# ---------------------------------------------------------------------------------------------- the mirror
@dataclass
class Same:
    """What is done to a model that changes none of its numbers."""

    folder: Any

    def nothing(self, pipeline):
        return pipeline, {}

    def saved_and_loaded(self, pipeline):
        pipeline.save_pretrained(self.folder / "a")
        return str(self.folder / "a"), {}

    def moved_folder(self, pipeline):
        pipeline.save_pretrained(self.folder / "a")
        shutil.move(self.folder / "a", self.folder / "b")
        return str(self.folder / "b"), {}

    def another_name(self, pipeline):
        pipeline.register_to_config(_name_or_path="somebody/else")
        return pipeline, {}

    def has_run(self, pipeline):
        pipeline(PROMPT, num_inference_steps=1, max_sequence_length=0)
        return pipeline, {}

    def batch_size(self, pipeline):
        return pipeline, {"arms_per_forward": 1}

    def negative_prompt_without_guidance(self, pipeline):
        return pipeline, {"guidance_scale": 1.0, "negative_prompt": "blurred"}

    def written_otherwise(self, pipeline):
        return pipeline, {"guidance_scale": np.float64(1.0)}

    def same_weights_again(self, pipeline):
        pipeline.transformer.load_state_dict(random_pipeline("sd3").transformer.state_dict())
        return pipeline, {}

    def back_and_forth(self, pipeline):
        pipeline.scheduler.set_shift(1.0)
        pipeline.scheduler.set_shift(3.0)
        return pipeline, {}

    def gradients(self, pipeline):
        pipeline.transformer.requires_grad_(False)
        return pipeline, {}

    def progress_bars(self, pipeline):
        pipeline.set_progress_bar_config(disable=False)
        return pipeline, {}

    def scheduler_has_run(self, pipeline):
        pipeline.scheduler.set_timesteps(7)
        return pipeline, {}


SAMES = [name for name in vars(Same) if not name.startswith("_") and callable(getattr(Same, name))]


@pytest.mark.parametrize("name", SAMES)
def test_what_changes_no_number_keeps_known_results_known(name, tmp_path) -> None:
    how = Same(tmp_path)
    guidance = {"guidance_scale": 1.0}
    before, _ = measured(random_pipeline("sd3"), tmp_path / "store", **guidance)
    source, more = getattr(how, name)(random_pipeline("sd3"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert measured(source, tmp_path / "store", **{**guidance, **more}) == (before, 1)


def test_there_are_as_many_cases_as_were_promised() -> None:
    assert len(CHANGES) >= 25 and len(SAMES) >= 10


# ------------------------------------------------------------------------------------------ stores and cost
def test_an_older_store_opens_and_its_results_are_neither_used_nor_touched(tmp_path) -> None:
    old = tmp_path / CELLS / "ab" / f"ab{'0' * 62}.json"
    old.parent.mkdir(parents=True)
    body = json.dumps({"schema_version": 1, "key": {"model": "f" * 64, "dtype": "float32"}, "checksum": "0"})
    old.write_text(body)
    lens, said = quiet_load(random_pipeline("sd3")), []
    for _ in range(2):
        dl.run_study(
            lens, [ARM], [PROMPT], [0], measures=dl.default_measures(lens, NAMES), sampling=SAMPLING,
            store=CellStore(tmp_path), progress=False, say=said.append,
        )  # fmt: skip
    assert old.read_text() == body
    assert [line for line in said if "earlier version" in line] == said[:1]
    assert said[1:] == ["1 of 1 results are known and are not computed again."]


def test_a_store_keeps_what_its_results_were_computed_on(tmp_path) -> None:
    lens = quiet_load(random_pipeline("sd3"))
    studied(lens, tmp_path)
    identity = lens.identity(lens.sampling(**SAMPLING))
    kept = json.loads((tmp_path / IDENTITIES / f"{identity.digest[:16]}.json").read_text())
    assert kept["digest"] == identity.digest and kept["entries"] == identity.entries
    assert kept["entries"]["schedule"].startswith("3 steps, sigma 1")


def test_a_model_that_changes_while_it_runs_leaves_no_result(tmp_path) -> None:
    lens = quiet_load(random_pipeline("sd3"))

    def spoil(*_):
        shifted(lens.pipeline)

    arms = [dl.CLEAN, ARM]
    with pytest.raises(RunFailure, match="schedule"):
        dl.run_study(
            lens, arms, [PROMPT], [0], measures=dl.default_measures(lens, NAMES), sampling=SAMPLING,
            store=CellStore(tmp_path), on_image=spoil, progress=False,
        )  # fmt: skip
    assert len(CellStore(tmp_path)) == 0


def test_precision_names_what_was_switched() -> None:
    assert precision("cpu") == {}
    with made(matmul_precision, None):
        assert precision("cpu")["float32 matmul precision"] == "medium"


def quickest(work, times=15):
    took = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


@pytest.mark.embedded
def test_the_check_before_a_run_costs_two_milliseconds_on_the_embedded_model(embedded_lens) -> None:
    embedded_lens.generate("a large red circle", steps=1, progress=False)
    embedded_lens.identity()
    assert quickest(embedded_lens.identity) < 0.004, "2 ms on an idle core; CI's are shared"


def test_the_check_before_a_run_costs_fifty_milliseconds_at_sd35_large_s_number_of_tensors() -> None:
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    pipeline = random_pipeline("sd3.5")
    pipeline.transformer = SD3Transformer2DModel(**{**pipeline.transformer.config, "num_layers": 38}).eval()
    small = {"vocab_size": 700, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    ids = {"bos_token_id": 630, "eos_token_id": 631, "pad_token_id": 631, "projection_dim": 16}
    for name, layers in (("text_encoder", 12), ("text_encoder_2", 32)):
        config = CLIPTextConfig(**small, **ids, num_hidden_layers=layers, max_position_embeddings=20)
        setattr(pipeline, name, CLIPTextModelWithProjection(config).eval())
    t5 = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=24, num_heads=4)
    pipeline.text_encoder_3 = T5EncoderModel(t5).eval()
    pipeline.tokenizer_3 = build_tokenizer()
    lens = dl.load(pipeline)
    parts = lens.state.current().weights
    assert len(parts) > 2000
    lens.identity()
    assert quickest(lens.identity) < 0.05
