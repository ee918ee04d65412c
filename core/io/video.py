"""Reading and writing videos. Frames are uint8 RGB, (T, H, W, 3), in the order and orientation that a player shows.

Frames are counted, never timed: frame i is the i-th picture shown, also in files with a variable frame rate.
Two libraries read: PyAV, and decord for who has it (the packages decord and decord2 share one module name; decord2 is
the one that has wheels for aarch64 and gets along with MindSpore). PyAV writes.
"""

from __future__ import annotations

import math
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, MediaError
from .files import atomic_write

READERS = ("pyav", "decord")
BT709 = 1
"""Code, in the H.264 standard, of the colour matrix, primaries and transfer curve of HD video."""
LIMITED_RANGE = 1
FASTEST = 1_000_000
"""Frames per second that are written; what FFmpeg counts time in is an int."""
SAME_BYTES = {"x264-params": "asm=SSE4.2"}
"""x264 165 gives now and then another file for the same frames with its AVX-512 code (seen on an AMD EPYC: three files
in forty runs), and one and the same with AVX2 and SSE4.2; the latter is on every x86-64 CPU since 2010."""


class VideoReader(ABC):
    """An open video; close it or use it in a `with` statement."""

    path: Path
    fps: float
    """Frames per second on average."""
    height: int
    width: int

    @abstractmethod
    def __len__(self) -> int:
        """The number of frames."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) of rising numbers, all of them valid."""

    def read(self, frames: Sequence[int] | slice | None = None) -> np.ndarray:
        """Frames by number, in the order asked for, repeats allowed; all of them when None.

        Shape: (T, H, W, 3) uint8. Raises: MediaError when a number is not below the number of frames or a frame
        cannot be decoded.
        """
        numbers = self._numbers(frames)
        result = np.empty((len(numbers), self.height, self.width, 3), np.uint8)
        wanted = sorted(set(numbers))
        places: dict[int, list[int]] = {number: [] for number in wanted}
        for place, number in enumerate(numbers):
            places[number].append(place)
        for number, frame in zip(wanted, self._decode(wanted), strict=True):
            result[places[number]] = frame
        return result

    def chunks(self, size: int, frames: slice | None = None) -> Iterator[np.ndarray]:
        """Frames from first to last, `size` at a time (the last chunk may be shorter), with one chunk in memory.

        Shape: (size, H, W, 3) uint8 each. Raises: as read.
        """
        chunk: list[np.ndarray] = []
        for frame in self._decode(self._numbers(frames)):
            chunk.append(frame)
            if len(chunk) == size:
                yield np.stack(chunk)
                chunk = []
        if chunk:
            yield np.stack(chunk)

    def _numbers(self, frames: Sequence[int] | slice | None) -> list[int]:
        if frames is None or isinstance(frames, slice):
            return list(range(*(frames or slice(None)).indices(len(self))))
        for number in frames:
            if not 0 <= number < len(self):
                raise MediaError(f"{self.path}: has no frame {number}, only 0 to {len(self) - 1}")
        return [int(number) for number in frames]

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_reader(reader: str) -> None:
    """Refuse a reader before a file is opened. Raises: ConfigError for an unknown one, PackageMissing."""
    if reader not in READERS:
        raise ConfigError(f"reader {reader!r}: there are {' and '.join(READERS)}")
    if reader == "decord":
        from .decord_reader import require_decord

        require_decord()


def open_video(path: str | os.PathLike[str], reader: str = "pyav") -> VideoReader:
    """Open a video with one of READERS.

    Raises: MediaError when the file is missing, holds no video, is cut off or cannot be decoded; ConfigError for an
    unknown reader; PackageMissing for one that is not installed.
    """
    place = Path(path)
    check_reader(reader)
    if not place.is_file():
        raise MediaError(f"{place}: there is no such file")
    if reader == "decord":
        from .decord_reader import DecordReader

        return DecordReader(place)
    from .pyav_reader import PyAVReader

    return PyAVReader(place)


def read_video(
    path: str | os.PathLike[str], frames: Sequence[int] | slice | None = None, reader: str = "pyav"
) -> tuple[np.ndarray, float]:
    """Frames (T, H, W, 3) uint8 of a video by number, and its frames per second. Raises: as open_video and read."""
    with open_video(path, reader) as video:
        return video.read(frames), video.fps


def write_video(
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float, crf: int = 18, overwrite: bool = False
) -> None:
    """Write frames (H, W, 3) uint8, taken one at a time, as H.264 (yuv420p, plays everywhere) in an .mp4 file.

    A side with an odd number of pixels gets its last row or column once more, because yuv420p has one colour for two
    by two pixels. crf is x264's quality: 0 is lossless, 18 hardly visible, 51 worst. When `frames` raises, nothing is
    left behind.
    Raises: MediaError when the name does not end in .mp4, the file exists and `overwrite` is off, there is no frame,
    frames differ in size, or the disk is full.
    """
    import av  # 60 ms, and only this function and the reader need it

    target = Path(path)
    if target.suffix.lower() != ".mp4":
        raise MediaError(f"{target}: videos are written as .mp4; give the file that ending")
    rate = Fraction(fps).limit_denominator(1001) if math.isfinite(fps) else Fraction(0)
    if not 0 < rate <= FASTEST:
        raise MediaError(f"{target}: {fps} frames per second: needs a number from 0.001 to {FASTEST}")
    with atomic_write(target, overwrite) as temporary:
        try:
            # faststart puts the index in front, so that a browser plays while it still loads
            with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
                _encode(container, target, frames, rate, crf)
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise MediaError(f"{target}: cannot be encoded ({error})") from error


def _encode(container: Any, target: Path, frames: Iterable[np.ndarray], rate: Fraction, crf: int) -> None:
    import av
    from av.video.reformatter import VideoReformatter

    stream: Any = None
    shape: tuple[int, ...] = ()
    convert = VideoReformatter().reformat
    for number, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise MediaError(f"{target}: frame {number} is {frame.dtype} {frame.shape}: expected uint8 (H, W, 3)")
        if stream is None:
            stream, shape = _add_stream(container, frame, rate, crf), frame.shape
        if frame.shape != shape:
            raise MediaError(f"{target}: frame {number} has shape {frame.shape} but the video began with {shape}")
        picture = av.VideoFrame.from_ndarray(_padded_to_even(frame), format="rgb24")
        picture = convert(picture, format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE)
        picture.pts, picture.time_base = number, 1 / rate
        container.mux(stream.encode(picture))
    if stream is None:
        raise MediaError(f"{target}: there is no frame to write")
    container.mux(stream.encode(None))


def _add_stream(container: Any, frame: np.ndarray, rate: Fraction, crf: int) -> Any:
    options = {"crf": str(crf)} | (SAME_BYTES if platform.machine() in ("x86_64", "AMD64") else {})
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width = (size + size % 2 for size in frame.shape[:2])
    stream.pix_fmt = "yuv420p"
    # Said in the file, because players guess BT.601 or BT.709 by its size, and reds and greens would shift.
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE
    return stream


def _padded_to_even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)
