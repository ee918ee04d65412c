"""The world of the tiny model: one coloured shape that moves over a plain background, and the sentences that
describe it.

Every word of these captions is one token of the tiny tokeniser (core/models/tiny/spiece.model), which was trained on
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "ring", "star", "bar")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
BACKGROUNDS = ("white", "black", "gray", "pink")
SIZES = ("small", "big")
DIRECTIONS = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
}
TEMPLATES = (
    "a {size} {colour} {shape} moves {direction} on a {background} background",
    "{size} {colour} {shape} moving {direction}, {background} background",
    "on a {background} background, a {size} {colour} {shape} moves {direction}",
    "a video of a {size} {colour} {shape} that moves {direction} over {background}",
    "the {colour} {shape} is {size} and moves {direction}; the background is {background}",
)


class Scene(NamedTuple):
    """What one clip shows; direction is a key of DIRECTIONS."""

    size: str
    colour: str
    shape: str
    direction: str
    background: str


def scenes() -> Iterator[Scene]:
    """Every combination."""
    for parts in itertools.product(SIZES, COLOURS, SHAPES, DIRECTIONS, BACKGROUNDS):
        yield Scene(*parts)


def captions(scene: Scene) -> list[str]:
    """Every sentence for a scene: all templates with all ways to say its direction."""
    return [
        template.format(**scene._asdict() | {"direction": words})
        for template in TEMPLATES
        for words in DIRECTIONS[scene.direction]
    ]
