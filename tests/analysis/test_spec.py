"""What a spec may say, and how it is told what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens.analysis.files import packaged, read_prompts
from dit_lens.analysis.reading import read_spec
from dit_lens.analysis.spec import CHANNEL_SECTIONS, AnalysisSpec, json_schema
from dit_lens.errors import BadInput

pytestmark = pytest.mark.pure

LEAST = {"model": "shapes-sd3", "prompts": ["a star"], "seeds": [0]}


def write(folder: Path, text: str, name: str = "spec.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(source: object, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        read_spec(source, overrides)  # type: ignore[arg-type]
    return str(caught.value)


# ------------------------------------------------------------------------------------------ what is read
def test_the_least_spec_takes_defaults() -> None:
    spec = read_spec(LEAST)
    assert spec.model.name == "shapes-sd3"
    assert spec.channels.selection == {"top_k": 4}
    assert spec.sections == CHANNEL_SECTIONS
    assert spec.sampling.given() == {}


def test_a_file_names_itself_and_its_prompts_lie_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "# comment\n\n a star \n# more\na circle\n", "p.txt")
    path = write(tmp_path, "model: m/x\nprompts: p.txt\nseeds: [3]\n", "my_question.yaml")
    spec = read_spec(path)
    assert (spec.name, spec.title) == ("my_question", "My question")
    assert spec.prompts == ("a star", "a circle")


@pytest.mark.parametrize(
    ("file", "name", "title"),
    [
        ("my spec.yaml", "my-spec", "My spec"),
        ("Größe (2).yaml", "Gro-e-2", "Größe (2)"),
        ("图.yaml", "analysis", "图"),
        ("figure_1.yaml", "figure_1", "Figure 1"),
    ],
)
def test_any_file_name_gives_a_name(tmp_path: Path, file: str, name: str, title: str) -> None:
    spec = read_spec(write(tmp_path, yaml.safe_dump(LEAST), file))
    assert (spec.name, spec.title) == (name, title)
    assert "name: must be letters" in refused({**LEAST, "name": "my spec"})


def test_every_packaged_analysis_is_valid_and_runs_by_name() -> None:
    assert "massive_activations" in packaged()
    for name, path in packaged().items():
        assert read_spec(name) == read_spec(path)
        assert path.read_text(encoding="utf-8").startswith("# "), f"{name} does not say what it asks"
        assert read_spec(name).question


def test_packaged_prompts_are_captions_of_the_embedded_world() -> None:
    from dit_lens.zoo.scenes import ATTRIBUTES, parse_caption

    scenes = [parse_caption(prompt) for prompt in read_spec("massive_activations").prompts]
    assert len(scenes) == 24
    for attribute, values in ATTRIBUTES.items():
        assert {getattr(scene, attribute) for scene in scenes} == set(values)


def test_resolved_specs_read_back_to_themselves() -> None:
    spec = read_spec("massive_activations", ["sampling.steps=8", "channels.ratio=5"])
    again = read_spec(yaml.safe_load(yaml.safe_dump(spec.as_data(), allow_unicode=True)))
    assert again == spec
    assert again.hash == spec.hash


def test_the_hash_tells_analyses_apart() -> None:
    assert read_spec(LEAST).hash != read_spec(LEAST, ["seeds=[1]"]).hash
    assert read_spec(LEAST).hash == read_spec(dict(reversed(LEAST.items()))).hash


def test_a_relative_model_folder_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_spec({**LEAST, "model": "mine"}).model.name == str((tmp_path / "mine").resolve())
    assert read_spec({**LEAST, "model": "org/mine"}).model.name == "org/mine"


def test_a_relative_folder_of_masks_is_pinned(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    text = "model: m\nprompts: [a]\nseeds: [0]\nsections: [spatial]\neffects: {prompts: [b]}\n"
    text += "spatial: {truth: %s}\n"
    assert read_spec(write(tmp_path, text % "masks")).spatial.truth == str((tmp_path / "masks").resolve())
    assert read_spec(write(tmp_path, text % "picture")).spatial.truth == "picture"


PLACES = [
    "effects.lpips",
    "transport.lpips",
    "guidance.lpips",
    "spatial.truth",
    "source.image",
    "source.mask",
]


def naming(key: str, value: str) -> str:
    """A spec with every section that reads a path, in which one key has a value."""
    part, _, name = key.partition(".")
    asked = {"model": {"name": "m"}, "prompts": ["a"], "seeds": [0]}
    asked["sections"] = ["disruption", "spatial", "transport_text", "transport_image", "detail_guidance"]
    asked["effects"], asked["transport"] = {"prompts": ["b"]}, {"pairs": [["b", "c"]]}
    asked[part] = {**asked.get(part, {}), name: value}
    return yaml.safe_dump(asked)


def at(spec: AnalysisSpec, key: str) -> str:
    part, _, name = key.partition(".")
    return spec.as_data()[part][name]


@pytest.mark.parametrize("key", PLACES)
def test_paths_are_pinned_whether_they_exist_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    here, beside = tmp_path / "here", tmp_path / "beside"
    here.mkdir(), beside.mkdir()
    monkeypatch.chdir(here)
    write(here, "", "mine.pth")
    path = write(beside, naming(key, "mine.pth"))
    # What lies in the current folder alone is another file: the run folder's spec is read from elsewhere.
    assert at(read_spec(path), key) == str(beside / "mine.pth")
    assert at(read_spec(path, [f"{key}=mine.pth"]), key) == str(here / "mine.pth")
    assert at(read_spec(yaml.safe_load(naming(key, "mine.pth"))), key) == str(here / "mine.pth")
    monkeypatch.setenv("HOME", str(here))
    assert at(read_spec(write(beside, naming(key, "~/w.pth"))), key) == str(here / "w.pth")


@pytest.mark.parametrize(
    ("key", "word"),
    [
        *((key, "cached") for key in PLACES[:3]),
        *(("spatial.truth", word) for word in ("picture", "caption", "transformers:a/b#cat")),
        *(("source.mask", word) for word in ("segment", "whole")),
    ],
)
def test_words_stay_words_where_a_file_has_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "", word) if "/" not in word else None
    path = write(tmp_path, naming(key, word))
    data = yaml.safe_load(naming(key, word))
    assert {at(read_spec(each), key) for each in (path, data)} == {word}
    assert at(read_spec(write(tmp_path, naming(key, "x")), [f"{key}={word}"]), key) == word


def test_the_words_are_those_that_the_methods_know() -> None:
    from dit_lens.methods.lpips import CACHED
    from dit_lens.methods.spatial.truth import CAPTION, PICTURE, SEGMENTER

    assert (CACHED, PICTURE, CAPTION, SEGMENTER) == ("cached", "picture", "caption", "transformers:")


@pytest.mark.parametrize("value", ["~nosuchuser/a.pth", "a" * 300, "a\0b"])
@pytest.mark.parametrize("key", [*PLACES, "effects.prompts", "prompts", "model.name", "effects.alignment"])
def test_what_is_no_path_names_its_key(tmp_path: Path, key: str, value: str) -> None:
    data = yaml.safe_load(naming(key, value)) if "." in key else {**LEAST, key: value}
    message = refused(data)
    assert f"spec: {key}: " in message
    assert "cannot be opened as a path" in message
    if value.isprintable():
        path = write(tmp_path, naming("effects.op", "zero"))
        assert refused(path, f"{key}={value}").count(f"{key}") == 1


@pytest.mark.parametrize("value", ["~nosuchuser/a.yaml", "a" * 300, "a\0b"])
def test_what_is_no_path_is_no_spec(value: str) -> None:
    assert "cannot be opened as a path" in refused(value)


# ------------------------------------------------------------------------------------------ overrides
def test_overrides_are_typed_by_yaml() -> None:
    spec = read_spec(
        LEAST, ["sampling.steps=8", "sampling.guidance_scale=2.5", "seeds=[1, 2]", "model.device=cuda"]
    )
    assert (spec.sampling.steps, spec.sampling.guidance_scale) == (8, 2.5)
    assert spec.seeds == (1, 2)
    assert (spec.model.name, spec.model.device) == ("shapes-sd3", "cuda")


def test_an_override_may_change_one_item_of_a_list() -> None:
    assert read_spec({**LEAST, "seeds": [5, 6]}, ["seeds.1=9"]).seeds == (5, 9)


def test_choosing_one_selection_takes_back_the_others() -> None:
    spec = read_spec({**LEAST, "channels": {"top_k": 4, "statistic": "max_abs"}}, ["channels.ratio=3"])
    assert spec.channels.selection == {"ratio": 3}
    assert spec.channels.statistic == "max_abs"


def test_null_takes_a_part_away_that_the_chosen_sections_have_no_use_for() -> None:
    few = "sections=[spectrum, disruption]"
    assert "remove transport (--set transport=null)" in refused("massive_activations", few)
    spec = read_spec("massive_activations", [few, "transport=null", "spatial=null", "batch_size=null"])
    assert spec.sections == ("spectrum", "disruption")
    assert "spatail" in refused(LEAST, "spatail=null")


def test_overriding_leaves_the_callers_data_alone() -> None:
    data = {**LEAST, "sampling": {"steps": 4}}
    read_spec(data, ["sampling.steps=8"])
    assert data["sampling"] == {"steps": 4}


def test_a_prompts_override_is_relative_to_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a cross\n", "p.txt")
    monkeypatch.chdir(tmp_path)
    assert read_spec("massive_activations", ["prompts=p.txt"]).prompts == ("a cross",)


@pytest.mark.parametrize("text", ["sampling.steps", "=3", "a..b=3", "sampling.steps={"])
def test_malformed_overrides_say_so(text: str) -> None:
    assert f"--set {text}" in refused(LEAST, text)


def test_nothing_can_be_set_inside_a_value() -> None:
    assert "model.name is 'shapes-sd3'" in refused(LEAST, "model.name.x=3")
    assert "count from 0" in refused(LEAST, "seeds.4=3")


def test_null_takes_a_key_inside_a_part_back_to_its_default() -> None:
    given = {**LEAST, "model": {"name": "shapes-sd3", "device": "cuda"}, "sampling": {"steps": 4}}
    spec = read_spec(given, ["model.device=null", "sampling.steps=null"])
    assert (spec.model.device, spec.sampling.steps) == ("cpu", None)
    assert "model.devcie" in refused(LEAST, "model.devcie=null")
    assert "model.name is missing" in refused(LEAST, "model.name=null")


# ------------------------------------------------------------------------------------------ the model
# A hash names an analysis wherever it was written down: keys that a spec may leave out must not change it.
HASHES = {
    (): "dae761de98b185db",
    ("model.device=cuda", "model.dtype=bfloat16", "model.revision=main"): "07e0e1c0f261838c",
}
"""As they were before a model had drop_t5, offload and device_map."""


@pytest.mark.parametrize("overrides", HASHES, ids=len)
def test_keys_that_are_left_out_leave_the_hash_as_it_was(overrides: tuple[str, ...]) -> None:
    assert read_spec(LEAST, overrides).hash == HASHES[overrides]


def test_what_saves_memory_is_part_of_the_analysis_and_reaches_load() -> None:
    assert read_spec(LEAST).model.options() == {"device": "cpu"}
    spec = read_spec(LEAST, ["model.drop_t5=true", "model.offload=model", "model.device=cuda"])
    assert spec.model.options() == {"device": "cuda", "drop_t5": True, "offload": "model"}
    assert spec.as_data()["model"] == {"name": "shapes-sd3", **spec.model.options()}
    assert spec.hash != read_spec(LEAST, ["model.device=cuda"]).hash


def test_a_device_map_leaves_the_device_open_here_and_in_the_run_folder() -> None:
    spec = read_spec(LEAST, ["model.device_map=balanced"])
    assert spec.model.options() == {"device_map": "balanced"}
    assert spec.as_data()["model"] == {"name": "shapes-sd3", "device_map": "balanced"}
    assert read_spec(spec.as_data()).as_data() == spec.as_data()
    # One that was asked for is handed on, for `load` to refuse.
    both = read_spec(LEAST, ["model.device_map=balanced", "model.device=cpu"])
    assert both.model.options() == {"device": "cpu", "device_map": "balanced"}


def test_the_words_for_offloading_are_those_that_load_knows() -> None:
    import dit_lens as dl

    words = json_schema()["$defs"]["ModelSpec"]["properties"]["offload"]["anyOf"][0]["enum"]
    with pytest.raises(BadInput) as caught:
        dl.load("shapes-sd3", offload="disk")
    assert str(caught.value).endswith(f"Use {' or '.join(map(repr, words))}.")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("offload", "disk", "must be 'model' or 'sequential'"),
        ("drop_t5", "1", "model.drop_t5"),
        ("device_map", "[0]", "must be text"),
    ],
)
def test_what_no_memory_option_can_be_names_its_key(key: str, value: str, expected: str) -> None:
    message = refused(LEAST, f"model.{key}={value}")
    assert f"model.{key}: " in message
    assert expected in message


# ------------------------------------------------------------------------------------------ faults
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sampling: {stesp: 8}", ["5: sampling.stesp", "no such key", "Did you mean 'steps'?"]),
        ("modle: x", ["5: modle", "Did you mean 'model'?"]),
        ("channels:\n  statistic: absmean", ["6: channels.statistic", "Did you mean 'abs_mean'?"]),
        ("channels: {top_k: 0}", ["5: channels.top_k", "greater than or equal to 1"]),
        ("channels: {top_k: 2, ratio: 3}", ["5: ", "give one of top_k, ratio, rule"]),
        ("channels: {steps: {fraction: [0, x]}}", ["channels.steps", "does not fit", "slice"]),
        ("sections: [spectrum, lief]", ["5: sections.1", "Did you mean 'life'?"]),
        ("sections: [life, life]", ["sections holds 'life' more than once"]),
        ("samples: 3", ["5: samples: must be a mapping"]),
        ("sampling: {steps: true}", ["5: sampling.steps: must be a whole number"]),
        ("sampling: {guidance_scale: .nan}", ["5: sampling.guidance_scale"]),
        ("name: ../x", ["5: name: must be letters"]),
        ("batch_size: 1.5", ["5: batch_size: must be a whole number"]),
    ],
)
def test_a_fault_is_named_by_file_line_and_key(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = write(tmp_path, f"# a spec\nmodel: m\nprompts: [a]\nseeds: [0]\n{text}\n")
    message = refused(path)
    assert message.startswith(str(path))
    for part in expected:
        assert part in message
    assert "pydantic" not in message


@pytest.mark.parametrize("key", ["model", "prompts", "seeds"])
def test_what_is_mandatory_is_asked_for_with_an_example(key: str) -> None:
    message = refused({name: value for name, value in LEAST.items() if name != key})
    assert f"{key} is missing" in message
    assert f"{key}:" in message.split("is missing")[1]


@pytest.mark.parametrize("seeds", [[], None, 4, [True], [-1], [1.5], ["0"], [1, 1], [2**63]])
def test_seeds_are_distinct_whole_numbers(seeds: object) -> None:
    assert "seeds" in refused({**LEAST, "seeds": seeds})


def test_a_fault_in_an_override_names_the_override(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\nprompts: [a]\nseeds: [0]\n")
    assert refused(path, "seeds=[true]").startswith("--set seeds=[true]: seeds.0")


def test_every_fault_is_reported_at_once() -> None:
    message = refused({**LEAST, "seeds": [], "sampling": {"steps": 0}, "nonsense": 1})
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds nothing"),
        ("- a\n- b\n", "a list"),
        ("model: [unclosed\n", "no YAML"),
        ("model: !!python/object/apply:os.system ['true']\n", "only plain data"),
        ("model: m\nmodel: n\n", ":2: model: the key stands twice, first in line 1"),
        ("a: " + "[" * 3000, "no YAML"),
    ],
)
def test_what_is_no_spec_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refused(write(tmp_path, text))


def test_unknown_specs_are_named_with_what_there_is(tmp_path: Path) -> None:
    assert "Did you mean 'massive_activations'?" in refused("masive_activations")
    assert "is a folder" in refused(tmp_path)
    write(tmp_path, "model: m\n")
    assert "its spec is" in refused(tmp_path).lower()


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(list(AnalysisSpec.model_fields)),
)
def test_any_value_is_taken_or_refused_with_a_message(value: object, field: str) -> None:
    try:
        spec = read_spec({**LEAST, field: value})
    except BadInput as error:
        assert str(error)
    else:
        assert read_spec(spec.as_data()) == spec


# ------------------------------------------------------------------------------------------ prompts files
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "holds nothing"),
        (b"\n \n", "holds nothing"),
        (b"# one\n# two\n", "only comments"),
        (b"caf\xe9\n", "not UTF-8 text (byte 3 is 0xe9)"),
        ("café\n".encode("utf-16"), "as in UTF-16, which Windows calls Unicode). Save it as UTF-8, for"),
        ("café\n".encode("utf-16"), "iconv -f utf-16 -t utf-8"),
        ("café\n".encode("utf-32"), "iconv -f utf-32 -t utf-8"),
        (b"caf\xe9\n", "iconv -f latin1 -t utf-8"),
        (b"# pairs\na -> b\nc -> d\n", "is a file of pairs"),
        (b"a\nb\na\n", ":3: the prompt of line 1 stands here again"),
    ],
)
def test_prompts_files_that_cannot_be_used(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_a_missing_prompts_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "a\n", "shapes.txt")
    with pytest.raises(BadInput, match=r"Did you mean 'shapes\.txt'\?"):
        read_prompts(tmp_path / "shape.txt")
    with pytest.raises(BadInput, match="Cannot read"):
        read_prompts(tmp_path)


def test_a_prompt_may_show_an_arrow(tmp_path: Path) -> None:
    write(tmp_path, "a sign that reads A -> B\na star\n", "p.txt")
    assert read_prompts(tmp_path / "p.txt") == ("a sign that reads A -> B", "a star")


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa café\r\nb\r\n".encode())
    assert read_prompts(path) == ("a café", "b")


# ------------------------------------------------------------------------------------------ schema
def test_every_field_is_described_and_shorthands_are_allowed() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert schema["required"] == ["model", "prompts", "seeds"]
    assert schema["additionalProperties"] is False
    described = [schema, *schema["$defs"].values()]
    for part in described:
        for name, value in part["properties"].items():
            assert value.get("description") or "$ref" in value, name
    for field in ("model", "prompts"):
        assert {"type": "string", "minLength": 1} in schema["properties"][field]["anyOf"]
