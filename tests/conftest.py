"""Fixtures shared by all rooms. Torch and diffusers load only in tests that ask for a model.

Pipelines named `*_pipeline` are never wrapped by nnsight: they are the reference. Lenses hold pipelines
of their own with the same weights.
"""

from __future__ import annotations

import pytest

LONG = (
    "tests/test_notebooks.py",
    "tests/report/test_axe.py",
    "tests/test_scripts.py",
    "tests/test_docstrings.py",
    "tests/cli/test_help.py",
    "tests/methods/test_study_kill.py",
    "tests/methods/test_study.py",
    "tests/frozen/test_frozen.py",
)
"""Files of a minute and more, longest first. Begun last, one of them would keep a single process busy."""


def pytest_collection_modifyitems(items):
    """Long files first, others in their order; `--no-loadscope-reorder` keeps xdist from reordering them."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONG)))


def _pipeline(kind: str):
    from dit_lens.zoo.random_pipelines import random_pipeline

    return random_pipeline(kind, seed=0)


def _lens(kind: str):
    import dit_lens

    return dit_lens.load(_pipeline(kind))


@pytest.fixture
def make_pipeline():
    """Build a fresh random pipeline of a kind, to break or change."""
    return _pipeline


@pytest.fixture(scope="session")
def tiny_sd3_pipeline():
    """A random SD3 pipeline that nothing has touched."""
    return _pipeline("sd3")


@pytest.fixture(scope="session")
def tiny_sd35_pipeline():
    """A random SD3.5 pipeline (dual attention, qk-norm) that nothing has touched."""
    return _pipeline("sd3.5")


@pytest.fixture(scope="session")
def tiny_sd3_lens():
    """A lens on the same weights as `tiny_sd3_pipeline`."""
    return _lens("sd3")


@pytest.fixture(scope="session")
def tiny_sd35_lens():
    """A lens on the same weights as `tiny_sd35_pipeline`."""
    return _lens("sd3.5")


@pytest.fixture(scope="session", params=["sd3", "sd3.5"])
def tiny_pair(request):
    """(untouched pipeline, lens on the same weights), for SD3 and for SD3.5."""
    names = {
        "sd3": ("tiny_sd3_pipeline", "tiny_sd3_lens"),
        "sd3.5": ("tiny_sd35_pipeline", "tiny_sd35_lens"),
    }[request.param]
    return tuple(request.getfixturevalue(name) for name in names)


@pytest.fixture(scope="session")
def tiny_lens(tiny_pair):
    """A lens, for SD3 and for SD3.5."""
    return tiny_pair[1]


@pytest.fixture(scope="session")
def embedded_lens():
    """The trained model that ships with the package."""
    import dit_lens
    from dit_lens import zoo

    if "shapes-sd3" not in zoo.names():
        pytest.skip(reason="the embedded model shapes-sd3 is not in this checkout")
    return dit_lens.load("shapes-sd3")
