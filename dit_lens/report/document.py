"""What every HTML page of dit_lens shares: one self-contained file, its figures, scripts and policy.

A page forbids itself everything but its own scripts (a content security policy with their hashes), so text
that slipped through escaping could still not run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import plotly.io as pio
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dit_lens.report.section import View
from dit_lens.report.text import encoded, script_json
from dit_lens.report.theme import template

TITLE_ROOM = 28  # pixels of a figure's top margin that its title takes; the page shows the title as text


@dataclass(frozen=True)
class Figure:
    """A view, ready for a page: its title as text, its heights in pixels when wide and when narrow, and its
    data as JSON for a script element."""

    label: str
    title: str
    wide: int
    narrow: int
    data: Markup

    @classmethod
    def of(cls, view: View) -> Figure:
        """Take title and template out of a figure: the page shows the one and switches the other."""
        figure: dict[str, Any] = json.loads(pio.to_json(view.figure, validate=False))
        layout = figure["layout"]
        title = html.unescape(str(layout.pop("title", {}).get("text", "")))
        layout.pop("template", None)
        layout.setdefault("margin", {})["t"] = layout.get("margin", {}).get("t", 56) - TITLE_ROOM
        arrangements = (layout.get("meta") or {}).get("arrangements", {})
        wide, narrow = (arrangements.get(shape, {}) for shape in ("wide", "narrow"))
        for sized in (layout, wide, narrow):
            if "height" in sized:
                sized["height"] -= TITLE_ROOM
        height = int(layout.get("height", 420))
        text = json.dumps(figure, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return cls(
            view.label,
            title,
            int(wide.get("height", height)),
            int(narrow.get("height", height)),
            Markup(script_json(encoded(text))),
        )


def page(name: str, scripts: Sequence[str], **content: Any) -> str:
    """Return a page from its template, with the styles, the scripts named and a policy that allows no other.

    `scripts` are files beside the template; plotly stands before them.
    """
    environment = Environment(
        loader=PackageLoader("dit_lens.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = [_script(get_plotlyjs()), *(_script(_asset(script)) for script in scripts)]
    return environment.get_template(name).render(
        templates=Markup(script_json(encoded(_templates()))),
        style=Markup(_asset("page.css")),
        scripts=[Markup(text) for text in texts],
        policy=_policy(texts),
        **content,
    )


# ---------------------------------------------------------------------------------------------------- assets
@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    # A parser turns CR into LF before it hashes a script.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "</script" in text.lower():
        raise ValueError("a script of the page would close its own element")
    return text


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
        for text in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _templates() -> str:
    return json.dumps({mode: json.loads(template(mode).to_json()) for mode in ("light", "dark")})
