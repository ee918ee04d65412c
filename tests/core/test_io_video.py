"""Videos: every frame by its number in every container, streaming, and honest errors for what is damaged."""

import errno
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

from duosora.core.errors import ConfigError, MediaError
from duosora.core.io import files
from duosora.core.io.pyav_reader import index_by_decoding, index_frames
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
) -> None:
    """Write numbered frames with PyAV directly, at 25 frames per second or at given times (in milliseconds)."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        fixed_pattern = {"b_strategy": "0"} if codec == "libx264" else {}  # as many B-frames as bf says, not fewer
        stream: Any = container.add_stream(codec, rate=25, options=fixed_pattern | (options or {}))
        stream.height, stream.width, stream.pix_fmt = 32, 8 * NUM_BITS, "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for number in range(NUM_FRAMES):
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


def _turn(path: Path, matrix: tuple[int, ...]) -> None:
    """Write a display matrix (a b, c d: x' = a x + c y, y' = b x + d y) into an mp4, as phones do."""
    content = bytearray(path.read_bytes())
    place = (
        content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    )  # version and flags, times and duration, reserved, layer to volume
    for entry, value in zip((0, 1, 3, 4), matrix, strict=True):
        content[place + 4 * entry : place + 4 * entry + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "turns"), [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_a_phones_rotation_is_honoured(tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    """turns: quarter turns counter-clockwise of the stored picture that the matrix means (QuickTime File Format)."""
    picture = np.full((32, 64, 3), 40, np.uint8)
    picture[:8, :8] = 200  # one corner is bright
    write_video(tmp_path / "a.mp4", [picture] * 3, fps=25)
    _turn(tmp_path / "a.mp4", matrix)
    frames, _ = read_video(tmp_path / "a.mp4")
    expected = np.rot90(picture, turns)
    assert frames.shape[1:] == expected.shape
    assert np.abs(frames[1].astype(int) - expected).mean() < 4


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
    """The part of decord's interface that is used."""

    def __init__(self, path: str) -> None:
        if "bad" in path:
            raise RuntimeError("Error reading\nthe file")

    def __len__(self) -> int:
        return NUM_FRAMES

    def __getitem__(self, number: int) -> Any:
        frame = numbered_frame(number)
        return SimpleNamespace(shape=frame.shape, asnumpy=lambda: frame)

    def get_avg_fps(self) -> float:
        return 12.5


def test_decord_reads_where_it_is_chosen_and_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", SimpleNamespace(VideoReader=FakeDecord))
    (tmp_path / "a.mp4").touch()
    (tmp_path / "bad.mp4").touch()
    frames, fps = read_video(tmp_path / "a.mp4", [9, 2, 9], reader="decord")
    assert numbers_of(frames) == [9, 2, 9]
    assert fps == 12.5
    with open_video(tmp_path / "a.mp4", "decord") as video:
        assert [numbers_of(chunk) for chunk in video.chunks(3, slice(4))] == [[0, 1, 2], [3]]
    with pytest.raises(MediaError, match=r"bad\.mp4: cannot be read as a video by decord \(Error reading the file\)"):
        open_video(tmp_path / "bad.mp4", "decord")


def test_an_unknown_reader_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ConfigError, match="reader 'opencv': there are pyav and decord"):
        open_video(tmp_path / "a.mp4", "opencv")
