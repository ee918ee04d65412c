"""The decord reader, for who prefers it and has it installed; the package to install is decord2.

What decord does not tell (time stamps, the shape of the pixels, mirrors) comes from PyAV. decord's frame numbers are
off by a few in some MPEG program streams and in files with scrambled time stamps; PyAV's are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import MediaError
from ..extras import needs_extra, require
from .media import Media
from .orientation import angle
from .pyav_reader import PyAVReader
from .timeline import Timeline
from .video_reader import VideoReader

_WISH = ("reader 'decord'", "leave the reader at 'pyav'")
"""What needs the package, and how to do without."""


def require_decord() -> None:
    """Raises: PackageMissing without decord, which is not imported."""
    require("decord", "decord", *_WISH)


def open_with_decord(path: Path, media: Media) -> VideoReader:
    """Open a video with decord; with PyAV where decord would lose transparency or HDR.

    Raises: MediaError when it cannot be read; PackageMissing.
    """
    decord = _import_decord()
    described = PyAVReader(path, media)
    if described.is_transparent or described.hdr:
        return described
    return DecordReader(described, decord)


class DecordReader(VideoReader):
    """A video read with decord; damaged frames come out as decord makes them."""

    def __init__(self, described: PyAVReader, decord: Any) -> None:
        """described: the same file, which is closed. decord: the module."""
        self.path, self.notes = described.path, described.notes
        self.height, self.width = described.height, described.width
        self._display = described.display
        described.close()
        self._video: Any = self._call(decord.VideoReader, str(self.path))
        count = len(self._video)
        is_alike = count == len(described)
        self.timeline = described.timeline if is_alike else Timeline.constant(count, described.fps)

    def close(self) -> None:
        self._video = None

    def _decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            yield self._shown(self._call(self._video.__getitem__, number).asnumpy())

    def _shown(self, frame: np.ndarray) -> np.ndarray:
        """A frame of decord's, which is turned by the angle of its display matrix without the mirrors of that."""
        stored = np.rot90(frame, -round(angle(self._display.matrix) / 90))
        size = (self._display.shown_width, self._display.height)
        if (stored.shape[1], stored.shape[0]) != size:
            stored = np.asarray(Image.fromarray(stored).resize(size, Image.Resampling.BICUBIC))
        return self._display.orientation.apply(stored)

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # RuntimeError, IndexError and a class of its own that moves between releases
            reason = " ".join(str(error).split())
            raise MediaError(f"{self.path}: cannot be read as a video by decord ({reason[:200]})") from error


def _import_decord() -> Any:
    with needs_extra("decord", *_WISH):
        import decord
    return decord
