"""One look for every figure, in light and in dark; `tests/report/test_theme.py` holds its numbers to it.

- Quantities: cividis (`SEQUENTIAL`). Its lightness rises from L* 14 to 91 without a step back, so that it
  reads the same with and without colour blindness, and in a grey print.
- Differences: blue over grey to brown (`DIVERGING`), grey at 0. Both ends are equally dark (L* 46) and stay
  ΔE 85 apart under any colour blindness; figures write the sign as well.
- Categories: Okabe–Ito (`CATEGORICAL`), in a fixed order. Any two stay ΔE 16 apart under deuteranopia,
  protanopia and tritanopia, and each has its own marker, so that no reading rests on colour alone.
- Chance levels and clean images: grey (`NEUTRAL`) and dotted, context and no category.
- Words: the system's own sans serif (`FONT`), so that nothing is loaded; 12 px, titles 15 px.

Okabe–Ito's black and yellow are left out: each vanishes on one of the two backgrounds. ΔE is the distance in
CIELAB (1976), colour blindness is complete and simulated by Machado et al. (2009,
doi:10.1109/TVCG.2009.113).

Backgrounds are transparent. `template("light")` and `template("dark")` differ in ink, grid and hover box
only, so a page switches a drawn figure from one to the other without redrawing its data. Figures carry the
light template; `figure.update_layout(template=template("dark"))` turns one dark, and
`dl.plots.save(…, mode="dark")` writes it so.
"""

from __future__ import annotations

from typing import Any, Literal

import plotly.graph_objects as go

Mode = Literal["light", "dark"]

SEQUENTIAL = "Cividis"
DIVERGING = ((0.0, "#0072B2"), (0.5, "#dfe2e7"), (1.0, "#B44F00"))
CATEGORICAL = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star")
NEUTRAL = "#8a8f98"  # chance levels and context: visible on both backgrounds
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

INK = {"light": "#1f2430", "dark": "#e6e8ee"}
SOFT = {"light": "#5b6270", "dark": "#a4abb8"}
GRID = {"light": "#e4e7ec", "dark": "#2f3541"}
PAPER = {"light": "#ffffff", "dark": "#1b1f27"}


def template(mode: Mode = "light") -> go.layout.Template:
    """Return the plotly template of one mode.

    >>> template("dark").layout.paper_bgcolor
    'rgba(0,0,0,0)'
    """
    axis: dict[str, Any] = {
        "gridcolor": GRID[mode],
        "zerolinecolor": GRID[mode],
        "linecolor": SOFT[mode],
        "tickcolor": GRID[mode],
        "tickfont": {"color": SOFT[mode], "size": 11},
        "title": {"font": {"color": INK[mode], "size": 12}, "standoff": 8},
        "automargin": True,
        "zeroline": False,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12, "color": INK[mode]},
            "title": {"font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(CATEGORICAL),
            "margin": {"l": 56, "r": 16, "t": 56, "b": 48},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": PAPER[mode],
                "bordercolor": SOFT[mode],
                "font": {"color": INK[mode], "family": FONT, "size": 12},
                "align": "left",
            },
            "legend": {"font": {"color": INK[mode], "size": 12}, "bgcolor": "rgba(0,0,0,0)"},
            "annotationdefaults": {"font": {"color": INK[mode], "size": 12}, "showarrow": False},
            "shapedefaults": {"line": {"color": NEUTRAL}},
            "coloraxis": {"colorbar": {"outlinewidth": 0, "tickfont": {"color": SOFT[mode]}}},
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": SOFT[mode],
                "activecolor": INK[mode],
            },
        }
    )


def category(index: int) -> dict[str, Any]:
    """Return the colour, marker and dash of a category; colours repeat after six, with another dash."""
    return {
        "color": CATEGORICAL[index % len(CATEGORICAL)],
        "symbol": MARKERS[index % len(MARKERS)],
        "dash": ("solid", "dash", "dot", "dashdot")[index // len(CATEGORICAL) % 4],
    }


def faint(colour: str, opacity: float = 0.18) -> str:
    """Return a hex colour as a see-through fill.

    >>> faint("#0072B2", 0.5)
    'rgba(0,114,178,0.5)'
    """
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
