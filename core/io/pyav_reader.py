"""The PyAV reader: frame-exact access by the timestamps of the packets.

All packets are listed once, without decoding (milliseconds). Sorted, their timestamps say which number a decoded
frame has, so that a frame is found by going to the keyframe before it and decoding up to its timestamp. Computing
timestamps from the average rate instead is wrong for most phone videos. Files whose packets cannot be trusted are
decoded once from end to end when opened.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ..errors import MediaError
from .video import VideoReader

BT601 = 5
"""FFmpeg's code of the colour matrix of standard definition."""
CHECKED_FRAMES = 8
"""The first frames are compared with the index when a file is opened."""
TEXT_CODECS = ("ansi", "bintext", "idf", "xbin")
"""FFmpeg draws text files as pictures of an old terminal."""


@dataclass(frozen=True)
class FrameIndex:
    """The timestamps of all frames in the order in which they are shown, and where decoding can begin."""

    times: tuple[int | None, ...]
    keyframes: tuple[int, ...]
    """Frame numbers, rising, the first is 0; empty when frames can only be found by counting from the start."""

    @cached_property
    def number_at(self) -> dict[int | None, int]:
        return {time: number for number, time in enumerate(self.times)}

    def keyframe_before(self, number: int) -> int:
        """The last frame at which decoding can begin to reach a frame."""
        return self.keyframes[max(bisect_right(self.keyframes, number) - 1, 0)]


class PyAVReader(VideoReader):
    """A video read with PyAV."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._convert = VideoReformatter().reformat
        self._container: Any = None
        self._decoding: Iterator[Any] | None = None
        self._next = 0
        """The number of the next frame that _decoding will give."""
        try:
            self._index = index_frames(path)
            self._reopen()
            self.fps = self._read_fps()
            self.height, self.width = self._read_beginning()
        except av.FFmpegError as error:
            self.close()
            raise MediaError(
                f"{path}: cannot be read as a video ({error.strerror}); damaged or of another kind"
            ) from error

    def __len__(self) -> int:
        return len(self._index.times)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = self._decoding = None

    def _decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            array = self._array(self._frame(number))
            if array.shape[:2] != (self.height, self.width):
                raise MediaError(
                    f"{self.path}: frame {number} has {array.shape[0]} x {array.shape[1]} pixels but the first one "
                    f"{self.height} x {self.width}; convert the video to one size first"
                )
            yield array

    def _frame(self, number: int) -> Any:
        """Decode one frame: going on, or from a keyframe, and if that fails from the start of the file."""
        failure: av.FFmpegError | None = None
        for from_start in (False, True):
            try:
                frame = self._search(number, from_start)
            except av.FFmpegError as error:
                frame, failure = None, error
            if frame is not None and not frame.is_corrupt:
                return frame
            self._decoding = None
        raise MediaError(
            f"{self.path}: frame {number} of {len(self)} cannot be decoded; the file is damaged"
        ) from failure

    def _search(self, number: int, from_start: bool) -> Any:
        self._go_before(number, from_start)
        assert self._decoding is not None
        for frame in self._decoding:
            found = self._index.number_at.get(frame.pts) if self._index.keyframes else self._next
            if found is None:  # a frame in front of the keyframe that needs the ones before it
                continue
            if found < self._next:  # the timestamps do not rise from frame to frame
                self._index = index_by_decoding(self.path)
                return None
            if found > number:
                return None
            self._next = found + 1
            if found == number:
                return frame
        return None

    def _go_before(self, number: int, from_start: bool) -> None:
        """Make _decoding give `number` sooner or later."""
        lies_ahead = self._decoding is not None and number >= self._next
        if from_start or (not self._index.keyframes and not lies_ahead):
            self._reopen()
        elif self._index.keyframes and not (lies_ahead and self._index.keyframe_before(number) <= self._next):
            self._container.seek(self._index.times[number], stream=self._stream)
            self._decoding, self._next = self._container.decode(self._stream), 0

    def _reopen(self) -> None:
        self.close()
        self._container, self._stream = _open(self.path)
        self._decoding, self._next = self._container.decode(self._stream), 0

    def _read_beginning(self) -> tuple[int, int]:
        """Height and width; and see whether the first frames come as the index says."""
        assert self._decoding is not None
        frames = list(islice(self._decoding, CHECKED_FRAMES))
        if not frames:
            raise MediaError(f"{self.path}: holds no frame that can be decoded")
        self._decoding = chain(frames, self._decoding)  # reading from the start decodes nothing twice
        if self._index.keyframes and tuple(frame.pts for frame in frames) != self._index.times[: len(frames)]:
            self._index = index_by_decoding(self.path)
        height, width = self._array(frames[0]).shape[:2]
        return height, width

    def _read_fps(self) -> float:
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not rate:
            raise MediaError(f"{self.path}: says no frame rate; convert it to .mp4 first")
        return float(rate)

    def _array(self, frame: Any) -> np.ndarray:
        # PyAV 14 forgets the file's matrix and range unless they are said and differ from those of the result.
        picture = self._convert(
            frame,
            format="rgb24",
            src_colorspace=frame.colorspace,
            dst_colorspace=BT601,  # RGB has no matrix, so it changes nothing
            src_color_range=frame.color_range,
        )
        return np.rot90(picture.to_ndarray(), round(frame.rotation / 90))  # phones store pictures lying and an angle


def index_frames(path: Path) -> FrameIndex:
    """List the frames of a video.

    Raises: MediaError when it holds no video or fewer frames than it announces; av.FFmpegError when it cannot be read.
    """
    container, stream = _open(path)
    with container:
        packets = [packet for packet in container.demux(stream) if packet.size]
        announced, reorders = stream.frames, stream.codec_context.has_b_frames
        is_mp4 = "mp4" in container.format.name
    if is_mp4 and len(packets) < announced:  # other containers count repeats, or do not know
        raise MediaError(
            f"{path}: is cut off: announces {announced} frames but holds {len(packets)}; copy or download it again"
        )
    shown = [(packet.pts, packet.is_keyframe) for packet in packets if not packet.is_discard]
    times = [time for time, _ in shown]
    # Timestamps rise in the order of the file exactly where frames are not reordered. Others are decoding times or
    # scrambled: sorted, they do not say in which order the frames are shown.
    trusted = None not in times and len(set(times)) == len(times) and (times == sorted(times)) != reorders
    return _sorted_index(shown) if trusted else index_by_decoding(path)


def index_by_decoding(path: Path) -> FrameIndex:
    """List the frames of a video by decoding all of them, which is slow and always right."""
    container, stream = _open(path)
    with container:
        shown = [(frame.pts, frame.key_frame) for frame in container.decode(stream)]
    times = [time for time, _ in shown]
    if None in times or any(later <= earlier for earlier, later in pairwise(times)):
        return FrameIndex(tuple(times), keyframes=())
    return _sorted_index(shown)


def _sorted_index(shown: list[tuple[int, bool]]) -> FrameIndex:
    shown = sorted(shown)
    keyframes = [number for number, (_, is_keyframe) in enumerate(shown) if is_keyframe and number]
    return FrameIndex(tuple(time for time, _ in shown), (0, *keyframes) if shown else ())


def _open(path: Path) -> tuple[Any, Any]:
    # A plain file whatever its name looks like; and nothing else is opened on its behalf (playlists name addresses).
    container = av.open(f"file:{path}", container_options={"protocol_whitelist": "file"})
    streams = [
        stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    codec = streams[0].codec_context if streams else None  # none either where the file does not say which one
    if codec is None or codec.name in TEXT_CODECS:
        container.close()
        raise MediaError(f"{path}: holds no video that can be decoded")
    # With threads for whole frames, whether a damaged one is marked as such depends on which thread is faster.
    streams[0].thread_type = "SLICE"
    return container, streams[0]
