"""What a clip of moving shapes shows, measured on its pixels alone: the judge of the tiny model.

Background from the border, foreground from its distance to it, then colour, size, shape and direction from the
foreground. Nothing is learned, so it can be tested on rendered clips, whose scenes are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .moving_shapes import BACKGROUNDS, BAR_HEIGHT, COLOURS, PALETTE, RING_HOLE, SIZES, Scene

BORDER = 2
VISIBLE = 40.0
"""Distance in RGB from the background above which a pixel surely is foreground."""
LEAST_AREA = 20
"""Pixels; frames with less show nothing."""
STILL = 6.0
"""Pixels of way below which a shape does not move."""
SIZE_LIMIT = (SIZES["small"][1] + SIZES["big"][0]) / 2
AREA_OF_RADIUS = {"circle": np.pi, "triangle": 2.0, "ring": np.pi * (1 - RING_HOLE**2), "bar": 4 * BAR_HEIGHT}
"""Area of each shape of radius 1."""
HOLE_LIMIT, BAR_LIMIT, TRIANGLE_LIMIT = 0.5, 1.7, 0.7
STEADY_AREA = 0.35
"""How far the area of a whole object may be from its median in any frame, as a part of it."""
WHOLE = 0.9
"""Part of the foreground that hangs together in a frame with a whole object."""


class Observation(NamedTuple):
    """What the judge sees; "nothing" or "still" where there is none."""

    size: str
    colour: str
    shape: str
    direction: str
    background: str
    is_whole: bool
    """One object, of steady size, in every frame."""

    def agrees(self, scene: Scene) -> dict[str, bool]:
        """For each attribute whether it is the scene's."""
        return {name: getattr(self, name) == getattr(scene, name) for name in Scene._fields}


def judge(clip: np.ndarray, further: Sequence[str] = ()) -> Observation:
    """Judge a clip, uint8 (T, H, W, 3).

    further: colours that may be seen beside those that every model knows; else what is a little off would be one.
    """
    palette = COLOURS | {name: PALETTE[name] for name in further}
    pixels = clip.astype(np.float64)
    background = np.median(_border(pixels), axis=0)
    distance = np.linalg.norm(pixels - background, axis=-1)  # (T, H, W)
    shown = distance > VISIBLE
    name = _nearest(background, BACKGROUNDS)
    if shown.sum(axis=(1, 2)).max() < LEAST_AREA:
        return Observation("nothing", "nothing", "nothing", "still", name, False)
    colour = np.median(pixels[shown & (distance > np.median(distance[shown]) * 0.8)], axis=0)
    masks = distance > np.linalg.norm(colour - background) / 2
    areas = masks.sum(axis=(1, 2))
    visible = masks[areas >= LEAST_AREA]
    if not len(visible):
        return Observation("nothing", _nearest(colour, palette), "nothing", "still", name, False)
    shape = _shape(visible)
    radius = float(np.sqrt(np.median(areas) / AREA_OF_RADIUS[shape]))
    size = "small" if radius < SIZE_LIMIT else "big"
    return Observation(size, _nearest(colour, palette), shape, _direction(masks, areas), name, _is_whole(masks, areas))


@dataclass
class Tally:
    """How often the judge saw what was asked for."""

    scenes: list[Scene]
    verdicts: list[Observation]

    @classmethod
    def of(cls, judged: Iterable[tuple[Scene, np.ndarray]]) -> Tally:
        """Judge clips that were made for scenes."""
        pairs = [(scene, judge(clip, [scene.colour])) for scene, clip in judged]
        return cls([scene for scene, _ in pairs], [verdict for _, verdict in pairs])

    def rates(self) -> dict[str, float]:
        """The part that is right, for each attribute, for all at once ("all"), and the part of whole objects."""
        right = [verdict.agrees(scene) for scene, verdict in zip(self.scenes, self.verdicts, strict=True)]
        rates = {name: float(np.mean([each[name] for each in right])) for name in Scene._fields}
        rates["all"] = float(np.mean([all(each.values()) for each in right]))
        rates["whole"] = float(np.mean([verdict.is_whole for verdict in self.verdicts]))
        return rates

    def confusion(self, attribute: str) -> dict[str, dict[str, int]]:
        """For each value that was asked for, how often each value was seen."""
        table: dict[str, dict[str, int]] = {}
        for scene, verdict in zip(self.scenes, self.verdicts, strict=True):
            row = table.setdefault(getattr(scene, attribute), {})
            seen = getattr(verdict, attribute)
            row[seen] = row.get(seen, 0) + 1
        return table


def _border(pixels: np.ndarray) -> np.ndarray:
    """The pixels along the edges of every frame, (N, 3)."""
    inner = np.zeros(pixels.shape[1:3], bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    return pixels[:, ~inner].reshape(-1, 3)


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(colour - palette[name])))


def _shape(masks: np.ndarray) -> str:
    """The shape that the frames (T, H, W) show in the median of their outlines' features."""
    hole, aspect, top = np.median([_features(mask) for mask in masks], axis=0)
    if aspect > BAR_LIMIT:
        return "bar"
    if hole < HOLE_LIMIT:
        return "ring"
    return "triangle" if top < TRIANGLE_LIMIT else "circle"


def _features(mask: np.ndarray) -> tuple[float, float, float]:
    """Of one outline: how full its middle is, width to height, and its upper half's area to the lower half's."""
    rows, columns = np.nonzero(mask)
    top, bottom = np.percentile(rows, (1, 99))
    left, right = np.percentile(columns, (1, 99))
    height, width = bottom - top + 1, right - left + 1
    row, column = (top + bottom) / 2, (left + right) / 2
    grid_rows, grid_columns = np.indices(mask.shape)
    middle = np.hypot((grid_rows - row) / height, (grid_columns - column) / width) < 0.15
    upper, lower = (rows < row).sum(), (rows > row).sum()
    return float(mask[middle].mean()) if middle.any() else 1.0, float(width / height), float(upper / max(lower, 1))


def _direction(masks: np.ndarray, areas: np.ndarray) -> str:
    """Where the centroid goes, by a straight line through its places."""
    times = np.nonzero(areas >= LEAST_AREA)[0]
    if len(times) < 2:
        return "still"
    centroids = np.array([[axis.mean() for axis in np.nonzero(masks[time])] for time in times])
    down, right = np.polyfit(times, centroids, 1)[0] * (len(masks) - 1)
    if max(abs(down), abs(right)) < STILL:
        return "still"
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"


def _is_whole(masks: np.ndarray, areas: np.ndarray) -> bool:
    typical = np.median(areas)
    steady = np.abs(areas - typical).max() <= STEADY_AREA * typical
    return bool(steady and all(_largest_part(mask) >= WHOLE * mask.sum() for mask in masks))


def _largest_part(mask: np.ndarray) -> int:
    """Pixels of the largest connected part of a mask (H, W)."""
    left = mask.copy()
    largest = 0
    while left.any():
        part = np.zeros_like(left)
        part[tuple(np.argwhere(left)[0])] = True
        while True:
            grown = part.copy()
            grown[1:] |= part[:-1]
            grown[:-1] |= part[1:]
            grown[:, 1:] |= part[:, :-1]
            grown[:, :-1] |= part[:, 1:]
            grown &= left
            if (grown == part).all():
                break
            part = grown
        largest = max(largest, int(part.sum()))
        left &= ~part
    return largest
