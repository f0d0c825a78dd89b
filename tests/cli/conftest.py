"""The program as a function, and a random model in a folder for it to open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def dit() -> Callable[..., Result]:
    """Call `dit-lens` with these words, in this process."""
    from dit_lens import cli

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(cli.app, [str(word) for word in arguments])

    return call


@pytest.fixture(scope="session")
def model(tiny_sd3_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the random SD3 pipeline, without defaults of its own; to be read alone."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_sd3_pipeline.save_pretrained(folder)
    return folder
