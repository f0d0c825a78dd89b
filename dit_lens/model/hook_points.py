"""Addresses inside a diffusion transformer: parse, format, select, order. Pure Python.

An address reads `blocks.{i}.{component}.{stream}`; `temb` and `velocity` lie outside the blocks. Streams are
names, never tuple positions, because the models themselves disagree about positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, overload

from dit_lens.errors import BadInput, did_you_mean

STREAMS = ("image", "context")
"""Both token streams, in the order in which a shared location serves them."""

BRANCHES = ("uncond", "cond")
"""Branches of classifier-free guidance, in the order of their rows in one forward."""

_SIGNALS = tuple(
    f"adaln.{kind}_{site}" for site in ("attn", "mlp", "attn2") for kind in ("shift", "scale", "gate")
)
_STAGES = (("resid_pre",), _SIGNALS, ("attn_out",), ("attn2_out",), ("mlp_out",), ("resid_post",))
COMPONENTS = tuple(component for stage in _STAGES for component in stage)
"""Components of a block in forward order; `attn_out`, `attn2_out`, `mlp_out` lie before the AdaLN gate."""

_STAGE = {component: i for i, stage in enumerate(_STAGES) for component in stage}

GLOBAL_COMPONENTS = ("temb", "velocity")
"""Components outside the blocks: time + pooled text before them, the predicted velocity after them."""


@dataclass(frozen=True)
class HookPoint:
    """One place in the transformer: a component, and for those inside blocks the block and the stream.

    Args:
        component: one of `COMPONENTS`, such as `resid_post`; outside the blocks `temb` or `velocity`.
        block: its number, from 0; None outside the blocks.
        stream: "image" or "context"; None outside the blocks.

    Raises:
        BadInput: no such component, or one without the block or stream that it needs.

    >>> HookPoint.parse("blocks.4.resid_post.image")
    HookPoint('blocks.4.resid_post.image')
    """

    component: str
    block: int | None = None
    stream: str | None = None

    def __post_init__(self) -> None:
        if self.component in GLOBAL_COMPONENTS:
            if self.block is not None or self.stream is not None:
                raise BadInput(
                    f"{self.component!r} lies outside the blocks: it takes no block and no stream."
                )
            return
        if self.component not in COMPONENTS:
            known = (*COMPONENTS, *GLOBAL_COMPONENTS)
            raise BadInput(
                f"No component {self.component!r}. Components: {', '.join(known)}."
                f"{did_you_mean(self.component, known)}"
            )
        if self.stream not in STREAMS:
            raise BadInput(
                f"No stream {self.stream!r} for {self.component!r}. Streams: {', '.join(STREAMS)}."
                f"{did_you_mean(str(self.stream), STREAMS)}"
            )
        if not isinstance(self.block, int) or isinstance(self.block, bool) or self.block < 0:
            raise BadInput(f"{self.component!r} needs a block number from 0 up, not {self.block!r}.")

    @classmethod
    def parse(cls, text: str) -> HookPoint:
        """Read one address from its `text`.

        Raises:
            BadInput: the text is no address.

        >>> str(HookPoint.parse("blocks.0.adaln.gate_mlp.context"))
        'blocks.0.adaln.gate_mlp.context'
        """
        if text in GLOBAL_COMPONENTS:
            return cls(text)
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.([^.]+)", text)
        if match is None:
            raise BadInput(
                f"{text!r} is no hook point. Write blocks.<number>.<component>.<image|context>, for example "
                f"blocks.4.resid_post.image, or one of {', '.join(GLOBAL_COMPONENTS)}."
                f"{did_you_mean(text, GLOBAL_COMPONENTS)}"
            )
        block, component, stream = match.groups()
        return cls(component, int(block), stream)

    def __str__(self) -> str:
        if self.block is None:
            return self.component
        return f"blocks.{self.block}.{self.component}.{self.stream}"

    def __repr__(self) -> str:
        return f"HookPoint({str(self)!r})"

    @property
    def forward_key(self) -> tuple[int, int, int]:
        """Sorts hook points into the order in which one forward pass reaches them.

        All AdaLN signals of the image precede those of the context: each stream's signals leave one linear
        layer together, and the image's layer runs first.
        """
        if self.block is None or self.stream is None:
            return (-1, 0, 0) if self.component == "temb" else (2**31, 0, 0)
        stage = _STAGE[self.component]
        within = STREAMS.index(self.stream) * len(_SIGNALS) + _STAGES[stage].index(self.component)
        return (self.block, stage, within)


class HookPoints(Sequence[HookPoint]):
    """The hook points of one model, in forward order; `str()` lists every address with its shape."""

    def __init__(
        self, points: Sequence[HookPoint], shape: Callable[[HookPoint], tuple[int | str, ...]]
    ) -> None:
        self._points = in_forward_order(points)
        self._shape = shape

    def shape(self, point: str | HookPoint) -> tuple[int | str, ...]:
        """Shape of the point's tensor at the default sampling, rows of one branch left open as `"rows"`."""
        return self._shape(HookPoint.parse(point) if isinstance(point, str) else point)

    def select(self, pattern: str | HookPoint | Sequence[str | HookPoint]) -> tuple[HookPoint, ...]:
        """Those that match a pattern; see `dit_lens.model.hook_points.select`."""
        return select(pattern, self._points)

    @overload
    def __getitem__(self, index: int) -> HookPoint: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[HookPoint]: ...
    def __getitem__(self, index: int | slice) -> HookPoint | Sequence[HookPoint]:
        return self._points[index]

    def __len__(self) -> int:
        return len(self._points)

    def __str__(self) -> str:
        width = max((len(str(point)) for point in self), default=0)
        return "\n".join(f"{point!s:<{width}}  [{', '.join(map(str, self.shape(point)))}]" for point in self)

    def __repr__(self) -> str:
        return (
            f"HookPoints({len(self)} points, {self[0]} … {self[-1]})" if len(self) else "HookPoints(0 points)"
        )


def in_forward_order(points: Sequence[HookPoint]) -> tuple[HookPoint, ...]:
    """Sort by forward order and drop repetitions."""
    return tuple(sorted(dict.fromkeys(points), key=lambda point: point.forward_key))


def select(
    pattern: str | HookPoint | Sequence[str | HookPoint], available: Sequence[HookPoint]
) -> tuple[HookPoint, ...]:
    """Hook points that match one pattern, or any of several, in forward order.

    The block is `*`, a number, an inclusive range `4-11`, several of these joined by commas, or a fraction of
    depth such as `0.25-0.5` (blocks whose middle lies in that part of the model). Component and stream are
    globs; `blocks.4-11` alone means everything in these blocks.

    Raises:
        BadInput: a pattern matches nothing, or names a block that lacks what it asks for.

    >>> points = [HookPoint("resid_post", b, s) for b in range(4) for s in STREAMS]
    >>> [str(p) for p in select("blocks.0.5-1.resid_post.image", points)]
    ['blocks.2.resid_post.image', 'blocks.3.resid_post.image']
    """
    patterns = [pattern] if isinstance(pattern, str | HookPoint) else list(pattern)
    if not patterns:
        raise BadInput("No hook point was named. Name at least one, for example 'blocks.*.resid_post.image'.")
    found: list[HookPoint] = []
    for each in patterns:
        found += _select_one(str(each), available)
    return in_forward_order(found)


_BLOCK_PATTERN = re.compile(r"blocks\.(?P<blocks>\*|[0-9][0-9.,\-]*?)(?:\.(?P<rest>[^0-9,\-].*))?")


def _select_one(pattern: str, available: Sequence[HookPoint]) -> list[HookPoint]:
    match = _BLOCK_PATTERN.fullmatch(pattern)
    if match is None:
        found = [point for point in available if fnmatchcase(str(point), pattern)]
        if not found:
            raise BadInput(_nothing_matches(pattern, available))
        return found
    num_blocks = 1 + max((point.block for point in available if point.block is not None), default=-1)
    try:
        blocks = parse_blocks(match["blocks"], num_blocks)
    except BadInput as error:
        raise BadInput(f"{pattern!r}: {error}") from None
    rest = match["rest"] or "*"
    found = [
        point
        for point in available
        if point.block in blocks and fnmatchcase(f"{point.component}.{point.stream}", rest)
    ]
    if not found:
        raise BadInput(_nothing_matches(pattern, available, rest))
    if match["blocks"] != "*" and "." not in match["blocks"]:
        # Blocks named by number must all have what was asked for; a wildcard takes those that have it.
        for block in blocks:
            if not any(point.block == block for point in found):
                raise BadInput(_nothing_matches(pattern, available, rest, block))
    return found


def _nothing_matches(
    pattern: str, available: Sequence[HookPoint], rest: str | None = None, block: int | None = None
) -> str:
    elsewhere = (
        sorted(
            {
                p.block
                for p in available
                if p.block is not None and fnmatchcase(f"{p.component}.{p.stream}", rest)
            }
        )
        if rest is not None
        else []
    )
    if elsewhere:
        where = (
            f"Block {block} has no {rest!r}" if block is not None else f"No block named there has {rest!r}"
        )
        why = " The context stream ends with the last block." if "context" in str(rest) else ""
        return f"{pattern!r} does not exist here. {where}; blocks {_ranges(elsewhere)} have it.{why}"
    streams = [] if rest is None else _streams_of(rest, available)
    if streams:
        ways = " or ".join(f".{stream}" for stream in streams)
        return f"{pattern!r} names no stream: add {ways}, such as {pattern}.{streams[0]}."
    if rest is not None:
        endings = sorted({f"{p.component}.{p.stream}" for p in available if p.block is not None})
        return (
            f"{pattern!r} matches no hook point: no block has {rest!r}. "
            f"Blocks have {', '.join(endings)}.{did_you_mean(rest, endings)}"
        )
    names = [str(point) for point in available]
    return (
        f"{pattern!r} matches no hook point. Write blocks.<which>.<component>.<stream>, temb or velocity."
        f"{did_you_mean(pattern, names)}"
    )


def _streams_of(component: str, available: Sequence[HookPoint]) -> list[str]:
    """Streams that have a component, which may be a pattern."""
    having = {p.stream for p in available if p.block is not None and fnmatchcase(p.component, component)}
    return [stream for stream in STREAMS if stream in having]


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def parse_blocks(spec: Any, num_blocks: int) -> tuple[int, ...]:
    """Block numbers, sorted, from a specification that survives another depth.

    Accepts `"all"` or `"*"`, a number, `"4-11"` (inclusive), `"1,3,5-7"`, a fraction of depth `"0.25-0.5"` or
    `{"fraction": [0.25, 0.5]}` (blocks whose middle (i + ½)/n lies in [low, high)), or a list of these.

    Raises:
        BadInput: a block does not exist, or nothing is selected.

    >>> parse_blocks("0.25-0.5", 8), parse_blocks("1,4-5", 8)
    ((2, 3), (1, 4, 5))
    """
    return _parse_axis(spec, num_blocks, "block", inclusive_dash=True)


def select_steps(spec: Any, num_steps: int, sigmas: Sequence[float] | None = None) -> tuple[int, ...]:
    """Step numbers, sorted, from a specification that survives another step count.

    Accepts `"all"`, a number, a slice `"2:8"` or `"::2"` (end excluded, negative ends count from the end), a
    list of these, `{"fraction": [0, 0.5]}` (steps whose middle (s + ½)/n lies in [low, high)), or
    `{"sigma": [low, high]}` (steps that start at such a noise level; needs `sigmas`).

    Raises:
        BadInput: a step does not exist, or nothing is selected.

    >>> select_steps("2:", 4), select_steps("::2", 4), select_steps({"fraction": [0, 0.5]}, 4)
    ((2, 3), (0, 2), (0, 1))
    """
    if isinstance(spec, Mapping) and set(spec) == {"sigma"}:
        if sigmas is None:
            raise BadInput(f"Steps {dict(spec)!r} need a noise schedule, and none is known here.")
        low, high = _pair(spec["sigma"], "sigma")
        chosen = tuple(s for s in range(num_steps) if low <= float(sigmas[s]) <= high)
        if not chosen:
            raise BadInput(
                f"No step starts at a sigma between {low} and {high}. Steps start at "
                f"{', '.join(f'{float(s):.3g}' for s in sigmas[:num_steps])}."
            )
        return chosen
    return _parse_axis(spec, num_steps, "step", inclusive_dash=False)


def _parse_axis(spec: Any, size: int, what: str, *, inclusive_dash: bool) -> tuple[int, ...]:
    """Blocks and steps share this grammar; only blocks know dashes, only steps know colons."""
    if size < 1:
        raise BadInput(f"There are no {what}s to choose from.")
    if isinstance(spec, Mapping):
        if set(spec) != {"fraction"}:
            known = ("fraction",) if inclusive_dash else ("fraction", "sigma")
            hint = did_you_mean(str(next(iter(spec), "")), known)
            ways = " or ".join(f"{{{key}: [low, high]}}" for key in known)
            raise BadInput(f"{dict(spec)!r} selects no {what}s: write {ways}.{hint}")
        return _fraction(*_pair(spec["fraction"], "fraction"), size, what)
    if isinstance(spec, str):
        return _parse_axis_text(spec.strip(), size, what, inclusive_dash=inclusive_dash)
    if isinstance(spec, Sequence):
        chosen = {i for each in spec for i in _parse_axis(each, size, what, inclusive_dash=inclusive_dash)}
        if not chosen:
            raise BadInput(f"An empty list selects no {what}. There are {size}: 0 to {size - 1}.")
        return tuple(sorted(chosen))
    if not hasattr(spec, "__index__") or isinstance(spec, bool):
        raise BadInput(f"{spec!r} selects no {what}: give a number, a range, a list or 'all'.")
    return (_in_range(int(spec), size, what),)


def _parse_axis_text(text: str, size: int, what: str, *, inclusive_dash: bool) -> tuple[int, ...]:
    if text in ("all", "*"):
        return tuple(range(size))
    if "," in text:
        parts = [part for part in text.split(",") if part.strip()]
        return _parse_axis(parts, size, what, inclusive_dash=inclusive_dash)
    if inclusive_dash and (match := re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", text)):
        if "." in text:
            return _fraction(float(match[1]), float(match[2]), size, what)
        first, last = (_in_range(int(end), size, what) for end in match.groups())
        if last < first:
            raise BadInput(f"{what} range {text!r} runs backwards; write {last}-{first}.")
        return tuple(range(first, last + 1))
    if inclusive_dash and re.fullmatch(r"\d+\.\d+", text):
        where = float(text)
        if where > 1:
            raise BadInput(f"{text!r} is no fraction of depth: fractions lie between 0.0 and 1.0.")
        return (min(int(where * size), size - 1),)
    if not inclusive_dash and (match := re.fullmatch(r"(-?\d+)?:(-?\d+)?(?::([1-9]\d*))?", text)):
        low, high, stride = (None if part is None else int(part) for part in match.groups())
        for end in (low, high):
            if end is not None and not -size <= end <= size:
                raise BadInput(f"{what}s {text!r} reach beyond the {size} there are (0 to {size - 1}).")
        chosen = tuple(range(size))[low:high:stride]
        if not chosen:
            raise BadInput(f"{what}s {text!r} select nothing of the {size} there are (0 to {size - 1}).")
        return chosen
    if re.fullmatch(r"-?\d+", text):
        return (_in_range(int(text), size, what),)
    form = "'all', '4', '4-11', '1,3' or '0.25-0.5'" if inclusive_dash else "'all', '4', '2:8' or '1,3'"
    raise BadInput(f"{text!r} selects no {what}s. Write {form}.")


def _in_range(index: int, size: int, what: str) -> int:
    if not -size <= index < size:
        raise BadInput(f"There is no {what} {index}: there are {size}, 0 to {size - 1}.")
    return index % size


def _pair(ends: Any, what: str) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError):
        raise BadInput(f"{what} needs two numbers, low and high, not {ends!r}.") from None
    if not low <= high:
        raise BadInput(f"{what} range [{low}, {high}] runs backwards.")
    return low, high


def _fraction(low: float, high: float, size: int, what: str) -> tuple[int, ...]:
    if not 0 <= low < high <= 1:
        raise BadInput(f"Fraction {low:g}-{high:g} is no part of the {what}s: it needs 0 ≤ low < high ≤ 1.")
    chosen = tuple(i for i in range(size) if low <= (i + 0.5) / size < high)
    if not chosen:
        raise BadInput(
            f"No {what} of {size} has its middle between {low:g} and {high:g}; widen the fraction."
        )
    return chosen
