"""Reading and writing videos. Frames are uint8 RGB, (T, H, W, 3), in the order, size and orientation of a player.

Frames have numbers: frame i is the i-th picture shown, also in files with a variable frame rate, whose time stamps are
the reader's `timeline`. Two libraries read: PyAV, and decord for who has it (the packages decord and decord2 share one
module name; decord2 is the one that has wheels for aarch64 and gets along with MindSpore). PyAV writes.
"""

from __future__ import annotations

import math
import os
import platform
import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, MediaError
from .files import atomic_write, open_regular
from .media import DEFAULTS, Media, check_size
from .video_reader import VideoReader

READERS = ("pyav", "decord")
ENCODER = "libx264"
BT709 = 1
"""Code, in the H.264 standard, of the colour matrix, primaries and transfer curve of HD video."""
LIMITED_RANGE = 1
BEGINNING = 24
"""Bytes of a file that tell a WebP, GIF or PNG and its size."""
FASTEST = 1_000_000
"""Frames per second that are written; what FFmpeg counts time in is an int."""
SAME_BYTES = {"x264-params": "asm=SSE4.2"}
"""x264 165 gives now and then another file for the same frames with its AVX-512 code (seen on an AMD EPYC: three files
in forty runs), and one and the same with AVX2 and SSE4.2; the latter is on every x86-64 CPU since 2010."""


def check_reader(reader: str) -> None:
    """Refuse a reader before a file is opened. Raises: ConfigError for an unknown one, PackageMissing."""
    if reader not in READERS:
        raise ConfigError(f"reader {reader!r}: there are {' and '.join(READERS)}")
    if reader == "decord":
        from .decord_reader import require_decord

        require_decord()


def open_video(path: str | os.PathLike[str], reader: str = "pyav", media: Media = DEFAULTS) -> VideoReader:
    """Open a video, or an animated picture, with one of READERS. An animated WebP is always read by Pillow.

    Raises: MediaError when the file is missing, holds no video, is cut off, cannot be decoded, or is refused by the
    settings; ConfigError for an unknown reader; PackageMissing for one that is not installed.
    """
    place = Path(path)
    check_reader(reader)
    if not place.is_file():
        is_odd = place.exists() and not place.is_dir()
        raise MediaError(f"{place}: {'is a pipe or a device, no regular file' if is_odd else 'there is no such file'}")
    head = _beginning(place)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        from .webp_reader import WebPReader

        return WebPReader(place, media)
    # Of these two FFmpeg decodes a frame before it says how large they are.
    for magic, sides, start in ((b"GIF8", "<HH", 6), (b"\x89PNG", ">II", 16)):
        if head.startswith(magic) and len(head) == BEGINNING:
            width, height = struct.unpack_from(sides, head, start)
            check_size(place, height, width, media)
    if reader == "decord":
        from .decord_reader import open_with_decord

        return open_with_decord(place, media)
    from .pyav_reader import PyAVReader

    return PyAVReader(place, media)


def _beginning(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(BEGINNING)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_video(
    path: str | os.PathLike[str],
    frames: Sequence[int] | slice | None = None,
    reader: str = "pyav",
    media: Media = DEFAULTS,
) -> tuple[np.ndarray, float]:
    """Frames (T, H, W, 3) uint8 of a video by number, and its frames per second. Raises: as open_video and read."""
    with open_video(path, reader, media) as video:
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
    import av  # 60 ms, and only writing and the reader need it

    target = Path(path)
    check_ending(target)
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


def check_ending(path: Path) -> None:
    """See that a video can be written under such a name. Raises: MediaError for another ending, or without x264."""
    if path.suffix.lower() != ".mp4":
        raise MediaError(f"{path}: videos are written as .mp4; give the file that ending")
    import av

    if ENCODER not in av.codecs_available:
        raise MediaError(
            f"{path}: cannot be written, as the FFmpeg of PyAV {av.__version__} lacks {ENCODER}; pip install "
            "--force-reinstall --only-binary av av brings one that has it"
        )


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
    stream = container.add_stream(ENCODER, rate=rate, options=options)
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
