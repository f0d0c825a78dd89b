"""Opening models: what works, and what each failure tells the user."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from importlib import import_module
from unittest.mock import Mock

import httpx
import pytest
import torch
from huggingface_hub import errors as hub_errors

import dit_lens
from dit_lens import zoo
from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.lens import DiTLens

pytestmark = pytest.mark.tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory, request):
    """A folder with a complete pipeline without T5; copy it before changing it."""
    from dit_lens.zoo.random_pipelines import random_pipeline

    folder = tmp_path_factory.mktemp("saved") / "tiny-sd3"
    random_pipeline("sd3").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(saved, tmp_path / "tiny-sd3")


def edit_json(file, **changes):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


def test_a_folder_and_the_object_it_was_saved_from_are_the_same_model(saved, tiny_sd3_lens):
    lens = dit_lens.load(saved)
    assert (lens.name, lens.fingerprint) == ("tiny-sd3", tiny_sd3_lens.fingerprint)
    assert dit_lens.load(str(saved)).fingerprint == lens.fingerprint
    made, expected = (
        each.generate("a red circle", 0, steps=2, max_sequence_length=0) for each in (lens, tiny_sd3_lens)
    )
    assert torch.equal(made.latents, expected.latents)


def test_the_pipeline_object_is_used_as_it_is(make_pipeline):
    pipeline = make_pipeline("sd3")
    lens = dit_lens.load(pipeline)
    assert isinstance(lens, DiTLens)
    assert lens.pipeline is pipeline
    assert lens.device.type == "cpu"


def test_embedded_names_are_found_before_anything_else(folder, monkeypatch):
    monkeypatch.setattr(zoo, "names", lambda: ("tiny-sd3",))
    monkeypatch.setattr(zoo, "path", lambda name: folder)
    assert dit_lens.load("tiny-sd3").name == "tiny-sd3"


def test_a_folder_loads_without_a_word_and_leaves_the_log_levels_alone(saved):
    code = (
        "import sys, dit_lens; from transformers.utils import logging as t; "
        "from diffusers.utils import logging as d; before = t.get_verbosity(), d.get_verbosity(); "
        "dit_lens.load(sys.argv[1]); sys.exit(before != (t.get_verbosity(), d.get_verbosity()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_offloading_without_accelerate_says_what_to_install(make_pipeline, monkeypatch):
    from dit_lens.model.loading import _place

    pipeline = make_pipeline("sd3")
    monkeypatch.setattr(
        pipeline, "enable_model_cpu_offload", Mock(side_effect=ImportError("accelerate is missing"))
    )
    with pytest.raises(
        BadInput, match=r"offload='model' needs a package: accelerate.*pip install .dit-lens.offload."
    ):
        _place(pipeline, torch.device("cuda"), "model")


def test_dtype_and_weights(saved):
    lens = dit_lens.load(saved, dtype="bf16", device="cpu")
    assert lens.dtype == lens.pipeline.vae.dtype == lens.pipeline.text_encoder.dtype == torch.bfloat16
    assert dit_lens.load(saved, dtype=torch.float16).dtype == torch.float16


def test_defaults_beside_the_pipeline_are_read(folder):
    (folder / "dit_lens.json").write_text(
        json.dumps({"sampling": {"steps": 5, "guidance_scale": 4.5, "max_sequence_length": 0}})
    )
    defaults = dit_lens.load(folder).defaults
    assert (defaults.steps, defaults.guidance_scale, defaults.max_sequence_length) == (5, 4.5, 0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is no JSON"),
        ("[1]", "must hold an object"),
        ('{"sampling": {"stepz": 1}}', "Did you mean 'steps'"),
        ('{"sampling": {"steps": "many"}}', "whole number"),
    ],
)
def test_wrong_defaults_are_refused(folder, content, says):
    (folder / "dit_lens.json").write_text(content)
    with pytest.raises(BadInput, match=says):
        dit_lens.load(folder)


def test_an_unknown_name_lists_what_is_embedded(monkeypatch):
    monkeypatch.setattr(zoo, "names", lambda: ("shapes-sd3",))
    with pytest.raises(
        BadInput, match=r"'shape-sd3'. Did you mean 'shapes-sd3'\? Embedded models: shapes-sd3"
    ):
        dit_lens.load("shape-sd3")


def test_a_path_that_does_not_exist_suggests_its_neighbour(folder):
    with pytest.raises(BadInput, match=r"no folder .*Did you mean '.*tiny-sd3'"):
        dit_lens.load(str(folder.parent / "tiny-sd33"))
    with pytest.raises(BadInput, match="no folder"):
        dit_lens.load("./nowhere")


def test_a_folder_that_is_one_part_says_which(folder):
    with pytest.raises(BadInput, match=r"no model_index\.json.*SD3Transformer2DModel"):
        dit_lens.load(folder / "transformer")


def test_a_folder_above_the_pipeline_points_at_it(folder):
    with pytest.raises(BadInput, match=r"Did you mean .*tiny-sd3\?"):
        dit_lens.load(folder.parent)


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(BadInput, match="It holds nothing"):
        dit_lens.load(tmp_path)


def test_another_pipeline_is_named(folder):
    edit_json(folder / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(BadInput, match="is a FluxPipeline, not a StableDiffusion3Pipeline"):
        dit_lens.load(folder)


def test_another_transformer_is_named(folder):
    edit_json(folder / "model_index.json", transformer=["diffusers", "FluxTransformer2DModel"])
    with pytest.raises(BadInput, match="FluxTransformer2DModel; adapters exist for SD3Transformer2DModel"):
        dit_lens.load(folder)


def test_a_checkpoint_file_is_sent_through_from_single_file(folder):
    weights = next((folder / "transformer").glob("*.safetensors"))
    with pytest.raises(BadInput, match=r"is a file.*from_single_file"):
        dit_lens.load(weights)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(BadInput, match=rf"lists {part} .* does not exist"):
        dit_lens.load(folder)


def test_missing_weights_are_named(folder):
    next((folder / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(BadInput, match=r"vae has no \*.safetensors weights"):
        dit_lens.load(folder)


def test_a_part_without_its_configuration_is_named(folder):
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(BadInput, match=r"vae has no config\.json"):
        dit_lens.load(folder)


def test_pickled_weights_are_not_read(folder):
    weights = next((folder / "vae").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BadInput, match="is a pickle, which can run code and is not read"):
        dit_lens.load(folder)


def test_a_cut_off_weights_file_is_called_damaged(folder):
    weights = next((folder / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BadInput, match="tiny-sd3"):
        dit_lens.load(folder)


def test_a_broken_index_is_no_json(folder):
    (folder / "model_index.json").write_text("{")
    with pytest.raises(BadInput, match="is no JSON"):
        dit_lens.load(folder)


def test_missing_t5_says_how_to_do_without(folder):
    edit_json(
        folder / "model_index.json",
        text_encoder_3=["transformers", "T5EncoderModel"],
        tokenizer_3=["transformers", "T5TokenizerFast"],
    )
    with pytest.raises(BadInput, match=r"lists text_encoder_3 \(T5EncoderModel\).*drop_t5=True"):
        dit_lens.load(folder)
    lens = dit_lens.load(folder, drop_t5=True)
    assert lens.pipeline.text_encoder_3 is None
    assert lens.generate("a", 0, steps=1, max_sequence_length=2).latents.shape == (1, 2, 4, 8, 8)


def test_asking_for_t5_where_there_is_none_is_refused(saved):
    with pytest.raises(BadInput, match="saved without T5"):
        dit_lens.load(saved, drop_t5=False)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_not_finite_are_named(make_pipeline, value):
    pipeline = make_pipeline("sd3")
    with torch.no_grad():
        pipeline.transformer.transformer_blocks[2].ff.net[2].weight[3, 4] = float(value)
    with pytest.raises(
        BadInput, match=r"transformer.transformer_blocks.2.ff.net.2.weight holds 1 NaN or inf"
    ):
        dit_lens.load(pipeline)
    assert dit_lens.load(pipeline, check_weights=False).num_blocks == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "tpux"}, "is no device"),
        ({"device": "cuda:99"}, "CUDA"),
        ({"dtype": "float3"}, "is none of float32, bfloat16, float16.*Did you mean"),
        ({"offload": "disk"}, "Use 'model' or 'sequential'"),
        ({"offload": "model"}, "add device='cuda'"),
        ({"device_map": "balanced", "device": "cpu"}, "leave out device"),
        ({"revision": "main"}, "applies to a hub id"),
    ],
)
def test_options_that_cannot_be_met_are_refused(saved, options, says):
    with pytest.raises(BadInput, match=says):
        dit_lens.load(saved, **options)


@pytest.mark.parametrize("what", [3, None, torch.nn.Linear(1, 1)])
def test_objects_that_are_no_pipeline_are_refused(what):
    with pytest.raises(BadInput, match="load takes a name, a folder, a hub id or a StableDiffusion3Pipeline"):
        dit_lens.load(what)


def test_a_transformer_alone_is_refused(make_pipeline):
    with pytest.raises(BadInput, match="Pass the whole pipeline, not one of its parts"):
        dit_lens.load(make_pipeline("sd3").transformer)


def test_a_compiled_transformer_is_refused_by_its_name(make_pipeline):
    pipeline = make_pipeline("sd3")
    pipeline.transformer = torch.compile(pipeline.transformer, backend="eager")
    with pytest.raises(BadInput, match=r"OptimizedModule from torch\.compile; .* SD3Transformer"):
        dit_lens.load(pipeline)
    pipeline.transformer = pipeline.transformer._orig_mod  # as the message says
    assert dit_lens.load(pipeline).num_blocks == 4


def test_another_sd3_pipeline_is_sent_through_from_pipe(make_pipeline):
    from diffusers import StableDiffusion3Img2ImgPipeline

    other = StableDiffusion3Img2ImgPipeline(**make_pipeline("sd3").components)
    with pytest.raises(BadInput, match=r"StableDiffusion3Img2ImgPipeline.*from_pipe"):
        dit_lens.load(other)


def _answer(kind, status):
    request = httpx.Request("GET", "https://huggingface.co/some/model/resolve/main/model_index.json")
    return kind("the hub says no", response=httpx.Response(status, request=request))


def _unreachable(*names):
    """These errors of every HTTP library that is there: the hub's client changed from one to the other."""
    found = []
    for library in ("httpx", "httpx2"):
        with contextlib.suppress(ImportError):
            found += [getattr(import_module(library), name)("no name resolution") for name in names]
    return found


@pytest.mark.parametrize(
    ("raised", "error", "says"),
    [
        (
            _answer(hub_errors.GatedRepoError, 403),
            BadInput,
            "gated: accept its licence at https://huggingface.co/some",
        ),
        (_answer(hub_errors.RepositoryNotFoundError, 404), BadInput, "no model 'some/model' on the hub"),
        (_answer(hub_errors.RevisionNotFoundError, 404), BadInput, "no revision 'v9'"),
        (_answer(hub_errors.RemoteEntryNotFoundError, 404), BadInput, "no model_index.json"),
        (
            _answer(hub_errors.HfHubHTTPError, 503),
            RunFailure,
            "did not answer for some/model: the hub says no",
        ),
        (hub_errors.LocalEntryNotFoundError("no cache"), RunFailure, "has not been downloaded"),
        (hub_errors.OfflineModeIsEnabled("offline"), RunFailure, "cannot be reached"),
        (ConnectionError("no route"), RunFailure, "no route"),
        *((each, RunFailure, "no name resolution") for each in _unreachable("ReadTimeout")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_the_hub_answers_is_turned_into_what_to_do(monkeypatch, raised, error, says):
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", Mock())
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Mock(side_effect=raised))
    with pytest.raises(error, match=says) as caught:
        dit_lens.load("some/model", revision="v9")
    assert caught.value.exit_status == (2 if error is BadInput else 1)


@pytest.mark.parametrize("raised", _unreachable("ConnectError", "ConnectTimeout"))
def test_without_a_network_the_hub_is_asked_once(monkeypatch, raised):
    # Its client would ask six times for a file that was never downloaded, with pauses of half a minute.
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", Mock(side_effect=raised))
    download = Mock()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(RunFailure, match="has not been downloaded, and the hub cannot be reached"):
        dit_lens.load("some/model-nobody-has")
    download.assert_not_called()


def test_what_was_downloaded_opens_without_asking_first(monkeypatch, saved):
    ask = Mock()
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", ask)
    index = str(saved / "model_index.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: index)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: index)
    from dit_lens.model.hub import hub_file

    assert hub_file("some/model", "model_index.json", None, local=False) == index
    ask.assert_not_called()


def test_offline_and_not_downloaded_says_so(monkeypatch, tmp_path):
    with pytest.raises(RunFailure, match="some/model-nobody-has has not been downloaded"):
        dit_lens.load("some/model-nobody-has", local_files_only=True)


def test_a_hub_model_runs_the_same_code_as_a_folder(monkeypatch, saved, tiny_sd3_lens):
    from diffusers import StableDiffusion3Pipeline

    asked = {}
    original = StableDiffusion3Pipeline.from_pretrained.__func__

    def from_hub(cls, where, **options):
        asked.update(where=where, **options)
        return original(cls, saved, **{k: v for k, v in options.items() if k != "revision"})

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", Mock())
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: str(saved / "model_index.json"))
    monkeypatch.setattr(StableDiffusion3Pipeline, "from_pretrained", classmethod(from_hub))
    lens = dit_lens.load("some/model", revision="v9")
    assert (lens.name, lens.fingerprint) == ("some/model", tiny_sd3_lens.fingerprint)
    assert asked["where"] == "some/model"
    assert asked["revision"] == "v9"
    assert asked["use_safetensors"] is True
    assert asked["text_encoder_3"] is None


@pytest.mark.parametrize("source", ["~nobody-has-this-name/model", "x" * 300, "a\0b"])
def test_what_cannot_be_a_path_is_no_defect_of_ours(source):
    with pytest.raises(BadInput, match="cannot be opened as a path"):
        dit_lens.load(source)


def test_a_pipeline_of_another_family_is_refused_without_a_hint_that_fails(tiny_sd3_pipeline) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    parts = tiny_sd3_pipeline
    transformer = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    flux = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(),
        parts.vae,
        parts.text_encoder,
        parts.tokenizer,
        None,
        None,
        transformer,
    )
    with pytest.raises(BadInput, match="FluxPipeline") as refused:
        dit_lens.load(flux)
    assert "from_pipe" not in str(refused.value) and "FluxTransformer2DModel" in str(refused.value)


@pytest.mark.parametrize("name", ["StableDiffusion3Img2ImgPipeline", "StableDiffusion3PAGPipeline"])
def test_a_hint_that_is_given_works(make_pipeline, name) -> None:
    import diffusers

    parts = make_pipeline("sd3").components
    kind = getattr(diffusers, name)
    other = kind(**{key: value for key, value in parts.items() if key in kind.__init__.__code__.co_varnames})
    with pytest.raises(BadInput, match=r"StableDiffusion3Pipeline\.from_pipe\(pipeline\)"):
        dit_lens.load(other)
    assert dit_lens.load(diffusers.StableDiffusion3Pipeline.from_pipe(other)).check().ok
