"""Videos: every frame by its number in every container, streaming, and honest errors for what is damaged."""

import errno
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from duosora.core.config.media import MediaSettings
from duosora.core.errors import ConfigError, MediaError
from duosora.core.io import files, pyav_reader
from duosora.core.io.frame_index import index_by_decoding, index_frames
from duosora.core.io.video import open_video, read_video, write_video

NUM_BITS = 7
NUM_FRAMES = 50


def numbered_frame(number: int) -> np.ndarray:
    """A frame (32, 56, 3) that shows its number: one stripe for each bit, bright for 1."""
    bits = [(number >> bit) & 1 for bit in range(NUM_BITS)]
    row = np.repeat(np.where(bits, 220, 30).astype(np.uint8), 8)
    return np.broadcast_to(row[None, :, None], (32, 8 * NUM_BITS, 3)).copy()


def numbers_of(frames: np.ndarray) -> list[int]:
    """The numbers that frames show."""
    stripes = frames.reshape(len(frames), 32, NUM_BITS, 8, 3).mean(axis=(1, 3, 4))
    return [int(sum(1 << bit for bit in np.flatnonzero(row > 125))) for row in stripes]


def encode(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
    scrambled_from: int = NUM_FRAMES,
    container_options: dict[str, str] | None = None,
    frames: int = NUM_FRAMES,
) -> None:
    """Write numbered frames with PyAV directly, at 25 frames per second or at given times (in milliseconds)."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        fixed_pattern = {"b_strategy": "0"} if codec == "libx264" else {}  # as many B-frames as bf says, not fewer
        stream: Any = container.add_stream(codec, rate=25, options=fixed_pattern | (options or {}))
        stream.height, stream.width, stream.pix_fmt = 32, 8 * NUM_BITS, "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = (times[number], Fraction(1, 1000)) if times else (number, Fraction(1, 25))
            packets += stream.encode(frame)
        for place, packet in enumerate([*packets, *stream.encode(None)]):
            if place >= scrambled_from:
                packet.pts += place * 7 % 5  # in frames, before the container has its own unit
            container.mux(packet)


UNEVEN_TIMES = np.cumsum(np.random.default_rng(0).integers(5, 90, NUM_FRAMES)).tolist()
FILES: dict[str, dict[str, Any]] = {
    "one keyframe.mp4": {"options": {"g": "1000", "bf": "3"}},
    "many keyframes.mp4": {"options": {"g": "7", "bf": "2", "sc_threshold": "0"}},
    "open groups.mp4": {"options": {"g": "9", "bf": "3", "x264-params": "open-gop=1"}},
    "variable rate.mp4": {"options": {"g": "12", "bf": "2"}, "times": UNEVEN_TIMES},
    "matroska.mkv": {"options": {"g": "8", "bf": "3"}},
    "vp8 with hidden frames.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp9 with hidden frames.webm": {"codec": "libvpx-vp9", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "mpeg4 in avi.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264 in avi.avi": {"options": {"g": "11", "bf": "3"}},
    "program stream.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "transport stream.ts": {"options": {"g": "10", "bf": "2"}},
    "scrambled.mp4": {"options": {"g": "20", "bf": "0"}, "scrambled_from": 0},
    "scrambled late.mp4": {"options": {"g": "100", "bf": "0"}, "scrambled_from": 30},
    "a name: with %03d [signs]?.mp4": {"options": {"g": "10"}},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, arguments in FILES.items():
        encode(folder / name, **arguments)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_found_by_its_number(videos: Path, name: str) -> None:
    order = np.random.default_rng(1).permutation(NUM_FRAMES).tolist()
    with open_video(videos / name) as video:
        assert len(video) == NUM_FRAMES
        assert (video.height, video.width) == (32, 8 * NUM_BITS)
        for number in order:
            assert numbers_of(video.read([number])) == [number]
        assert numbers_of(video.read(order)) == order
        assert numbers_of(video.read()) == list(range(NUM_FRAMES))


@pytest.mark.parametrize("name", ["many keyframes.mp4", "scrambled.mp4"])
def test_frames_are_asked_for_in_any_order_with_repeats_and_as_slices(videos: Path, name: str) -> None:
    for asked in ([7, 7, 3], [], [49, 0], list(range(0, 50, 9))):
        frames, fps = read_video(videos / name, asked)
        assert frames.shape == (len(asked), 32, 56, 3)
        assert frames.dtype == np.uint8
        assert numbers_of(frames) == asked
    assert numbers_of(read_video(videos / name, slice(3, 40, 5))[0]) == list(range(3, 40, 5))
    assert numbers_of(read_video(videos / name, slice(-3, None))[0]) == [47, 48, 49]
    assert fps == pytest.approx(25)


@pytest.mark.parametrize("number", [-1, 50, 1000])
def test_a_number_that_no_frame_has_is_one_line(videos: Path, number: int) -> None:
    with pytest.raises(MediaError, match=rf"one keyframe\.mp4: has no frame {number}, only 0 to 49"):
        read_video(videos / "one keyframe.mp4", [0, number])


def test_chunks_stream_through_a_video_with_one_chunk_in_memory(videos: Path) -> None:
    with open_video(videos / "many keyframes.mp4") as video:
        chunks = list(video.chunks(16))
        assert [len(chunk) for chunk in chunks] == [16, 16, 16, 2]
        assert [number for chunk in chunks for number in numbers_of(chunk)] == list(range(NUM_FRAMES))
        assert [numbers_of(chunk) for chunk in video.chunks(2, slice(10, 30, 7))] == [[10, 17], [24]]
        first = video.chunks(4)
        assert numbers_of(next(first)) == [0, 1, 2, 3]
        assert numbers_of(video.read([40])) == [40]  # another access between two chunks
        assert numbers_of(next(first)) == [4, 5, 6, 7]


def test_going_on_decodes_each_frame_once(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(videos / "one keyframe.mp4") as video:
        seeks = 0
        search = video._go_before  # type: ignore[attr-defined]

        def counted(number: int, from_start: bool) -> None:
            nonlocal seeks
            before = video._decoding  # type: ignore[attr-defined]
            search(number, from_start)
            seeks += video._decoding is not before  # type: ignore[attr-defined]

        monkeypatch.setattr(video, "_go_before", counted)
        for number in range(1, NUM_FRAMES):
            video.read([number])
        assert seeks == 0
        video.read([0])
        assert seeks == 1


def test_timestamps_that_cannot_be_trusted_are_recognised(videos: Path) -> None:
    assert index_by_decoding(videos / "scrambled.mp4").keyframes == ()  # only counting from the start finds its frames
    times_of_decoding = index_frames(videos / "h264 in avi.avi")  # all that AVI knows
    assert times_of_decoding == index_by_decoding(videos / "h264 in avi.avi")
    index = index_frames(videos / "many keyframes.mp4")
    assert index.keyframes == tuple(range(0, NUM_FRAMES, 7))
    assert [index.keyframe_before(number) for number in (0, 6, 7, 49)] == [0, 0, 7, 49]


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    """Cutting without encoding again leaves frames in the file that no player shows."""
    path = tmp_path / "a.mp4"
    encode(path, options={"g": "25", "bf": "2"})
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 16  # after version, count and duration: the time at which showing begins
    begin = int.from_bytes(content[place : place + 4], "big") + 10 * 512
    content[place : place + 4] = begin.to_bytes(4, "big")
    path.write_bytes(content)
    assert len(index_frames(path).times) == NUM_FRAMES - 10
    with open_video(path) as video:
        assert len(video) == NUM_FRAMES - 10
        assert numbers_of(video.read()) == list(range(10, NUM_FRAMES))
        assert numbers_of(video.read([5, 0])) == [15, 10]


# Orientation and colour


TURNS = ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))
MIRRORS = ((-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0))
"""Display matrices (a, b, c, d): a stored pixel goes to x' = a x + c y, y' = b x + d y."""
QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def oriented_video(path: Path, matrix: tuple[int, ...], pixel_shape: Fraction | None = None) -> np.ndarray:
    """Write a video of four colours, 32 x 64, that is to be shown by a display matrix; returns what is stored."""
    stored = QUARTERS.repeat(16, axis=0).repeat(32, axis=1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        if pixel_shape:
            stream.codec_context.sample_aspect_ratio = pixel_shape
        a, b, c, d = (int(entry * 65536) for entry in matrix)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return stored


def shown(stored: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """The picture that a display matrix makes, pixel by pixel."""
    a, b, c, d = matrix
    y, x = (grid.ravel() for grid in np.mgrid[: stored.shape[0], : stored.shape[1]])
    columns, rows = a * x + c * y, b * x + d * y
    columns, rows = columns - columns.min(), rows - rows.min()
    result = np.empty((rows.max() + 1, columns.max() + 1, 3), np.uint8)
    result[rows, columns] = stored[y, x]
    return result


@pytest.fixture
def decord(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for decord, which turns by the angle of the display matrix and mirrors nothing (seen in 3.4)."""
    monkeypatch.setitem(sys.modules, "decord", SimpleNamespace(VideoReader=FakeDecord))


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("matrix", TURNS + MIRRORS)
@pytest.mark.usefixtures("decord")
def test_videos_are_turned_and_mirrored_as_players_do(
    tmp_path: Path, matrix: tuple[int, ...], ending: str, reader: str
) -> None:
    stored = oriented_video(tmp_path / f"a.{ending}", matrix)
    expected = shown(stored, matrix)
    with open_video(tmp_path / f"a.{ending}", reader) as video:
        assert (video.height, video.width) == expected.shape[:2]
        assert video.notes == ()
        assert np.abs(video.read([1])[0].astype(int) - expected).mean() < 12  # another quarter is off by 100


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("pixel_shape", "matrix", "size"),
    [
        (Fraction(2), (1, 0, 0, 1), (32, 128)),
        (Fraction(16, 11), (1, 0, 0, 1), (32, 93)),
        (Fraction(3, 4), (-1, 0, 0, 1), (32, 48)),
        (Fraction(2), (0, 1, -1, 0), (128, 32)),
        (Fraction(16, 11), (0, -1, -1, 0), (93, 32)),
    ],
)
@pytest.mark.usefixtures("decord")
def test_pixels_that_are_not_square_are_read_as_they_are_shown(
    tmp_path: Path, pixel_shape: Fraction, matrix: tuple[int, ...], size: tuple[int, int], ending: str, reader: str
) -> None:
    """The shape belongs to the stored pixels: it comes before the turn."""
    path = tmp_path / f"a.{ending}"
    corners = shown(oriented_video(path, matrix, pixel_shape), matrix)[[0, 0, -1, -1], [0, -1, 0, -1]]
    with open_video(path, reader) as video:
        assert (video.height, video.width) == size
        (note,) = video.notes
        frame = video.read([1])[0]
    assert note.kind == "pixel shape"
    assert f"read as {size[0]} x {size[1]}" in note.detail
    assert frame.shape == (*size, 3)
    assert np.abs(frame[[2, 2, -3, -3], [2, -3, 2, -3]].astype(int) - corners).max() < 40


def test_a_shape_of_pixels_that_makes_no_sense_counts_as_square(tmp_path: Path) -> None:
    oriented_video(tmp_path / "a.mkv", (1, 0, 0, 1), Fraction(12))
    with open_video(tmp_path / "a.mkv") as video:
        assert (video.height, video.width) == (32, 64)
        assert "makes no sense" in video.notes[0].detail


def test_a_turn_beyond_a_quarter_is_left_out_and_named(tmp_path: Path) -> None:
    stored = oriented_video(tmp_path / "a.mp4", (0.17365, 0.98481, -0.98481, 0.17365))  # 80 degrees
    with open_video(tmp_path / "a.mp4") as video:
        assert video.notes[0].kind == "tilted"
        assert np.abs(video.read([1])[0].astype(int) - shown(stored, (0, 1, -1, 0))).mean() < 12


# Time


def timed_video(path: Path, milliseconds: list[int], **options: Any) -> None:
    """Numbered frames at some times; the last one lasts as long as the one before."""
    encode(path, times=milliseconds, frames=len(milliseconds), **options)


def half_fast() -> list[int]:
    """33 frames, of which the first 16 come at 60 and the others at 10.5 a second."""
    return [round(1000 * number / 60) for number in range(16)] + [267 + 95 * number for number in range(17)]


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
@pytest.mark.usefixtures("decord")
def test_a_variable_rate_is_told_and_frames_are_found_by_time(tmp_path: Path, ending: str, reader: str) -> None:
    path, times = tmp_path / f"a.{ending}", half_fast()
    timed_video(path, times, options={"bf": "2"})
    with open_video(path, reader) as video:
        (note,) = video.notes
        assert note.kind == "variable rate"
        duration = video.timeline.duration  # Matroska does not say how long the last frame lasts
        assert duration == pytest.approx(1.882, abs=0.06)
        assert video.fps == pytest.approx(33 / duration)
        for fps in (18, 60, 7.5, None):
            rate = fps or video.fps
            expected = [int(np.searchsorted(times, 1000 * k / rate + 1, "right")) - 1 for k in range(200)]
            numbers = video.at_one_rate(fps)
            assert len(numbers) == pytest.approx(duration * rate, abs=1)
            assert numbers == expected[: len(numbers)]
        chunks = [number for chunk in video.chunks(8, video.at_one_rate(30)) for number in numbers_of(chunk)]
        assert chunks == video.at_one_rate(30)


@pytest.mark.parametrize(
    "name", ["many keyframes.mp4", "matroska.mkv", "vp9 with hidden frames.webm", "transport stream.ts"]
)
def test_at_a_constant_rate_every_frame_counts_once(videos: Path, name: str) -> None:
    with open_video(videos / name) as video:
        assert not video.timeline.is_variable
        assert video.notes == ()
        assert video.at_one_rate(10) == list(range(NUM_FRAMES))
        assert video.fps == pytest.approx(25)
        assert video.timeline.duration == pytest.approx(2, abs=0.05)


# Transparency and animated pictures


DURATIONS = [100, 200, 50, 50, 400]


def animation(path: Path, alpha: int) -> list[tuple[int, int, int]]:
    """Five frames of one colour with DURATIONS in milliseconds."""
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    frames = [Image.new("RGBA", (32, 24), (*colour, alpha)) for colour in colours]
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    if path.suffix == ".gif" and alpha == 255:
        frames = [frame.convert("RGB") for frame in frames]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=DURATIONS, disposal=2, **options)
    return colours


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize("ending", ["gif", "webp", "png", "apng"])
@pytest.mark.usefixtures("decord")
def test_animated_pictures_are_videos_with_their_times(tmp_path: Path, ending: str, reader: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "apng":
        colours = animation(tmp_path / "a.png", 255)
        (tmp_path / "a.png").rename(path)
    else:
        colours = animation(path, 255)
    with open_video(path, reader) as video:
        assert len(video) == 5
        assert video.timeline.duration == pytest.approx(0.8)
        np.testing.assert_allclose(video.timeline.starts, [0, 0.1, 0.3, 0.35, 0.4])
        assert video.at_one_rate(10) == [0, 1, 1, 2, 4, 4, 4, 4]
        for number in (4, 0, 3, 1, 2):
            assert np.abs(video.read([number])[0].astype(int) - colours[number]).max() <= 6
        assert [note.kind for note in video.notes] == ["variable rate"]


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_frames_that_hold_only_what_changed_are_whole_in_any_order(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (64, 48), (200, 40, 40)) for _ in range(6)]
    for number, frame in enumerate(frames):
        frame.paste((0, 250, 0), (8 * number, 8, 8 * number + 8, 16))
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], duration=100, **options)
    for number in (4, 1, 5, 0, 3, 2):
        got = read_video(tmp_path / f"a.{ending}", [number])[0][0]
        assert np.abs(got.astype(int) - np.asarray(frames[number])).max() <= 6


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize(("ending", "alpha"), [("gif", 0), ("webp", 128), ("png", 128)])
@pytest.mark.usefixtures("decord")
def test_what_is_transparent_shows_the_background(tmp_path: Path, ending: str, alpha: int, reader: str) -> None:
    colours = animation(tmp_path / f"a.{ending}", alpha)
    for background, level in (("white", 255), ("#102030", (16, 32, 48))):
        frames, _ = read_video(tmp_path / f"a.{ending}", reader=reader, media=MediaSettings(background=background))
        expected = np.array(colours) * alpha / 255 + np.array(level) * (1 - alpha / 255)
        assert np.abs(frames[:, 5, 5] - expected).max() <= 3


# Sizes


def test_frames_with_too_many_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "a.mp4")
    animation(tmp_path / "a.webp", 255)
    animation(tmp_path / "a.gif", 255)
    animation(tmp_path / "a.png", 255)
    content = bytearray((tmp_path / "a.gif").read_bytes())
    content[6:10] = b"\xff\xff\xff\xff"
    (tmp_path / "large.gif").write_bytes(content)
    few = MediaSettings(max_pixels=700)
    with monkeypatch.context() as patch:
        patch.setattr(pyav_reader.PyAVReader, "_read_beginning", lambda self: pytest.fail("was decoded"))
        for name, media, words in (
            ("a.mp4", few, "has 32 x 56 pixels, more than 700 in all (max_pixels"),
            ("a.webp", few, "has 24 x 32 pixels, more than 700"),
            ("a.gif", few, "has 24 x 32 pixels, more than 700"),
            ("a.png", few, "has 24 x 32 pixels, more than 700"),
            ("large.gif", MediaSettings(), "has 65535 x 65535 pixels"),
        ):
            with pytest.raises(MediaError, match=re.escape(words)):
                open_video(tmp_path / name, media=media)
    oriented_video(tmp_path / "wide.mkv", (1, 0, 0, 1), Fraction(9))
    with pytest.raises(MediaError, match="has 32 x 576 pixels"):  # as shown
        open_video(tmp_path / "wide.mkv", media=MediaSettings(max_pixels=5000))


# HDR


def hdr_video(path: Path, transfer: int, level: int, codec: str = "libx264") -> None:
    """Two frames of one grey, of 10 bits, PQ (16) or HLG (18)."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=8, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, 9, 9
        for number in range(2):
            frame = av.VideoFrame(64, 32, "yuv420p10le")
            for plane, value in zip(frame.planes, (level, 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 8)
            frame.color_trc, frame.color_primaries, frame.colorspace = transfer, 9, 9
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("transfer", "name", "white"),
    [(16, "PQ", 0.58069), (18, "HLG", 0.75)],  # code values of reference white, 203 cd/m2, by BT.2408
)
@pytest.mark.usefixtures("decord")
def test_hdr_is_refused_or_tone_mapped(
    tmp_path: Path, transfer: int, name: str, white: float, ending: str, reader: str
) -> None:
    path = tmp_path / f"a.{ending}"
    levels = []
    for code in (0.0, white / 2, white, 0.75180):
        hdr_video(path, transfer, round(64 + 876 * code))
        with pytest.raises(MediaError, match=rf"is HDR \({name}\), which is refused"):
            open_video(path, reader)
        with open_video(path, reader, MediaSettings(hdr="tone_map")) as video:
            assert video.notes[0].kind == "HDR"
            frame = video.read([1])[0]
        assert np.ptp(frame.astype(int)) <= 1  # grey stays grey
        levels.append(int(frame[0, 0, 0]))
    assert levels[0] <= 2
    assert 30 < levels[1] < 120
    assert 200 <= levels[2] <= 235  # white, with room for what is brighter
    if name == "PQ":
        assert levels[3] >= 253  # 1000 cd/m2


PATCHES = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [10, 20, 30], [255, 255, 255], [0, 0, 0]], np.uint8
)


def test_colours_come_back(tmp_path: Path) -> None:
    picture = np.repeat(np.repeat(PATCHES[None], 16, axis=1), 48, axis=0)
    write_video(tmp_path / "a.mp4", [picture] * 4, fps=25, crf=5)
    frames, _ = read_video(tmp_path / "a.mp4")
    centres = frames[2][24, 8::16].astype(int)
    assert np.abs(centres - PATCHES).max() <= 5  # BT.601 in the place of BT.709 is off by more than 20
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p"
        assert context.colorspace == context.color_primaries == context.color_trc == context.color_range == 1


@pytest.mark.parametrize(
    ("code", "red", "blue"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (6, 0.299, 0.114), (9, 0.2627, 0.0593)]
)
def test_the_colour_matrix_of_a_file_is_used(tmp_path: Path, code: int, red: float, blue: float) -> None:
    """BT.709, both forms of BT.601, and BT.2020 in standard range; by the formula that they share."""
    r, g, b = PATCHES.T / 255
    luma = red * r + (1 - red - blue) * g + blue * b
    chroma = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    planes = np.rint([16 + 219 * luma, *(128 + 224 * part for part in chroma)]).astype(np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 16 * len(PATCHES), "yuv444p"
        stream.codec_context.colorspace = code
        pixels = planes.repeat(16, axis=1)[:, None].repeat(32, axis=1)
        frame = av.VideoFrame.from_ndarray(pixels, format="yuv444p")
        frame.colorspace = code
        container.mux([*stream.encode(frame), *stream.encode(None)])
    frames, _ = read_video(tmp_path / "a.mp4")
    assert np.abs(frames[0, 16, 8::16].astype(int) - PATCHES).max() <= 4  # another matrix is off by more than 15


def test_a_video_with_the_full_range_of_values_is_not_stretched(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 16, 32, "yuv420p"
        stream.codec_context.color_range = 2
        grey = np.repeat(np.array([[8, 248]], np.uint8), 16, axis=1).repeat(16, axis=0)
        frame: Any = av.VideoFrame.from_ndarray(np.vstack([grey, np.full((8, 32), 128, np.uint8)]), format="yuv420p")
        frame.color_range = 2
        container.mux([*stream.encode(frame), *stream.encode(None)])
    frames, _ = read_video(tmp_path / "a.mp4")
    assert np.abs(frames[0, 8, [8, 24]].astype(int) - [[8], [248]]).max() <= 2


# Writing


@pytest.mark.parametrize("size", [(32, 48), (33, 48), (32, 49), (33, 49), (1, 1)])
def test_odd_sides_get_their_last_row_or_column_twice(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    ramp = np.add.outer(np.arange(height), np.arange(width))[:, :, None] * np.array([1, 1, 1])
    frame = (ramp + 50).astype(np.uint8)
    write_video(tmp_path / "a.mp4", [frame] * 2, fps=8, crf=1)
    frames, fps = read_video(tmp_path / "a.mp4")
    padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert frames.shape == (2, *padded.shape)
    assert fps == 8
    assert np.abs(frames[0].astype(int) - padded).max() <= 6


def test_many_frames_are_written_in_their_order_and_streamed(tmp_path: Path) -> None:
    alive = 0
    most = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= self.base is not None

    def frames() -> Iterator[np.ndarray]:
        nonlocal alive, most
        for number in range(NUM_FRAMES):
            alive += 1
            most = max(most, alive)
            yield numbered_frame(number).view(Counted)

    write_video(tmp_path / "a.mp4", frames(), fps=24000 / 1001)
    written, fps = read_video(tmp_path / "a.mp4")
    assert numbers_of(written) == list(range(NUM_FRAMES))
    assert fps == pytest.approx(24000 / 1001)
    assert most < 5


def test_a_lower_crf_keeps_more(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    sizes = []
    for crf in (10, 40):
        write_video(tmp_path / f"{crf}.mp4", noise, fps=8, crf=crf)
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def _failing() -> Iterator[np.ndarray]:
    yield numbered_frame(0)
    raise RuntimeError("the model failed")


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (_failing, RuntimeError, "the model failed"),
        (list, MediaError, "there is no frame to write"),
        (lambda: [np.zeros((4, 4, 3), np.float32)], MediaError, r"frame 0 is float32 \(4, 4, 3\): expected uint8"),
        (lambda: [np.zeros((4, 4), np.uint8)], MediaError, r"expected uint8 \(H, W, 3\)"),
        (lambda: [np.zeros((4, 0, 3), np.uint8)], MediaError, r"expected uint8 \(H, W, 3\)"),
        (lambda: [np.zeros((n, 4, 3), np.uint8) for n in (4, 6)], MediaError, r"frame 1 has shape \(6, 4, 3\)"),
    ],
)
def test_nothing_is_written_when_the_frames_fail(
    tmp_path: Path, frames: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_video(tmp_path / "out" / "a.mp4", frames(), fps=8)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_video_is_kept_unless_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_text("precious")

    def untouched() -> Iterator[np.ndarray]:
        pytest.fail("no frame may be asked for")
        yield

    with pytest.raises(MediaError, match="exists already and is kept"):
        write_video(target, untouched(), fps=8)
    assert target.read_text() == "precious"
    write_video(target, [numbered_frame(3)], fps=8, overwrite=True)
    assert numbers_of(read_video(target)[0]) == [3]


@pytest.mark.parametrize("fps", [0, -1, 1e-4, 1e12, 1e300, float("nan"), float("inf")])
def test_an_impossible_rate_is_one_line(tmp_path: Path, fps: float) -> None:
    with pytest.raises(MediaError, match="frames per second: needs a number from 0.001 to"):
        write_video(tmp_path / "a.mp4", [numbered_frame(0)], fps)


def test_only_mp4_is_written(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"a\.avi: videos are written as \.mp4"):
        write_video(tmp_path / "a.avi", [numbered_frame(0)], 8)


def test_a_really_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_make_file", lambda path: path.symlink_to("/dev/full"))
    with pytest.raises(MediaError, match="the disk is full, nothing was written") as raised:
        write_video(tmp_path / "a.mp4", [numbered_frame(number) for number in range(30)], 8)
    cause = raised.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


# Damaged files


def test_what_is_no_video_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("a cat\n" * 100)
    (tmp_path / "text.txt").write_text("a cat\n" * 100)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000)
        frame: Any = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for name, message in {
        "empty.mp4": "cannot be read as a video",
        "text.mp4": "cannot be read as a video",
        "text.txt": "holds no video",
        "sound.wav": "holds no video",
        "absent.mp4": "there is no such file",
        ".": "there is no such file",
    }.items():
        with pytest.raises(MediaError, match=message) as raised:
            open_video(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_a_playlist_may_not_open_other_places(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:1,", f"http://127.0.0.1:{port}/a.ts", "#EXT-X-ENDLIST"]
        (tmp_path / "a.m3u8").write_text("\n".join(lines))

        def try_to_open() -> None:
            with suppress(MediaError):
                open_video(tmp_path / "a.m3u8")

        opening = threading.Thread(target=try_to_open)
        opening.start()
        with pytest.raises(TimeoutError):
            server.accept()
        opening.join()


def test_a_name_that_looks_like_an_address_is_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("cache:a.mp4", [numbered_frame(3)], fps=8)
    assert numbers_of(read_video("cache:a.mp4")[0]) == [3]


@pytest.mark.parametrize("faststart", [True, False])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_a_cut_off_mp4_is_one_line(tmp_path: Path, faststart: bool, part: float) -> None:
    encode(tmp_path / "a.mp4", container_options={"movflags": "+faststart"} if faststart else {})
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(MediaError, match=r"is cut off|cannot be read as a video|holds no video") as raised:
        read_video(tmp_path / "a.mp4")
    assert "\n" not in str(raised.value)


def test_rot_inside_a_file_names_the_frame_and_leaves_the_others_readable(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", options={"g": "10", "bf": "0"})
    with av.open(str(tmp_path / "a.mp4")) as container:
        places = {packet.pts // packet.duration: packet.pos for packet in container.demux(video=0) if packet.size}
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    content[places[23] : places[24]] = b"\xff" * (places[24] - places[23])
    (tmp_path / "a.mp4").write_bytes(content)
    with open_video(tmp_path / "a.mp4") as video:
        with pytest.raises(MediaError, match=r"a\.mp4: frame 23 of 50 cannot be decoded; the file is damaged"):
            video.read()
        assert numbers_of(video.read([22, 30, 45])) == [22, 30, 45]


def _has_concealed_frames(path: Path) -> bool:
    with av.open(str(path)) as container, suppress(av.FFmpegError):
        return any(frame.is_corrupt for frame in container.decode(video=0))
    return False


def test_frames_that_the_decoder_had_to_invent_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", noise, fps=8)
    whole = (tmp_path / "a.mp4").read_bytes()
    num_concealed = 0
    for seed in range(12):
        damaged = bytearray(whole)
        place = len(whole) // 2 + 97 * seed
        damaged[place : place + 200] = np.random.default_rng(seed).bytes(200)
        (tmp_path / "b.mp4").write_bytes(damaged)
        num_concealed += _has_concealed_frames(tmp_path / "b.mp4")
        if _has_concealed_frames(tmp_path / "b.mp4"):
            with pytest.raises(MediaError, match="cannot be decoded; the file is damaged"):
                read_video(tmp_path / "b.mp4")
    assert num_concealed > 0


def test_frames_that_change_their_size_are_refused(tmp_path: Path) -> None:
    parts = []
    for size in (32, 64):
        with av.open(str(tmp_path / "part.ts"), "w", format="mpegts") as container:
            stream: Any = container.add_stream("mpeg2video", rate=25)
            stream.height = stream.width = size
            stream.pix_fmt = "yuv420p"
            for number in range(5):
                frame = av.VideoFrame.from_ndarray(np.zeros((size, size, 3), np.uint8), format="rgb24")
                frame.pts, frame.time_base = number + size, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append((tmp_path / "part.ts").read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    with pytest.raises(MediaError, match="has 64 x 64 pixels but the first one 32 x 32"):
        read_video(tmp_path / "a.ts")


# The other reader


class FakeDecord:
    """The part of decord's interface that is used, and its way with turned videos: by the angle, without mirrors."""

    def __init__(self, path: str) -> None:
        if "bad" in path:
            raise RuntimeError("Error reading\nthe file")
        with av.open(path) as container:
            self._frames = [
                np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                for frame in container.decode(video=0)
            ]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, number: int) -> Any:
        return SimpleNamespace(asnumpy=lambda: self._frames[number])


def test_decord_reads_where_it_is_chosen_and_installed(videos: Path, tmp_path: Path, decord: None) -> None:
    good = videos / "many keyframes.mp4"
    frames, fps = read_video(good, [9, 2, 9], reader="decord")
    assert numbers_of(frames) == [9, 2, 9]
    assert fps == 25
    with open_video(good, "decord") as video:
        assert type(video).__name__ == "DecordReader"
        assert [numbers_of(chunk) for chunk in video.chunks(3, slice(4))] == [[0, 1, 2], [3]]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes())
    with pytest.raises(MediaError, match=r"bad\.mp4: cannot be read as a video by decord \(Error reading the file\)"):
        open_video(bad, "decord")


def test_an_unknown_reader_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ConfigError, match="reader 'opencv': there are pyav and decord"):
        open_video(tmp_path / "a.mp4", "opencv")
