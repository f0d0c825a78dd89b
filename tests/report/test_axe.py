"""Axe-core over both pages, every part unfolded: no violation that is serious or critical."""

from __future__ import annotations

import pytest

from tests.report.axe import scan, serious

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "mode"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("which", ["report", "comparison"])
def test_no_serious_violation(open_page, request, which, mode, width) -> None:
    # The page's own policy would keep axe out.
    seen = open_page(request.getfixturevalue(which), width, mode, bypass_csp=True)
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
