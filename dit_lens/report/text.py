"""Text on its way into figures, scripts and sentences.

Prompts and file names come from anywhere. Jinja escapes what goes into HTML; the functions here guard the two
places that it cannot see: plotly, which reads a dialect of HTML and `%{…}` in its own labels, and JSON inside
a `<script>` element.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from typing import Any

# Plotly decodes numeric entities after it has looked for tags, `%{…}` templates and `$…$` formulas.
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_PLOTLY_SPECIAL = {character: f"&#{ord(character)};" for character in "<>$%{}"}


def plot_text(text: str, *, limit: int = 160, width: int = 0) -> str:
    """Return `text` as a plotly label that shows it literally, cut to `limit` and wrapped at `width`
    characters.

    >>> plot_text("<b>50 %{x}</b>")
    '&#60;b&#62;50 &#37;&#123;x&#125;&#60;/b&#62;'
    """
    plain = shorten(" ".join(text.split()), limit)
    lines = textwrap.wrap(plain, width) if width else [plain]
    return "<br>".join(
        "".join(_PLOTLY_SPECIAL.get(character, character) for character in line.replace("&", "&amp;"))
        for line in lines
    )


def shorten(text: str, limit: int) -> str:
    """Return `text`, cut with an ellipsis where it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a `<script>` element: nothing in it can close the element.

    >>> script_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = value if isinstance(value, _Encoded) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return str(text)


class _Encoded(str):
    """A string that is JSON already."""


def encoded(text: str) -> str:
    """Mark `text` as JSON already, so that `script_json` only guards it."""
    return _Encoded(text)


def number(value: float, digits: int = 3) -> str:
    """Return a number for a reader: `digits` significant digits, thousands grouped, no needless zeros.

    >>> number(14.2031), number(1536), number(-0.00012), number(float("nan"))
    ('14.2', '1,536', '−0.00012', 'not defined')
    >>> number(0.0000312, 2)
    '3.1\\xa0×\\xa010⁻⁵'
    """
    if value is None or not math.isfinite(value):
        return "not defined"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        text = f"{abs(value):,.0f}"
    elif abs(value) < 1e-4:
        lead, _, power = f"{abs(value):.{digits - 1}e}".partition("e")
        text = f"{lead}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{str(int(power)).translate(_RAISED)}"
    else:
        text = f"{abs(value):.{digits}g}"
    return f"−{text}" if value < 0 else text


def percent(share: float) -> str:
    """Return a share of one as a percentage; its space does not break.

    >>> percent(0.825), percent(0.004)
    ('82\xa0%', '0.4\xa0%')
    """
    if not math.isfinite(share):
        return "not defined"
    digits = 0 if abs(share) >= 0.0995 or share == 0 else 1
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def times(ratio: float) -> str:
    """Return a ratio as a multiple; its space does not break.

    >>> times(14.2)
    '14.2\xa0×'
    """
    return f"{number(ratio)}\N{NO-BREAK SPACE}×"


def listing(items: Sequence[Any], conjunction: str = "and") -> str:
    """Return items as a list in a sentence.

    >>> listing([1, 2, 3]), listing(["a"])
    ('1, 2 and 3', 'a')
    """
    words = [str(item) for item in items]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def spans(values: Sequence[int]) -> str:
    """Return whole numbers as ranges.

    >>> spans([7, 1, 2, 3])
    '1–3, 7'
    """
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """Return an amount and its noun.

    >>> count(1, "block"), count(3, "block")
    ('1 block', '3 blocks')
    """
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def writer_name(name: str) -> str:
    """Return the layer that writes into the residual stream as words.

    >>> writer_name("attn"), writer_name("mlp")
    ('attention', 'MLP')
    """
    words = {"attn": "attention", "attn2": "second attention", "mlp": "MLP", "embed": "input embedding"}
    return words.get(name, name)


def place_of_write(writer: str, block: int) -> str:
    """Return who writes into the residual stream, and where, as words.

    >>> place_of_write("mlp", 1), place_of_write("embed", 0)
    ('the MLP of block 1', 'the input embedding')
    """
    name = f"the {writer_name(writer)}"
    return name if writer == "embed" else f"{name} of block {block}"


def signal_name(signal: str) -> str:
    """Return an AdaLN signal as words.

    >>> signal_name("gate_mlp")
    'MLP gate'
    """
    kind, _, layer = signal.partition("_")
    return f"{writer_name(layer)} {kind}" if layer else signal
