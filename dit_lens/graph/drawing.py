"""A graph as an outline: who starts from which noise, what is done to it, where it goes."""

from __future__ import annotations

from typing import Any

from dit_lens.graph.borrowing import RULE
from dit_lens.graph.spec import BoxSpec, EditSpec, GraphSpec, ReadSpec
from dit_lens.summary import Line, Outline


def draw(spec: GraphSpec) -> str:
    """One paragraph per trajectory: its prompt and seed, then edits, patches and reads as declared.

    ● has latents of its own, ○ takes those of another, ◇ those of a given path or of a run of other steps.
    """
    return "\n".join([_head(spec), *map(str, outline(spec).lines)])


def outline(spec: GraphSpec) -> Outline:
    """The same as neutral lines; a line's source is the trajectory that it draws on."""
    return Outline(_lines(spec), f"Drawing of graph {spec.hash}")


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
