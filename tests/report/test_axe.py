"""Axe-core over both pages, every part unfolded: no violation that is serious or critical.

`axe.min.js` is axe-core 4.11.1 as published on npm (Mozilla Public Licence 2.0, source at
https://github.com/dequelabs/axe-core); it is used here and is no part of the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.browser import Visit

pytestmark = pytest.mark.browser

AXE = Path(__file__).with_name("axe.min.js")
UNFOLDED = "for (const each of document.querySelectorAll('details')) each.open = true"
RUN = "axe.run(document, { resultTypes: ['violations'] })"


def scan(seen: Visit) -> dict[str, Any]:
    seen.page.evaluate(AXE.read_text(encoding="utf-8"))
    return seen.page.evaluate(RUN)


def serious(found: dict[str, Any]) -> list[str]:
    return [
        f"{violation['id']}: {node['html'][:120]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("which", ["report", "comparison"])
def test_no_serious_violation(open_page, request, which, mode, width) -> None:
    # The page's own policy would keep axe out.
    seen = open_page(request.getfixturevalue(which), width, mode, bypass_csp=True)
    seen.page.evaluate(UNFOLDED)
    found = scan(seen)
    assert serious(found) == []
    assert {"color-contrast", "image-alt", "label"} <= {rule["id"] for rule in found["passes"]}


def test_the_scan_finds_what_is_wrong(open_page, comparison) -> None:
    seen = open_page(comparison, bypass_csp=True)
    seen.page.evaluate(
        "document.querySelector('.lead').style.color = '#ddd';"
        "document.querySelector('img').removeAttribute('alt')"
    )
    found = {line.split(":")[0] for line in serious(scan(seen))}
    assert {"color-contrast", "image-alt"} <= found
