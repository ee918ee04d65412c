"""Which latent frames of a clip training leaves as they are, as Open-Sora 1.1 and 1.2 do.

Convention: True = noised and in the loss, False = given.
Source: MaskGenerator of opensora/utils/train_utils.py of hpcaitech Open-Sora at v1.2.0; the names are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

import numpy as np

from ..errors import ConfigError
from ..printable import short_name

QUARTERS = ("quarter_random", "quarter_head", "quarter_tail", "quarter_head_tail")
"""One to T // 4 neighbouring frames are given: anywhere, first, last, or so many at both ends."""
IMAGES = ("image_random", "image_head", "image_tail", "image_head_tail")
"""The same with one frame."""
KINDS = ("identity", "random", "intepolate", *QUARTERS, *IMAGES)
"""Beside those: nothing is given; each frame by chance; every other frame."""
LEAST_RANDOM, MOST_RANDOM = 0.1, 0.9

Uniforms = Callable[[int], np.ndarray]
"""So many numbers from 0 to 1."""


class FrameMasks:
    """Draws the kind of a mask, then the mask."""

    def __init__(self, ratios: Mapping[str, float], setting: str = "masks") -> None:
        """ratios: how often each kind comes; what is left is "identity". setting: its name.

        Raises: ConfigError.
        """
        for kind, ratio in ratios.items():
            if kind not in KINDS or not 0 <= ratio <= 1:
                expected = f"expected a part from 0 to 1 of one of {', '.join(KINDS)}"
                raise ConfigError(f"{setting}.{short_name(kind)} = {ratio}: {expected}")
        rest = 1.0 - sum(ratios.values())
        if rest < -1e-6:
            raise ConfigError(f"{setting}: expected parts of at most 1 in sum, got {1 - rest:g}")
        self.ratios = dict(ratios) if "identity" in ratios else {**ratios, "identity": rest}

    def draw(self, num_frames: int, draw: Random, uniforms: Uniforms) -> np.ndarray:
        """A mask of (T,) booleans, at least one of them True."""
        place = draw.random()
        total = 0.0
        for kind, ratio in self.ratios.items():
            total += ratio
            if place < total:
                return frame_mask(kind, num_frames, draw, uniforms)
        return np.ones(num_frames, np.bool_)


def frame_mask(kind: str, num_frames: int, draw: Random, uniforms: Uniforms) -> np.ndarray:
    """The mask of one kind, (T,) booleans; `draw` is called as upstream calls it.

    A clip too short for a kind has nothing given, where upstream masks all of it or fails (quirk Q16).
    """
    mask = np.ones(num_frames, np.bool_)
    if num_frames <= 1 or kind == "identity":
        return mask
    if kind == "random":
        mask = uniforms(num_frames) > draw.uniform(LEAST_RANDOM, MOST_RANDOM)
        mask[-1] |= not mask.any()
        return mask
    if kind == "intepolate":
        mask[draw.randint(0, 1) :: 2] = False
        return mask
    length, _, place = kind.partition("_")
    most = num_frames // 4 if length == "quarter" else 1
    count = draw.randint(1, most) if length == "quarter" and most else most
    mask[_given(place, num_frames, count, draw)] = False
    return mask if mask.any() else ~mask


def _given(place: str, num_frames: int, count: int, draw: Random) -> np.ndarray:
    frames = np.arange(num_frames)
    if place == "random":
        start = draw.randint(0, num_frames - count)
        return frames[start : start + count]
    head, tail = frames[:count], frames[num_frames - count :]
    return {"head": head, "tail": tail, "head_tail": np.concatenate([head, tail])}[place]
