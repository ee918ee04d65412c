"""The stream of a video file and the list of its frames, by PyAV and without decoding, for both readers.

All packets are listed once (milliseconds). Sorted, their time stamps say which number a decoded frame has, so that a
frame is found by going to the keyframe before it and decoding up to its time stamp. Computing time stamps from the
average rate instead is wrong for most phone videos. Files whose packets cannot be trusted are decoded once from end to
end.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..errors import MediaError
from .media import DEFAULTS, Media, check_size
from .timeline import Timeline

TEXT_CODECS = ("ansi", "bintext", "idf", "xbin")
"""FFmpeg draws text files as pictures of an old terminal."""
CANNOT_SEEK = ("apng",)
"""All packets claim to be keyframes, but later ones hold only what changed; FFmpeg refuses to seek."""


@dataclass(frozen=True)
class FrameIndex:
    """The time stamps of all frames in the order in which they are shown, and where decoding can begin."""

    times: tuple[int | None, ...]
    """In the stream's unit."""
    keyframes: tuple[int, ...]
    """Frame numbers, rising, the first is 0; empty when frames can only be found by counting from the start."""
    last: int = 0
    """How long the last frame is shown, in the stream's unit; 0 where the file does not say."""

    @property
    def is_timed(self) -> bool:
        """Whether the time stamps rise from frame to frame."""
        return None not in self.times and all(earlier < later for earlier, later in pairwise(self.times))  # type: ignore[operator]

    @cached_property
    def number_at(self) -> dict[int | None, int]:
        return {time: number for number, time in enumerate(self.times)}

    def keyframe_before(self, number: int) -> int:
        """The last frame at which decoding can begin to reach a frame."""
        return self.keyframes[max(bisect_right(self.keyframes, number) - 1, 0)]


def index_frames(path: Path, media: Media = DEFAULTS) -> FrameIndex:
    """List the frames of a video.

    Raises: MediaError when it holds no video or fewer frames than it announces; av.FFmpegError when it cannot be read.
    """
    container, stream = open_stream(path, media)
    with container:
        packets = [
            (packet.pts, packet.is_keyframe, packet.duration or 0, packet.is_discard)
            for packet in container.demux(stream)
            if packet.size
        ]
        announced, codec = stream.frames, stream.codec_context
        reorders, is_mp4 = codec.has_b_frames, "mp4" in container.format.name
    if is_mp4 and len(packets) < announced:  # other containers count repeats, or do not know
        raise MediaError(
            f"{path}: is cut off: announces {announced} frames but holds {len(packets)}; copy or download it again"
        )
    shown = [packet[:3] for packet in packets if not packet[3]]
    times = [time for time, _, _ in shown]
    # Time stamps rise in the order of the file exactly where frames are not reordered. Others are decoding times or
    # scrambled: sorted, they do not say in which order the frames are shown.
    trusted = None not in times and len(set(times)) == len(times) and (times == sorted(times)) != reorders
    if not trusted:
        return index_by_decoding(path, media)
    index = _sorted_index(shown)
    return replace(index, keyframes=()) if codec.name in CANNOT_SEEK else index


def index_by_decoding(path: Path, media: Media = DEFAULTS) -> FrameIndex:
    """List the frames of a video by decoding all of them, which is slow and always right."""
    container, stream = open_stream(path, media)
    with container:
        shown = [(frame.pts, frame.key_frame, 0) for frame in container.decode(stream)]
    times = [time for time, _, _ in shown]
    unsorted = FrameIndex(tuple(times), keyframes=())
    return _sorted_index(shown) if unsorted.is_timed else unsorted


def _sorted_index(shown: list[tuple[int, bool, int]]) -> FrameIndex:
    if not shown:
        return FrameIndex((), ())
    shown = sorted(shown)
    keyframes = [number for number, (_, is_keyframe, _) in enumerate(shown) if is_keyframe and number]
    return FrameIndex(tuple(time for time, _, _ in shown), (0, *keyframes), max(shown[-1][2], 0))


def timeline_of(index: FrameIndex, stream: Any, path: Path) -> Timeline:
    """When the frames of an index are shown. Raises: MediaError when neither time stamps nor the container say."""
    rate = stream.average_rate or stream.guessed_rate
    stated = float(rate) if rate else None
    unit = stream.time_base
    if index.is_timed and unit and (len(index.times) > 1 or index.last or stated):
        starts = np.array(index.times, np.float64) * float(unit)
        return Timeline.of(starts, index.last * float(unit), stated)
    if stated is None:
        raise MediaError(f"{path}: says no frame rate; convert it to .mp4 first")
    return Timeline.constant(len(index.times), stated)


def open_stream(path: Path, media: Media = DEFAULTS) -> tuple[Any, Any]:
    """A file and its stream of video; no frame with more than media.max_pixels will be decoded from it.

    Raises: MediaError when it holds none, or announces larger frames; av.FFmpegError when it cannot be read.
    """
    limits = {"max_pixels": str(media.max_pixels)}
    # A plain file whatever its name looks like; and nothing else is opened on its behalf (playlists name addresses).
    container = av.open(f"file:{path}", options=limits, container_options={"protocol_whitelist": "file"})
    streams = [
        stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    codec = streams[0].codec_context if streams else None  # none either where the file does not say which one
    if codec is None or codec.name in TEXT_CODECS:
        container.close()
        raise MediaError(f"{path}: holds no video that can be decoded")
    try:
        check_size(path, codec.height, codec.width, media)
    except MediaError:
        container.close()
        raise
    codec.options = limits
    # With threads for whole frames, whether a damaged one is marked as such depends on which thread is faster.
    streams[0].thread_type = "SLICE"
    return container, streams[0]
