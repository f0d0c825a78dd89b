"""The embedded model's world: caption ↔ scene ↔ image, exact in both directions and seeded.

A `Scene` is six attributes and a little jitter. Five attributes are semantic (shape, colour, size, position,
background); `detail` is a surface pattern of two-pixel stripes or dots, so that semantics and local detail
can be told apart. Rendering is a pure function of the scene; `read_image` inverts it exactly and
`parse_caption` inverts `caption`.

Images are float32 arrays [48, 48, 3] in [0, 1]; masks are bool arrays [48, 48], true where the subject covers
at least half of the pixel.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from dit_lens.errors import BadInput, did_you_mean

IMAGE_SIZE = 48
"""Height and width of an image in pixels."""

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
COLOURS = {
    "red": (0.86, 0.10, 0.12),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.25, 0.86),
    "yellow": (0.97, 0.87, 0.10),
    "orange": (0.98, 0.52, 0.05),
    "purple": (0.50, 0.15, 0.68),
    "cyan": (0.10, 0.80, 0.88),
    "pink": (0.98, 0.52, 0.74),
}
SIZES = {"small": 7.0, "medium": 10.0, "large": 13.0}
"""Radius of the subject in pixels."""
POSITIONS = {
    "in the centre": (0, 0),
    "on the left": (0, -8),
    "on the right": (0, 8),
    "at the top": (-8, 0),
    "at the bottom": (8, 0),
}
"""Offset (rows, columns) of the subject's centre from the image's centre, in pixels."""
BACKGROUNDS = {
    "white": (0.96, 0.96, 0.96),
    "grey": (0.55, 0.55, 0.55),
    "black": (0.06, 0.06, 0.06),
    "beige": (0.84, 0.74, 0.58),
}
DETAILS = ("plain", "striped", "dotted")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "background": tuple(BACKGROUNDS),
    "detail": DETAILS,
}
"""Every attribute and its values, in the order of `Scene`'s fields."""

SEMANTIC = ("shape", "colour", "size", "position", "background")
"""The attributes that say what the picture is of; `detail` is the one that does not."""

MAX_JITTER = 2
"""The subject's centre moves by up to this many pixels in each direction (nuisance, not in the caption)."""
_PATTERN_PERIOD = 4
_PATTERN_SHADE = 0.45
_OVERSAMPLING = 8


@dataclass(frozen=True)
class Scene:
    """One picture of the world. Jitter is what the caption does not say.

    >>> Scene("star", "red", "large", "on the left", "white", "striped").caption
    'a large red striped star on the left on a white background'
    """

    shape: str
    colour: str
    size: str
    position: str
    background: str
    detail: str
    jitter: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for attribute, values in ATTRIBUTES.items():
            asked = getattr(self, attribute)
            if asked not in values:
                raise BadInput(
                    f"No {attribute} {asked!r} in this world; it has {', '.join(values)}."
                    f"{did_you_mean(asked, values)}"
                )
        if max(map(abs, self.jitter)) > MAX_JITTER:
            raise BadInput(f"jitter {self.jitter} is out of range: at most ±{MAX_JITTER} pixels each way.")

    @property
    def caption(self) -> str:
        return (
            f"a {self.size} {self.colour} {self.detail} {self.shape} {self.position}"
            f" on a {self.background} background"
        )

    @property
    def attributes(self) -> dict[str, str]:
        """What the caption says, by attribute name."""
        return {name: getattr(self, name) for name in ATTRIBUTES}

    @property
    def held_out(self) -> bool:
        """True for the tenth of all attribute combinations that training never sees."""
        digest = hashlib.sha256(self.caption.encode()).digest()
        return digest[0] % 10 == 0

    @classmethod
    def of(cls, attributes: Mapping[str, str], jitter: tuple[int, int] = (0, 0)) -> Scene:
        """A scene from a mapping that names all six attributes."""
        return cls(*(attributes[name] for name in ATTRIBUTES), jitter=jitter)  # type: ignore[misc, arg-type]

    def with_(self, **changes: str) -> Scene:
        """The same scene with some attributes changed: the counterfactual partner."""
        return replace(self, **changes)  # type: ignore[arg-type]


_CAPTION = re.compile(
    "^a (?P<size>{size}) (?P<colour>{colour}) (?P<detail>{detail}) (?P<shape>{shape})"
    " (?P<position>{position}) on a (?P<background>{background}) background$".format(
        **{name: "|".join(values) for name, values in ATTRIBUTES.items()}
    )
)


def parse_caption(caption: str) -> Scene:
    """The scene (without jitter) that a full caption describes; the inverse of `Scene.caption`.

    Raises `BadInput` for a caption outside the grammar.
    """
    match = _CAPTION.match(caption.strip())
    if match is None:
        raise BadInput(
            f"{caption!r} is not a caption of the shapes world. The grammar is: a SIZE COLOUR DETAIL SHAPE"
            " POSITION on a BACKGROUND background, for example"
            f" {Scene('star', 'red', 'large', 'on the left', 'white', 'striped').caption!r}."
        )
    return Scene.of(match.groupdict())


def foreign_words(prompts: Iterable[str]) -> tuple[str, ...]:
    """Words of the prompts that stand in no caption of this world, in lower case, each once.

    >>> foreign_words(["a red dog on the left", "A large red star", "a dog and a cat"])
    ('dog', 'and', 'cat')
    """
    values = itertools.chain.from_iterable(ATTRIBUTES.values())
    known = {word for text in (partial_caption(background="white"), *values) for word in text.split()}
    words = (word for prompt in prompts for word in re.findall(r"\w+", prompt.lower()))
    return tuple(dict.fromkeys(word for word in words if word not in known))


def all_scenes() -> Iterator[Scene]:
    """Every attribute combination once, without jitter."""
    for values in itertools.product(*ATTRIBUTES.values()):
        yield Scene.of(dict(zip(ATTRIBUTES, values, strict=True)))


def sample_scenes(count: int, seed: int, *, held_out: bool | None = False) -> list[Scene]:
    """Draw scenes with jitter.

    `held_out=False` draws from the combinations used in training, `True` from the others, `None` from all.
    """
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        values = {name: options[rng.integers(len(options))] for name, options in ATTRIBUTES.items()}
        down, right = (int(j) for j in rng.integers(-MAX_JITTER, MAX_JITTER + 1, size=2))
        scene = Scene.of(values, (down, right))
        if held_out is None or scene.held_out == held_out:
            scenes.append(scene)
    return scenes


@dataclass(frozen=True)
class Counterfactual:
    """Two scenes that differ in one attribute: an edit that carries it turns one into the other."""

    source: Scene
    target: Scene
    attribute: str


def counterfactuals(
    count: int, seed: int, *, attributes: Sequence[str] = tuple(ATTRIBUTES), held_out: bool | None = True
) -> tuple[Counterfactual, ...]:
    """Draw pairs of scenes, without jitter, that differ in exactly one attribute, taken in turn.

    No caption stands twice among all sources and targets, so that each names its partner. `held_out` is the
    sources', as in `sample_scenes`; a target may be any combination.

    Raises:
        BadInput: no attribute, one that does not exist, or fewer pairs than were asked for.

    >>> pair = counterfactuals(1, seed=0, attributes=["colour"])[0]
    >>> pair.target == pair.source.with_(colour=pair.target.colour), pair.attribute
    (True, 'colour')
    """
    for name in attributes:
        if name not in ATTRIBUTES:
            raise BadInput(
                f"No attribute {name!r}; there are {', '.join(ATTRIBUTES)}.{did_you_mean(name, ATTRIBUTES)}"
            )
    if not attributes:
        raise BadInput(
            f"Pairs differ in an attribute, and none was named; there are {', '.join(ATTRIBUTES)}."
        )
    rng = np.random.default_rng(seed)
    sources = [scene for scene in all_scenes() if held_out is None or scene.held_out == held_out]
    pairs: list[Counterfactual] = []
    seen: set[str] = set()
    for i in rng.permutation(len(sources)):
        if len(pairs) == count:
            break
        source, attribute = sources[i], attributes[len(pairs) % len(attributes)]
        others = [value for value in ATTRIBUTES[attribute] if value != getattr(source, attribute)]
        target = source.with_(**{attribute: others[rng.integers(len(others))]})
        if not {source.caption, target.caption} & seen:
            seen |= {source.caption, target.caption}
            pairs.append(Counterfactual(source, target, attribute))
    if len(pairs) < count:
        raise BadInput(f"{count} pairs without a common caption were asked for; {len(pairs)} were found.")
    return tuple(pairs)


# ------------------------------------------------------------------ rendering


def _inside(shape: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether points of the unit disc's plane lie inside a shape (y downwards)."""
    if shape == "circle":
        return x**2 + y**2 <= 0.93**2
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.80
    if shape == "diamond":
        return abs(x) * 1.35 + abs(y) <= 1.0
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) <= 0.30) & (np.maximum(abs(x), abs(y)) <= 0.98)
    if shape == "triangle":
        return (y <= 0.75) & (abs(x) <= (y + 0.95) * 0.58)
    angle = (np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5
    radius = np.hypot(x, y)
    # Edge of a five-pointed star between a tip (radius 1, angle 0) and a notch (radius 0.42, angle π/5).
    notch_y, notch_x = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
    along, across = radius * np.cos(angle), radius * abs(np.sin(angle))
    return across * (1 - notch_y) <= notch_x * (1 - along)


@cache
def _coverage(shape: str, size: str) -> np.ndarray:
    """Share of each pixel that the subject covers when it sits in the centre, float32 [48, 48]."""
    fine = IMAGE_SIZE * _OVERSAMPLING
    axis = (np.arange(fine) + 0.5) / _OVERSAMPLING - IMAGE_SIZE / 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = _inside(shape, y / SIZES[size], x / SIZES[size])
    blocks = inside.reshape(IMAGE_SIZE, _OVERSAMPLING, IMAGE_SIZE, _OVERSAMPLING)
    return blocks.mean(axis=(1, 3)).astype(np.float32)


def _shade(detail: str) -> np.ndarray:
    """Factor on the subject's colour, float32 [48, 48], for a subject in the centre."""
    rows, cols = np.indices((IMAGE_SIZE, IMAGE_SIZE))
    if detail == "striped":
        dark = (rows + cols) % _PATTERN_PERIOD < _PATTERN_PERIOD // 2
    elif detail == "dotted":
        dark = (rows % _PATTERN_PERIOD < 2) & (cols % _PATTERN_PERIOD < 2)
    else:
        dark = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
    return np.where(dark, np.float32(_PATTERN_SHADE), np.float32(1))


def _placed(centred: np.ndarray, scene: Scene, fill: float) -> np.ndarray:
    """Move a centred picture to the scene's position; what comes in from outside is `fill`."""
    dy, dx = (p + j for p, j in zip(POSITIONS[scene.position], scene.jitter, strict=True))
    moved = np.full_like(centred, fill)
    n = IMAGE_SIZE
    moved[max(dy, 0) : n + min(dy, 0), max(dx, 0) : n + min(dx, 0)] = centred[
        max(-dy, 0) : n + min(-dy, 0), max(-dx, 0) : n + min(-dx, 0)
    ]
    return moved


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: float32 [48, 48, 3] in [0, 1].

    >>> render(Scene("star", "red", "large", "on the left", "white", "striped")).shape
    (48, 48, 3)
    """
    cover = _placed(_coverage(scene.shape, scene.size), scene, 0.0)[..., None]
    shade = _placed(_shade(scene.detail), scene, 1.0)[..., None]
    subject = shade * np.asarray(COLOURS[scene.colour], dtype=np.float32)
    ground = np.asarray(BACKGROUNDS[scene.background], dtype=np.float32)
    return cover * subject + (1 - cover) * ground


def subject_mask(scene: Scene) -> np.ndarray:
    """Exact mask of the subject: bool [48, 48]."""
    return _placed(_coverage(scene.shape, scene.size), scene, 0.0) >= 0.5


def read_image(image: np.ndarray) -> Scene:
    """The scene whose rendering is nearest to an image; exact (jitter included) for rendered images.

    A ruler that is independent of any trained model: backgrounds and colours by nearest distance, then every
    remaining shape, size, position, detail and jitter by squared error. Float [48, 48, 3] in [0, 1].
    """
    if image.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise BadInput(f"read_image wants [48, 48, 3], got {list(image.shape)}.")
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    background = min(
        BACKGROUNDS, key=lambda b: float(np.abs(np.median(border, axis=0) - np.asarray(BACKGROUNDS[b])).sum())
    )
    ground = np.asarray(BACKGROUNDS[background], dtype=np.float32)
    cover, shaded, norms, keys = _bank()
    flat = image.reshape(-1, 3).astype(np.float32) - ground
    # error = |flat − (shaded·colour − cover·ground)|²; the cross terms are two matrix products per channel.
    on_cover, on_shaded = cover @ flat, shaded @ flat
    best: tuple[float, str, int] | None = None
    for colour, rgb in COLOURS.items():
        c = np.asarray(rgb, dtype=np.float32)
        error = (
            norms[2] * (c @ c)
            - 2 * norms[1] * (c @ ground)
            + norms[0] * (ground @ ground)
            - 2 * (on_shaded @ c - on_cover @ ground)
        )
        index = int(error.argmin())
        if best is None or error[index] < best[0]:
            best = (float(error[index]), colour, index)
    assert best is not None
    shape, size, position, detail, jitter = keys[best[2]]
    return Scene(shape, best[1], size, position, background, detail, jitter=jitter)


class _Bank(NamedTuple):
    """Every layout: coverage and coverage × shade [layouts, pixels], and what they sum to over pixels."""

    cover: np.ndarray
    shaded: np.ndarray
    norms: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Coverage with itself, with coverage × shade, and the latter with itself, [layouts] each."""
    keys: list[tuple[str, str, str, str, tuple[int, int]]]


@lru_cache(maxsize=1)
def _bank() -> _Bank:
    reach = range(-MAX_JITTER, MAX_JITTER + 1)
    jitters = list(itertools.product(reach, reach))
    keys = list(itertools.product(SHAPES, SIZES, POSITIONS, DETAILS, jitters))
    cover = np.empty((len(keys), IMAGE_SIZE**2), dtype=np.float32)
    shaded = np.empty_like(cover)
    for row, (shape, size, position, detail, jitter) in enumerate(keys):
        scene = Scene(shape, "red", size, position, "white", detail, jitter=jitter)
        cover[row] = _placed(_coverage(shape, size), scene, 0.0).ravel()
        shaded[row] = cover[row] * _placed(_shade(detail), scene, 1.0).ravel()
    norms = (cover * cover).sum(1), (cover * shaded).sum(1), (shaded * shaded).sum(1)
    return _Bank(cover, shaded, norms, keys)


# ------------------------------------------------------------------ partial captions

_NOUN = "shape"


def partial_caption(**attributes: str) -> str:
    """A caption that leaves some attributes open, for prompts like "a red star".

    >>> partial_caption(shape="star", colour="red")
    'a red star'
    >>> partial_caption(background="grey")
    'a shape on a grey background'
    """
    unknown = set(attributes) - {f.name for f in fields(Scene)}
    if unknown:
        raise BadInput(f"No attribute {sorted(unknown)[0]!r}; there are {', '.join(ATTRIBUTES)}.")
    words = ["a", *(attributes[name] for name in ("size", "colour", "detail") if name in attributes)]
    words.append(attributes.get("shape", _NOUN))
    if "position" in attributes:
        words.append(attributes["position"])
    if "background" in attributes:
        words.append(f"on a {attributes['background']} background")
    return " ".join(words)
