"""The reader of animated WebP pictures, which FFmpeg does not decode: Pillow does, frame after frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import MediaError
from .images import opened_image, quiet, to_rgb
from .media import DEFAULTS, Media
from .timeline import Timeline
from .video_reader import Note, VideoReader

SHORTEST = 0.011
"""Seconds; browsers show frames that claim less for DEFAULT."""
DEFAULT = 0.1
FRAME_HEADER = 16
"""Bytes: place, size, duration in milliseconds (three bytes from the 12th on), flags."""


class WebPReader(VideoReader):
    """A WebP picture as a video; one that does not move is a video of one frame."""

    def __init__(self, path: Path, media: Media = DEFAULTS) -> None:
        self.path, self._media = path, media
        with opened_image(path, media) as image:
            self.height, self.width = image.height, image.width
            count = getattr(image, "n_frames", 1)
        self.timeline = _timeline(path, count)
        if self.timeline.is_variable:
            words = self.timeline.words()
            self.notes = (Note("variable rate", f"has {words}; frames are chosen by their time stamps"),)

    def close(self) -> None:
        pass

    def _decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        with opened_image(self.path, self._media) as image:
            for number in numbers:
                yield self._frame(image, number)

    def _frame(self, image: Image.Image, number: int) -> np.ndarray:
        with quiet():
            image.seek(number)
            image.load()
            return to_rgb(image, self._media, str(self.path))


def _timeline(path: Path, count: int) -> Timeline:
    durations = [seconds if seconds >= SHORTEST else DEFAULT for seconds in _durations(path)] or [1.0]
    if len(durations) != count:
        raise MediaError(f"{path}: announces {count} frames but holds {len(durations)}; copy or download it again")
    ends = np.cumsum(durations)
    return Timeline.of(np.append(0, ends[:-1]), durations[-1], None)


def _durations(path: Path) -> Iterator[float]:
    """Seconds of each frame, from the chunks of the file, without decoding."""
    with path.open("rb") as file:
        file.seek(12)  # RIFF, size, WEBP
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            following = file.tell() + size + size % 2
            if head[:4] == b"ANMF":
                yield int.from_bytes(file.read(FRAME_HEADER)[12:15], "little") / 1000
            file.seek(following)
