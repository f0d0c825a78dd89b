"""The tidy rows that a figure shows, read back from the figure itself.

Any plotly figure has them, also one that was changed, built by hand or read from JSON. A trace that answers
no hover is decoration (a band, an outline, a name beside a mark) and gives no rows; the ends of a band stand
in the rows of the line that it belongs to.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

_FIRST_AXES = {"x": "xaxis", "y": "yaxis"}
_FIRST = ("panel", "series", "x_axis", "x", "y_axis", "y", "z", "ci_low", "ci_high")


def rows(figure: go.Figure) -> pd.DataFrame:
    """Return one row per mark or cell of a figure: the file that `save(figure, "….csv")` writes.

    Columns: `panel` (the title above it), `series` (as in the legend), `x_axis` and `y_axis` (their titles),
    `x`, `y`, for maps `z` (or what the map holds, under its own name), `ci_low` and `ci_high` where
    intervals are drawn, what the hover tells beyond these, and its `text`. Columns that nothing fills are
    left out. A position with a name on its axis has that name. Raises nothing.

    >>> dl.plots.rows(dl.plots.ratio_map(stats))[["x", "y", "channel"]].values.tolist()[-1]
    [3.0, 7.0, 0.0]
    """
    frame = _Frame(figure)
    parts = [_of_trace(trace, frame) for trace in figure.data if _is_data(trace)]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame(columns=["series", "x", "y"])
    columns = list(dict.fromkeys((*_FIRST, *(name for part in parts for name in part.columns))))
    every = [part.reindex(columns=columns).astype(object) for part in parts]
    found = pd.concat(every, ignore_index=True).infer_objects()
    filled = [name for name in columns if not found[name].isna().all() and not (found[name] == "").all()]
    return found[filled]


def _is_data(trace: Any) -> bool:
    if trace.type not in ("scatter", "bar", "heatmap") or trace.x is None or trace.hoverinfo == "skip":
        return False
    # A picture hangs on a mark that nobody sees.
    return trace.type == "heatmap" or bool(len(trace.x) and trace.marker.opacity != 0)


def _of_trace(trace: Any, frame: _Frame) -> pd.DataFrame:
    axes = {letter: str(trace[f"{letter}axis"] or letter) for letter in "xy"}
    x, y = (_named(_values(trace[letter]), frame.axes[axes[letter]]) for letter in "xy")
    given = trace.meta if isinstance(trace.meta, Mapping) else {}
    columns: dict[str, Any] = {}
    if trace.type == "heatmap":
        z = _values(trace.z)
        columns |= {
            "x": np.tile(np.asarray(x, dtype=object), len(y)),
            "y": np.repeat(np.asarray(y, dtype=object), len(x)),
            given.get("z", "z"): np.asarray(z).ravel(),
        }
    else:
        columns |= {"x": x, "y": y, **_interval(trace)}
    size = len(columns["x"])
    more = _values(trace.customdata)
    if more is not None:
        more = np.asarray(more).reshape(size, -1)
        known = list(given.get("columns", ()))
        names = known + [f"custom_{index}" for index in range(len(known), more.shape[1])]
        columns |= {name: more[:, index] for index, name in enumerate(names)}
    text = _values(trace.text)
    if text is not None and not isinstance(text, str) and "columns" not in given:
        columns["text"] = [_plain(each) for each in np.asarray(text, dtype=object).ravel()]
    found = pd.DataFrame(columns)
    for letter in "xy":
        found[f"{letter}_axis"] = frame.title_of(axes[letter])
    found["panel"] = frame.panels.get(axes["x"], "")
    found["series"] = _plain(trace.name)
    return found.dropna(subset=["x", "y"])


def _interval(trace: Any) -> dict[str, Any]:
    for letter in "xy":
        bars = trace[f"error_{letter}"]
        if bars is not None and bars.array is not None:
            middle = np.asarray(_values(trace[letter]), dtype=float)
            up = np.asarray(_values(bars.array), dtype=float)
            down = up if bars.arrayminus is None else np.asarray(_values(bars.arrayminus), dtype=float)
            return {"ci_low": middle - down, "ci_high": middle + up}
    return {}


class _Frame:
    """What stands around the traces: axes and their titles, and the title above each panel."""

    def __init__(self, figure: go.Figure) -> None:
        found = [re.fullmatch(r"([xy])axis(\d*)", key) for key in figure.layout]
        names = {each[1] + each[2]: each[0] for each in found if each}
        self.axes = {name: figure.layout[key] for name, key in {**_FIRST_AXES, **names}.items()}
        self._titles = {name: _plain(axis.title.text) for name, axis in self.axes.items()}
        above = [note for note in figure.layout.annotations or () if note.xref == note.yref == "paper"]
        order = sorted((name for name in self.axes if name[0] == "x"), key=lambda name: int(name[1:] or 1))
        # Annotations above panels are in the order of the panels.
        self.panels = {name: _plain(note.text) for name, note in zip(order, above, strict=False)}

    def title_of(self, axis: str) -> str:
        """An axis's title; where a grid of panels writes it once, that one."""
        if self._titles[axis]:
            return self._titles[axis]
        every = {title for name, title in self._titles.items() if name[0] == axis[0]} - {""}
        return every.pop() if len(every) == 1 else ""


def _named(values: Any, axis: Any) -> Any:
    """Return positions under the names that their axis gives them, where it names positions at all."""
    labels, ticks = axis.ticktext, axis.tickvals
    if labels is None or ticks is None or axis.type == "log" or all(map(_is_number, labels)):
        return values
    if not all(isinstance(tick, (int, float, np.number)) for tick in ticks):
        return values
    known = [(float(tick), _plain(label)) for tick, label in zip(ticks, labels, strict=False)]

    def name(value: Any) -> Any:
        if not isinstance(value, (int, float, np.number)):
            return value
        distance, label = min((abs(tick - value), label) for tick, label in known)
        # Marks of several families stand beside their place, less than half a place away.
        return label if distance < 0.5 else value

    return [name(value) for value in values]


def _is_number(label: Any) -> bool:
    try:
        float(str(label).replace("−", "-").replace(",", ""))
    except ValueError:
        return False
    return True


def _values(given: Any) -> Any:
    """Return an array; plotly's JSON holds large ones as base64 with their dtype."""
    if isinstance(given, Mapping) and "bdata" in given:
        found = np.frombuffer(base64.b64decode(given["bdata"]), dtype=np.dtype(str(given["dtype"])))
        shape = given.get("shape")
        return found if shape is None else found.reshape([int(n) for n in str(shape).split(",")])
    return given


def _plain(text: Any) -> str:
    """Return a plotly label as plain text."""
    if text is None:
        return ""
    # Tags first: what was escaped is text, and may look like a tag once it is decoded.
    spaced = re.sub(r"<[^<>]*>", lambda tag: " " if tag[0].startswith("<br") else "", str(text))
    return " ".join(html.unescape(spaced).split())
