"""What a camera does in a clip, judged by optical flow between frames, as the data tools of Open-Sora 1.2 do.

Source: tools/caption/camera_motion/detect.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

STILL = 1.0
"""Median length of the flow, in pixels, below which nothing moves."""
OUT, IN = 0.4, 0.6
"""Parts of the pixels that move away from the middle: below the first the camera zooms out, above the other one in."""
_TURNS = ((45.0, "pan left"), (135.0, "tilt up"), (225.0, "pan right"), (315.0, "tilt down"), (360.0, "pan left"))


def motion_of_pair(length: float, angle: float, outward: float) -> str:
    """Between two frames. length, angle: median of the flow in pixels, and in degrees from 0 to 360; outward: the part
    of the pixels that move away from the middle."""
    if length < STILL:
        return "static"
    if outward < OUT:
        return "zoom out"
    if outward > IN:
        return "zoom in"
    return next(name for end, name in _TURNS if angle <= end)


def motion_of_clip(motions: Sequence[str]) -> str:
    """Of all pairs of a clip: that of more than half of them; else what kinds there are."""
    name, count = Counter(motions).most_common(1)[0] if motions else ("", 0)
    if count > len(motions) / 2:
        return name
    if "static" in motions:
        return "unknown"
    return "dynamic" if {"zoom in", "zoom out"} & set(motions) else "pan/tilt"
