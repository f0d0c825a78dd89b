"""Where Chromium is, for what draws pictures of figures and for what looks at pages."""

from __future__ import annotations

import os
import shutil

VARIABLE = "DIT_LENS_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """The browser that the environment variable DIT_LENS_CHROMIUM names, else the first on the path.

    None where there is none, and where the variable names something that cannot be started: what was asked
    for is not silently replaced.
    """
    asked = os.environ.get(VARIABLE)
    return next(filter(None, map(shutil.which, [asked] if asked else NAMES)), None)
