"""The decord reader, for who prefers it and has it installed; the package to install is decord2.

Its frame numbers are off by a few in some MPEG program streams and in files with scrambled timestamps; PyAV's are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaError
from ..extras import needs_extra, require
from .video import VideoReader

_WISH = ("reader 'decord'", "leave the reader at 'pyav'")
"""What needs the package, and how to do without."""


def require_decord() -> None:
    """Raises: PackageMissing without decord, which is not imported."""
    require("decord", "decord", *_WISH)


class DecordReader(VideoReader):
    """A video read with decord; damaged frames come out as decord makes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._video: Any = self._call(_import_decord().VideoReader, str(path))
        self.fps = float(self._call(self._video.get_avg_fps))
        self.height, self.width = self._call(self._video.__getitem__, 0).shape[:2]

    def __len__(self) -> int:
        return len(self._video)

    def close(self) -> None:
        self._video = None

    def _decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            yield self._call(self._video.__getitem__, number).asnumpy()

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
