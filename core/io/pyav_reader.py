"""The PyAV reader: frame-exact access by the time stamps of the packets (core.io.frame_index)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ..errors import MediaError
from ..maths.tone_mapping import HDR, tone_mapped
from .display import Display, over_background
from .frame_index import index_by_decoding, index_frames, open_stream, timeline_of
from .media import DEFAULTS, Media, check_size
from .orientation import NO_TURN
from .video_reader import Note, VideoReader

BT601 = 5
"""FFmpeg's code of the colour matrix of standard definition."""
CHECKED_FRAMES = 8
"""The first frames are compared with the index when a file is opened."""


class PyAVReader(VideoReader):
    """A video read with PyAV."""

    def __init__(self, path: Path, media: Media = DEFAULTS) -> None:
        self.path, self._media = path, media
        self._convert = VideoReformatter().reformat
        self._container: Any = None
        self._decoding: Iterator[Any] | None = None
        self._next = 0
        """The number of the next frame that _decoding will give."""
        try:
            self._index = index_frames(path, media)
            self._reopen()
            first = self._read_beginning()
            self.timeline = timeline_of(self._index, self._stream, path)
            self.display = display_of(first, self._stream)
            self.height, self.width = self.display.size
            self.is_transparent, self.hdr = has_transparency(first), HDR.get(self._stream.codec_context.color_trc)
            self._check(media)
        except av.FFmpegError as error:
            self.close()
            raise MediaError(
                f"{path}: cannot be read as a video ({error.strerror}); damaged or of another kind"
            ) from error
        except BaseException:
            self.close()
            raise
        self.notes = tuple(self._notes())

    def _check(self, media: Media) -> None:
        check_size(self.path, self.height, self.width, media)
        if self.hdr and media.hdr == "refuse":
            raise MediaError(
                f"{self.path}: is HDR ({self.hdr}), which is refused; set hdr in the group media to tone_map to read "
                "it in standard range"
            )

    def _notes(self) -> Iterator[Note]:
        yield from self.display.notes()
        if self.timeline.is_variable:
            yield Note("variable rate", f"has {self.timeline.words()}; frames are chosen by their time stamps")
        if self.hdr:
            yield Note("HDR", f"is HDR ({self.hdr}); it is tone-mapped to standard range")

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = self._decoding = None

    def _decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            frame = self._frame(number)
            display = display_of(frame, self._stream)
            if display.size != (self.height, self.width):
                raise MediaError(
                    f"{self.path}: frame {number} has {display.size[0]} x {display.size[1]} pixels but the first one "
                    f"{self.height} x {self.width}; convert the video to one size first"
                )
            yield display.orientation.apply(self._pixels(frame, display.shown_width))

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
            if found < self._next:  # the time stamps do not rise from frame to frame
                self._index = index_by_decoding(self.path, self._media)
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
        self._container, self._stream = open_stream(self.path, self._media)
        self._decoding, self._next = self._container.decode(self._stream), 0

    def _read_beginning(self) -> Any:
        """The first frame; and see whether the first ones come as the index says."""
        assert self._decoding is not None
        frames = list(islice(self._decoding, CHECKED_FRAMES))
        if not frames:
            raise MediaError(f"{self.path}: holds no frame that can be decoded")
        self._decoding = chain(frames, self._decoding)  # reading from the start decodes nothing twice
        if self._index.keyframes and tuple(frame.pts for frame in frames) != self._index.times[: len(frames)]:
            self._index = index_by_decoding(self.path, self._media)
        return frames[0]

    def _pixels(self, frame: Any, width: int) -> np.ndarray:
        """RGB (H, W, 3) of a frame that is not turned yet, with square pixels."""
        if self.hdr:
            return tone_mapped(self._converted(frame, "rgb48le", width), self.hdr)
        if has_transparency(frame):
            return over_background(self._converted(frame, "rgba", width), self._media)
        return self._converted(frame, "rgb24", width)

    def _converted(self, frame: Any, kind: str, width: int) -> np.ndarray:
        # PyAV 14 forgets the file's matrix and range unless they are said and differ from those of the result.
        return self._convert(
            frame,
            width=width,
            format=kind,
            src_colorspace=frame.colorspace,
            dst_colorspace=BT601,  # RGB has no matrix, so it changes nothing
            src_color_range=frame.color_range,
            interpolation=None if width == frame.width else "BICUBIC",
        ).to_ndarray()


def display_of(frame: Any, stream: Any) -> Display:
    """How a decoded frame of a stream is shown. What the container says of its pixels counts more than the frame."""
    matrices = [bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"]
    matrix = tuple(np.frombuffer(matrices[0], np.int32).tolist()) if matrices else NO_TURN
    return Display(frame.height, frame.width, stream.sample_aspect_ratio, matrix)


def has_transparency(frame: Any) -> bool:
    """Whether pixels may be seen through; FFmpeg's palettes always can."""
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
