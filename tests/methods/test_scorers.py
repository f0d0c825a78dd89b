"""Scorers: a random CLIP in a folder stands for any CLIP of the hub; outside scores come back row by row."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_lens.errors import BadInput, RunFailure
from dit_lens.methods.outside_scores import export_pairs, import_scores
from dit_lens.methods.scorers import ClipAlignment, Scorer, score_images

pytestmark = pytest.mark.tiny

PROMPTS = ["a red star", "a blue circle", "a large green striped cross on a grey background"]


def pictures(n: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, size=(n, 48, 48, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from dit_lens.zoo.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer()
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = shared | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=text, vision_config=shared | {"image_size": 32, "patch_size": 8}, projection_dim=8
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


def test_alignment_is_the_models_own_logit(clip_folder: Path) -> None:
    import torch
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(PROMPTS, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(images=pictures(), return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()
    scorer = ClipAlignment(str(clip_folder))
    assert isinstance(scorer, Scorer)
    found = score_images(scorer, pictures(), PROMPTS)
    np.testing.assert_allclose(found, logits.diagonal(), atol=1e-5)
    assert len(set(found.round(4))) == 3


def test_batches_and_kinds_of_image_do_not_matter(clip_folder: Path) -> None:
    whole = ClipAlignment(str(clip_folder)).score(pictures(), PROMPTS)
    single = ClipAlignment(str(clip_folder), batch_size=1)
    np.testing.assert_allclose(single.score(pictures(), PROMPTS), whole, atol=1e-6)
    as_images = [Image.fromarray(picture) for picture in pictures()]
    np.testing.assert_allclose(single.score(as_images, PROMPTS), whole, atol=1e-6)
    long = "a red star " * 40
    assert np.isfinite(single.score(pictures(1), [long])).all()


def test_what_is_no_clip_is_refused(tmp_path: Path, clip_folder: Path) -> None:
    with pytest.raises(BadInput, match="no/such"):
        ClipAlignment("no/such/folder/anywhere")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadInput, match="is a 'bert' model; alignment needs a CLIP"):
        ClipAlignment(str(tmp_path))
    (tmp_path / "config.json").write_text((clip_folder / "config.json").read_text())
    with pytest.raises(BadInput, match="does not open as a CLIP"):
        ClipAlignment(str(tmp_path))
    with pytest.raises(BadInput, match="batch_size"):
        ClipAlignment(str(clip_folder), batch_size=0)


class Fixed:
    """A scorer that answers what it is told to."""

    name = "fixed"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def score(self, images: object, prompts: object) -> object:
        return self.answer


def test_outside_scorers_are_checked() -> None:
    np.testing.assert_array_equal(score_images(Fixed([1, 2, 3]), pictures(), PROMPTS), [1.0, 2.0, 3.0])
    with pytest.raises(RunFailure, match=r"'fixed' gave scores of shape \[2\] for 3 images"):
        score_images(Fixed([1, 2]), pictures(), PROMPTS)
    with pytest.raises(RunFailure, match=r"gave nan for image 1 \('a blue circle'\)"):
        score_images(Fixed([1, float("nan"), 2]), pictures(), PROMPTS)
    with pytest.raises(BadInput, match="3 images and 2 prompts"):
        score_images(Fixed([1]), pictures(), PROMPTS[:2])
    with pytest.raises(BadInput, match="is no scorer"):
        score_images(object(), pictures(), PROMPTS)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------- the CSV door
IDS = ["massive/zero, p0", "clean/p0", "über"]


def exported(folder: Path) -> Path:
    return export_pairs(folder, pictures(), ['a "red" star, large', "a\nb", "ünï"], IDS)


def scored(folder: Path, text: str) -> Path:
    path = folder / "scores.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_go_out_whole(tmp_path: Path) -> None:
    path = exported(tmp_path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == IDS
    assert [row["prompt"] for row in rows] == ['a "red" star, large', "a\nb", "ünï"]
    for row, picture in zip(rows, pictures(), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path.parent / row["image"])), picture)


def test_scores_come_back_in_the_order_asked(tmp_path: Path) -> None:
    path = exported(tmp_path)
    # What a scorer does: read the pairs, append a column, in an order of its own.
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))[::-1]
    out = tmp_path / "scores.csv"
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "hps", "vqa"])
        writer.writeheader()
        writer.writerows(row | {"hps": i, "vqa": i / 10} for i, row in enumerate(rows))
    np.testing.assert_array_equal(import_scores(out, IDS, "hps"), [2, 1, 0])
    np.testing.assert_allclose(import_scores(out, IDS[::-1], "vqa"), [0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("id,scroe\na,1\n", r"no column 'score'; its header has id, scroe.*Did you mean 'scroe'"),
        ("name,score\na,1\n", "no column 'id'"),
        ("id,score,id\na,1,b\n", "column twice"),
        ("id,score\na,1\nbb,2\n", "line 3: the id 'bb' was not exported"),
        ("id,score\na,1\na,2\n", "line 3: the id 'a' stands there a second time"),
        ("id,score\na,1\n\nb,x\n", "line 4: score is 'x', which is no finite number"),
        ("id,score\na,nan\nb,1\n", "line 2: score is 'nan'"),
        ("id,score\na,\nb,1\n", "line 2: score is ''"),
        ("id,score\na,1,2\nb,1\n", "line 2: 3 fields, but the header has 2"),
        ("id,score\nb,1\n", "no score for 1 of 2 ids, the first being 'a'"),
        ('id,score\n"a,1\n', "is no CSV"),
    ],
)
def test_a_bad_csv_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = scored(tmp_path, text)
    with pytest.raises(BadInput, match=message) as caught:
        import_scores(path, ["a", "b"])
    assert "scores.csv" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no file"):
        import_scores(tmp_path / "absent.csv", ["a"])
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as UTF-8"):
        import_scores(tmp_path / "binary.csv", ["a"])


@pytest.mark.parametrize("ids", [["a", "a", "b"], ["a", "b"], ["a", "", "b"], ["a", " b", "c"], "abc"])
def test_bad_ids_are_refused_before_anything_is_written(tmp_path: Path, ids: list[str]) -> None:
    with pytest.raises(BadInput):
        export_pairs(tmp_path / "out", pictures(), PROMPTS, ids)
    assert not (tmp_path / "out").exists()
