"""How values show themselves: the one renderer of summaries as HTML, and the base of what has a summary."""

from __future__ import annotations

from abc import abstractmethod

from dit_lens import inline_html
from dit_lens.inline_html import Markup
from dit_lens.summary import Facts, Fold, Grid, Heat, Images, Note, Outline, Part, Summary, Table, Text


class Summarised:
    """A value that says what it is in a `Summary`, which a notebook shows as its cell."""

    __slots__ = ()

    @abstractmethod
    def summary(self) -> Summary:
        """What there is to say about it, as neutral values: `print` gives it as text, a notebook as HTML.

        >>> print(dl.Mask([[True, False]], about="by hand").summary())
        Mask: 1 of 2 tokens (50%), 1 × 2
          #.
          by hand
        """

    def _repr_html_(self) -> str:
        return html(self.summary())


def html(summary: Summary) -> str:
    """Return a notebook's cell: everything a summary says, escaped, with its images inside.

    >>> html(Summary("a < b", (Facts({"n": 1}),)))[:41]
    '<div><div><strong>a &lt; b</strong></div>'
    """
    return inline_html.card(summary.title, *map(_markup, summary.parts), note=summary.note)


def _markup(part: Part) -> Markup:
    match part:
        case Facts():
            return inline_html.facts(part.pairs)
        case Table():
            rows = [[_markup(cell) if isinstance(cell, Fold) else cell for cell in row] for row in part.rows]
            return inline_html.table(part.columns, rows)
        case Note():
            return inline_html.faint(part.text)
        case Text():
            return inline_html.preformatted(part.text)
        case Images():
            return inline_html.thumbnails(part.labelled)
        case Grid():
            return inline_html.grid(part.cells, part.title)
        case Heat():
            return inline_html.heat(part.values, part.title)
        case Outline():
            return inline_html.outline(part.lines, part.title)
        case Fold():
            return inline_html.folded(part.title, _markup(part.part), opened=part.opened)
