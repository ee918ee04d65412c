"""The world of the tiny models: one coloured shape that moves over a plain background, drawn and described.

Every word of the captions is one token of the tiny tokenisers (spiece.model in core/models/tiny and tiny_v1_2), which
were trained on them. Shapes are such that their outlines differ at this size: squares and stars came back from an
autoencoder of 8 x 8 pixels a latent as blobs. A Look adds a frame rate and scores, which tiny_v1_2 is told.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from .. import random
from ..shapes import VideoShape

FRAMES, SIDE = 17, 64
FPS = 8.0
"""Frames per second that clips are shown at, unless a Look has others."""
SHAPES = ("circle", "triangle", "ring", "bar")
COLOURS = {
    "red": (215, 35, 40),
    "green": (35, 160, 60),
    "blue": (35, 75, 215),
    "yellow": (240, 220, 40),
    "purple": (145, 45, 175),
    "orange": (245, 135, 25),
}
"""RGB; a clip's own colour is up to COLOUR_JITTER off in each channel."""
LATER_COLOURS = {"cyan": (40, 205, 215), "teal": (20, 130, 130)}
"""Those that the tiny models were not trained on, for what is trained afterwards."""
PALETTE = COLOURS | LATER_COLOURS
BACKGROUNDS = {"white": (243, 243, 243), "black": (12, 12, 12), "gray": (128, 128, 128), "pink": (248, 175, 195)}
COLOUR_JITTER, BACKGROUND_JITTER = 10, 6
SIZES = {"small": (10.5, 11.5), "big": (16.0, 17.5)}
"""Radii in pixels, of the circle and of the outline that the other shapes fill."""
DIRECTIONS = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
}
HELD_OUT_SEED, HELD_OUT_PART = 1, 0.1
TEMPLATES = (
    "a {size} {colour} {shape} moves {direction} on a {background} background",
    "{size} {colour} {shape} moving {direction}, {background} background",
    "on a {background} background, a {size} {colour} {shape} moves {direction}",
    "a video of a {size} {colour} {shape} that moves {direction} over {background}",
    "the {colour} {shape} is {size} and moves {direction}; the background is {background}",
)


_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_BETWEEN_WORDS = re.compile(r"[^\w',;]+|_+|'(?!\w)|(?<!\w)'")

MARGIN = 1.0
"""Pixels between a shape and the border."""
START, CROSSED = (0.0, 0.12), (0.76, 0.88)
"""Where on its way across the frame a shape starts, and how much of the way it goes: nearly all, so that every frame
tells the direction."""
BAR_HEIGHT, RING_HOLE = 0.36, 0.52
"""Parts of the radius."""
RATES = (8.0, 12.0, 24.0)
MOTION, AESTHETIC = (1.0, 5.0), (4.0, 6.5)
"""Scores from least to most."""
SOFTNESS = 2.0
"""Pixels by which an outline grows wider for each point of the aesthetic score that is missing."""
USUAL = (0.5, 0.5, 0.5)
"""How often frame rate, motion and aesthetic score are the usual ones, with which a clip is as the tiny model's."""
SCORES = re.compile(r" *\b(?:aesthetic|motion) score:.*", re.DOTALL)
"""What captions say of scores, behind all else."""


class Scene(NamedTuple):
    """What one clip shows; each part is a key of the tables above."""

    size: str
    colour: str
    shape: str
    direction: str
    background: str


class Look(NamedTuple):
    """What a clip of any scene is like; the usual one first."""

    fps: float = FPS
    """Its 17 frames span less time at a higher rate, so the shape moves less far."""
    motion: float = MOTION[1]
    """How fast the shape moves: at the highest score it crosses nearly the whole frame at the lowest rate."""
    aesthetic: float = AESTHETIC[1]
    """How sharp the outline is."""

    @property
    def pace(self) -> float:
        """The part of the usual way that the shape goes."""
        return self.motion / MOTION[1] * FPS / self.fps

    @property
    def outline(self) -> float:
        """Pixels from all of the shape to nothing of it."""
        return 1.0 + SOFTNESS * (AESTHETIC[1] - self.aesthetic)

    def behind(self, text: str) -> str:
        """A caption that says the scores as well; the frame rate is told to the model by itself."""
        return f"{text} aesthetic score: {self.aesthetic:.1f}. motion score: {self.motion:.1f}."


USUAL_LOOK = Look()


def any_look(draw: np.random.Generator) -> Look:
    """A look to train on: each part usual as often as USUAL says, else any; scores in tenths."""
    is_usual = draw.random(3) < USUAL
    rest = (
        float(draw.choice(RATES)),
        *(round(float(draw.uniform(*scores)), 1) for scores in (MOTION, AESTHETIC)),
    )
    return Look(*(usual if keep else other for keep, usual, other in zip(is_usual, USUAL_LOOK, rest, strict=True)))


def scenes(colours: Sequence[str] = ()) -> Iterator[Scene]:
    """Every combination; colours: of these, by default the usual ones. One that is named twice comes twice."""
    for parts in itertools.product(SIZES, colours or COLOURS, SHAPES, DIRECTIONS, BACKGROUNDS):
        yield Scene(*parts)


def captions(scene: Scene) -> list[str]:
    """Every sentence for a scene: all templates with all ways to say its direction."""
    return [
        template.format(**scene._asdict() | {"direction": words})
        for template in TEMPLATES
        for words in DIRECTIONS[scene.direction]
    ]


@cache
def words() -> frozenset[str]:
    """Every word of the captions."""
    filled = [template.format(size="", colour="", shape="", direction="", background="") for template in TEMPLATES]
    directions = itertools.chain.from_iterable(DIRECTIONS.values())
    return frozenset(_WORD.findall(" ".join((*filled, *SIZES, *COLOURS, *SHAPES, *directions, *BACKGROUNDS))))


def as_caption(text: str) -> str:
    """A sentence in the letters and signs of captions: lower case, and nothing but commas and semicolons inside."""
    text = _BETWEEN_WORDS.sub(" ", text.lower().replace("\u2019", "'"))
    return re.sub(r" *([,;])[ ,;]*", r"\1 ", text).strip(" ,;")


def as_scored_caption(text: str) -> str:
    """As `as_caption`; scores at the end stay as they are."""
    scores = SCORES.search(text)
    end = len(text) if scores is None else scores.start()
    return (as_caption(text[:end]) + text[end:].rstrip()).strip()


def unseen_words(text: str, later: Sequence[str] = ()) -> list[str]:
    """The words of a sentence that no caption has, in lower case; of one without words all of it. later: colours beside
    the usual ones."""
    found = _WORD.findall(as_caption(text))
    return [word for word in found or text.split() if word not in words() and word not in later]


def is_held_out(scene: Scene) -> bool:
    """Whether a combination is kept from training: a tenth of all, spread over every attribute."""
    return random.stream(HELD_OUT_SEED, "held out " + " ".join(scene)).random() < HELD_OUT_PART


def size_within(frames: int | None, height: int | None, width: int | None) -> VideoShape:
    """Of the part of a clip that is used where so much is wanted; None: all of it."""
    return VideoShape(min(frames or FRAMES, FRAMES), min(height or SIDE, SIDE), min(width or SIDE, SIDE))


def training_scenes(colours: Sequence[str] = ()) -> list[Scene]:
    """The combinations that are trained on."""
    return [scene for scene in scenes(colours) if not is_held_out(scene)]


def held_out_scenes(colours: Sequence[str] = ()) -> list[Scene]:
    """The combinations that are never trained on."""
    return [scene for scene in scenes(colours) if is_held_out(scene)]


def render(scene: Scene, draw: np.random.Generator, look: Look = USUAL_LOOK) -> np.ndarray:
    """One clip of a scene, uint8 (FRAMES, SIDE, SIDE, 3); `draw` says its exact colours, size and path."""
    colour = PALETTE[scene.colour] + draw.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3)
    background = BACKGROUNDS[scene.background] + draw.uniform(-BACKGROUND_JITTER, BACKGROUND_JITTER, 3)
    radius = draw.uniform(*SIZES[scene.size])
    places = np.arange(0.5, SIDE, dtype=np.float32)
    x, y = _path(scene.direction, radius, draw, look.pace).T.astype(np.float32)[..., None, None]  # (FRAMES, 1, 1) each
    inside = _coverage(scene.shape, places - x, places[:, None] - y, radius, look.outline)  # (FRAMES, SIDE, SIDE)
    frames = background + inside[..., None] * (colour - background)
    return np.rint(frames).clip(0, 255).astype(np.uint8)


def caption(scene: Scene, draw: np.random.Generator) -> str:
    """One of the sentences for a scene."""
    choices = captions(scene)
    return choices[int(draw.integers(len(choices)))]


def _path(direction: str, radius: float, draw: np.random.Generator, pace: float) -> np.ndarray:
    """Centres (FRAMES, 2) of the shape, x and y in pixels. pace: a shape that goes less far starts anywhere."""
    low, high = radius + MARGIN, SIDE - radius - MARGIN
    start = draw.uniform(START[0], START[1] + CROSSED[1] * (1 - pace))
    way = np.linspace(start, start + draw.uniform(*CROSSED) * pace, FRAMES)
    if direction in ("left", "up"):
        way = 1 - way
    along = low + (high - low) * way
    across = np.full(FRAMES, draw.uniform(low, high))
    return np.stack([along, across] if direction in ("left", "right") else [across, along], axis=1)


def _coverage(shape: str, x: np.ndarray, y: np.ndarray, radius: float, outline: float) -> np.ndarray:
    """How much of each pixel, at (x, y) from the centre, the shape covers: from its signed distance in pixels.

    outline: pixels over which it fades.
    """
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "ring":
        distance = np.maximum(np.hypot(x, y) - radius, RING_HOLE * radius - np.hypot(x, y))
    elif shape == "bar":
        distance = np.maximum(np.abs(x) - radius, np.abs(y) - BAR_HEIGHT * radius)
    else:  # a triangle that stands on its base, as high and as wide as the circle
        slope = np.hypot(2.0, 1.0)
        sides = (2.0 * np.abs(x) - y - radius) / slope
        distance = np.maximum(sides, y - radius)
    return np.clip(0.5 - distance / outline, 0.0, 1.0)
