"""Captions as the data tools of Open-Sora 1.2 make them: a captioner's phrases cut off, camera motion and scores added.

Source: tools/datasets/datautil.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigError
from ..printable import short_name

PREFIXES = (
    *(f"The video {verb}" for verb in ("shows", "captures", "features", "depicts", "presents")),
    *("The video is ", "In the video,"),
    *(f"The image {verb}" for verb in ("shows", "captures", "features", "depicts", "presents")),
    *("The image is ", "The image portrays", "In the image,"),
)
"""What captioners begin with."""
CAMERA_MOTIONS = ("static", "pan_left", "pan_right", "zoom_in", "zoom_out", "tilt_up", "tilt_down")
SCORE_DROPPED = 0.2
"""How often a score is not told."""


def without_prefix(caption: str) -> str:
    """A caption that begins with what is seen; a prefix counts as written above or all in small letters."""
    for prefix in PREFIXES:
        if caption.startswith((prefix, prefix.lower())):
            rest = caption[len(prefix) :].strip()
            return rest[:1].upper() + rest[1:]
    return caption


def with_camera_motion(caption: str, motion: str) -> str:
    """A caption and a sentence on the camera. Raises: ConfigError for another motion than those above."""
    if motion not in CAMERA_MOTIONS:
        raise ConfigError(
            f"camera motion {short_name(str(motion))!r}: expected one of {', '.join(CAMERA_MOTIONS)}; "
            "leave it out of the captions of other clips"
        )
    return f"{caption} Camera motion: {motion.replace('_', ' ')}."


def with_scores(caption: str, aesthetic: float | None, motion: float | None, uniform: Callable[[], float]) -> str:
    """A caption and its scores in brackets; each that there is draws one number and is told for four of five."""
    told = []
    for name, score in (("aesthetic score", aesthetic), ("motion score", motion)):
        if score is not None and uniform() >= SCORE_DROPPED:
            told.append(f"{name}: {score:.1f}")
    return f"{caption} [{', '.join(told)}]" if told else caption
