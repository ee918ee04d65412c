"""`duosora reconstruct`: videos and images through the autoencoder."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.images import read_image, write_image
from duosora.core.io.video import open_video, read_video
from duosora.core.io.video_reader import VideoReader

CLIP = Path(__file__).parents[1] / "media/city.mp4"
SMALL = ("-s", "height=64", "-s", "width=64")


def test_a_video_is_reconstructed_and_measured(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("reconstruct", CLIP, "--out", tmp_path / "city.mp4", *SMALL, "-s", "frames=9", "-s", "every=2")
    assert outcome.code == 0, outcome.err
    frames, fps = read_video(tmp_path / "city.mp4")
    assert frames.shape == (9, 64, 64, 3)
    assert fps == pytest.approx(12.5)
    report = json.loads((tmp_path / "city.json").read_text())
    assert 0 < report["psnr_min"] <= report["psnr_mean"] < 100
    assert -1 <= report["ssim_min"] <= report["ssim_mean"] <= 1
    assert report["config"]["backend"] == "torch"  # which was not named


def test_chunks_and_one_piece_give_the_same_video(duosora: Callable, tmp_path: Path) -> None:
    reports = []
    for chunk in ("1", "3", "null"):
        out = tmp_path / f"{chunk}.mp4"
        assert duosora("reconstruct", CLIP, "--out", out, *SMALL, "-s", f"chunk={chunk}").code == 0
        reports.append(json.loads(out.with_suffix(".json").read_text()))
    assert reports[0]["psnr_mean"] == pytest.approx(reports[2]["psnr_mean"], abs=1e-3)
    assert reports[1]["psnr_mean"] == pytest.approx(reports[2]["psnr_mean"], abs=1e-3)


def test_an_image_is_reconstructed(duosora: Callable, tmp_path: Path) -> None:
    write_image(tmp_path / "in.png", np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8))
    outcome = duosora("reconstruct", tmp_path / "in.png", "--out", tmp_path / "out.png")
    assert outcome.code == 0, outcome.err
    assert read_image(tmp_path / "out.png").shape == (40, 48, 3)


def test_a_variable_rate_becomes_a_constant_one_of_the_same_duration(
    duosora: Callable, odd_videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    outcome = duosora("reconstruct", odd_videos / "variable.mp4", "--out", out, *SMALL)
    assert outcome.code == 0, outcome.err
    with open_video(out) as video:
        assert len(video) == 33
        assert not video.timeline.is_variable
        assert video.timeline.duration == pytest.approx(1.827, abs=0.02)
        with open_video(odd_videos / "variable.mp4") as source:
            expected = [brightness_at(source, (number + 0.1) / video.fps) for number in range(33)]
    assert json.loads((tmp_path / "out.json").read_text())["psnr_mean"] > 10
    assert len(set(expected)) < 25  # of the fast frames every fourth, the slow ones twice
    report = tmp_path / "report.json"
    assert duosora("evaluate", odd_videos / "variable.mp4", out, *SMALL, "--json", report).code == 0
    measured = json.loads(report.read_text())["pairs"][0]["psnr"]["mean"]
    assert measured == pytest.approx(json.loads((tmp_path / "out.json").read_text())["psnr_mean"], abs=1.5)


def brightness_at(video: VideoReader, seconds: float) -> int:
    return int(video.read([int(np.searchsorted(video.timeline.starts, seconds, "right")) - 1])[0].mean())


@pytest.mark.parametrize(("name", "size"), [("wide.mp4", (64, 128)), ("lying.mov", (80, 64))])
def test_what_a_player_shows_is_kept(
    duosora: Callable, odd_videos: Path, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    outcome = duosora("reconstruct", odd_videos / name, "--out", tmp_path / "out.mp4")
    assert outcome.code == 0, outcome.err
    with open_video(tmp_path / "out.mp4") as video:
        assert (video.height, video.width) == size
        assert video.notes == ()


def test_hdr_is_refused_or_tone_mapped(duosora: Callable, odd_videos: Path, tmp_path: Path) -> None:
    arguments = ("reconstruct", odd_videos / "hdr.mp4", "--out", tmp_path / "out.mp4", *SMALL)
    outcome = duosora(*arguments)
    assert outcome.code == 2
    assert "hdr.mp4: is HDR (PQ), which is refused; set hdr in the group media to tone_map" in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert duosora(*arguments, "-s", "media.hdr=tone_map").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.mp4"], "nowhere.mp4: there is no such file"),
        ([CLIP, "-s", "frames=37"], "has 33 frames"),
        ([CLIP, "-s", "frames=12"], "num_frames = 12: needs 1 + a multiple of 4"),
        ([CLIP, "-s", "vae=nowhere"], "model.vae = nowhere: no such folder, and no preset of that name"),
        ([CLIP, "-s", "tile={size: 100}"], "tile.size = 100: needs a multiple of 8 pixels"),
    ],
)
def test_what_cannot_be_done_is_refused(duosora: Callable, tmp_path: Path, arguments: list, words: str) -> None:
    outcome = duosora("reconstruct", *arguments, "--out", tmp_path / "out.mp4")
    assert outcome.code == 2
    assert words in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "out", "words"),
    [(CLIP, "out.png", "videos are written as .mp4"), ("picture.png", "out.mp4", "pictures are written as .png")],
)
def test_a_wrong_ending_is_told_before_any_work(
    duosora: Callable, tmp_path: Path, source: str | Path, out: str, words: str
) -> None:
    write_image(tmp_path / "picture.png", np.zeros((16, 16, 3), np.uint8))
    outcome = duosora("reconstruct", tmp_path / source, "--out", tmp_path / out)
    assert outcome.code == 2
    assert outcome.err.startswith(f"duosora: {tmp_path / out}: {words}")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


def test_a_damaged_video_leaves_nothing_behind(duosora: Callable, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(CLIP.read_bytes()[:20_000])
    outcome = duosora("reconstruct", damaged, "--out", tmp_path / "out.mp4")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.mp4"]
