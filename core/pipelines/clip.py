"""The frames of a video or picture at one size, read chunk by chunk, so that a long clip is never in memory whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io.images import count_images, read_image
from ..io.kinds import ANIMATION_SUFFIXES, is_image
from ..io.media import DEFAULTS, Media
from ..io.video import open_video
from ..maths.resize import center_crop_resize
from ..shapes import VideoShape

READ_AHEAD = 16
"""Frames that are decoded from the file at a time."""


@dataclass(frozen=True)
class Clip:
    """Which frames of a file are taken, and the size that they are brought to."""

    path: Path
    shape: VideoShape
    fps: float
    every: int
    """Every how many-th frame is taken, of a video whose rate varies after it was brought to its mean one."""
    media: Media = DEFAULTS

    @property
    def is_image(self) -> bool:
        return _is_still(self.path, self.media)

    def frames(self, reader: str, at_a_time: int = READ_AHEAD) -> Iterator[np.ndarray]:
        """Chunks (t, H, W, 3) uint8, read anew at each call. Raises: MediaError when a frame cannot be decoded."""
        size = (self.shape.height, self.shape.width)
        if self.is_image:
            yield center_crop_resize(read_image(self.path, self.media)[None], *size)
            return
        with open_video(self.path, reader, self.media) as video:
            numbers = video.at_one_rate()[:: self.every][: self.shape.frames]
            for chunk in video.chunks(at_a_time, numbers):
                yield center_crop_resize(chunk, *size)


def whole_clip(path: Path, every: int = 1, reader: str = "pyav", media: Media = DEFAULTS) -> Clip:
    """All that a file holds, at its own size. Raises: MediaError when it is missing or cannot be read."""
    if _is_still(path, media):
        return Clip(path, VideoShape(1, *read_image(path, media).shape[:2]), 1.0, every, media)
    with open_video(path, reader, media) as video:
        shape = VideoShape(-(-len(video.at_one_rate()) // every), video.height, video.width)
        return Clip(path, shape, video.fps / every, every, media)


def _is_still(path: Path, media: Media) -> bool:
    """Whether a file is a picture by its name, and does not move where its kind may."""
    return is_image(path) and (path.suffix.lower() not in ANIMATION_SUFFIXES or count_images(path, media) == 1)
