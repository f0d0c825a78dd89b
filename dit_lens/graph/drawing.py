"""A graph drawn, as text and as a picture: who starts from which noise, what is done to it, where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dit_lens.graph.borrowing import RULE
from dit_lens.graph.spec import BoxSpec, EditSpec, GraphSpec, ReadSpec
from dit_lens.inline_html import Markup, shortened

_LINE, _LETTER, _LEFT, _MOST = 22, 7.3, 52, 120  # pixels, and letters of a line
_MOST_LINES = 60


@dataclass(frozen=True)
class Line:
    """One line of a drawing: a trajectory (`mark` is set), or what is done to the trajectory above it.

    `source` is the trajectory that an edit or a shadow draws on.
    """

    text: str
    mark: str = ""
    id: str = ""
    source: str = ""
    last: bool = False


def draw(spec: GraphSpec) -> str:
    """One paragraph per trajectory: its prompt and seed, then edits, patches and reads as declared.

    ● has latents of its own, ○ takes those of another, ◇ those of a given path or of a run of other steps.
    """
    lines = [
        f"{line.mark} {line.text}" if line.mark else f"{'└' if line.last else '├'}─ {line.text}"
        for line in _lines(spec)
    ]
    return "\n".join([_head(spec), *lines])


def draw_svg(spec: GraphSpec) -> Markup:
    """The same as a picture for a notebook: an arrow leads from each trajectory to what draws on it.

    Lines beyond 60 are counted, and long ones are cut; hovering over one shows it in full.
    """
    every = _lines(spec)
    lines = every[:_MOST_LINES]
    y = {line.id: _LINE * (i + 1) for i, line in enumerate(lines) if line.mark}
    words, paths = [], []
    for i, line in enumerate(lines):
        down, left = _LINE * (i + 1), _LEFT if line.mark else _LEFT + 22
        words.append(_words(left, down, f"{line.mark} {line.text}".strip(), bold=bool(line.mark)))
        if not line.mark:
            paths.append(Markup("<path d='M{} {}v{}h10'/>").format(_LEFT + 5, down - _LINE + 8, _LINE - 8))
        if line.source in y:
            # Arcs of neighbouring lines bend by different widths, so that they can be told apart.
            bend, start = _LEFT - 26 - 6 * (i % 5), y[line.source]
            path = f"M{_LEFT - 4} {start}C{bend} {start} {bend} {down} {left - 8} {down}l-6 -4m6 4l-6 4"
            paths.append(Markup("<path d='{}'/>").format(path))
    rest = len(every) - len(lines)
    if rest:
        words.append(_words(_LEFT, _LINE * (len(lines) + 1), f"… and {rest} more lines"))
    width = _LEFT + 30 + _LETTER * max((min(len(line.text) + 2, _MOST) for line in lines), default=10)
    height = _LINE * (len(lines) + 1 + bool(rest))
    return Markup(
        "<svg role='img' aria-label='{}' viewBox='0 0 {:.0f} {}' width='{:.0f}' "
        "style='max-width:100%;height:auto'>"
        "<g stroke='currentColor' stroke-opacity='.6' stroke-width='1.2' fill='none'>{}</g>"
        "<g fill='currentColor' font-family='ui-monospace,monospace' font-size='12'>{}</g></svg>"
    ).format(
        f"Drawing of graph {spec.hash}", width, height, width, Markup("").join(paths), Markup("").join(words)
    )


def _words(left: int, down: int, text: str, *, bold: bool = False) -> Markup:
    weight = Markup(" font-weight='600'") if bold else Markup("")
    return Markup("<text x='{}' y='{}'{}><title>{}</title>{}</text>").format(
        left, down + 4, weight, text, shortened(text, _MOST)
    )


def _head(spec: GraphSpec) -> str:
    sampling = ", ".join(f"{key} {value}" for key, value in spec.sampling.items()) or "the model's own"
    return f"graph {spec.hash}   sampling: {sampling}"


def _lines(spec: GraphSpec) -> list[Line]:
    lines = []
    for each in spec.trajectories:
        mark, latents = "●", ""
        if each.follows:
            mark, latents = "○", f", at the latents of {each.follows}"
        elif each.path:
            mark, latents = "◇", f", at the latents given as {each.path!r}"
        elif each.steps:
            mark, rule = "◇", each.match or RULE
            latents = f", in {each.steps} steps of its own, matched by sigma ({rule})"
        about = f"{each.id}   {each.prompt!r}, seed {each.seed}{latents}"
        lines.append(Line(about, mark, each.id, each.follows or ""))
        here = [(_edit(edit, spec), edit.source or "") for edit in spec.edits if edit.into == each.id]
        here += [(_read(read, spec), "") for read in spec.reads if read.of == each.id]
        lines += [Line(text, source=source, last=i == len(here) - 1) for i, (text, source) in enumerate(here)]
    return lines


def _edit(edit: EditSpec, spec: GraphSpec) -> str:
    op = {k: v for k, v in edit.op.to_data().items() if k != "op" and v != "all" and v is not False}
    fields = "".join(f" {key}={value}" for key, value in op.items())
    source = f" ◄── {edit.source}" if edit.source else ""
    return f"{edit.op.op}{fields}{source}   {_where(edit, spec)}"


def _read(read: ReadSpec, spec: GraphSpec) -> str:
    kept = "" if read.reduce == "none" else f" {read.reduce} of"
    return f"read {read.name}:{kept} {_where(read, spec)}"


def _where(each: Any, spec: GraphSpec) -> str:
    parts = [", ".join(each.at)]
    if each.channels != "all":
        parts.append(f"channels {_few(each.channels)}")
    if isinstance(each.tokens, BoxSpec):
        parts.append(f"tokens in box {list(each.tokens.box)}")
    elif each.tokens != "all":
        parts.append(f"tokens {_few(each.tokens)}")
    if each.steps != "all":
        parts.append(f"steps {each.steps}")
    if each.branch != "both":
        parts.append(f"branch {each.branch}")
    return "; ".join(parts)


def _few(chosen: Any) -> str:
    if isinstance(chosen, str):
        return chosen
    return ", ".join(map(str, chosen[:6])) + (f" … ({len(chosen)})" if len(chosen) > 6 else "")
