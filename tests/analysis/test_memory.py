"""What published checkpoints need is computed from their real configurations, on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lens.analysis.memory import needs_table, published_needs
from dit_lens.errors import BadInput
from dit_lens.model.quantities import readable_bytes

pytestmark = pytest.mark.tiny


def test_published_checkpoints_have_the_published_sizes() -> None:
    medium, medium35, large = published_needs()
    assert (medium.model, large.model) == ("sd3-medium", "sd3.5-large")
    # As in the checkpoints' own files: CLIP-L, OpenCLIP bigG, T5-XXL's encoder, autoencoder.
    assert medium.parameters["text_encoder"] == 123_650_304
    assert medium.parameters["text_encoder_2"] == 694_659_840
    assert medium.parameters["text_encoder_3"] == 4_762_310_656
    assert medium.parameters["vae"] == 83_819_683
    assert medium.parameters["transformer"] < medium35.parameters["transformer"] < 8e9
    assert large.total == 2 * sum(large.parameters.values())
    assert large.without_t5 == large.total - 2 * 4_762_310_656
    # With T5 offloaded beside a medium transformer, T5 is the larger.
    assert medium.largest == medium.weights["text_encoder_3"]
    assert large.largest == large.weights["transformer"]


def test_a_steps_outputs_are_those_of_every_block_and_stream() -> None:
    medium = published_needs()[0]
    # 24 blocks hand on an image, 23 a context; both branches, two bytes each.
    assert medium.step_outputs == 2 * 2 * 1536 * (24 * 4096 + 23 * 333)
    half = published_needs(size=512)[0]
    assert half.step_outputs == 2 * 2 * 1536 * (24 * 1024 + 23 * 333)
    # Discovery keeps the same, whatever the picture.
    assert half.statistics == medium.statistics
    assert published_needs(steps=14)[0].statistics * 2 == medium.statistics


def test_the_table_names_every_number() -> None:
    needs = published_needs(dtype="float32")
    lines = needs_table(needs).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "transformer", "CLIP-L", "OpenCLIP bigG", "T5-XXL", "autoencoder",
        "all weights", "without T5", "largest part", "discovery's state", "block outputs, a step",
    ]  # fmt: skip
    assert "4.76 B" in lines[4]
    assert needs[0].as_data()["weights_total"] == 2 * published_needs()[0].total


def test_the_readmes_table_is_what_is_computed() -> None:
    text = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Real checkpoints") : text.index("## Traps")]
    rows = [line.strip("| ").split(" | ")[1:] for line in section.splitlines() if line.startswith("| ")]
    parts = ("transformer", "total", "without_t5", "largest", "statistics", "step_outputs")
    expected = [
        [
            readable_bytes(n.weights[part] if part == "transformer" else getattr(n, part))
            for n in published_needs()
        ]
        for part in parts
    ]
    assert rows[1:] == expected


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"dtype": "bf16"}, "no dtype 'bf16'"),
        ({"size": 1000}, "cannot be cut"),
        ({"size": 1001}, "multiple of 16"),
        ({"size": 8192}, "larger than this model"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_computed_is_refused(how: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        published_needs(**how)  # type: ignore[arg-type]
