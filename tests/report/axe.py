"""Axe-core on an opened page.

`axe.min.js` is axe-core 4.11.1 as published on npm (Mozilla Public Licence 2.0, source at
https://github.com/dequelabs/axe-core); it is used here and is no part of the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.report.browser import Visit

AXE = Path(__file__).with_name("axe.min.js")
UNFOLDED = "for (const each of document.querySelectorAll('details')) each.open = true"
# What plotly draws inside a figure is one picture with a name; its thousands of nodes have no rules.
RUN = "axe.run({ exclude: [['svg.main-svg']] }, { resultTypes: ['violations'], preload: false })"


def scan(seen: Visit) -> dict[str, Any]:
    """Unfold every part of the page and scan it."""
    seen.page.evaluate(UNFOLDED)
    seen.page.evaluate(AXE.read_text(encoding="utf-8"))
    return seen.page.evaluate(RUN)


def serious(found: dict[str, Any]) -> list[str]:
    """The violations that axe calls serious or critical, with the elements that have them."""
    return [
        f"{violation['id']}: {node['html'][:120]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
