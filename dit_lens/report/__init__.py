"""From a run folder to figures and one HTML page; needs neither torch nor a network.

`build_report(run_dir)` writes `report.html`, `build_comparison(run_a, run_b)` puts two runs side by side on
a page; `plots` makes single figures from single tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dit_lens.report import plots
    from dit_lens.report.comparison_page import build_comparison
    from dit_lens.report.page import build_report

__all__ = ["build_comparison", "build_report", "plots"]


def __getattr__(name: str) -> Any:
    # Plotly and pandas take a while to import; naming this room should not cost that.
    from importlib import import_module

    if name == "build_comparison":
        return import_module("dit_lens.report.comparison_page").build_comparison
    if name == "build_report":
        return import_module("dit_lens.report.page").build_report
    if name == "plots":
        return import_module("dit_lens.report.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
